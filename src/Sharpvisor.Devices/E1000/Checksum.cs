// Follows: RFC 1071; Intel's manual of the 8254x family (317453), 3.5.6 for which bytes.
using System.Buffers.Binary;

namespace Sharpvisor.Devices.E1000;

/// <summary>The Internet checksum (RFC 1071) as the card makes it.</summary>
internal static class Checksum
{
    /// <summary>Sums a part of a frame, what lies at the place of the sum included, and writes the complement there.</summary>
    /// <param name="end">The last byte; 0: the frame's. What lies outside of the frame leaves it as it is.</param>
    public static void Insert(Span<byte> frame, int start, int end, int offset)
    {
        end = end == 0 || end >= frame.Length ? frame.Length : end + 1;
        if (start >= end || offset + 2 > frame.Length)
            return;
        var sum = 0ul;
        var part = frame[start..end];
        for (; part.Length >= 2; part = part[2..])
            sum += BinaryPrimitives.ReadUInt16BigEndian(part);
        if (part.Length > 0)
            sum += (ulong)part[0] << 8;
        BinaryPrimitives.WriteUInt16BigEndian(frame[offset..], (ushort)~Fold(sum));
    }

    /// <summary>Adds a number to the sum that lies there.</summary>
    public static void Add(Span<byte> sum, ushort value) =>
        BinaryPrimitives.WriteUInt16BigEndian(sum, Fold((ulong)BinaryPrimitives.ReadUInt16BigEndian(sum) + value));

    private static ushort Fold(ulong sum)
    {
        while (sum >> 16 != 0)
            sum = (sum & 0xFFFF) + (sum >> 16);
        return (ushort)sum;
    }
}
