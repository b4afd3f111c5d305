// Numbers of virtual disks.
// Follows: docs/man/xen-vbd-interface.7 of Xen, "Concrete encoding in the VBD interface".

namespace Sharpvisor.Devices.Xen.Block;

/// <summary>What Linux calls xvda, xvdb, …</summary>
public static class XenDiskNumber
{
    private const int Major = 202 << 8, PartitionBits = 4, NamedDisks = 16, Extended = 1 << 28, ExtendedPartitionBits = 8, Letters = 26;

    /// <summary>More can't be numbered.</summary>
    public const int MaximumIndex = (1 << 20) - 1;

    /// <summary>The number of a whole disk, and its name.</summary>
    /// <param name="index">0 for xvda.</param>
    public static (int Number, string Name) Of(int index)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(index, MaximumIndex);
        var letters = "";
        for (var left = index; left >= 0; left = (left / Letters) - 1)
            letters = (char)('a' + (left % Letters)) + letters;
        return (index < NamedDisks ? Major | (index << PartitionBits) : Extended | (index << ExtendedPartitionBits), "xvd" + letters);
    }
}
