using System.Buffers.Binary;
using System.Net;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.User;

/// <summary>Makes and reads packets without the code under test.</summary>
internal static class Packets
{
    public const byte Fin = 1, Syn = 2, Rst = 4, Psh = 8, Ack = 16;

    public static readonly MacAddress Guest = MacAddress.Default(0);
    public static readonly MacAddress Gateway = MacAddress.Read([0x52, 0x55, 10, 0, 2, 2]);

    public static ushort Checksum(params byte[][] pieces)
    {
        var sum = 0L;
        var all = pieces.SelectMany(p => p).ToArray();
        for (var i = 0; i < all.Length; i += 2)
            sum += all[i] << 8 | (i + 1 < all.Length ? all[i + 1] : 0);
        while (sum >> 16 != 0)
            sum = (sum & 0xFFFF) + (sum >> 16);
        return (ushort)~sum;
    }

    public static byte[] PseudoHeader(IPAddress from, IPAddress to, byte protocol, int length) =>
        [.. from.GetAddressBytes(), .. to.GetAddressBytes(), 0, protocol, (byte)(length >> 8), (byte)length];

    public static byte[] Ethernet(ushort type, byte[] payload, MacAddress? to = null)
    {
        var frame = new byte[14 + payload.Length];
        (to ?? Gateway).Write(frame);
        Guest.Write(frame.AsSpan(6));
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), type);
        payload.CopyTo(frame, 14);
        return frame;
    }

    public static byte[] Ipv4(IPAddress from, IPAddress to, byte protocol, byte[] payload, byte timeToLive = 64, ushort identification = 1, ushort fragment = 0)
    {
        var packet = new byte[20 + payload.Length];
        packet[0] = 0x45;
        BinaryPrimitives.WriteUInt16BigEndian(packet.AsSpan(2), (ushort)packet.Length);
        BinaryPrimitives.WriteUInt16BigEndian(packet.AsSpan(4), identification);
        BinaryPrimitives.WriteUInt16BigEndian(packet.AsSpan(6), fragment);
        packet[8] = timeToLive;
        packet[9] = protocol;
        from.GetAddressBytes().CopyTo(packet, 12);
        to.GetAddressBytes().CopyTo(packet, 16);
        BinaryPrimitives.WriteUInt16BigEndian(packet.AsSpan(10), Checksum(packet[..20]));
        payload.CopyTo(packet, 20);
        return Ethernet(0x0800, packet, to.Equals(IPAddress.Broadcast) ? MacAddress.Broadcast : null);
    }

    public static byte[] UdpDatagram(IPEndPoint from, IPEndPoint to, byte[] data)
    {
        var datagram = new byte[8 + data.Length];
        BinaryPrimitives.WriteUInt16BigEndian(datagram, (ushort)from.Port);
        BinaryPrimitives.WriteUInt16BigEndian(datagram.AsSpan(2), (ushort)to.Port);
        BinaryPrimitives.WriteUInt16BigEndian(datagram.AsSpan(4), (ushort)datagram.Length);
        data.CopyTo(datagram, 8);
        BinaryPrimitives.WriteUInt16BigEndian(datagram.AsSpan(6), Checksum(PseudoHeader(from.Address, to.Address, 17, datagram.Length), datagram));
        return datagram;
    }

    public static byte[] Udp(IPEndPoint from, IPEndPoint to, byte[] data) => Ipv4(from.Address, to.Address, 17, UdpDatagram(from, to, data));

    public static byte[] Echo(IPAddress from, IPAddress to, ushort identifier, ushort sequence, byte[] data, byte timeToLive = 64)
    {
        byte[] message = [8, 0, 0, 0, (byte)(identifier >> 8), (byte)identifier, (byte)(sequence >> 8), (byte)sequence, .. data];
        BinaryPrimitives.WriteUInt16BigEndian(message.AsSpan(2), Checksum(message));
        return Ipv4(from, to, 1, message, timeToLive);
    }

    public static byte[] ArpRequest(IPAddress from, IPAddress target) => Ethernet(
        0x0806,
        [0, 1, 8, 0, 6, 4, 0, 1, .. Bytes(Guest), .. from.GetAddressBytes(), 0, 0, 0, 0, 0, 0, .. target.GetAddressBytes()],
        MacAddress.Broadcast);

    /// <param name="offloaded">The checksum is left to the backend, as a driver with TSO does.</param>
    public static byte[] Tcp(IPEndPoint from, IPEndPoint to, byte flags, uint sequence, uint acknowledgment, ushort window, byte[] data, byte[]? options = null, bool offloaded = false)
    {
        options ??= [];
        var segment = new byte[20 + options.Length + data.Length];
        BinaryPrimitives.WriteUInt16BigEndian(segment, (ushort)from.Port);
        BinaryPrimitives.WriteUInt16BigEndian(segment.AsSpan(2), (ushort)to.Port);
        BinaryPrimitives.WriteUInt32BigEndian(segment.AsSpan(4), sequence);
        BinaryPrimitives.WriteUInt32BigEndian(segment.AsSpan(8), acknowledgment);
        segment[12] = (byte)((20 + options.Length) / 4 << 4);
        segment[13] = flags;
        BinaryPrimitives.WriteUInt16BigEndian(segment.AsSpan(14), window);
        options.CopyTo(segment, 20);
        data.CopyTo(segment, 20 + options.Length);
        if (!offloaded)
            BinaryPrimitives.WriteUInt16BigEndian(segment.AsSpan(16), Checksum(PseudoHeader(from.Address, to.Address, 6, segment.Length), segment));
        return Ipv4(from.Address, to.Address, 6, segment);
    }

    public static byte[] Bytes(MacAddress address)
    {
        var bytes = new byte[6];
        address.Write(bytes);
        return bytes;
    }
}

