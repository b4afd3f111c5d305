// LZ4, the legacy frame that Linux packs kernels in: LZ4 Frame Format description, "Legacy frame", and LZ4 Block Format
// description.
using System.Buffers.Binary;

namespace Sharpvisor.Boot;

internal static class Lz4
{
    private const uint LegacyMagic = 0x184C2102;
    private const int LeastMatch = 4, Extended = 15;

    /// <summary>Unpacks blocks, each behind its packed length, until the destination is full.</summary>
    /// <exception cref="InvalidDataException">The data are not as the format has them, or don't fill the destination.</exception>
    public static void UnpackLegacy(ReadOnlySpan<byte> source, Span<byte> destination)
    {
        var done = 0;
        while (done < destination.Length && source.Length >= 4)
        {
            var length = BinaryPrimitives.ReadUInt32LittleEndian(source);
            source = source[4..];
            if (length == LegacyMagic)
                continue;
            if (length > source.Length)
                throw new InvalidDataException("an LZ4 block goes beyond the end");
            done += UnpackBlock(source[..(int)length], destination[done..]);
            source = source[(int)length..];
        }

        if (done != destination.Length)
            throw new InvalidDataException($"LZ4 data of {done} bytes instead of {destination.Length}");
    }

    private static int UnpackBlock(ReadOnlySpan<byte> source, Span<byte> destination)
    {
        int from = 0, to = 0;
        try
        {
            while (from < source.Length)
            {
                var token = source[from++];
                var literals = Length(source, token >> 4, ref from);
                source.Slice(from, literals).CopyTo(destination[to..]);
                from += literals;
                to += literals;
                if (from == source.Length)
                    return to; // the last sequence has no match
                var distance = BinaryPrimitives.ReadUInt16LittleEndian(source[from..]);
                from += 2;
                var match = Length(source, token & 15, ref from) + LeastMatch;
                if (distance == 0 || distance > to)
                    throw new InvalidDataException("an LZ4 match before the start of its block");
                Repeat(destination, to, distance, match);
                to += match;
            }

            return to;
        }
        catch (Exception e) when (e is ArgumentException or IndexOutOfRangeException)
        {
            throw new InvalidDataException("an LZ4 sequence goes beyond the end", e);
        }
    }

    private static int Length(ReadOnlySpan<byte> source, int start, ref int from)
    {
        var length = start;
        if (start != Extended)
            return length;
        byte more;
        do
        {
            more = source[from++];
            length = checked(length + more);
        }
        while (more == byte.MaxValue);
        return length;
    }

    /// <summary>Copies what lies before, which a match longer than its distance makes longer as it goes.</summary>
    private static void Repeat(Span<byte> bytes, int to, int distance, int length)
    {
        while (length > 0)
        {
            var part = Math.Min(length, distance);
            bytes.Slice(to - distance, part).CopyTo(bytes.Slice(to, part));
            to += part;
            length -= part;
            distance += part; // what is there now repeats with any multiple of the distance
        }
    }
}
