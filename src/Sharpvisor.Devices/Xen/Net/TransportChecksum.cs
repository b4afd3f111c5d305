// Checksums of TCP and UDP that are left to whoever gets a frame.
// Follows: RFC 1071, 9293 (3.1), 768, 8200 (8.1); what io/netif.h of Xen says of frames whose checksum is blank.

using System.Buffers.Binary;

namespace Sharpvisor.Devices.Xen.Net;

/// <summary>Where the checksum of a frame's TCP or UDP is.</summary>
/// <param name="Header">Where that of IP begins, in bytes from the frame's start.</param>
/// <param name="Start">Where that of TCP or UDP begins.</param>
internal readonly record struct TransportChecksum(int Header, int Start, bool IsTcp, bool IsIPv6)
{
    private const int TypeOffset = 12, TagLength = 4, IPv4Length = 20, IPv6Length = 40, TcpLength = 20, UdpLength = 8;
    private const byte Tcp = 6, Udp = 17;

    /// <summary>Of the sum, in bytes behind <see cref="Start"/>.</summary>
    public int Offset => IsTcp ? 16 : 6;

    /// <summary>False: it has neither, or not the whole header.</summary>
    public static bool TryFind(ReadOnlySpan<byte> frame, out TransportChecksum found)
    {
        const ushort ipv4 = 0x0800, ipv6 = 0x86DD, tag = 0x8100, outerTag = 0x88A8, fragmentMask = 0x3FFF;
        const int fragmentOffset = 6, protocolOffset = 9, optionUnit = 8, tags = 2;
        found = default;
        var at = TypeOffset;
        for (var i = 0; i < tags && TypeAt(frame, at) is tag or outerTag; i++)
            at += TagLength;
        var type = TypeAt(frame, at);
        at += sizeof(ushort);
        var header = at;
        byte protocol;
        if (type == ipv4 && frame.Length >= at + IPv4Length)
        {
            // A fragment's checksum is not its own.
            if ((BinaryPrimitives.ReadUInt16BigEndian(frame[(at + fragmentOffset)..]) & fragmentMask) != 0)
                return false;
            protocol = frame[at + protocolOffset];
            at += Math.Max(IPv4Length, (frame[at] & 15) * 4);
        }
        else if (type == ipv6 && frame.Length >= at + IPv6Length)
        {
            protocol = frame[at + 6];
            for (at += IPv6Length; protocol is 0 or 43 or 60 && frame.Length >= at + optionUnit; at += (frame[at + 1] + 1) * optionUnit)
                protocol = frame[at];
        }
        else
        {
            return false;
        }

        if (protocol is not (Tcp or Udp) || frame.Length < at + (protocol == Tcp ? TcpLength : UdpLength))
            return false;
        found = new TransportChecksum(header, at, protocol == Tcp, type == ipv6);
        return true;

        static int TypeAt(ReadOnlySpan<byte> frame, int at) => frame.Length < at + sizeof(ushort) ? 0 : BinaryPrimitives.ReadUInt16BigEndian(frame[at..]);
    }

    /// <summary>Bytes up to the end of the header.</summary>
    public int HeaderEnd(ReadOnlySpan<byte> frame) => Start + (IsTcp ? Math.Max(TcpLength, (frame[Start + 12] >> 4) * 4) : UdpLength);

    /// <summary>Puts the sum of the pseudo header in the place of the checksum: front ends differ in whether they do.</summary>
    public void PutPseudoHeader(Span<byte> frame)
    {
        // Bytes behind the packet's end are not of it.
        int named = BinaryPrimitives.ReadUInt16BigEndian(frame[(Header + (IsIPv6 ? 4 : 2))..]);
        var end = Header + named + (IsIPv6 ? IPv6Length : 0);
        var length = (end > Start && end <= frame.Length ? end : frame.Length) - Start;
        var sum = Sum(IsIPv6 ? frame.Slice(Header + 8, 32) : frame.Slice(Header + 12, 8)) + (IsTcp ? Tcp : (ulong)Udp) + (ulong)length;
        BinaryPrimitives.WriteUInt16BigEndian(frame[(Start + Offset)..], Fold(sum));
    }

    /// <summary>Makes the checksum, of a frame with the pseudo header's sum in its place.</summary>
    public static void Finish(Span<byte> frame, int start, int offset)
    {
        var sum = (ushort)~Fold(Sum(frame[start..]));
        BinaryPrimitives.WriteUInt16BigEndian(frame[(start + offset)..], sum == 0 ? ushort.MaxValue : sum); // 0 says of UDP that there is none
    }

    private static ulong Sum(ReadOnlySpan<byte> bytes)
    {
        var sum = 0ul;
        for (; bytes.Length >= 2; bytes = bytes[2..])
            sum += BinaryPrimitives.ReadUInt16BigEndian(bytes);
        return bytes.Length > 0 ? sum + ((ulong)bytes[0] << 8) : sum;
    }

    private static ushort Fold(ulong sum)
    {
        while (sum >> 16 != 0)
            sum = (sum & 0xFFFF) + (sum >> 16);
        return (ushort)sum;
    }
}
