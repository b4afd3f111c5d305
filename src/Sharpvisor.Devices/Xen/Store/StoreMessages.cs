// Messages of the store's wire protocol.
// Follows: Xen's public header io/xs_wire.h and docs/misc/xenstore.txt.
// Leaves out: messages of the tool stack (INTRODUCE, RELEASE, SET_TARGET, CONTROL and others), which a guest may not send.

using System.Buffers.Binary;
using System.Globalization;
using System.Text;

namespace Sharpvisor.Devices.Xen.Store;

/// <summary>enum xsd_sockmsg_type.</summary>
internal enum StoreMessageType : uint
{
    Control = 0,
    Directory = 1,
    Read = 2,
    GetPerms = 3,
    Watch = 4,
    Unwatch = 5,
    TransactionStart = 6,
    TransactionEnd = 7,
    GetDomainPath = 10,
    Write = 11,
    Mkdir = 12,
    Rm = 13,
    SetPerms = 14,
    WatchEvent = 15,
    Error = 16,
    IsDomainIntroduced = 17,
    ResetWatches = 21,
    DirectoryPart = 22,
}

/// <summary>struct xsd_sockmsg: what stands before each payload.</summary>
internal readonly record struct StoreHeader(StoreMessageType Type, uint RequestId, uint Transaction, uint Length)
{
    public const int Size = 16, PayloadLimit = 4096;

    public static StoreHeader Read(ReadOnlySpan<byte> bytes) => new(
        (StoreMessageType)BinaryPrimitives.ReadUInt32LittleEndian(bytes),
        BinaryPrimitives.ReadUInt32LittleEndian(bytes[4..]),
        BinaryPrimitives.ReadUInt32LittleEndian(bytes[8..]),
        BinaryPrimitives.ReadUInt32LittleEndian(bytes[12..]));

    public void Write(Span<byte> bytes)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, (uint)Type);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[4..], RequestId);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[8..], Transaction);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[12..], Length);
    }
}

/// <summary>One domain's connection: requests in, answers and watch events out, each with its header.</summary>
/// <param name="send">Gets whole messages in order, of up to <see cref="StoreHeader.PayloadLimit"/> bytes and a header.</param>
internal sealed class StoreMessages(XenStore store, int domain, Action<ReadOnlyMemory<byte>> send)
{
    private const byte Zero = 0;

    private static readonly byte[] s_ok = "OK\0"u8.ToArray();

    private string Home => StorePath.HomeOf(domain) + "/";

    /// <summary>Serves one request.</summary>
    public void Serve(StoreHeader header, ReadOnlyMemory<byte> payload)
    {
        var error = header.Length > StoreHeader.PayloadLimit ? StoreError.E2BIG : TryServe(header, payload, out var answer) is var e && e == StoreError.None ? Answer(header, answer) : e;
        if (error != StoreError.None)
            Send(header with { Type = StoreMessageType.Error }, Encoding.ASCII.GetBytes(error + "\0"));
    }

    private StoreError Answer(StoreHeader header, ReadOnlyMemory<byte> payload)
    {
        if (payload.Length > StoreHeader.PayloadLimit)
            return StoreError.E2BIG;
        Send(header, payload);
        return StoreError.None;
    }

    private void Send(StoreHeader header, ReadOnlyMemory<byte> payload)
    {
        var message = new byte[StoreHeader.Size + payload.Length];
        (header with { Length = (uint)payload.Length }).Write(message);
        payload.CopyTo(message.AsMemory(StoreHeader.Size));
        send(message);
    }

    private StoreError TryServe(StoreHeader header, ReadOnlyMemory<byte> payload, out ReadOnlyMemory<byte> answer)
    {
        answer = s_ok;
        var transaction = header.Transaction;
        switch (header.Type)
        {
            case StoreMessageType.Read:
                return TryPath(payload.Span, out var read) ? store.Read(domain, transaction, read, out answer) : StoreError.EINVAL;
            case StoreMessageType.Directory:
                return List(payload.Span, transaction, out answer);
            case StoreMessageType.DirectoryPart:
                return ListPart(payload.Span, transaction, out answer);
            case StoreMessageType.GetPerms:
                return GetRights(payload.Span, transaction, out answer);
            case StoreMessageType.Write:
                // The value has no zero at its end, and may have some within.
                return payload.Span.IndexOf(Zero) is >= 0 and var end && StorePath.Resolve(payload.Span[..end], domain) is { } write
                    ? store.Write(domain, transaction, write, payload[(end + 1)..])
                    : StoreError.EINVAL;
            case StoreMessageType.Mkdir:
                return TryPath(payload.Span, out var made) ? store.MakeDirectory(domain, transaction, made) : StoreError.EINVAL;
            case StoreMessageType.Rm:
                return TryPath(payload.Span, out var removed) ? store.Remove(domain, transaction, removed) : StoreError.EINVAL;
            case StoreMessageType.SetPerms:
                return SetRights(payload.Span, transaction);
            case StoreMessageType.Watch:
                return TryWatch(payload.Span, out var watched, out var relative, out var token) ? store.Watch(domain, watched, relative, token, OnChanged) : StoreError.EINVAL;
            case StoreMessageType.Unwatch:
                return TryWatch(payload.Span, out var unwatched, out _, out var old) ? store.Unwatch(domain, unwatched, old) : StoreError.EINVAL;
            case StoreMessageType.TransactionStart:
                if (transaction != 0)
                    return StoreError.EBUSY;
                var begun = store.Begin(domain, out var number);
                answer = Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{number}\0"));
                return begun;
            case StoreMessageType.TransactionEnd:
                if (payload.Length != 2 || payload.Span[1] != 0 || payload.Span[0] is not ((byte)'T' or (byte)'F'))
                    return StoreError.EINVAL;
                return store.End(domain, transaction, payload.Span[0] == 'T');
            case StoreMessageType.GetDomainPath:
                if (!TryString(payload.Span, out var id) || !ushort.TryParse(id, NumberStyles.None, CultureInfo.InvariantCulture, out var other))
                    return StoreError.EINVAL;
                answer = Encoding.ASCII.GetBytes(StorePath.HomeOf(other) + "\0");
                return StoreError.None;
            case StoreMessageType.ResetWatches:
                store.Forget(domain);
                return StoreError.None;
            case StoreMessageType.Control or StoreMessageType.IsDomainIntroduced:
                return StoreError.EACCES;
            default:
                return StoreError.ENOSYS;
        }
    }

