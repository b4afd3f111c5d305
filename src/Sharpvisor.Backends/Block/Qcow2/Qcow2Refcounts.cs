// How often each cluster of a qcow2 file is used, and which are free.
// Follows: QEMU's docs/interop/qcow2.txt, "Host cluster management".
// All of it with the image's lock held. What changes stays in memory until Write; which order is safe is known by
// Qcow2Metadata.
using System.Buffers.Binary;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Qcow2;

internal sealed class Qcow2Refcounts
{
    private const ulong ReservedBits = 511;
    private const int CachedBytes = 16 << 20;

    private readonly ImageFile _file;
    private readonly int _clusterBits, _order, _blockBits;
    private readonly Dictionary<long, Qcow2Table> _blocks = [];
    private readonly HashSet<long> _newBlocks = [];
    private readonly Func<string, BlockException> _damaged;
    private byte[] _table;
    private long _tableOffset;
    private bool _isDirty;
    private int _now;

    /// <param name="damaged">Called with what is wrong with the image.</param>
    public Qcow2Refcounts(ImageFile file, Qcow2Header header, Func<string, BlockException> damaged)
    {
        _file = file;
        _damaged = damaged;
        (_clusterBits, _order) = (header.ClusterBits, header.RefcountOrder);
        _blockBits = _clusterBits + 3 - _order;
        _tableOffset = header.RefcountTableOffset;
        _table = new byte[(long)header.RefcountTableClusters << _clusterBits];
        file.ReadWhole(_tableOffset, _table, "refcount table");
        // What lies in the file already may hold old bytes; behind it there are none.
        HighWater = (file.Length + ClusterSize - 1) >> _clusterBits;
    }

    /// <summary>Where the search for free clusters begins.</summary>
    public long Next { get; set; }

    /// <summary>Clusters from here on have never been written to: they read as zeroes.</summary>
    public long HighWater { get; private set; }

    /// <summary>The largest that there can be.</summary>
    public ulong Maximum => _order == 6 ? ulong.MaxValue : (1UL << (1 << _order)) - 1;

    /// <summary>Raised for the clusters of refcount blocks and tables that are made.</summary>
    public Action<long>? MetadataMade { get; init; }

    /// <summary>Raised for those that are not needed any more.</summary>
    public Action<long>? MetadataFreed { get; init; }

    /// <summary>Whether a cluster must not be given away, whatever its refcount says: it would destroy a table.</summary>
    public Func<long, bool>? IsMetadata { get; init; }

    private int ClusterSize => 1 << _clusterBits;

    private long TableEntries => _table.Length / 8;

    /// <summary>The clusters of the refcount structures themselves, and what is wrong with the entries of the table.</summary>
    public IEnumerable<(long Cluster, string? Wrong)> OwnClusters()
    {
        for (var i = 0; i < _table.Length >> _clusterBits; i++)
            yield return ((_tableOffset >> _clusterBits) + i, null);
        for (var i = 0L; i < TableEntries; i++)
        {
            var entry = TableEntry(i);
            if (entry != 0)
                yield return ((long)(entry >> _clusterBits), IsValidBlock(entry) ? null : $"refcount table entry {i} is 0x{entry:x}, which is no cluster of the file");
        }
    }

    public ulong Get(long cluster) => Block(cluster >> _blockBits) is { } block ? Read(block, Index(cluster)) : 0;

    /// <summary>Like <see cref="Get"/>, and 0 where the table is damaged.</summary>
    public ulong GetSafely(long cluster) => IsBlockThere(cluster >> _blockBits) ? Get(cluster) : 0;

    /// <summary>Changes a refcount.</summary>
    /// <exception cref="BlockException">It would be out of range: the image is damaged, or its refcounts are too small.</exception>
    public void Add(long cluster, int delta)
    {
        var old = Get(cluster);
        if (delta < 0 && old < (ulong)-delta)
            throw _damaged($"the refcount of cluster {cluster} is less than its use");
        if (delta > 0 && old > Maximum - (ulong)delta)
            throw new BlockException(BlockError.Unsupported, $"has refcounts of {1 << _order} bits, which are too small for another use of a cluster");
        Set(cluster, delta < 0 ? old - (ulong)-delta : old + (ulong)delta);
    }

