using Sharpvisor.Devices.Ide;

namespace Sharpvisor.Devices.Virtio;

/// <summary>What a virtio disk says of itself.</summary>
public sealed record VirtioBlkOptions
{
    /// <summary>Request queues, each of which a processor may have to itself.</summary>
    public int QueueCount { get; init; } = 1;

    /// <summary>Descriptors of each queue, a power of two.</summary>
    public int QueueSize { get; init; } = 256;

    /// <summary>Up to 20 characters.</summary>
    public string Serial { get; init; } = "";

    /// <summary>Bytes of the unit in which transfers are made: 512 to 32768, a power of two.</summary>
    public int LogicalBlockSize { get; init; } = 512;

    /// <summary>Bytes that the medium writes at once.</summary>
    public int PhysicalBlockSize { get; init; } = 512;

    /// <summary>Bytes below which transfers are slow, and bytes of which they are fastest; 0: not known.</summary>
    public int MinimumIoSize { get; init; }

    public int OptimalIoSize { get; init; }

    /// <summary>The shape for firmware; null: guessed from the size.</summary>
    public DiskGeometry? Geometry { get; init; }
}
