// The checksum of IP, TCP, UDP and ICMP.
// Follows: RFC 1071, with its ways of adding words in any order and width.

using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.InteropServices;

namespace Sharpvisor.Backends.Net.User.Ip;

/// <summary>The one's complement sum of 16-bit words (RFC 1071), over any number of pieces.</summary>
internal struct InternetChecksum
{
    private ulong _sum; // of words in the processor's order; swapped at the end, which is the same
    private bool _isOdd;

    /// <summary>Of one piece, as it goes into a header.</summary>
    public static ushort Of(ReadOnlySpan<byte> data)
    {
        var sum = default(InternetChecksum);
        sum.Add(data);
        return sum.Finish();
    }

    /// <summary>TCP's and UDP's pseudo header.</summary>
    public void AddPseudoHeader(uint source, uint destination, byte protocol, int length)
    {
        Span<byte> header = stackalloc byte[12];
        BinaryPrimitives.WriteUInt32BigEndian(header, source);
        BinaryPrimitives.WriteUInt32BigEndian(header[4..], destination);
        BinaryPrimitives.WriteUInt32BigEndian(header[8..], (uint)protocol << 16 | (uint)length);
        Add(header);
    }

    public void Add(ReadOnlySpan<byte> data)
    {
        if (data.IsEmpty)
            return;
        if (_isOdd)
        {
            // The first byte is the second one of the last word.
            _sum += BitConverter.IsLittleEndian ? (ulong)data[0] << 8 : data[0];
            _isOdd = false;
            data = data[1..];
        }

        if (data.Length >= 2 * Vector<byte>.Count)
        {
            var vectors = MemoryMarshal.Cast<byte, Vector<uint>>(data);
            var low = Vector<ulong>.Zero;
            var high = Vector<ulong>.Zero;
            foreach (var vector in vectors)
            {
                Vector.Widen(vector, out var first, out var second);
                low += first;
                high += second;
            }

            AddWide(Vector.Sum(low));
            AddWide(Vector.Sum(high));
            data = data[(vectors.Length * Vector<byte>.Count)..];
        }

        foreach (var word in MemoryMarshal.Cast<byte, ushort>(data))
            _sum += word;
        if ((data.Length & 1) != 0)
        {
            _sum += BitConverter.IsLittleEndian ? data[^1] : (ulong)data[^1] << 8;
            _isOdd = true;
        }
    }

    /// <summary>The sum, not inverted: what a header holds whose checksum somebody else completes.</summary>
    public readonly ushort Partial()
    {
        var sum = _sum;
        while (sum >> 16 != 0)
            sum = (sum & 0xFFFF) + (sum >> 16);
        var word = (ushort)sum;
        return BitConverter.IsLittleEndian ? BinaryPrimitives.ReverseEndianness(word) : word;
    }

    /// <summary>As it goes into a header; 0 over data that holds its right checksum.</summary>
    public readonly ushort Finish() => (ushort)~Partial();

    private void AddWide(ulong value) => _sum += (value & 0xFFFF_FFFF) + (value >> 32);
}
