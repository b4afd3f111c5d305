// Messages to clients: RFC 2131, 2 and 4.1; options of RFC 2132.
using System.Buffers.Binary;
using System.Text;

namespace Sharpvisor.Backends.Net.User.Services.Dhcp;

/// <summary>A message to a client, written option by option.</summary>
internal ref struct DhcpReply
{
    /// <summary>The shortest that every client takes: BOOTP's.</summary>
    public const int ShortestLength = 300;

    private const int FileAt = 108, FileLength = 128, LongestOption = 255;

    private readonly Span<byte> _bytes;
    private int _end;

    /// <param name="room">As long as the client takes.</param>
    public DhcpReply(Span<byte> room, in DhcpRequest request)
    {
        const byte bootReply = 2, ethernet = 1;
        _bytes = room;
        _bytes.Clear();
        (_bytes[0], _bytes[1], _bytes[2]) = (bootReply, ethernet, Core.Net.MacAddress.Length);
        BinaryPrimitives.WriteUInt32BigEndian(_bytes[4..], request.TransactionId);
        BinaryPrimitives.WriteUInt16BigEndian(_bytes[10..], request.Flags);
        request.Mac.Write(_bytes[28..]);
        BinaryPrimitives.WriteUInt32BigEndian(_bytes[DhcpRequest.HeaderLength..], DhcpRequest.MagicCookie);
        _end = DhcpRequest.HeaderLength + 4;
    }

    /// <summary>ciaddr.</summary>
    public readonly uint ClientAddress
    {
        set => BinaryPrimitives.WriteUInt32BigEndian(_bytes[12..], value);
    }

    /// <summary>yiaddr: the address that the client gets.</summary>
    public readonly uint YourAddress
    {
        set => BinaryPrimitives.WriteUInt32BigEndian(_bytes[16..], value);
    }

    /// <summary>siaddr.</summary>
    public readonly uint NextServer
    {
        set => BinaryPrimitives.WriteUInt32BigEndian(_bytes[20..], value);
    }

    /// <summary>The field <c>file</c>.</summary>
    /// <returns>False: it is too long for that.</returns>
    public readonly bool TrySetFile(string name) =>
        Encoding.UTF8.GetByteCount(name) < FileLength && Encoding.UTF8.TryGetBytes(name, _bytes.Slice(FileAt, FileLength), out _);

    /// <summary>Adds an option, a long one in pieces (RFC 3396).</summary>
    /// <returns>False: there is no room for it.</returns>
    public bool TryAdd(DhcpOption option, scoped ReadOnlySpan<byte> value)
    {
        var pieces = Math.Max(1, (value.Length + LongestOption - 1) / LongestOption);
        if (_end + value.Length + (2 * pieces) + 1 > _bytes.Length)
            return false;
        do
        {
            var piece = value[..Math.Min(LongestOption, value.Length)];
            _bytes[_end++] = (byte)option;
            _bytes[_end++] = (byte)piece.Length;
            piece.CopyTo(_bytes[_end..]);
            _end += piece.Length;
            value = value[piece.Length..];
        }
        while (!value.IsEmpty);
        return true;
    }

    public bool TryAdd(DhcpOption option, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32BigEndian(bytes, value);
        return TryAdd(option, bytes);
    }

    public bool TryAdd(DhcpOption option, string text) => TryAdd(option, Encoding.UTF8.GetBytes(text));

    /// <summary>Ends the options.</summary>
    /// <returns>The message.</returns>
    public ReadOnlySpan<byte> Finish()
    {
        _bytes[_end++] = (byte)DhcpOption.End;
        return _bytes[..Math.Max(_end, ShortestLength)];
    }
}
