// A raw image: the bytes of a disk are those of a file or block device of the host.
// Follows: QEMU for what the guest sees of odd files: a last sector that is not whole is filled up with zeroes, a file
// that was truncated reads as zeroes, one that grew keeps the length it was opened with.
// Leaves out: zoned devices, tapes, SCSI pass-through.
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Block;

/// <summary>An image without a format.</summary>
public sealed class RawImage : IBlockImage, IDisposable
{
    private const int SectorSize = IBlockImage.SectorSize;
    private const int ZeroesAtOnce = 64 << 10;

    private static readonly byte[] Zeroes = new byte[ZeroesAtOnce];

    private readonly HostFile _file;
    private readonly ILogger _logger;
    private readonly bool _isGuessed;

    // Without the host's cache a transfer of a part of a block reads and writes all of it: alone, then.
    private readonly ReaderWriterLockSlim? _blocks;
    private long _length;
    private int _warned;

    private RawImage(string path, HostFile file, DriveOptions options, bool isGuessed, ILogger logger)
    {
        Name = path;
        _file = file;
        _logger = logger;
        _isGuessed = isGuessed;
        _length = file.Length;
        IsReadOnly = options.IsReadOnly;
        CanDiscard = options is { Discard: true, IsReadOnly: false };
        _blocks = file.Alignment > 1 ? new ReaderWriterLockSlim() : null;
    }

    public string Name { get; }

    public long Length => Volatile.Read(ref _length);

    public bool IsReadOnly { get; }

    public bool CanDiscard { get; }

    /// <param name="isGuessed">
    /// Nobody said that the file has no format. The guest must not write another format's header then: the next time the
    /// file would be taken for that, which may name other files of the host.
    /// </param>
    /// <exception cref="ConfigurationException">It can't be opened, or someone else has it.</exception>
    public static RawImage Open(string path, DriveOptions options, ILogger logger, bool isGuessed = false)
    {
        HostFile file;
        try
        {
            if (!OperatingSystem.IsLinux())
                throw new ConfigurationException($"{path}: disk images need Linux in this version");
            file = HostFile.Open(path, !options.IsReadOnly, options.IsDirect);
        }
        catch (BlockException e)
        {
            var advice = e.Error switch
            {
                BlockError.Unsupported => "give cache=writeback",
                BlockError.ReadOnly when !options.IsReadOnly => "change its permissions, or give readonly=on",
                BlockError.ReadOnly => "change its permissions",
                _ => "check the path",
            };
            throw new ConfigurationException($"{path}: {e.Message}; {advice}", e);
        }

        try
        {
            ImageLock.Take(file, path, !options.IsReadOnly);
            var image = new RawImage(path, file, options, isGuessed, logger);
            return image.Length > 0 ? image : throw new ConfigurationException($"{path}: is empty; a disk has one sector at least: make it longer, as with truncate -s 1G {path}");
        }
        catch (BlockException e)
        {
            file.Dispose();
            throw new ConfigurationException($"{path}: {e.Message}; give a file or a block device", e);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    public ValueTask ReadAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default)
    {
        Read(offset, buffers);
        return ValueTask.CompletedTask;
    }

    public bool TryReadAtOnce(long offset, BlockBuffers buffers) =>
        offset >= 0 && offset <= Length - buffers.Length && _file.TryReadCached(offset, buffers);

    public ValueTask WriteAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default)
    {
        CheckWritable(offset, buffers.Length);
        if (_isGuessed && offset < SectorSize && buffers.Length > 0)
            RefuseHeader(offset, buffers);
        Write(offset, buffers);
        return ValueTask.CompletedTask;
    }

    public ValueTask FlushAsync(CancellationToken cancellation = default)
    {
        if (!IsReadOnly)
            _file.Sync();
        return ValueTask.CompletedTask;
    }

