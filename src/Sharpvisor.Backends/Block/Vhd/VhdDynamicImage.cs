// A VHD that grows, alone or over a parent: blocks at the end of the file when they are written to, each behind a map of
// the sectors that it has.
// Follows: Microsoft, Virtual Hard Disk Image Format Specification 1.0, "Dynamic Hard Disk Image", "Differencing Hard
// Disk Image"; Xen's batmap (see VhdBatmap).
//
// A new block has its footer behind it and an empty map before the table names it, and its data before the map says so.
// The table and the maps change in memory and reach the file with a flush, after what they stand for. Transfers hold
// _transfers shared; who writes a part of a sector that is not there yet holds it alone.
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Vhd;

internal sealed partial class VhdDynamicImage : VhdImage
{
    private readonly ReaderWriterLockSlim _transfers = new();
    private readonly object _lock = new();
    private readonly DiskImage? _parent;
    private readonly VhdHeader _header;
    private readonly VhdTable _table;
    private long _length;
    private bool _isModified, _disposed;

    public VhdDynamicImage(ImageFile file, DriveOptions options, VhdFooter footer, VhdHeader header, DiskImage? parent, ILogger logger) : base(file, options, footer)
    {
        _header = header;
        _parent = parent;
        _length = (long)footer.DiskSize & -SectorSize;
        _table = new VhdTable(file, header, footer, !options.IsReadOnly, logger);
        foreach (var (block, _) in options.IsReadOnly ? [] : _table.Overlaps())
            throw new BlockException($"is damaged: block {block} lies over a header, a table or another block; give readonly=on and save what can be read");
    }

    public override long Length => Volatile.Read(ref _length);

    public override DiskImage? Backing => _parent;

    public override string? BackingName => Footer.Type == VhdType.Differencing ? VhdParent.Names(File, _header).FirstOrDefault() : null;

    public override int Granularity => _header.BlockSize;

    public override bool HasBatmap => _table.HasBatmap;

    private protected override bool TryReadCached(long offset, BlockBuffers buffers)
    {
        if (!_transfers.TryEnterReadLock(0))
            return false;
        try
        {
            if (!_table.IsWhole((int)(offset / _header.BlockSize)))
                return false;
            var (place, length) = RunAt(offset, buffers.Length);
            return place > 0 && length == buffers.Length && File.TryReadCached(place, buffers);
        }
        finally
        {
            _transfers.ExitReadLock();
        }
    }

    internal override void Read(long offset, BlockBuffers buffers)
    {
        _transfers.EnterReadLock();
        try
        {
            for (var done = 0; done < buffers.Length;)
            {
                var (place, length) = RunAt(offset + done, buffers.Length - done);
                var part = buffers.Slice(done, length);
                if (place > 0)
                    File.ReadPadded(place, part);
                else if (_parent is not null)
                    _parent.ReadBelow(offset + done, part);
                else
                    part.Clear();
                done += length;
            }
        }
        finally
        {
            _transfers.ExitReadLock();
        }
    }

    internal override void Write(long offset, BlockBuffers buffers)
    {
        BeginModification();
        for (var done = 0; done < buffers.Length;)
        {
            var at = offset + done;
            var inSector = (int)(at & (SectorSize - 1));
            var left = Math.Min(buffers.Length - done, _header.BlockSize - (int)(at & (_header.BlockSize - 1)));
            var isPart = inSector != 0 || left < SectorSize;
            var length = isPart ? Math.Min(left, SectorSize - inSector) : left & -SectorSize;
            if (isPart)
                WritePart(at, buffers.Slice(done, length));
            else
                WriteSectors(at, buffers.Slice(done, length));
            done += length;
        }

        if (_table.NeedsWrite)
            Flush();
    }

    internal override void WriteZeroes(long offset, long length, bool mayDiscard)
    {
        for (var end = offset + length; offset < end;)
        {
            var extent = Map(offset, end - offset);
            var (place, run) = Run(offset, (int)Math.Min(extent.Length, 1 << 30));
            if (extent.IsZero)
                run = (int)Math.Min(extent.Length, 1 << 30);
            else if (place > 0)
                File.WriteZeroes(place, run, mayDiscard);
            else
                Write(offset, new BlockBuffers(new byte[run]));
            offset += run;
        }
    }

