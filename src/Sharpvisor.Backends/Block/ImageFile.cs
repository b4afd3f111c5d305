// The file of the host that an image lies in, with what all formats want of it: locks, zeroes by holes where the host
// can, and transfers of any shape past the host's cache, which itself takes whole blocks only.
// Follows: QEMU's file-posix driver for what cache=none means.
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Block;

internal sealed class ImageFile : IDisposable
{
    private const int ZeroesAtOnce = 64 << 10;

    private static readonly byte[] Zeroes = new byte[ZeroesAtOnce];

    private readonly IHostFile _file;
    private readonly bool _isUnsafe;

    // Without the host's cache a transfer of a part of a block reads and writes all of it: alone, then.
    private readonly ReaderWriterLockSlim? _blocks;
    private BlockException? _lost;

    /// <param name="path">For messages, and for what the image names beside it.</param>
    public ImageFile(string path, IHostFile file, DriveOptions options)
    {
        Path = path;
        _file = file;
        _isUnsafe = options.Cache == CacheMode.Unsafe;
        _blocks = file.Alignment > 1 ? new ReaderWriterLockSlim() : null;
    }

    public string Path { get; }

    public bool IsBlockDevice => _file.IsBlockDevice;

    /// <summary>In bytes, now.</summary>
    public long Length => _file.Length;

    /// <inheritdoc cref="IHostFile.AllocatedBytes"/>
    public long AllocatedBytes => _file.AllocatedBytes;

    /// <exception cref="ConfigurationException">It can't be opened, or someone else has it.</exception>
    public static ImageFile Open(string path, DriveOptions options)
    {
        RequireLinux(path);
        HostFile file;
        try
        {
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

        return Locked(path, file, options);
    }

    /// <summary>An empty file to make an image in; what was there is gone.</summary>
    /// <exception cref="ConfigurationException">It can't be made, or someone has it open.</exception>
    public static ImageFile Create(string path) => Create(path, path, mustBeNew: false, new DriveOptions());

    /// <inheritdoc cref="Create(string)"/>
    /// <param name="name">For messages.</param>
    public static ImageFile Create(string path, string name, bool mustBeNew, DriveOptions options)
    {
        RequireLinux(path);
        try
        {
            var file = Locked(name, HostFile.OpenOrCreate(path, mustBeNew), options);
            try
            {
                if (!file.IsBlockDevice)
                    file.SetLength(0);
                return file;
            }
            catch
            {
                file.Dispose();
                throw;
            }
        }
        catch (BlockException e)
        {
            throw new ConfigurationException($"{path}: {e.Message}; give a path that can be written", e);
        }
    }

    /// <summary>Reads until the buffers are full or the file ends; the number of bytes.</summary>
    public int Read(long offset, BlockBuffers buffers) => _blocks is null ? _file.Read(offset, buffers) : ReadBlocks(offset, buffers);

    /// <inheritdoc cref="IHostFile.TryReadCached"/>
    public bool TryReadCached(long offset, BlockBuffers buffers) => _file.TryReadCached(offset, buffers);

    /// <summary>Reads what a file may be too short for: the rest is zeroes.</summary>
    public void ReadPadded(long offset, BlockBuffers buffers)
    {
        var count = Read(offset, buffers);
        if (count < buffers.Length)
            buffers.Slice(count).Clear();
    }

    /// <summary>Reads a structure of a format.</summary>
    /// <param name="what">Its name, for the message.</param>
    /// <exception cref="BlockException">The file ends before it does.</exception>
    public void ReadWhole(long offset, Memory<byte> destination, string what)
    {
        if (offset < 0 || Read(offset, new BlockBuffers(destination)) < destination.Length)
            throw new BlockException($"is truncated: its {what} at byte {offset} needs {destination.Length} bytes, and the file has {Length}");
    }

    /// <summary>Writes all of the buffers, behind the end as well.</summary>
    public void Write(long offset, BlockBuffers buffers)
    {
        if (_blocks is null)
            _file.Write(offset, buffers);
        else
            WriteBlocks(offset, buffers);
    }

    public void Write(long offset, Memory<byte> data) => Write(offset, new BlockBuffers(data));

    /// <summary>Waits until all is on the medium; not with cache=unsafe.</summary>
    /// <remarks>
    /// After a failure the host's cache forgets what it could not write, and the next fsync succeeds without it: here, all
    /// of them fail from then on, as in QEMU.
    /// </remarks>
    public void Sync()
    {
        if (_isUnsafe)
            return;
        if (_lost is { } lost)
            throw new BlockException($"the host could not write what was written before ({lost.Message}), and may have lost it");
        try
        {
            _file.Sync();
        }
        catch (BlockException e) when (_blocks is null)
        {
            _lost = e;
            throw;
        }
    }

    public void SetLength(long length) => _file.SetLength(length);

    /// <inheritdoc cref="IHostFile.TryPunchHole"/>
    public bool TryPunchHole(long offset, long length)
    {
        _blocks?.EnterReadLock();
        try
        {
            return _file.TryPunchHole(offset, length);
        }
        finally
        {
            _blocks?.ExitReadLock();
        }
    }

    /// <summary>Writes zeroes.</summary>
    public void Clear(long offset, long length)
    {
        for (long done = 0; done < length; done += ZeroesAtOnce)
            Write(offset + done, Zeroes.AsMemory(0, (int)Math.Min(ZeroesAtOnce, length - done)));
    }

    /// <summary>Makes a range read as zeroes, by a hole where that is allowed and the host can.</summary>
    public void WriteZeroes(long offset, long length, bool mayPunch)
    {
        // A hole in a file reads as zeroes; what a device reads after a discard is not known.
        if (length == 0 || (mayPunch && !IsBlockDevice && offset + length <= Length && TryPunchHole(offset, length)))
            return;
        if (!TryZeroRange(offset, length))
            Clear(offset, length);
    }

    /// <inheritdoc cref="IHostFile.IsData"/>
    public bool IsData(long offset, out long end) => _file.IsData(offset, out end);

    /// <summary>What a range begins with, where the bytes of the file are those of the disk.</summary>
    public ImageExtent Map(long offset, long length)
    {
        var isData = IsData(offset, out var end);
        return new ImageExtent(Math.Clamp(end - offset, 1, length)) { IsPresent = true, IsZero = !isData, FileOffset = offset, File = Path };
    }

    public void Dispose()
    {
        _file.Dispose();
        _blocks?.Dispose();
    }

    private static void RequireLinux(string path)
    {
        if (!OperatingSystem.IsLinux())
            throw new ConfigurationException($"{path}: disk images need Linux in this version");
    }

    private static ImageFile Locked(string path, HostFile file, DriveOptions options)
    {
        try
        {
            if (!options.IsShared)
                ImageLock.Take(file, path, !options.IsReadOnly);
            return new ImageFile(path, file, options);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    private bool TryZeroRange(long offset, long length)
    {
        _blocks?.EnterReadLock();
        try
        {
            return _file.TryZeroRange(offset, length);
        }
        finally
        {
            _blocks?.ExitReadLock();
        }
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