    public ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default)
    {
        CheckWritable(offset, length);
        if (CanDiscard && length > 0)
            _file.TryPunchHole(offset, length);
        return ValueTask.CompletedTask;
    }

    public ValueTask WriteZeroesAsync(long offset, long length, bool mayDiscard, CancellationToken cancellation = default)
    {
        CheckWritable(offset, length);
        if (length == 0)
            return ValueTask.CompletedTask;
        // A hole in a file reads as zeroes; what a device reads after a discard is not known.
        if (mayDiscard && !_file.IsBlockDevice && _file.TryPunchHole(offset, length))
            return ValueTask.CompletedTask;
        if (_file.TryZeroRange(offset, length))
        {
            Grow(offset + length);
            return ValueTask.CompletedTask;
        }

        for (long done = 0; done < length; done += ZeroesAtOnce)
            Write(offset + done, new BlockBuffers(Zeroes.AsMemory(0, (int)Math.Min(ZeroesAtOnce, length - done))));
        return ValueTask.CompletedTask;
    }

    public ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        if (IsReadOnly)
            throw new BlockException(BlockError.ReadOnly, "is read-only");
        if (_file.IsBlockDevice)
            throw new BlockException(BlockError.Unsupported, "a block device keeps its size");
        _file.SetLength(length);
        Volatile.Write(ref _length, length);
        return ValueTask.CompletedTask;
    }

    public ValueTask DisposeAsync()
    {
        Dispose();
        return ValueTask.CompletedTask;
    }

    public void Dispose()
    {
        _file.Dispose();
        _blocks?.Dispose();
    }

    internal void Read(long offset, BlockBuffers buffers)
    {
        Check(offset, buffers.Length);
        var count = _blocks is null ? _file.Read(offset, buffers) : ReadBlocks(offset, buffers);
        if (count < buffers.Length)
        {
            if (offset + count < Length && Interlocked.Exchange(ref _warned, 1) == 0)
                _logger.LogWarning("{Image}: the file has become shorter while in use; what is missing reads as zeroes", Name);
            buffers.Slice(count).Clear();
        }
    }

    private void Check(long offset, long length)
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

    private void RefuseHeader(long offset, BlockBuffers buffers)
    {
        var sector = new byte[SectorSize];
        if (offset > 0)
            Read(0, new BlockBuffers(sector.AsMemory(0, (int)offset)));
        var count = (int)Math.Min(buffers.Length, SectorSize - offset);
        buffers.Slice(0, count).CopyTo(sector.AsSpan((int)offset));
        if (ImageFormat.Guess(sector) is var format and not ImageFormat.Raw)
            throw new BlockException(BlockError.ReadOnly, $"the guest wrote the header of a {format} image to the first sector, which format=raw would allow");
    }

    private void Write(long offset, BlockBuffers buffers)
    {
        if (_blocks is null)
            _file.Write(offset, buffers);
        else
            WriteBlocks(offset, buffers);
        Grow(offset + buffers.Length);
    }

    /// <summary>The last sector was filled up.</summary>
    private void Grow(long end)
    {
        for (var length = Length; end > length; length = Length)
            Interlocked.CompareExchange(ref _length, end, length);
    }

    private int ReadBlocks(long offset, BlockBuffers buffers)
    {
        _blocks!.EnterReadLock();
        try
        {
            if (_file.IsAligned(offset, buffers))
                return _file.Read(offset, buffers);
            var bounce = ReadAround(offset, buffers.Length, out var skip, out var count);
            count = Math.Clamp(count - skip, 0, buffers.Length);
            buffers.CopyFrom(bounce.Span.Slice(skip, count));
            return count;
        }
        finally
        {
            _blocks.ExitReadLock();
        }
    }

    private void WriteBlocks(long offset, BlockBuffers buffers)
    {
        var blockMask = _file.Alignment - 1;
        _blocks!.EnterReadLock();
        try
        {
            if (_file.IsAligned(offset, buffers))
            {
                _file.Write(offset, buffers);
                return;
            }

            if (((offset | (long)buffers.Length) & blockMask) == 0)
            {
                var copy = HostFile.AllocateAligned(buffers.Length, _file.Alignment);
                buffers.CopyTo(copy.Span);
                _file.Write(offset, new BlockBuffers(copy));
                return;
            }
        }
        finally
        {
            _blocks.ExitReadLock();
        }

        _blocks.EnterWriteLock();
        try
        {
            var bounce = ReadAround(offset, buffers.Length, out var skip, out var count);
            bounce.Span[count..].Clear();
            buffers.CopyTo(bounce.Span[skip..]);
            _file.Write(offset - skip, new BlockBuffers(bounce));
            var end = offset - skip + Math.Max(count, skip + buffers.Length);
            if (end < offset - skip + bounce.Length && !_file.IsBlockDevice)
                _file.SetLength(end); // not by more than was written
        }
        finally
        {
            _blocks.ExitWriteLock();
        }
    }

    /// <summary>The blocks that a range touches.</summary>
    /// <param name="skip">Where the range begins in them.</param>
    /// <param name="count">How many bytes the file had.</param>
    private Memory<byte> ReadAround(long offset, int length, out int skip, out int count)
    {
        var mask = _file.Alignment - 1;
        skip = (int)(offset & mask);
        var bounce = HostFile.AllocateAligned((skip + length + mask) & ~mask, _file.Alignment);
        count = _file.Read(offset - skip, new BlockBuffers(bounce));
        return bounce;
    }
}
