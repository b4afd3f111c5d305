// VHD: a dynamic disk of another length.
// Follows: Microsoft's Virtual Hard Disk Image Format Specification 1.0, "Block Allocation Table and Data Blocks".
// Leaves out: differencing disks, which have the length of their parents.

using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Vhd;

/// <summary>Another length. Longer: first the table, then the footers. Shorter: the other way round.</summary>
internal sealed partial class VhdDynamicImage
{
    private protected override void Resize(long length)
    {
        if (_parent is not null)
            throw new BlockException(BlockError.Unsupported, "a differencing VHD has the length of its parent");
        length = (length + SectorSize - 1) & -SectorSize;
        if (length > VhdCreator.MaximumSize)
            throw new BlockException(BlockError.Unsupported, "a VHD that grows has 2040 GiB at most");
        var old = _length;
        var blocks = (int)((length + _header.BlockSize - 1) / _header.BlockSize);
        if (length < old)
            WriteZeroes(length, Math.Min(old, (long)blocks * _header.BlockSize) - length, mayDiscard: true);
        _transfers.EnterWriteLock();
        try
        {
            lock (_lock)
            {
                _table.Grow(blocks, Sync);
                _table.SetSize(length);
                Sync();
                for (var block = blocks; block < _table.Entries.Count; block++)
                    _table.Drop(block);
                _table.Write(Sync);
            }

            Volatile.Write(ref _length, length);
        }
        finally
        {
            _transfers.ExitWriteLock();
        }

        Sync();
    }
}