    public void Set(long cluster, ulong count)
    {
        var block = Block(cluster >> _blockBits) ?? MakeBlock(cluster >> _blockBits, null);
        Write(block, Index(cluster), count);
        if (count == 0)
            Next = Math.Min(Next, cluster);
    }

    /// <summary>Takes up to a number of free clusters that follow each other, one at least.</summary>
    /// <param name="all">All of them, or look on.</param>
    /// <returns>The first.</returns>
    public long Allocate(int count, out int got, bool all = false)
    {
        var first = Next;
        while (true)
        {
            for (got = 0; got < count && IsFree(first + got);)
                got++;
            if (got == count || (got > 0 && !all))
                break;
            first += got + 1;
        }

        for (var i = 0; i < got; i++)
            Set(first + i, 1);
        if (first <= Next || !all)
            Next = first + got;
        HighWater = Math.Max(HighWater, first + got);
        return first;
    }

    /// <summary>Writes what is dirty: blocks, then, after those are safe, the table that names new ones.</summary>
    public void Write()
    {
        if (!_isDirty)
            return;
        WriteBlocks();
        if (_newBlocks.Count > 0)
        {
            _file.Sync();
            foreach (var index in _newBlocks)
                _file.Write(_tableOffset + (index * 8), _table.AsMemory((int)(index * 8), 8));
            _newBlocks.Clear();
        }

        _isDirty = false;
    }

    /// <summary>The clusters whose refcount is not how often they are used.</summary>
    /// <param name="isWrong">Blocks that are not looked at, by their clusters.</param>
    public IEnumerable<(long Cluster, ulong Stored, ulong Uses)> Compare(Qcow2UseCounts uses, Func<long, bool> isWrong)
    {
        for (var index = 0L; index < TableEntries; index++)
        {
            if (!IsBlockThere(index) || isWrong((long)TableEntry(index) >> _clusterBits) || Block(index) is not { } block)
                continue;
            // A block of zeroes is common, and cheap.
            var isUsed = block.Data.AsSpan().ContainsAnyExcept((byte)0);
            for (var i = 0L; isUsed && i <= Mask(_blockBits); i++)
            {
                var (cluster, stored) = ((index << _blockBits) + i, Read(block, (int)i));
                if (stored != 0 && stored != uses[cluster])
                    yield return (cluster, stored, uses[cluster]);
            }
        }

        foreach (var (cluster, count) in uses.All())
        {
            if (GetSafely(cluster) == 0)
                yield return (cluster, 0, count);
        }
    }

    /// <summary>Forgets entries of the table that can't be: what they counted is counted anew.</summary>
    public void DropWrongBlocks(Func<long, bool> isWrong)
    {
        for (var i = 0L; i < TableEntries; i++)
        {
            var entry = TableEntry(i);
            if (entry == 0 || (IsValidBlock(entry) && !isWrong((long)entry >> _clusterBits)))
                continue;
            SetTableEntry(i, 0);
            _blocks.Remove(i);
            _newBlocks.Add(i);
            _isDirty = true;
        }
    }

    private static long Mask(int bits) => (1L << bits) - 1;

    private int Index(long cluster) => (int)(cluster & Mask(_blockBits));

    private bool IsFree(long cluster)
    {
        var index = cluster >> _blockBits;
        var block = Block(index) ?? MakeBlock(index, cluster);
        if (Read(block, Index(cluster)) != 0)
            return false;
        if (IsMetadata?.Invoke(cluster) == true)
            throw _damaged($"cluster {cluster} has a table in it and counts as free");
        return true;
    }

