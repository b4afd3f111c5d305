// What a new image shall be like, by the names that qemu-img gives to -o options.
namespace Sharpvisor.Backends.Block;

/// <summary>Room that a new image takes at once.</summary>
public enum Preallocation
{
    Off,

    /// <summary>Tables; data when they are written.</summary>
    Metadata,

    /// <summary>All, by the host's file system.</summary>
    Falloc,

    /// <summary>All, by writing zeroes.</summary>
    Full,
}

public sealed record ImageOptions
{
    /// <summary>Of the disk, in bytes; null: that of the backing image.</summary>
    public long? Size { get; init; }

    /// <summary>As it is written into the image: relative to that one's folder, or absolute.</summary>
    public string? BackingFile { get; init; }

    public string? BackingFormat { get; init; }

    /// <summary>qcow2: in bytes, a power of two from 512 to 2 MiB.</summary>
    public int ClusterSize { get; init; } = 64 << 10;

    /// <summary>qcow2: 2 (compat=0.10) or 3 (compat=1.1).</summary>
    public int Version { get; init; } = 3;

    public bool LazyRefcounts { get; init; }

    /// <summary>qcow2: 1 to 64.</summary>
    public int RefcountBits { get; init; } = 16;

    /// <summary>qcow2: of compressed clusters; zlib otherwise.</summary>
    public bool UsesZstd { get; init; }

    public Preallocation Preallocation { get; init; }

    /// <summary>VHD: of its blocks, in bytes. Few programs know others than this one.</summary>
    internal int BlockSize { get; init; } = Vhd.VhdHeader.DefaultBlockSize;

    /// <summary>VHD: all of it in the file from the start.</summary>
    public bool IsFixed { get; init; }

    /// <summary>VHD: with Xen's tdbatmap.</summary>
    public bool HasBatmap { get; init; }
}
