// LZ4 in the frame that Linux kernels are packed in: the "legacy frame" of doc/lz4_Frame_format.md (magic 184C2102h, then
// blocks with their length in front, each 8 MiB unpacked) around blocks of doc/lz4_Block_format.md. Unpacking only.
using System.Buffers.Binary;

namespace Sharpvisor.Debugging.Symbols;

/// <summary>Unpacks LZ4.</summary>
internal static class Lz4Legacy
{
    private const uint Magic = 0x184C2102;
    private const int BlockSize = 8 << 20, MinimumMatch = 4;

    /// <exception cref="InvalidDataException">The data are damaged, or longer than <paramref name="limit"/> bytes.</exception>
    public static byte[] Unpack(ReadOnlySpan<byte> packed, int limit)
    {
        var unpacked = new MemoryStream();
        var block = new byte[BlockSize];
        while (packed.Length >= 4)
        {
            var length = BinaryPrimitives.ReadUInt32LittleEndian(packed);
            packed = packed[4..];
            if (length == Magic)
                continue;
            if (length == 0 || length > packed.Length)
                throw new InvalidDataException($"an LZ4 block of {length} bytes where {packed.Length} are left");
            var size = UnpackBlock(packed[..(int)length], block);
            packed = packed[(int)length..];
            if (unpacked.Length + size > limit)
                throw new InvalidDataException("the unpacked kernel is too large");
            unpacked.Write(block, 0, size);
        }

        return unpacked.ToArray();
    }

    private static int UnpackBlock(ReadOnlySpan<byte> from, Span<byte> to)
    {
        int at = 0, done = 0;
        while (at < from.Length)
        {
            int token = from[at++];
            var literals = Length(token >> 4, from, ref at);
            if (literals > from.Length - at || literals > to.Length - done)
                throw Damaged();
            from.Slice(at, literals).CopyTo(to[done..]);
            at += literals;
            done += literals;
            if (at == from.Length)
                return done; // the last sequence has literals only
            if (at + 2 > from.Length)
                throw Damaged();
            int distance = BinaryPrimitives.ReadUInt16LittleEndian(from[at..]);
            at += 2;
            var match = Length(token & 15, from, ref at) + MinimumMatch;
            if (distance == 0 || distance > done || match > to.Length - done)
                throw Damaged();
            // It may overlap what it writes.
            for (var end = done + match; done < end; done++)
                to[done] = to[done - distance];
        }

        return done;
    }

    private static int Length(int nibble, ReadOnlySpan<byte> from, ref int at)
    {
        var length = nibble;
        if (nibble != 15)
            return length;
        byte part;
        do
        {
            if (at >= from.Length || length > BlockSize)
                throw Damaged();
            part = from[at++];
            length += part;
        }
        while (part == 255);
        return length;
    }

    private static InvalidDataException Damaged() => new("damaged LZ4 data");
}