    private Qcow2Table? Block(long index)
    {
        if (_blocks.TryGetValue(index, out var block))
        {
            block.LastUse = ++_now;
            return block;
        }

        if (index >= TableEntries || TableEntry(index) is not (not 0 and var entry))
            return null;
        if (!IsValidBlock(entry))
            throw _damaged($"refcount table entry {index} is 0x{entry:x}, which is no cluster of the file");
        Forget();
        block = new Qcow2Table((long)entry, ClusterSize) { LastUse = ++_now };
        _file.ReadPadded(block.Offset, new BlockBuffers(block.Data));
        return _blocks[index] = block;
    }

    private bool IsBlockThere(long index) => index < TableEntries && TableEntry(index) is not 0 and var entry && IsValidBlock(entry);

    private bool IsValidBlock(ulong entry) => (entry & ReservedBits) == 0 && (entry & (ulong)Mask(_clusterBits)) == 0 && entry < (ulong)Math.Max(_file.Length, HighWater << _clusterBits);

    /// <summary>Keeps the number of blocks in memory small; dirty ones stay until they are written.</summary>
    private void Forget()
    {
        var limit = Math.Max(8, CachedBytes >> _clusterBits);
        if (_blocks.Count < limit)
            return;
        foreach (var index in _blocks.Where(b => !b.Value.IsDirty).OrderBy(b => b.Value.LastUse).Take(limit / 4).Select(b => b.Key).ToArray())
            _blocks.Remove(index);
    }

    /// <summary>A block for clusters that nobody has counted yet.</summary>
    /// <param name="place">A cluster of its own range that is free, if one is known to be: it counts itself there.</param>
    private Qcow2Table MakeBlock(long index, long? place)
    {
        if (index >= TableEntries)
            Grow(index + 1);
        // To grow the table may have made it.
        if (Block(index) is { } made)
            return made;
        // Behind everything there is: before that, clusters may be in use uncounted.
        if (place is null)
            Next = Math.Max(Next, HighWater);
        if (place is null && Next >> _blockBits == index)
            place = Next++;
        if (place is not { } own)
        {
            var elsewhere = Allocate(1, out _);
            return Block(index) ?? AddBlock(index, elsewhere);
        }

        if (IsMetadata?.Invoke(own) == true)
            throw _damaged($"cluster {own} has a table in it and counts as free");
        var block = AddBlock(index, own);
        Write(block, Index(own), 1);
        return block;
    }

    private Qcow2Table AddBlock(long index, long cluster)
    {
        var block = new Qcow2Table(cluster << _clusterBits, ClusterSize) { IsDirty = true, LastUse = ++_now };
        SetTableEntry(index, (ulong)block.Offset);
        _blocks[index] = block;
        _newBlocks.Add(index);
        _isDirty = true;
        HighWater = Math.Max(HighWater, cluster + 1);
        MetadataMade?.Invoke(cluster);
        return block;
    }

