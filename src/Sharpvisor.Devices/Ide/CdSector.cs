// A data sector as it lies on a CD, around its 2048 bytes.
// Follows: ECMA-130, 14 (sectors of mode 1), annex A (P and Q parity), annex B (scrambling is left to the drive).

using System.Buffers.Binary;

namespace Sharpvisor.Devices.Ide;

internal static class CdSector
{
    public const int DataSize = 2048, RawSize = 2352;

    /// <summary>The lead-in of two seconds that times count and block numbers don't.</summary>
    public const int LeadIn = 150;

    private const int SyncSize = 12, HeaderSize = 4, DataStart = SyncSize + HeaderSize, DetectionStart = DataStart + DataSize;
    private const int ParityP = 0x81C, ParityQ = 0x8C8;
    private const uint DetectionPolynomial = 0xD8018001; // x^32 + x^31 + x^16 + x^15 + x^4 + x^3 + x + 1, bits reversed
    private const int FieldPolynomial = 0x11D;

    // What READ CD asks for, by the flags of its byte 9. Sub-headers (40h) are of mode 2: there are none.
    private const byte Sync = 0x80, Header = 0x20, UserData = 0x10, Correction = 0x08;

    private static readonly uint[] Detection = MakeDetection();
    private static readonly byte[] Doubled = new byte[256], Solved = new byte[256];

    static CdSector()
    {
        for (var i = 0; i < 256; i++)
        {
            var doubled = (byte)((i << 1) ^ ((i & 0x80) != 0 ? FieldPolynomial : 0));
            Doubled[i] = doubled;
            Solved[i ^ doubled] = (byte)i;
        }
    }

    /// <summary>How many bytes of a sector flags select; -1: a selection that a sector of mode 1 has not.</summary>
    public static int SizeOf(byte flags)
    {
        if ((flags & 0x07) != 0) // error flags, or reserved
            return -1;
        // Parts that do not follow each other on the disc can't be asked for together.
        if ((flags & (Sync | UserData | Header)) == (Sync | UserData) || (flags & (Correction | UserData | Header)) == (Correction | Header))
            return -1;
        return ((flags & Sync) != 0 ? SyncSize : 0) + ((flags & Header) != 0 ? HeaderSize : 0)
            + ((flags & UserData) != 0 ? DataSize : 0) + ((flags & Correction) != 0 ? RawSize - DetectionStart : 0);
    }

    /// <summary>Builds the whole sector of a block.</summary>
    public static void Build(long block, ReadOnlySpan<byte> data, Span<byte> sector)
    {
        sector[..RawSize].Clear();
        sector[1..(SyncSize - 1)].Fill(0xFF);
        WriteTime(block, sector[SyncSize..], isBcd: true);
        sector[DataStart - 1] = 1; // mode
        data.CopyTo(sector[DataStart..]);
        var code = 0u;
        foreach (var value in sector[..DetectionStart])
            code = (code >> 8) ^ Detection[(byte)(code ^ value)];
        BinaryPrimitives.WriteUInt32LittleEndian(sector[DetectionStart..], code);
        AddParity(sector, 86, 24, 2, 86, ParityP);
        AddParity(sector, 52, 43, 86, 88, ParityQ);
    }

    /// <summary>Copies the selected parts of a whole sector to the start of <paramref name="destination"/>.</summary>
    public static void Select(ReadOnlySpan<byte> sector, byte flags, Span<byte> destination)
    {
        if ((flags & Sync) != 0)
            destination = Append(destination, sector[..SyncSize]);
        if ((flags & Header) != 0)
            destination = Append(destination, sector[SyncSize..DataStart]);
        if ((flags & UserData) != 0)
            destination = Append(destination, sector[DataStart..DetectionStart]);
        if ((flags & Correction) != 0)
            Append(destination, sector[DetectionStart..RawSize]);
    }

    /// <summary>Minute, second and frame of a block: three bytes.</summary>
    public static void WriteTime(long block, Span<byte> destination, bool isBcd)
    {
        var frames = block + LeadIn;
        int[] parts = [(int)(frames / (60 * 75)), (int)(frames / 75 % 60), (int)(frames % 75)];
        for (var i = 0; i < 3; i++)
            destination[i] = (byte)(isBcd ? ((parts[i] / 10) << 4) | (parts[i] % 10) : parts[i]);
    }

    private static Span<byte> Append(Span<byte> destination, ReadOnlySpan<byte> part)
    {
        part.CopyTo(destination);
        return destination[part.Length..];
    }

    /// <summary>Two parity bytes for each of <paramref name="columns"/> code words that run through the sector.</summary>
    private static void AddParity(Span<byte> sector, int columns, int length, int columnStep, int step, int at)
    {
        var source = sector[SyncSize..];
        var size = columns * length;
        for (var column = 0; column < columns; column++)
        {
            var index = ((column >> 1) * columnStep) + (column & 1);
            byte weighted = 0, sum = 0;
            for (var i = 0; i < length; i++)
            {
                var value = source[index];
                index += step;
                if (index >= size)
                    index -= size;
                weighted = Doubled[weighted ^ value];
                sum ^= value;
            }

            weighted = Solved[Doubled[weighted] ^ sum];
            sector[at + column] = weighted;
            sector[at + columns + column] = (byte)(weighted ^ sum);
        }
    }

    private static uint[] MakeDetection()
    {
        var table = new uint[256];
        for (var i = 0u; i < 256; i++)
        {
            var value = i;
            for (var bit = 0; bit < 8; bit++)
                value = (value >> 1) ^ ((value & 1) != 0 ? DetectionPolynomial : 0);
            table[i] = value;
        }

        return table;
    }
}
