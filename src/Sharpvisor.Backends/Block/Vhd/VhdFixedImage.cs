// A fixed VHD: the bytes of the disk, and behind them a footer.
// Follows: Microsoft, Virtual Hard Disk Image Format Specification 1.0, "Fixed Hard Disk Image".
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Vhd;

internal sealed class VhdFixedImage : VhdImage
{
    private long _length;

    public VhdFixedImage(ImageFile file, DriveOptions options, VhdFooter footer) : base(file, options, footer)
    {
        _length = (long)footer.DiskSize & -SectorSize;
        if (_length > file.Length - SectorSize + 1)
            throw new BlockException($"is truncated: a fixed VHD of {_length} bytes needs {_length + SectorSize}, and the file has {file.Length}");
    }

    public override long Length => Volatile.Read(ref _length);

    internal override void Read(long offset, BlockBuffers buffers) => File.ReadPadded(offset, buffers);

    internal override void Write(long offset, BlockBuffers buffers) => File.Write(offset, buffers);

    internal override void WriteZeroes(long offset, long length, bool mayDiscard) => File.WriteZeroes(offset, length, mayDiscard);

    internal override ImageExtent MapOwn(long offset, long length) => File.Map(offset, length);

    private protected override bool TryReadCached(long offset, BlockBuffers buffers) => File.TryReadCached(offset, buffers);

    private protected override void Flush() => File.Sync();

    private protected override void Discard(long offset, long length) => File.TryPunchHole(offset, length);

    /// <summary>The new footer is there before the old one goes.</summary>
    private protected override void Resize(long length)
    {
        if (File.IsBlockDevice)
            throw new BlockException(BlockError.Unsupported, "a block device keeps its size");
        length = (length + SectorSize - 1) & -SectorSize;
        var old = _length;
        if (length == old)
            return;
        Footer.SetSize(length);
        File.Write(length, Footer.Bytes);
        File.Sync();
        if (length < old)
            File.SetLength(length + SectorSize);
        Volatile.Write(ref _length, length);
        if (length > old)
            File.Clear(old, SectorSize);
    }
}