    /// <summary>
    /// Puts a longer table behind everything there is, with the blocks that count it and themselves, and only then has the
    /// header name it.
    /// </summary>
    private void Grow(long entries)
    {
        var start = Math.Max(Math.Max(HighWater, Next), (entries - 1) << _blockBits);
        long tableClusters, blocks, firstBlock = start >> _blockBits;
        for (tableClusters = _table.Length >> _clusterBits, blocks = 0; ;)
        {
            var end = start + tableClusters + blocks;
            var neededBlocks = ((end - 1) >> _blockBits) - firstBlock + 1;
            var neededClusters = (((((end - 1) >> _blockBits) + 1) * 8 * 3 / 2) + ClusterSize - 1) >> _clusterBits;
            if (neededBlocks <= blocks && neededClusters <= tableClusters)
                break;
            (blocks, tableClusters) = (Math.Max(blocks, neededBlocks), Math.Max(tableClusters, neededClusters));
        }

        if (tableClusters << _clusterBits > Qcow2Header.MaximumRefcountTableBytes)
            throw new BlockException(BlockError.NoSpace, $"its file is as long as a refcount table of {Qcow2Header.MaximumRefcountTableBytes >> 20} MiB can count; convert it to larger clusters");
        var (oldTable, oldOffset, offset) = (_table, _tableOffset, start << _clusterBits);
        Array.Resize(ref _table, (int)(tableClusters << _clusterBits));
        HighWater = Math.Max(HighWater, start + tableClusters + blocks);
        var next = start + tableClusters;
        List<long> made = [];
        try
        {
            for (var index = firstBlock; index < firstBlock + blocks; index++)
            {
                if (TableEntry(index) != 0)
                    continue;
                AddBlock(index, next++);
                made.Add(index);
            }

            for (var cluster = start; cluster < next; cluster++)
            {
                Write(Block(cluster >> _blockBits)!, Index(cluster), 1);
                MetadataMade?.Invoke(cluster);
            }

            WriteBlocks();
            _file.Write(offset, _table);
            _file.Sync();
            var named = new byte[12];
            BinaryPrimitives.WriteUInt64BigEndian(named, (ulong)offset);
            BinaryPrimitives.WriteUInt32BigEndian(named.AsSpan(8), (uint)tableClusters);
            _file.Write(Qcow2Header.RefcountTableAt, named);
        }
        catch (BlockException)
        {
            _table = oldTable;
            foreach (var index in made)
            {
                _blocks.Remove(index);
                _newBlocks.Remove(index);
            }

            for (var cluster = start; cluster < next; cluster++)
            {
                MetadataFreed?.Invoke(cluster);
                if (Block(cluster >> _blockBits) is { } block)
                    Write(block, Index(cluster), 0);
            }

            throw;
        }

        _tableOffset = offset;
        _newBlocks.Clear();
        _file.Sync();
        for (var cluster = oldOffset >> _clusterBits; cluster < (oldOffset + oldTable.Length) >> _clusterBits; cluster++)
        {
            MetadataFreed?.Invoke(cluster);
            Add(cluster, -1);
        }
    }

    private void WriteBlocks()
    {
        foreach (var block in _blocks.Values)
        {
            if (block.IsDirty)
            {
                _file.Write(block.Offset, block.Data);
                block.IsDirty = false;
            }
        }
    }

    private ulong TableEntry(long index) => BinaryPrimitives.ReadUInt64BigEndian(_table.AsSpan((int)(index * 8)));

    private void SetTableEntry(long index, ulong value) => BinaryPrimitives.WriteUInt64BigEndian(_table.AsSpan((int)(index * 8)), value);

    private ulong Read(Qcow2Table block, int index)
    {
        var data = block.Data;
        return _order switch
        {
            3 => data[index],
            4 => BinaryPrimitives.ReadUInt16BigEndian(data.AsSpan(index * 2)),
            5 => BinaryPrimitives.ReadUInt32BigEndian(data.AsSpan(index * 4)),
            6 => BinaryPrimitives.ReadUInt64BigEndian(data.AsSpan(index * 8)),
            _ => (ulong)(data[index >> (3 - _order)] >> Shift(index)) & Maximum,
        };
    }

    private void Write(Qcow2Table block, int index, ulong count)
    {
        var data = block.Data;
        switch (_order)
        {
            case 3:
                data[index] = (byte)count;
                break;
            case 4:
                BinaryPrimitives.WriteUInt16BigEndian(data.AsSpan(index * 2), (ushort)count);
                break;
            case 5:
                BinaryPrimitives.WriteUInt32BigEndian(data.AsSpan(index * 4), (uint)count);
                break;
            case 6:
                BinaryPrimitives.WriteUInt64BigEndian(data.AsSpan(index * 8), count);
                break;
            default:
                ref var packed = ref data[index >> (3 - _order)];
                packed = (byte)((packed & ~((int)Maximum << Shift(index))) | ((int)count << Shift(index)));
                break;
        }

        block.IsDirty = true;
        _isDirty = true;
    }

    private int Shift(int index) => (index & ((8 >> _order) - 1)) << _order;
}
