// How a guest uses its memory, as the driver of its balloon tells it.
// Follows: VIRTIO 1.2, 5.5.6.3.1 (VIRTIO_BALLOON_S_*). Leaves out: tags of later versions, which are ignored.

using System.Buffers.Binary;

namespace Sharpvisor.Devices.Virtio;

/// <summary>Sizes are in bytes, the others counts since the guest has started; null: the driver does not tell it.</summary>
public sealed record BalloonStatistics
{
    /// <summary>More than that is not read: every tag there is, and some.</summary>
    internal const int MaximumLength = 64 * EntryLength;

    private const int EntryLength = 10;

    /// <summary>VIRTIO_BALLOON_S_SWAP_IN: bytes swapped in.</summary>
    public ulong? SwapIn { get; init; }

    /// <summary>VIRTIO_BALLOON_S_SWAP_OUT: bytes swapped out.</summary>
    public ulong? SwapOut { get; init; }

    /// <summary>VIRTIO_BALLOON_S_MAJFLT.</summary>
    public ulong? MajorFaults { get; init; }

    /// <summary>VIRTIO_BALLOON_S_MINFLT.</summary>
    public ulong? MinorFaults { get; init; }

    /// <summary>VIRTIO_BALLOON_S_MEMFREE: used for nothing.</summary>
    public ulong? FreeMemory { get; init; }

    /// <summary>VIRTIO_BALLOON_S_MEMTOT: all that the system has.</summary>
    public ulong? TotalMemory { get; init; }

    /// <summary>VIRTIO_BALLOON_S_AVAIL: to be had without swapping.</summary>
    public ulong? AvailableMemory { get; init; }

    /// <summary>VIRTIO_BALLOON_S_CACHES: taken by files, to be had quickly.</summary>
    public ulong? DiskCaches { get; init; }

    /// <summary>VIRTIO_BALLOON_S_HTLB_PGALLOC: huge pages that were given.</summary>
    public ulong? HugePageAllocations { get; init; }

    /// <summary>VIRTIO_BALLOON_S_HTLB_PGFAIL: huge pages that were not there.</summary>
    public ulong? HugePageFailures { get; init; }

    /// <summary>Reads struct virtio_balloon_stat, as many as there are; of equal tags the last one counts.</summary>
    internal static BalloonStatistics Parse(ReadOnlySpan<byte> entries)
    {
        var values = new ulong?[10];
        for (; entries.Length >= EntryLength; entries = entries[EntryLength..])
        {
            var tag = BinaryPrimitives.ReadUInt16LittleEndian(entries);
            var value = BinaryPrimitives.ReadUInt64LittleEndian(entries[2..]);
            if (tag < values.Length && value != ulong.MaxValue) // -1: not known
                values[tag] = value;
        }

        return new BalloonStatistics
        {
            SwapIn = values[0],
            SwapOut = values[1],
            MajorFaults = values[2],
            MinorFaults = values[3],
            FreeMemory = values[4],
            TotalMemory = values[5],
            AvailableMemory = values[6],
            DiskCaches = values[7],
            HugePageAllocations = values[8],
            HugePageFailures = values[9],
        };
    }
}
