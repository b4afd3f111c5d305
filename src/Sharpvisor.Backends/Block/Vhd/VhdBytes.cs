// What the structures of VHD share: checksums, and maps of bits, the first one in the highest bit of the first byte.
namespace Sharpvisor.Backends.Block.Vhd;

internal static class VhdBytes
{
    /// <summary>The ones' complement of the sum of all bytes but those of the checksum itself.</summary>
    public static uint Checksum(ReadOnlySpan<byte> bytes, int checksumAt)
    {
        uint sum = 0;
        for (var i = 0; i < bytes.Length; i++)
            sum += i >= checksumAt && i < checksumAt + 4 ? 0u : bytes[i];
        return ~sum;
    }

    public static bool Test(ReadOnlySpan<byte> map, int bit) => (map[bit >> 3] & (0x80 >> (bit & 7))) != 0;

    public static void Set(Span<byte> map, int bit) => map[bit >> 3] |= (byte)(0x80 >> (bit & 7));

    public static void Clear(Span<byte> map, int bit) => map[bit >> 3] &= (byte)~(0x80 >> (bit & 7));

    /// <summary>How many bits from one on are like it.</summary>
    public static int RunLength(ReadOnlySpan<byte> map, int bit, int end)
    {
        var value = Test(map, bit);
        var whole = value ? (byte)0xFF : (byte)0;
        var at = bit + 1;
        while (at < end)
        {
            if ((at & 7) == 0 && end - at >= 8 && map[at >> 3] == whole)
                at += 8;
            else if (Test(map, at) == value)
                at++;
            else
                break;
        }

        return Math.Min(at, end) - bit;
    }
}
