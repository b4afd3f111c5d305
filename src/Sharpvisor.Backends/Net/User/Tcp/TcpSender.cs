// TCP segments for the guest (RFC 9293, 3.1), unfinished ones as VIRTIO 1.2, 5.1.6 has them.
using System.Buffers.Binary;
using Sharpvisor.Backends.Net.User.Ip;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.User.Tcp;

/// <summary>Makes the frames of TCP for the guest: unfinished ones of up to 64 KiB where it takes them.</summary>
internal sealed class TcpSender
{
    public const int HeadersLength = EthernetFrame.HeaderLength + Ipv4Packet.HeaderLength + TcpSegment.HeaderLength;

    /// <summary>Of a segment that is not cut.</summary>
    public const int MaximumSegmentSize = Ipv4Sender.MaximumUnit - Ipv4Packet.HeaderLength - TcpSegment.HeaderLength;

    /// <summary>What a 16-bit length of an IPv4 packet leaves.</summary>
    private const int LongestData = ushort.MaxValue - Ipv4Packet.HeaderLength - TcpSegment.HeaderLength;

    private const int TcpAt = EthernetFrame.HeaderLength + Ipv4Packet.HeaderLength, ChecksumAt = 16;
    private const int SynOptionsLength = 8;

    private readonly GuestLink _link;
    private readonly ArpTable _arp;
    private readonly NetworkAddresses _addresses;
    private readonly byte[] _headers = new byte[HeadersLength + SynOptionsLength];
    private ushort _identification;

    public TcpSender(GuestLink link, ArpTable arp, NetworkAddresses addresses)
    {
        _link = link;
        _arp = arp;
        _addresses = addresses;
    }

    /// <summary>How much data a segment may have whose pieces have <paramref name="segmentSize"/>: whole pieces.</summary>
    public int LongestSegment(int segmentSize)
    {
        var offloads = _link.Offloads;
        return offloads.Checksum && offloads.Tcp4 ? LongestData / segmentSize * segmentSize : segmentSize;
    }

    /// <summary>Sends a segment.</summary>
    /// <param name="windowScale">Of a SYN: to be offered; -1: none.</param>
    /// <param name="segmentSize">The data is to be cut into.</param>
    /// <returns>False: the guest has no room, or its Ethernet address is asked for.</returns>
    public bool TrySend(
        in TcpFlow flow, TcpFlags flags, uint sequence, uint acknowledgment, ushort window, int windowScale = -1, int segmentSize = 0, ReadOnlySpan<byte> first = default, ReadOnlySpan<byte> second = default)
    {
        if (!_link.HasRoom || !_arp.TryResolve(flow.Guest.Address, out var mac))
            return false;
        var optionsLength = (flags & TcpFlags.Syn) == 0 ? 0 : windowScale < 0 ? 4 : SynOptionsLength;
        var frame = _headers.AsSpan(0, HeadersLength + optionsLength);
        var dataLength = first.Length + second.Length;
        var length = TcpSegment.HeaderLength + optionsLength + dataLength;
        FrameHeaders.WriteEthernet(frame, mac, _addresses.Mac, FrameHeaders.Ipv4EtherType);
        FrameHeaders.WriteIpv4(frame[EthernetFrame.HeaderLength..], Ipv4Packet.HeaderLength + length, ++_identification, 0x4000, Ipv4Packet.Tcp, flow.Remote.Address, flow.Guest.Address);
        var tcp = frame[TcpAt..];
        BinaryPrimitives.WriteUInt16BigEndian(tcp, flow.Remote.Port);
        BinaryPrimitives.WriteUInt16BigEndian(tcp[2..], flow.Guest.Port);
        BinaryPrimitives.WriteUInt32BigEndian(tcp[4..], sequence);
        BinaryPrimitives.WriteUInt32BigEndian(tcp[8..], acknowledgment);
        tcp[12] = (byte)((TcpSegment.HeaderLength + optionsLength) / 4 << 4);
        tcp[13] = (byte)flags;
        BinaryPrimitives.WriteUInt16BigEndian(tcp[14..], window);
        BinaryPrimitives.WriteUInt32BigEndian(tcp[16..], 0); // checksum and urgent pointer
        if (optionsLength > 0)
            BinaryPrimitives.WriteUInt32BigEndian(tcp[20..], 0x0204_0000 | MaximumSegmentSize);
        if (optionsLength > 4)
            BinaryPrimitives.WriteUInt32BigEndian(tcp[24..], 0x0303_0001 | (uint)windowScale << 8);

        var sum = default(InternetChecksum);
        sum.AddPseudoHeader(flow.Remote.Address, flow.Guest.Address, Ipv4Packet.Tcp, length);
        var offload = default(FrameOffload);
        if (_link.Offloads.Checksum)
        {
            BinaryPrimitives.WriteUInt16BigEndian(tcp[ChecksumAt..], sum.Partial());
            offload = new FrameOffload
            {
                NeedsChecksum = true,
                ChecksumStart = TcpAt,
                ChecksumOffset = ChecksumAt,
                HeaderLength = (ushort)frame.Length,
                Segmentation = dataLength > segmentSize ? Segmentation.Tcp4 : Segmentation.None,
                SegmentSize = dataLength > segmentSize ? (ushort)segmentSize : (ushort)0,
            };
        }
        else
        {
            sum.Add(tcp);
            sum.Add(first);
            sum.Add(second);
            BinaryPrimitives.WriteUInt16BigEndian(tcp[ChecksumAt..], sum.Finish());
        }

        return _link.TrySend(new EthernetFrame(frame, first, second) { Offload = offload });
    }
}