    private StoreError List(ReadOnlySpan<byte> payload, uint transaction, out ReadOnlyMemory<byte> answer)
    {
        answer = default;
        if (!TryPath(payload, out var path))
            return StoreError.EINVAL;
        var error = store.List(domain, transaction, path, out var names, out _);
        answer = Encoding.ASCII.GetBytes(string.Concat(names.Select(n => n + "\0")));
        return error;
    }

    /// <summary>A part of a long list: its generation, names from an offset in bytes on, and an empty name at the end.</summary>
    private StoreError ListPart(ReadOnlySpan<byte> payload, uint transaction, out ReadOnlyMemory<byte> answer)
    {
        answer = default;
        if (payload.IndexOf(Zero) is not (>= 0 and var end) || StorePath.Resolve(payload[..end], domain) is not { } path
            || !TryString(payload[(end + 1)..], out var text) || !uint.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var offset))
            return StoreError.EINVAL;
        var error = store.List(domain, transaction, path, out var names, out var generation);
        if (error != StoreError.None)
            return error;
        var part = new StringBuilder().Append(CultureInfo.InvariantCulture, $"{generation}\0");
        var at = 0u;
        var isAll = true;
        foreach (var name in names)
        {
            if (at >= offset)
            {
                isAll = part.Length + name.Length + 2 <= StoreHeader.PayloadLimit;
                if (!isAll)
                    break;
                part.Append(name).Append('\0');
            }

            at += (uint)name.Length + 1;
        }

        if (isAll)
            part.Append('\0');
        answer = Encoding.ASCII.GetBytes(part.ToString());
        return StoreError.None;
    }

    private StoreError GetRights(ReadOnlySpan<byte> payload, uint transaction, out ReadOnlyMemory<byte> answer)
    {
        answer = default;
        if (!TryPath(payload, out var path))
            return StoreError.EINVAL;
        var error = store.GetRights(domain, transaction, path, out var rights);
        answer = Encoding.ASCII.GetBytes(string.Concat(rights.Select(r => r + "\0")));
        return error;
    }

    private StoreError SetRights(ReadOnlySpan<byte> payload, uint transaction)
    {
        if (payload.Length == 0 || payload[^1] != 0 || payload.IndexOf(Zero) is var end && StorePath.Resolve(payload[..end], domain) is not { } path)
            return StoreError.EINVAL;
        var rights = new List<StoreRight>();
        for (var rest = payload[(end + 1)..]; rest.Length > 0; rest = rest[(rest.IndexOf(Zero) + 1)..])
        {
            if (!StoreRight.TryParse(Encoding.ASCII.GetString(rest[..rest.IndexOf(Zero)]), out var right))
                return StoreError.EINVAL;
            rights.Add(right);
        }

        return store.SetRights(domain, transaction, path, rights);
    }

    private void OnChanged(string path, string token) =>
        Send(new StoreHeader(StoreMessageType.WatchEvent, 0, 0, 0), Encoding.Latin1.GetBytes($"{path}\0{token}\0"));

    private bool TryPath(ReadOnlySpan<byte> payload, out string path)
    {
        path = "";
        if (payload.Length == 0 || payload.IndexOf(Zero) != payload.Length - 1 || StorePath.Resolve(payload[..^1], domain) is not { } found)
            return false;
        path = found;
        return true;
    }

    private static bool TryString(ReadOnlySpan<byte> payload, out string text)
    {
        text = "";
        if (payload.Length == 0 || payload.IndexOf(Zero) != payload.Length - 1)
            return false;
        text = Encoding.Latin1.GetString(payload[..^1]);
        return true;
    }

    /// <param name="relative">What is cut off again where the domain named it relative to its home.</param>
    private bool TryWatch(ReadOnlySpan<byte> payload, out string path, out string? relative, out string token)
    {
        (path, relative, token) = ("", null, "");
        if (payload.IndexOf(Zero) is not (> 0 and var end) || !TryString(payload[(end + 1)..], out token))
            return false;
        var name = payload[..end];
        if (name.SequenceEqual("@introduceDomain"u8) || name.SequenceEqual("@releaseDomain"u8))
        {
            path = Encoding.ASCII.GetString(name);
            return true;
        }

        if (StorePath.Resolve(name, domain) is not { } found)
            return false;
        path = found;
        relative = name[0] == '/' ? null : Home;
        return true;
    }
}