    internal override ImageExtent MapOwn(long offset, long length)
    {
        _transfers.EnterReadLock();
        try
        {
            var (place, run) = RunAt(offset, (int)Math.Min(length, 1 << 30));
            var isHole = place > 0 && !File.IsData(place, out var end) && end - place >= run;
            return new ImageExtent(run) { IsPresent = place > 0, IsZero = isHole, FileOffset = place > 0 ? place : null, File = place > 0 ? Name : null };
        }
        finally
        {
            _transfers.ExitReadLock();
        }
    }

    private protected override void Flush()
    {
        lock (_lock)
            _table.Write();
        File.Sync();
    }

    private protected override void Discard(long offset, long length)
    {
        for (var end = offset + length; offset < end;)
        {
            var (place, run) = Run(offset, (int)Math.Min(end - offset, 1 << 30));
            // What is not here is the parent's, and stays seen.
            if (place > 0)
                File.TryPunchHole(place, run);
            offset += run;
        }
    }

    protected override void Dispose(bool disposing)
    {
        if (!_disposed)
        {
            _disposed = true;
            try
            {
                if (!IsReadOnly)
                {
                    lock (_lock)
                        _table.Write();
                }
            }
            catch (BlockException)
            {
                // Who wanted to keep what was written has flushed it.
            }

            _transfers.Dispose();
        }

        base.Dispose(disposing);
    }

    private void BeginModification()
    {
        if (Volatile.Read(ref _isModified))
            return;
        lock (_lock)
        {
            if (!_isModified)
                _table.Repair();
            Volatile.Write(ref _isModified, true);
        }
    }

    private (long Place, int Length) Run(long offset, int length)
    {
        _transfers.EnterReadLock();
        try
        {
            return RunAt(offset, length);
        }
        finally
        {
            _transfers.ExitReadLock();
        }
    }

    /// <summary>Where the bytes that a range begins with lie in the file, or 0: not here.</summary>
    private (long Place, int Length) RunAt(long offset, int length)
    {
        var block = (int)(offset / _header.BlockSize);
        var inBlock = (int)(offset & (_header.BlockSize - 1));
        var run = Math.Min(length, _header.BlockSize - inBlock);
        var place = _table.DataOf(block);
        if (place == 0)
            return (0, run);
        if (!_table.IsWhole(block))
        {
            byte[] map;
            lock (_lock)
                map = _table.Bitmap(block);
            var sector = inBlock / SectorSize;
            var sectors = VhdBytes.RunLength(map, sector, ((inBlock + run - 1) / SectorSize) + 1);
            run = Math.Min(run, ((sector + sectors) * SectorSize) - inBlock);
            if (!VhdBytes.Test(map, sector))
                return (0, run);
        }

        return (place + inBlock, run);
    }

    /// <summary>Whole sectors of one block.</summary>
    private void WriteSectors(long offset, BlockBuffers buffers)
    {
        _transfers.EnterReadLock();
        try
        {
            var place = Place(offset, out var block);
            File.Write(place, buffers);
            SetBits(block, offset, buffers.Length);
        }
        finally
        {
            _transfers.ExitReadLock();
        }
    }

    /// <summary>A part of a sector: the rest of it comes from where it was so far.</summary>
    private void WritePart(long offset, BlockBuffers buffers)
    {
        _transfers.EnterWriteLock();
        try
        {
            var place = Place(offset, out var block);
            if (RunAt(offset, 1).Place > 0)
            {
                File.Write(place, buffers);
                return;
            }

            var start = offset & -SectorSize;
            var sector = new byte[SectorSize];
            _parent?.ReadBelow(start, new BlockBuffers(sector));
            buffers.CopyTo(sector.AsSpan((int)(offset - start)));
            File.Write(place - (offset - start), sector);
            SetBits(block, start, SectorSize);
        }
        finally
        {
            _transfers.ExitWriteLock();
        }
    }

    private void SetBits(int block, long offset, int length)
    {
        if (_table.IsWhole(block))
            return;
        lock (_lock)
            _table.SetBits(block, (int)(offset & (_header.BlockSize - 1)) / SectorSize, length / SectorSize);
    }

    /// <summary>Where a byte lies, in a block that is there already or is made.</summary>
    private long Place(long offset, out int block)
    {
        block = (int)(offset / _header.BlockSize);
        var place = _table.DataOf(block);
        if (place == 0)
        {
            lock (_lock)
                place = _table.MakeBlock(block);
        }

        return place + (offset & (_header.BlockSize - 1));
    }
}
