// The values of cache=, by the names and with the meaning that qemu(1) gives them under -drive.
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

/// <summary>How an image is opened and what its drive does.</summary>
public sealed record DriveOptions
{
    /// <summary>Null: found out by looking at the file.</summary>
    public string? Format { get; init; }

    public bool IsReadOnly { get; init; }

    public CacheMode Cache { get; init; }

    /// <summary>The guest's discards free room on the host.</summary>
    public bool Discard { get; init; }

    public ErrorPolicy WriteErrors { get; init; } = ErrorPolicy.StopWhenFull;

    public ErrorPolicy ReadErrors { get; init; } = ErrorPolicy.Report;

    internal bool IsDirect => Cache is CacheMode.None or CacheMode.DirectSync;
}
