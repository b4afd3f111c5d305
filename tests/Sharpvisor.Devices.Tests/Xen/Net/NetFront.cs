using System.Buffers.Binary;
using Sharpvisor.Core.Net;
using Sharpvisor.Devices.Xen.Bus;
using Sharpvisor.Devices.Xen.Net;

namespace Sharpvisor.Devices.Tests.Xen.Net;

/// <summary>An answer of the receive ring, or what lies in the place of one.</summary>
internal readonly record struct Received(ushort Id, ushort Offset, ushort Flags, short Status, byte[] Bytes);

/// <summary>The driver of a NIC in a domain.</summary>
internal sealed class NetFront
{
    public const ushort Blank = 1, Validated = 2, More = 4, Extra = 8;

    private readonly XenBench _bench;
    private readonly XenNet _nic;
    private readonly Dictionary<ushort, ulong> _posted = [];
    private ushort _nextReceive;

    public NetFront(XenBench bench, XenNet nic, bool splitsPorts = false, bool hasOffloads = true)
    {
        _bench = bench;
        _nic = nic;
        Transmit = new FrontRing(bench, 1, 12);
        Receive = new FrontRing(bench, 1, 8);
        Port = bench.MakePort();
        ReceivePort = splitsPorts ? bench.MakePort() : Port;
        bench.SetFront(nic, "tx-ring-ref", Transmit.References[0]);
        bench.SetFront(nic, "rx-ring-ref", Receive.References[0]);
        if (splitsPorts)
        {
            bench.SetFront(nic, "event-channel-tx", Port);
            bench.SetFront(nic, "event-channel-rx", ReceivePort);
        }
        else
        {
            bench.SetFront(nic, "event-channel", Port);
        }

        bench.SetFront(nic, "request-rx-copy", 1);
        foreach (var feature in new[] { "feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6", "feature-ipv6-csum-offload" })
            bench.SetFront(nic, feature, hasOffloads ? 1 : 0);
        bench.SetFront(nic, "feature-no-csum-offload", hasOffloads ? 0 : 1);
    }

    public FrontRing Transmit { get; }

    public FrontRing Receive { get; }

    public uint Port { get; }

    public uint ReceivePort { get; }

    public void Connect()
    {
        _bench.SetState(_nic, XenbusState.Connected);
        Assert.Equal(XenbusState.Connected, _bench.BackState(_nic));
    }

    // --- transmit ---

    /// <summary>Puts a frame into pages, so many bytes in each, and adds it.</summary>
    public void Send(byte[] frame, ushort flags = 0, byte[]? extra = null, int pieceLength = 4000, int offset = 96)
    {
        for (var at = 0; at < frame.Length || at == 0;)
        {
            var length = Math.Min(pieceLength, frame.Length - at);
            var page = _bench.AllocatePage();
            if (length > 0)
                _bench.Memory.TryWrite(page + (ulong)offset, frame.AsSpan(at, length));
            var isLast = at + length == frame.Length;
            Add(_bench.Grant(page, readOnly: true), offset, at == 0 ? frame.Length : length, (ushort)((isLast ? 0 : More) | (at == 0 ? flags | (extra is null ? 0 : Extra) : 0)));
            if (at == 0 && extra is not null)
                Transmit.Put(extra);
            at += length;
            if (isLast)
                break;
        }

        Kick();
    }

    public void Add(uint reference, int offset, int size, ushort flags)
    {
        var entry = new byte[12];
        BinaryPrimitives.WriteUInt32LittleEndian(entry, reference);
        BinaryPrimitives.WriteUInt16LittleEndian(entry.AsSpan(4), (ushort)offset);
        BinaryPrimitives.WriteUInt16LittleEndian(entry.AsSpan(6), flags);
        BinaryPrimitives.WriteUInt16LittleEndian(entry.AsSpan(8), (ushort)Transmit.Produced);
        BinaryPrimitives.WriteUInt16LittleEndian(entry.AsSpan(10), (ushort)size);
        Transmit.Put(entry);
    }

    public static byte[] Segments(ushort size, byte type) => [1, 0, (byte)size, (byte)(size >> 8), type, 0, 0, 0, 0, 0, 0, 0];

    public void Kick()
    {
        if (Transmit.Push())
            _bench.Send(Port);
    }

    /// <summary>Answers to what was sent.</summary>
    public List<(ushort Id, short Status)> TakeSent()
    {
        var all = new List<(ushort, short)>();
        while (Transmit.Take() is { } answer)
            all.Add((BinaryPrimitives.ReadUInt16LittleEndian(answer), BinaryPrimitives.ReadInt16LittleEndian(answer.AsSpan(2))));
        return all;
    }

    // --- receive ---

