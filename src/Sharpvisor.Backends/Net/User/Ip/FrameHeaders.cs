// Headers for the guest: IEEE 802.3 with types (RFC 894), RFC 791, 3.1.
using System.Buffers.Binary;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.User.Ip;

/// <summary>Writes the headers of frames for the guest.</summary>
internal static class FrameHeaders
{
    public const ushort Ipv4EtherType = 0x0800;
    private const byte TimeToLive = 64;

    public static void WriteEthernet(Span<byte> frame, MacAddress to, MacAddress from, ushort type)
    {
        to.Write(frame);
        from.Write(frame[6..]);
        BinaryPrimitives.WriteUInt16BigEndian(frame[12..], type);
    }

    /// <param name="fragment">The flags and the offset in units of 8 bytes.</param>
    public static void WriteIpv4(Span<byte> packet, int length, ushort identification, ushort fragment, byte protocol, uint source, uint destination)
    {
        BinaryPrimitives.WriteUInt32BigEndian(packet, 0x4500_0000 | (uint)length);
        BinaryPrimitives.WriteUInt32BigEndian(packet[4..], (uint)identification << 16 | fragment);
        BinaryPrimitives.WriteUInt32BigEndian(packet[8..], (uint)TimeToLive << 24 | (uint)protocol << 16);
        BinaryPrimitives.WriteUInt32BigEndian(packet[12..], source);
        BinaryPrimitives.WriteUInt32BigEndian(packet[16..], destination);
        BinaryPrimitives.WriteUInt16BigEndian(packet[10..], InternetChecksum.Of(packet[..Ipv4Packet.HeaderLength]));
    }
}
