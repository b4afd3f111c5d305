namespace Sharpvisor.Core.Block;

public enum BlockOperation
{
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
}

/// <summary>What a device wants of its drive. The device keeps it and uses it again, one transfer at a time.</summary>
public sealed class BlockRequest
{
    private readonly Action<BlockRequest> _completed;

    /// <param name="completed">Called with the machine's gate held when the request has its <see cref="Error"/>.</param>
    public BlockRequest(Action<BlockRequest> completed)
    {
        _completed = completed;
    }

    public BlockOperation Operation { get; private set; }

    /// <summary>In bytes from the start of the disk.</summary>
    public long Offset { get; private set; }

    /// <summary>In bytes.</summary>
    public long Length { get; private set; }

    /// <summary>Of a read or a write.</summary>
    public BlockBuffers Buffers { get; private set; }

    /// <summary>Of a write: it is done only when it is safe (FUA). Of zeroes: their room may be given back.</summary>
    public bool Flag { get; private set; }

    /// <summary>How it ended.</summary>
    public BlockError Error { get; private set; }

    /// <summary>A drive has it.</summary>
    public bool IsPending { get; private set; }

    public BlockRequest Read(long offset, BlockBuffers buffers) => Set(BlockOperation.Read, offset, buffers.Length, buffers, false);

    /// <param name="isSafe">Force unit access: done only when it survives the host's end.</param>
    public BlockRequest Write(long offset, BlockBuffers buffers, bool isSafe = false) => Set(BlockOperation.Write, offset, buffers.Length, buffers, isSafe);

    public BlockRequest Flush() => Set(BlockOperation.Flush, 0, 0, default, false);

    public BlockRequest Discard(long offset, long length) => Set(BlockOperation.Discard, offset, length, default, false);

    public BlockRequest WriteZeroes(long offset, long length, bool mayDiscard) => Set(BlockOperation.WriteZeroes, offset, length, default, mayDiscard);

    /// <summary>For drives: from now on it is pending.</summary>
    public void Begin()
    {
        if (IsPending)
            throw new InvalidOperationException("the request is with a drive already");
        IsPending = true;
        Error = BlockError.None;
    }

    /// <summary>For drives, with the gate held.</summary>
    public void Complete(BlockError error)
    {
        IsPending = false;
        Error = error;
        Buffers = default;
        _completed(this);
    }

    private BlockRequest Set(BlockOperation operation, long offset, long length, BlockBuffers buffers, bool flag)
    {
        if (IsPending)
            throw new InvalidOperationException("the request is with a drive already");
        (Operation, Offset, Length, Buffers, Flag) = (operation, offset, length, buffers, flag);
        return this;
    }
}
