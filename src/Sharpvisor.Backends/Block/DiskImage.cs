// What all formats have in common: what is behind the end, what is read-only, and the shape of their methods. They wait
// for the host and then return, so the asynchronous methods are done when they return.
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block;

/// <summary>An image of the host's, in one of the formats of <see cref="ImageFormat"/>.</summary>
public abstract class DiskImage : IBlockImage, IDisposable
{
    private protected const int SectorSize = IBlockImage.SectorSize;

    private protected DiskImage(ImageFile file, DriveOptions options)
    {
        File = file;
        IsReadOnly = options.IsReadOnly;
        CanDiscard = options is { Discard: true, IsReadOnly: false };
    }

    public string Name => File.Path;

    public abstract long Length { get; }

    public bool IsReadOnly { get; }

    public bool CanDiscard { get; }

    /// <summary>As <see cref="ImageFormat.Names"/> has it.</summary>
    public abstract string Format { get; }

    /// <summary>What this image lies over, or null.</summary>
    public virtual DiskImage? Backing => null;

    /// <summary>What the image has for the name of what it lies over, or null.</summary>
    public virtual string? BackingName => null;

    /// <summary>What the image has for the format of that, or null.</summary>
    public virtual string? BackingFormat => null;

    /// <summary>What the file takes on the host, in bytes.</summary>
    public long AllocatedBytes => File.AllocatedBytes;

    /// <summary>What the image keeps of each part of the disk, in bytes, or 0: all in one.</summary>
    public virtual int Granularity => 0;

    /// <summary>What else there is to say of it: names and values, in order.</summary>
    public virtual IReadOnlyList<(string Name, object Value)> Details => [];

    private protected ImageFile File { get; }

    internal ImageFile HostFile => File;

    public ValueTask ReadAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default)
    {
        Check(offset, buffers.Length);
        if (buffers.Length > 0)
            Read(offset, buffers);
        return ValueTask.CompletedTask;
    }

    public bool TryReadAtOnce(long offset, BlockBuffers buffers)
    {
        if (offset < 0 || offset > Length - buffers.Length || buffers.Length == 0)
            return false;
        try
        {
            return TryReadCached(offset, buffers);
        }
        catch (BlockException)
        {
            return false; // who asks again is told
        }
    }

    public ValueTask WriteAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default)
    {
        CheckWritable(offset, buffers.Length);
        if (buffers.Length > 0)
            Write(offset, buffers);
        return ValueTask.CompletedTask;
    }

    public ValueTask FlushAsync(CancellationToken cancellation = default)
    {
        if (!IsReadOnly)
            Flush();
        return ValueTask.CompletedTask;
    }

    public ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default)
    {
        CheckWritable(offset, length);
        if (CanDiscard && length > 0)
            Discard(offset, length);
        return ValueTask.CompletedTask;
    }

    public ValueTask WriteZeroesAsync(long offset, long length, bool mayDiscard, CancellationToken cancellation = default)
    {
        CheckWritable(offset, length);
        if (length > 0)
            WriteZeroes(offset, length, mayDiscard);
        return ValueTask.CompletedTask;
    }

    public ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        if (length > long.MaxValue - SectorSize)
            throw new BlockException(BlockError.Unsupported, $"no disk has {length} bytes");
        if (IsReadOnly)
            throw new BlockException(BlockError.ReadOnly, "is read-only");
        Resize(length);
        return ValueTask.CompletedTask;
    }

    /// <summary>What a range begins with; it may be followed by more of the same.</summary>
    /// <exception cref="BlockException">The tables that say so can't be read.</exception>
    public ImageExtent Map(long offset, long length)
    {
        Check(offset, length);
        var extent = MapOwn(offset, length);
        if (extent.IsPresent || Backing is not { } backing)
            return extent.IsPresent || extent.IsZero ? extent : extent with { IsZero = true };
        if (offset >= backing.Length)
            return extent with { IsZero = true };
        var below = backing.Map(offset, Math.Min(extent.Length, backing.Length - offset));
        return below with { Depth = below.Depth + 1 };
    }

    public ValueTask DisposeAsync()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
        return ValueTask.CompletedTask;
    }

    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Reads what lies behind the end as zeroes. For a layer above, whose length may be another.</summary>
    internal void ReadBelow(long offset, BlockBuffers buffers)
    {
        var count = (int)Math.Clamp(Length - offset, 0, buffers.Length);
        if (count > 0)
            Read(offset, buffers.Slice(0, count));
        if (count < buffers.Length)
            buffers.Slice(count).Clear();
    }

    internal abstract void Read(long offset, BlockBuffers buffers);

    /// <summary>Reads what takes no waiting, for the host or another thread.</summary>
    private protected abstract bool TryReadCached(long offset, BlockBuffers buffers);

    internal abstract void Write(long offset, BlockBuffers buffers);

    private protected abstract void Flush();

    private protected abstract void Discard(long offset, long length);

    internal abstract void WriteZeroes(long offset, long length, bool mayDiscard);

    private protected abstract void Resize(long length);

    /// <summary>Like <see cref="Map"/>, of this image alone.</summary>
    internal abstract ImageExtent MapOwn(long offset, long length);

    protected virtual void Dispose(bool disposing)
    {
        File.Dispose();
        Backing?.Dispose();
    }

    private protected void Check(long offset, long length)
    {
        var end = (Length + SectorSize - 1) & -SectorSize;
        if (offset < 0 || length < 0 || offset > end - length)
            throw new BlockException(BlockError.OutOfRange, $"{length} bytes at {offset} lie behind the end");
    }

    private void CheckWritable(long offset, long length)
    {
        Check(offset, length);
        if (IsReadOnly)
            throw new BlockException(BlockError.ReadOnly, "is read-only");
    }
}
