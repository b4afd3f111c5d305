// Cylinders, heads and sectors of a disk, for hosts that address it so and for firmware.
// Follows: ATA/ATAPI-5 annex on CHS (16 heads, 63 sectors, 16383 cylinders at most); the choice of a translation, and
// the guess from a partition table, are QEMU's.

using System.Buffers.Binary;

namespace Sharpvisor.Devices.Ide;

/// <summary>How firmware makes more than 1024 cylinders fit its calls: the values of CMOS register 39h.</summary>
public enum DiskTranslation
{
    None = 0,
    Lba = 1,
    Large = 2,
}

/// <summary>The shape that a disk says it has.</summary>
public sealed record DiskGeometry(int Cylinders, int Heads, int Sectors, DiskTranslation Translation)
{
    public const int MaximumCylinders = 16383, MaximumHeads = 16, MaximumSectors = 63;

    private const int BiosCylinders = 1024;
    private const int PartitionTable = 0x1BE, PartitionSize = 16, PartitionCount = 4;

    /// <param name="sectors">Of 512 bytes, of the whole disk.</param>
    /// <param name="first">The first sector, whose partition table may say with which shape the disk was made; or empty.</param>
    public static DiskGeometry Of(long sectors, ReadOnlySpan<byte> first = default)
    {
        if (Guess(sectors, first) is { } guess && guess.Heads <= MaximumHeads)
            return guess;
        var cylinders = (int)Math.Clamp(sectors / (MaximumHeads * MaximumSectors), 2, MaximumCylinders);
        var isLarge = Guess(sectors, first) is { } translated && translated.Cylinders * translated.Heads <= BiosCylinders * 128 && cylinders > BiosCylinders;
        var translation = cylinders <= BiosCylinders ? DiskTranslation.None : isLarge ? DiskTranslation.Large : DiskTranslation.Lba;
        return new DiskGeometry(cylinders, MaximumHeads, MaximumSectors, translation);
    }

    /// <summary>The shape by which the end of a partition has the same place as CHS and as LBA.</summary>
    private static DiskGeometry? Guess(long total, ReadOnlySpan<byte> first)
    {
        if (first.Length < 512 || first[510] != 0x55 || first[511] != 0xAA)
            return null;
        for (var i = 0; i < PartitionCount; i++)
        {
            var entry = first.Slice(PartitionTable + (i * PartitionSize), PartitionSize);
            var length = BinaryPrimitives.ReadUInt32LittleEndian(entry[12..]);
            var heads = entry[5] + 1;
            var sectors = entry[6] & 63;
            if (length == 0 || entry[5] == 0 || sectors == 0)
                continue;
            var cylinders = total / (heads * sectors);
            if (cylinders is >= 1 and <= MaximumCylinders)
                return new DiskGeometry((int)cylinders, heads, sectors, DiskTranslation.None);
        }

        return null;
    }
}
