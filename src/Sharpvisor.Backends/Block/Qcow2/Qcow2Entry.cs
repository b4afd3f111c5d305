// The entries of L1 and L2 tables.
// Follows: QEMU's docs/interop/qcow2.txt, "Cluster mapping": standard and compressed cluster descriptors.
namespace Sharpvisor.Backends.Block.Qcow2;

internal enum ClusterKind
{
    /// <summary>What the backing image has, or zeroes.</summary>
    Unallocated,

    /// <summary>Zeroes; perhaps with room kept for data.</summary>
    Zero,
    Standard,
    Compressed,
}

internal static class Qcow2Entry
{
    /// <summary>The refcount is exactly 1: may be written in place.</summary>
    public const ulong Copied = 1UL << 63;
    public const ulong CompressedFlag = 1UL << 62;
    public const ulong ZeroFlag = 1;
    public const ulong OffsetMask = 0x00FF_FFFF_FFFF_FE00;

    public static ClusterKind KindOf(ulong entry) =>
        (entry & CompressedFlag) != 0 ? ClusterKind.Compressed :
        (entry & ZeroFlag) != 0 ? ClusterKind.Zero :
        (entry & OffsetMask) != 0 ? ClusterKind.Standard : ClusterKind.Unallocated;

    public static long OffsetOf(ulong entry) => (long)(entry & OffsetMask);

    /// <summary>Where compressed data begin, and the end of the last sector that they may be in.</summary>
    public static (long Start, long End) CompressedRange(ulong entry, int clusterBits)
    {
        var offsetBits = 62 - (clusterBits - 8);
        var start = (long)(entry & ((1UL << offsetBits) - 1));
        var sectors = (long)((entry & ~(Copied | CompressedFlag)) >> offsetBits) + 1;
        return (start, (start & ~511L) + (sectors * 512));
    }

    public static ulong Compressed(long start, int length, int clusterBits)
    {
        var offsetBits = 62 - (clusterBits - 8);
        var sectors = (ulong)(((start & 511) + length + 511) / 512);
        return CompressedFlag | ((sectors - 1) << offsetBits) | (ulong)start;
    }
}
