using Sharpvisor.Core.Block;

namespace Sharpvisor.Testing.Block;

/// <summary>An image in memory. What a test opens again is made over the same <see cref="MemoryFile"/>.</summary>
public class MemoryImage(MemoryFile file, bool isReadOnly = false) : IBlockImage
{
    private const int SectorSize = IBlockImage.SectorSize;

    public virtual string Name => "memory";

    public virtual long Length => file.Length;

    public virtual bool IsReadOnly => isReadOnly;

    public virtual bool CanDiscard => !isReadOnly;

    protected MemoryFile File => file;

    public virtual ValueTask ReadAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default)
    {
        Check(offset, buffers.Length);
        lock (file)
        {
            foreach (var piece in buffers)
            {
                var count = (int)Math.Clamp(file.Length - offset, 0, piece.Length);
                file.Bytes.AsSpan((int)Math.Min(offset, file.Length), count).CopyTo(piece.Span);
                piece.Span[count..].Clear();
                offset += piece.Length;
            }
        }

        return ValueTask.CompletedTask;
    }

    public virtual bool TryReadAtOnce(long offset, BlockBuffers buffers) => false;

    public virtual ValueTask WriteAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default)
    {
        CheckWritable(offset, buffers.Length);
        lock (file)
        {
            file.Grow(offset + buffers.Length);
            foreach (var piece in buffers)
            {
                piece.Span.CopyTo(file.Bytes.AsSpan((int)offset));
                offset += piece.Length;
            }
        }

        return ValueTask.CompletedTask;
    }

    public virtual ValueTask FlushAsync(CancellationToken cancellation = default) => ValueTask.CompletedTask;

    public virtual ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default)
    {
        CheckWritable(offset, length);
        lock (file)
            file.Bytes.AsSpan((int)offset, (int)Math.Clamp(file.Length - offset, 0, length)).Clear();
        return ValueTask.CompletedTask;
    }

    public virtual ValueTask WriteZeroesAsync(long offset, long length, bool mayDiscard, CancellationToken cancellation = default)
    {
        CheckWritable(offset, length);
        lock (file)
        {
            file.Grow(offset + length);
            file.Bytes.AsSpan((int)offset, (int)length).Clear();
        }

        return ValueTask.CompletedTask;
    }

    public virtual ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        if (isReadOnly)
            throw new BlockException(BlockError.ReadOnly, "is read-only");
        lock (file)
            file.SetLength(length);
        return ValueTask.CompletedTask;
    }

    public virtual ValueTask DisposeAsync()
    {
        GC.SuppressFinalize(this);
        return ValueTask.CompletedTask;
    }

    protected void Check(long offset, long length)
    {
        if (offset < 0 || length < 0 || offset > ((Length + SectorSize - 1) & -SectorSize) - length)
            throw new BlockException(BlockError.OutOfRange, "behind the end");
    }

    private void CheckWritable(long offset, long length)
    {
        Check(offset, length);
        if (isReadOnly)
            throw new BlockException(BlockError.ReadOnly, "is read-only");
    }
}

/// <summary>What a <see cref="MemoryImage"/> holds.</summary>
public sealed class MemoryFile(long length)
{
    public byte[] Bytes { get; private set; } = new byte[length];

    public long Length => Bytes.Length;

    public void Grow(long length)
    {
        if (length > Length)
            SetLength(length);
    }

    public void SetLength(long length)
    {
        var bytes = Bytes;
        Array.Resize(ref bytes, (int)length);
        Bytes = bytes;
    }
}
