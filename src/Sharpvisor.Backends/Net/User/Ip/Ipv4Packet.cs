// IPv4 packets as the guest sends them.
// Follows: RFC 791, 3.1.
// Leaves out: options, which are skipped.

using System.Buffers.Binary;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.User.Ip;

/// <summary>A checked IPv4 packet (RFC 791) of the guest. Options are skipped.</summary>
internal readonly ref struct Ipv4Packet
{
    public const int HeaderLength = 20;
    public const byte Icmp = 1, Tcp = 6, Udp = 17;

    public ReadOnlySpan<byte> Header { get; private init; }

    public ReadOnlySpan<byte> Payload { get; private init; }

    public FrameOffload Offload { get; private init; }

    public uint Source { get; private init; }

    public uint Destination { get; private init; }

    public byte Protocol { get; private init; }

    public byte TimeToLive { get; private init; }

    public ushort Identification { get; private init; }

    /// <summary>In bytes.</summary>
    public int FragmentOffset { get; private init; }

    public bool HasMoreFragments { get; private init; }

    public bool IsFragment => FragmentOffset > 0 || HasMoreFragments;

    /// <summary>Whether nobody has to look at the checksum of what is in it.</summary>
    public bool ChecksumIsGood => Offload.NeedsChecksum || Offload.IsValid;

    /// <param name="data">Behind the Ethernet header; may be longer, padded.</param>
    public static bool TryParse(ReadOnlySpan<byte> data, FrameOffload offload, out Ipv4Packet packet, out DropReason reason)
    {
        packet = default;
        reason = DropReason.Malformed;
        if (data.Length < HeaderLength || data[0] >> 4 != 4)
            return false;
        var headerLength = (data[0] & 15) * 4;
        int length = BinaryPrimitives.ReadUInt16BigEndian(data[2..]);
        if (length == 0 && offload.Segmentation != Segmentation.None)
            length = data.Length; // longer than the field: to be cut anyway
        if (headerLength < HeaderLength || headerLength > length || length > data.Length)
            return false;
        if (InternetChecksum.Of(data[..headerLength]) != 0)
        {
            reason = DropReason.Checksum;
            return false;
        }

        var fragment = BinaryPrimitives.ReadUInt16BigEndian(data[6..]);
        packet = new Ipv4Packet
        {
            Header = data[..headerLength],
            Payload = data[headerLength..length],
            Offload = offload,
            Source = BinaryPrimitives.ReadUInt32BigEndian(data[12..]),
            Destination = BinaryPrimitives.ReadUInt32BigEndian(data[16..]),
            Protocol = data[9],
            TimeToLive = data[8],
            Identification = BinaryPrimitives.ReadUInt16BigEndian(data[4..]),
            FragmentOffset = (fragment & 0x1FFF) * 8,
            HasMoreFragments = (fragment & 0x2000) != 0,
        };
        return true;
    }

    /// <summary>The same packet with the whole of what was fragmented; its checksum is to be looked at.</summary>
    public Ipv4Packet Reassembled(ReadOnlySpan<byte> payload) => new()
    {
        Header = Header,
        Payload = payload,
        Source = Source,
        Destination = Destination,
        Protocol = Protocol,
        TimeToLive = TimeToLive,
        Identification = Identification,
    };
}
