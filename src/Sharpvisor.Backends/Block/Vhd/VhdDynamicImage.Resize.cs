// VHD: a dynamic disk of another length.
// Follows: Microsoft's Virtual Hard Disk Image Format Specification 1.0, "Block Allocation Table and Data Blocks".
// Leaves out: differencing disks, which have the length of their parents.

using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Vhd;

/// <summary>Another length: first the table, then the footers.</summary>
internal sealed partial class VhdDynamicImage
{
    private protected override void Resize(long length)
    {
        if (_parent is not null)
            throw new BlockException(BlockError.Unsupported, "a differencing VHD has the length of its parent");
        length = (length + SectorSize - 1) & -SectorSize;
        if (length > VhdCreator.MaximumSize)
            throw new BlockException(BlockError.Unsupported, "a VHD that grows has 2040 GiB at most");
        BeginModification();
        var old = _length;
        var blocks = (int)((length + _header.BlockSize - 1) / _header.BlockSize);
        // What comes back when it grows again are zeroes.
        if (length < old)
            WriteZeroes(length, Math.Min(old, (long)blocks * _header.BlockSize) - length, mayDiscard: true);
        _transfers.EnterWriteLock();
        try
        {
            lock (_lock)
            {
                for (var block = blocks; block < _table.Entries.Count; block++)
                    _table.Drop(block);
                _table.Write();
                _table.Grow(blocks);
                File.Sync();
                _table.SetSize(length);
            }

            Volatile.Write(ref _length, length);
        }
        finally
        {
            _transfers.ExitWriteLock();
        }

        File.Sync();
    }
}
