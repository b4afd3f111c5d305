namespace Sharpvisor.Core.Block;

/// <summary>Why a transfer of a disk failed.</summary>
public enum BlockError
{
    None,

    /// <summary>The host could not read or write.</summary>
    Io,

    /// <summary>The host has no room left (ENOSPC, EDQUOT).</summary>
    NoSpace,

    /// <summary>A write to what can only be read.</summary>
    ReadOnly,

    /// <summary>Behind the end of the image.</summary>
    OutOfRange,

    /// <summary>The drive is empty.</summary>
    NoMedium,

    /// <summary>The image can't do this: discard, resize.</summary>
    Unsupported,

    /// <summary>The machine was reset or ended while the request waited.</summary>
    Canceled,
}

/// <summary>Thrown by an <see cref="IBlockImage"/>. The drive above it turns it into the status of a request.</summary>
public sealed class BlockException : IOException
{
    /// <param name="message">What went wrong, without the name of the image.</param>
    public BlockException(BlockError error, string message) : base(message)
    {
        Error = error;
    }

    public BlockException() : this(BlockError.Io, "input/output error")
    {
    }

    public BlockException(string message) : this(BlockError.Io, message)
    {
    }

    public BlockException(string message, Exception inner) : base(message, inner)
    {
        Error = BlockError.Io;
    }

    public BlockError Error { get; }
}
