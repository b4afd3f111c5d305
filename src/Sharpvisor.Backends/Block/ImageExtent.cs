// A range of a disk as its image has it: what `image map`, conversions and holes are told by.
// Follows: no specification; the facts are those that qemu-img map shows.

namespace Sharpvisor.Backends.Block;

/// <summary>What a range of a disk is made of.</summary>
/// <param name="Length">In bytes, from the offset that was asked for.</param>
public readonly record struct ImageExtent(long Length)
{
    /// <summary>It certainly reads as zeroes.</summary>
    public bool IsZero { get; init; }

    /// <summary>The image says what it is; otherwise it shows through from the backing image, or is zero without one.</summary>
    public bool IsPresent { get; init; }

    public bool IsCompressed { get; init; }

    /// <summary>Where the bytes lie as they are, or null.</summary>
    public long? FileOffset { get; init; }

    /// <summary>The file they are in, or null.</summary>
    public string? File { get; init; }

    /// <summary>0: this image, 1: its backing image, and so on.</summary>
    public int Depth { get; init; }

    /// <summary>Whether this goes on where another one ends.</summary>
    public bool Continues(ImageExtent before) =>
        IsZero == before.IsZero && IsPresent == before.IsPresent && IsCompressed == before.IsCompressed && Depth == before.Depth && File == before.File &&
        (FileOffset is null ? before.FileOffset is null : before.FileOffset + before.Length == FileOffset);
}
