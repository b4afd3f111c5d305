// A raw image: the bytes of a disk are those of a file or block device of the host.
// Follows: QEMU for what the guest sees of odd files: a last sector that is not whole is filled up with zeroes, a file
// that was truncated reads as zeroes, one that grew keeps the length it was opened with.
// Leaves out: zoned devices, tapes, SCSI pass-through.
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Block;

/// <summary>An image without a format.</summary>
public sealed class RawImage : DiskImage
{
    private readonly ILogger _logger;
    private readonly bool _isGuessed;

    private long _length;
    private int _warned;

    internal RawImage(ImageFile file, DriveOptions options, bool isGuessed, ILogger logger) : base(file, options)
    {
        _logger = logger;
        _isGuessed = isGuessed;
        _length = file.Length;
    }

    public override long Length => Volatile.Read(ref _length);

    public override string Format => ImageFormat.Raw;

    /// <param name="isGuessed">
    /// Nobody said that the file has no format. The guest must not write another format's header then: the next time the
    /// file would be taken for that, which may name other files of the host.
    /// </param>
    /// <exception cref="ConfigurationException">It can't be opened, or someone else has it.</exception>
    public static RawImage Open(string path, DriveOptions options, ILogger logger, bool isGuessed = false) =>
        Open(ImageFile.Open(path, options), options, logger, isGuessed);

    internal static RawImage Open(ImageFile file, DriveOptions options, ILogger logger, bool isGuessed)
    {
        var path = file.Path;
        try
        {
            var image = new RawImage(file, options, isGuessed, logger);
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

    internal override void Read(long offset, BlockBuffers buffers)
    {
        var count = File.Read(offset, buffers);
        if (count < buffers.Length)
        {
            if (offset + count < Length && Interlocked.Exchange(ref _warned, 1) == 0)
                _logger.LogWarning("{Image}: the file has become shorter while in use; what is missing reads as zeroes", Name);
            buffers.Slice(count).Clear();
        }
    }

    internal override void Write(long offset, BlockBuffers buffers)
    {
        if (_isGuessed && offset < SectorSize)
            RefuseHeader(offset, buffers);
        File.Write(offset, buffers);
        Grow(offset + buffers.Length);
    }

    internal override void WriteZeroes(long offset, long length, bool mayDiscard)
    {
        File.WriteZeroes(offset, length, mayDiscard);
        Grow(offset + length);
    }

    internal override ImageExtent MapOwn(long offset, long length) => File.Map(offset, length);

    private protected override bool TryReadCached(long offset, BlockBuffers buffers) => File.TryReadCached(offset, buffers);

    private protected override void Flush() => File.Sync();

    private protected override void Discard(long offset, long length) => File.TryPunchHole(offset, length);

    private protected override void Resize(long length)
    {
        if (File.IsBlockDevice)
            throw new BlockException(BlockError.Unsupported, "a block device keeps its size");
        File.SetLength(length);
        Volatile.Write(ref _length, length);
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

    /// <summary>The last sector was filled up.</summary>
    private void Grow(long end)
    {
        for (var length = Length; end > length; length = Length)
            Interlocked.CompareExchange(ref _length, end, length);
    }
}