    public void Post(int count, bool readOnly = false)
    {
        for (var i = 0; i < count; i++)
        {
            var (page, id) = (_bench.AllocatePage(), _nextReceive++);
            _posted[id] = page;
            var entry = new byte[8];
            BinaryPrimitives.WriteUInt16LittleEndian(entry, id);
            BinaryPrimitives.WriteUInt32LittleEndian(entry.AsSpan(4), _bench.Grant(page, readOnly));
            Receive.Put(entry);
        }

        if (Receive.Push())
            _bench.Send(ReceivePort);
    }

    public List<Received> TakeReceived()
    {
        var all = new List<Received>();
        while (Receive.Take() is { } answer)
        {
            var (id, status) = (BinaryPrimitives.ReadUInt16LittleEndian(answer), BinaryPrimitives.ReadInt16LittleEndian(answer.AsSpan(6)));
            var isExtra = all is [{ Flags: var flags }] && (flags & Extra) != 0;
            var bytes = new byte[Math.Max(0, isExtra ? 0 : (int)status)];
            if (bytes.Length > 0)
                _bench.Memory.TryRead(_posted[id], bytes);
            all.Add(new Received(id, BinaryPrimitives.ReadUInt16LittleEndian(answer.AsSpan(2)), BinaryPrimitives.ReadUInt16LittleEndian(answer.AsSpan(4)), status, isExtra ? answer : bytes));
        }

        return all;
    }
}

/// <summary>What a NIC's cable leads to, which only counts.</summary>
internal sealed class TestCable : INetworkBackend
{
    public string Name => "test";

    public bool TakesOffloads { get; set; } = true;

    public int TransmitReady { get; set; }

    public int ReceiveReady { get; set; }

    public void Attach(INetworkDevice device)
    {
    }

    public void OnTransmitReady() => TransmitReady++;

    public void OnReceiveReady() => ReceiveReady++;

    public ValueTask DisposeAsync() => default;
}

/// <summary>Frames of TCP and UDP with or without the right checksum.</summary>
internal static class TestFrames
{
    /// <param name="length">Of all, headers included.</param>
    public static byte[] Make(int length, bool isTcp = true, bool isIPv6 = false, bool isTagged = false)
    {
        var frame = new byte[length];
        new Random(length).NextBytes(frame);
        var at = isTagged ? 16 : 12;
        if (isTagged)
            BinaryPrimitives.WriteUInt32BigEndian(frame.AsSpan(12), 0x8100_0005);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(at), (ushort)(isIPv6 ? 0x86DD : 0x0800));
        var ip = frame.AsSpan(at + 2);
        ip[..(isIPv6 ? 8 : 20)].Clear();
        var protocol = (byte)(isTcp ? 6 : 17);
        if (isIPv6)
        {
            ip[0] = 0x60;
            BinaryPrimitives.WriteUInt16BigEndian(ip[4..], (ushort)(ip.Length - 40));
            (ip[6], ip[7]) = (protocol, 64);
        }
        else
        {
            (ip[0], ip[8], ip[9]) = (0x45, 64, protocol);
            BinaryPrimitives.WriteUInt16BigEndian(ip[2..], (ushort)ip.Length);
            BinaryPrimitives.WriteUInt32BigEndian(ip[12..], 0x0A00_020F);
            BinaryPrimitives.WriteUInt32BigEndian(ip[16..], 0x0A00_0202);
        }

        var segment = ip[(isIPv6 ? 40 : 20)..];
        if (isTcp)
            segment[12] = 0x50;
        else
            BinaryPrimitives.WriteUInt16BigEndian(segment[4..], (ushort)segment.Length);
        segment.Slice(isTcp ? 16 : 6, 2).Clear();
        return frame;
    }

    /// <summary>The ones' complement sum over a segment and its pseudo header: FFFFh of one whose checksum is right.</summary>
    public static ushort SumOf(ReadOnlySpan<byte> frame)
    {
        var at = frame[12] == 0x81 ? 18 : 14;
        var isIPv6 = frame[at] >> 4 == 6;
        var addresses = isIPv6 ? frame.Slice(at + 8, 32) : frame.Slice(at + 12, 8);
        var protocol = isIPv6 ? frame[at + 6] : frame[at + 9];
        var segment = frame[(at + (isIPv6 ? 40 : 20))..];
        var sum = protocol + (uint)segment.Length;
        foreach (var part in new[] { addresses.ToArray(), segment.ToArray() })
        {
            for (var i = 0; i < part.Length; i++)
                sum += i % 2 == 0 ? (uint)part[i] << 8 : part[i];
        }

        while (sum >> 16 != 0)
            sum = (sum & 0xFFFF) + (sum >> 16);
        return (ushort)sum;
    }
}
