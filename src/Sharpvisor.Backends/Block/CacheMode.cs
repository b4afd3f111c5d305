// The values of cache=, detect-zeroes= and others, by the names and with the meaning that qemu(1) gives them under -drive.
namespace Sharpvisor.Backends.Block;

/// <summary>How writes reach the host's disk, by QEMU's names.</summary>
public enum CacheMode
{
    /// <summary>Into the host's cache; on the disk when the guest flushes.</summary>
    Writeback,

    /// <summary>Each write is flushed before it completes.</summary>
    Writethrough,

    /// <summary>Past the host's cache; flushed when the guest flushes.</summary>
    None,

    /// <summary>Past the host's cache, and each write is flushed.</summary>
    DirectSync,

    /// <summary>A guest's flush does nothing: for what can be made again.</summary>
    Unsafe,
}

/// <summary>What to do when the host fails (<c>werror=</c>, <c>rerror=</c>).</summary>
public enum ErrorPolicy
{
    /// <summary>The guest gets the error.</summary>
    Report,

    /// <summary>The machine pauses and the request is tried again when it goes on.</summary>
    Stop,

    /// <summary>A full host disk pauses the machine, other errors go to the guest.</summary>
    StopWhenFull,

    /// <summary>The guest is told that all is well.</summary>
    Ignore,
}

/// <summary>The values of <c>detect-zeroes=</c>.</summary>
public enum ZeroDetection
{
    Off,

    /// <summary>Zeroes are written as such: no room is taken for them where the format can say so.</summary>
    On,

    /// <summary>And room that they had is given back, where discards are.</summary>
    Unmap,
}

/// <summary>How an image is opened and what its drive does.</summary>
public sealed record DriveOptions
{
    /// <summary>Null: found out by looking at the file.</summary>
    public string? Format { get; init; }

    public bool IsReadOnly { get; init; }

    public CacheMode Cache { get; init; }

    /// <summary>The guest's discards free room on the host.</summary>
    public bool Discard { get; init; }

    /// <summary>What to do with writes of nothing but zeroes.</summary>
    public ZeroDetection DetectZeroes { get; init; }

    /// <summary>What the guest writes goes to a temporary file and is gone at the end; the image stays as it is.</summary>
    public bool IsTemporary { get; init; }

    /// <summary>Read this internal snapshot of a qcow2 image: its number or its name.</summary>
    public string? Snapshot { get; init; }

    /// <summary>Open it even when a writer has it, who may change it meanwhile: to look at, not to run from.</summary>
    public bool IsShared { get; init; }

    public ErrorPolicy WriteErrors { get; init; } = ErrorPolicy.StopWhenFull;

    public ErrorPolicy ReadErrors { get; init; } = ErrorPolicy.Report;

    /// <summary>Not with what it lies over: to look at the image itself.</summary>
    public bool IsAlone { get; init; }

    /// <summary>Open an image of qcow2 that is marked as corrupt, or was not closed, for writing as it is: to repair it.</summary>
    internal bool IsRepair { get; init; }

    internal bool IsDirect => Cache is CacheMode.None or CacheMode.DirectSync;
}