/// <summary>A packet that came, checked as a strict guest would.</summary>
internal sealed record ReceivedPacket(ushort EtherType, byte Protocol, IPEndPoint From, IPEndPoint To, byte[] Payload, byte[] Frame, FrameOffload Offload)
{
    /// <summary>Of TCP.</summary>
    public byte Flags => Payload[13];

    public uint Sequence => BinaryPrimitives.ReadUInt32BigEndian(Payload.AsSpan(4));

    public uint Acknowledgment => BinaryPrimitives.ReadUInt32BigEndian(Payload.AsSpan(8));

    public ushort Window => BinaryPrimitives.ReadUInt16BigEndian(Payload.AsSpan(14));

    public ReadOnlySpan<byte> TcpData => Payload.AsSpan((Payload[12] >> 4) * 4);

    public ReadOnlySpan<byte> TcpOptions => Payload.AsSpan(20, (Payload[12] >> 4) * 4 - 20);

    public bool Has(byte flag) => (Flags & flag) != 0;

    public static ReceivedPacket Parse(byte[] frame, FrameOffload offload)
    {
        var type = BinaryPrimitives.ReadUInt16BigEndian(frame.AsSpan(12));
        if (type != 0x0800)
            return new ReceivedPacket(type, 0, new IPEndPoint(0, 0), new IPEndPoint(0, 0), frame[14..], frame, offload);
        var header = frame[14..34];
        Assert.Equal(0x45, header[0]);
        Assert.Equal(0, Packets.Checksum(header));
        Assert.Equal(frame.Length - 14, BinaryPrimitives.ReadUInt16BigEndian(header.AsSpan(2)));
        var protocol = header[9];
        var (from, to) = (new IPAddress(header[12..16]), new IPAddress(header[16..20]));
        var payload = frame[34..];
        var fragment = BinaryPrimitives.ReadUInt16BigEndian(header.AsSpan(6)) & 0x3FFF;
        var ports = protocol is 6 or 17 && (fragment & 0x1FFF) == 0;
        var packet = new ReceivedPacket(
            type,
            protocol,
            new IPEndPoint(from, ports ? BinaryPrimitives.ReadUInt16BigEndian(payload) : 0),
            new IPEndPoint(to, ports ? BinaryPrimitives.ReadUInt16BigEndian(payload.AsSpan(2)) : 0),
            payload,
            frame,
            offload);
        if (protocol == 1)
            Assert.Equal(0, Packets.Checksum(payload));
        else if (fragment == 0 && protocol is 6 or 17)
            packet.CheckChecksum(from, to, protocol);
        Assert.True(frame.Length <= 1514 || offload.Segmentation == Segmentation.Tcp4, "longer than the MTU");
        return packet;
    }

    private void CheckChecksum(IPAddress from, IPAddress to, byte protocol)
    {
        var pseudo = Packets.PseudoHeader(from, to, protocol, Payload.Length);
        if (!Offload.NeedsChecksum)
        {
            Assert.Equal(0, Packets.Checksum(pseudo, Payload));
            return;
        }

        Assert.Equal((34, 16), (Offload.ChecksumStart, Offload.ChecksumOffset));
        Assert.Equal((ushort)~Packets.Checksum(pseudo), BinaryPrimitives.ReadUInt16BigEndian(Payload.AsSpan(16)));
        if (Offload.Segmentation == Segmentation.Tcp4)
        {
            Assert.True(TcpData.Length > Offload.SegmentSize, "a segment that need not be cut");
            Assert.Equal(34 + (Payload[12] >> 4) * 4, Offload.HeaderLength);
        }
    }
}
