// The tables of a qcow2 image in memory, and the order in which they reach the file.
// Follows: QEMU's docs/interop/qcow2.txt, "Cluster mapping".
// What is on the host's disk is right at every moment: a cluster is counted before a table refers to it, has its data
// before that, and is given back after nothing refers to it any more. At worst, a cluster is counted that nobody uses.
using System.Buffers.Binary;
using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Qcow2;

/// <summary>Look-ups need no lock; all else is done with <see cref="Lock"/> held.</summary>
internal sealed partial class Qcow2Metadata
{
    private const int CachedBytes = 32 << 20;

    private readonly ImageFile _file;
    private readonly ILogger _logger;
    private readonly ConcurrentDictionary<long, byte> _tableClusters = new();
    private readonly List<int> _loaded = [];
    private readonly HashSet<int> _dirtyL1 = [];
    private readonly bool _isWritable;
    private List<ulong> _frees = [];
    private ulong[] _l1;
    private Qcow2Table?[] _l2;
    private bool _isModified;
    private int _now;

    public Qcow2Metadata(ImageFile file, Qcow2Header header, DriveOptions options, ILogger logger)
    {
        _file = file;
        _logger = logger;
        _isWritable = !options.IsReadOnly;
        Header = header;
        L2Bits = header.ClusterBits - 3;
        _l1 = ReadL1(header.L1Offset, header.L1Size);
        _l2 = new Qcow2Table?[_l1.Length];
        if (!_isWritable)
            return;
        IsLazy = (header.Compatible & Qcow2Header.LazyRefcounts) != 0;
        Refcounts = new Qcow2Refcounts(file, header, Damaged)
        {
            MetadataMade = cluster => _tableClusters[cluster] = 0,
            MetadataFreed = cluster => _tableClusters.TryRemove(cluster, out _),
            IsMetadata = _tableClusters.ContainsKey,
        };
        MarkTables();
    }

    public object Lock { get; } = new();

    public Qcow2Header Header { get; private set; }

    /// <summary>Null when the image is read-only.</summary>
    public Qcow2Refcounts? Refcounts { get; }

    /// <summary>Of an index into an L2 table.</summary>
    public int L2Bits { get; }

    /// <summary>Refcounts are written when the image is closed.</summary>
    public bool IsLazy { get; }

    /// <summary>It was found to be damaged: writes fail from now on.</summary>
    public bool IsDamaged { get; private set; }

    /// <summary>Clusters that wait for <see cref="ApplyFrees"/>.</summary>
    public int FreeCount => _frees.Count;

    public int ClusterSize => Header.ClusterSize;

    /// <summary>Looks an L2 entry up. 0 without an L2 table.</summary>
    /// <param name="cluster">Of the disk, which has it.</param>
    public ulong Lookup(long cluster)
    {
        var index = (int)(cluster >> L2Bits);
        var table = Volatile.Read(ref _l2[index]);
        if (table is null)
        {
            lock (Lock)
                table = Load(index);
            if (table is null)
                return 0;
        }

        table.LastUse = _now;
        return table[(int)(cluster & ((1 << L2Bits) - 1))];
    }

    /// <summary>Whether a look-up takes no reading.</summary>
    public bool IsInMemory(long cluster) => Volatile.Read(ref _l2[cluster >> L2Bits]) is not null;

    /// <summary>Whether a cluster has an L2 table: otherwise all that one would cover is unallocated.</summary>
    public bool HasTable(long cluster) => _l1[cluster >> L2Bits] != 0;

    /// <summary>Whether a cluster of the file holds a table, which no data may be written over.</summary>
    public bool IsTable(long cluster) => _tableClusters.ContainsKey(cluster);

    /// <summary>The L2 table of a cluster, to be changed: made, or made this image's own, if need be.</summary>
    public Qcow2Table TableForWrite(long cluster)
    {
        var index = (int)(cluster >> L2Bits);
        var isOwn = (_l1[index] & Qcow2Entry.Copied) != 0;
        if (isOwn && _l2[index] is { } there)
            return there;
        MakeRoom(forReading: false);
        var old = Load(index);
        if (isOwn && old is not null)
            return old;
        var offset = Refcounts!.Allocate(1, out _) << Header.ClusterBits;
        var table = new Qcow2Table(offset, ClusterSize) { IsDirty = true, LastUse = ++_now };
        old?.Data.CopyTo(table.Data, 0);
        if (old is null)
            _loaded.Add(index);
        else
            _frees.Add((ulong)old.Offset);
        _l1[index] = (ulong)offset | Qcow2Entry.Copied;
        _dirtyL1.Add(index);
        _tableClusters[offset >> Header.ClusterBits] = 0;
        Volatile.Write(ref _l2[index], table);
        return table;
    }

    /// <summary>Gives back what an L2 entry that has been replaced referred to, once nothing in the file does.</summary>
    public void Free(ulong entry)
    {
        if ((entry & Qcow2Entry.CompressedFlag) != 0)
            _frees.Add(entry & ~Qcow2Entry.Copied);
        else if ((entry & Qcow2Entry.OffsetMask) is not 0 and var offset)
            _frees.Add(offset);
    }

    /// <summary>Takes what waits to be freed; after the next <see cref="Write"/> and a flush it may be.</summary>
    public List<ulong> TakeFrees()
    {
        var frees = _frees;
        _frees = [];
        return frees;
    }

    /// <summary>Gives clusters back. While no transfer is under way that may still use them.</summary>
    /// <param name="punch">Their room on the host, too.</param>
    public void ApplyFrees(List<ulong> frees, bool punch)
    {
        foreach (var entry in frees)
        {
            var (start, end) = (entry & Qcow2Entry.CompressedFlag) != 0
                ? Qcow2Entry.CompressedRange(entry, Header.ClusterBits)
                : ((long)entry, (long)entry + ClusterSize);
            for (var cluster = start >> Header.ClusterBits; cluster <= (end - 1) >> Header.ClusterBits; cluster++)
            {
                Refcounts!.Add(cluster, -1);
                if (Refcounts.Get(cluster) != 0)
                    continue;
                _tableClusters.TryRemove(cluster, out _);
                if (punch)
                    Punch(cluster);
            }
        }
    }

    /// <summary>Once before the first change: what others keep beside the image is out of date from now on.</summary>
    public void BeginModification()
    {
        if (_isModified)
            return;
        lock (Lock)
        {
            if (_isModified)
                return;
            if (Header.Autoclear != 0 || IsLazy)
            {
                WriteFeatures(Header with { Autoclear = 0, Incompatible = Header.Incompatible | (IsLazy ? Qcow2Header.Dirty : 0) });
                _file.Sync();
            }

            _isModified = true;
        }
    }

    /// <summary>Writes all tables that have changed, in their order.</summary>
    /// <param name="closing">Refcounts, too, even if they are lazy.</param>
    public void Write(bool closing = false)
    {
        if (Refcounts is null || IsDamaged)
            return;
        if (!IsLazy || closing)
            Refcounts.Write();
        if (_loaded.Exists(index => _l2[index]!.IsDirty))
        {
            _file.Sync(); // refcounts and data before what refers to them
            foreach (var index in _loaded)
            {
                if (_l2[index] is { IsDirty: true } table)
                {
                    _file.Write(table.Offset, table.Data);
                    table.IsDirty = false;
                }
            }
        }

        if (_dirtyL1.Count == 0)
            return;
        _file.Sync();
        foreach (var index in _dirtyL1)
        {
            var bytes = new byte[8];
            BinaryPrimitives.WriteUInt64BigEndian(bytes, _l1[index]);
            _file.Write(Header.L1Offset + (index * 8L), bytes);
        }

        _dirtyL1.Clear();
    }

    /// <summary>Writes everything, and that it is clean.</summary>
    public void Close()
    {
        if (!_isModified || IsDamaged)
            return;
        Write(closing: true);
        _file.Sync();
        // What is freed last may be counted still, not more: two steps as ever.
        ApplyFrees(TakeFrees(), punch: false);
        Refcounts!.Write();
        if ((Header.Incompatible & Qcow2Header.Dirty) != 0)
        {
            _file.Sync();
            WriteFeatures(Header with { Incompatible = Header.Incompatible & ~Qcow2Header.Dirty });
        }

        // Not all readers know that the rest of a last cluster is zeroes.
        if (!_file.IsBlockDevice && (_file.Length & (ClusterSize - 1)) != 0)
            _file.SetLength((_file.Length + ClusterSize - 1) & -ClusterSize);
    }

    /// <summary>Marks the image as damaged, so that nobody writes to it until it is repaired.</summary>
    public BlockException Damaged(string what)
    {
        lock (Lock)
        {
            if (!IsDamaged && _isWritable)
            {
                IsDamaged = true;
                _logger.LogError("{Image}: is damaged: {What}; it is read-only from now on", _file.Path, what);
                try
                {
                    WriteFeatures(Header with { Incompatible = Header.Incompatible | Qcow2Header.Corrupt });
                }
                catch (BlockException)
                {
                    // What it is damaged by may be the reason.
                }
            }
        }

        return new BlockException($"is damaged: {what}; repair it with sharpvisor image check -r all");
    }

    private ulong[] ReadL1(long offset, int size)
    {
        if (offset < 0 || offset > _file.Length - (size * 8L))
            throw new BlockException($"is truncated: its L1 table at byte {offset} needs {size * 8L} bytes, and the file has {_file.Length}");
        var bytes = new byte[size * 8];
        _file.ReadWhole(offset, bytes, "L1 table");
        var table = new ulong[size];
        for (var i = 0; i < size; i++)
            table[i] = BinaryPrimitives.ReadUInt64BigEndian(bytes.AsSpan(i * 8));
        return table;
    }

    /// <summary>Notes which clusters hold tables.</summary>
    /// <exception cref="BlockException">Two are in one place: a change of one would destroy the other.</exception>
    private void MarkTables()
    {
        Mark("header", 0, ClusterSize);
        Mark("L1 table", Header.L1Offset, Header.L1Size * 8L);
        foreach (var entry in _l1)
        {
            if (Qcow2Entry.OffsetOf(entry) is not 0 and var offset)
                Mark("L2 table", offset, 1);
        }

        foreach (var (cluster, wrong) in Refcounts!.OwnClusters())
        {
            if (wrong is null)
                Mark("refcount table or block", cluster << Header.ClusterBits, 1);
        }

        var snapshots = Qcow2Snapshot.ReadAll(_file, Header, out var tableLength);
        Mark("snapshot table", Header.SnapshotsOffset, tableLength);
        foreach (var snapshot in snapshots)
            Mark("L1 table of a snapshot", snapshot.L1Offset, snapshot.L1Size * 8L);
    }

    private void Mark(string what, long offset, long length)
    {
        for (var cluster = offset >> Header.ClusterBits; cluster << Header.ClusterBits < offset + length; cluster++)
        {
            if (!_tableClusters.TryAdd(cluster, 0))
                throw Damaged($"its {what} at byte {offset} lies over another table");
        }
    }

    /// <summary>Makes a header the image's, with its feature bits in the file.</summary>
    private void WriteFeatures(Qcow2Header header)
    {
        if (header.Version >= 3)
        {
            var bytes = new byte[24];
            BinaryPrimitives.WriteUInt64BigEndian(bytes, header.Incompatible);
            BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(8), header.Compatible);
            BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(16), header.Autoclear);
            _file.Write(Qcow2Header.IncompatibleAt, bytes);
        }

        Header = header;
    }

    private void Punch(long cluster)
    {
        try
        {
            _file.TryPunchHole(cluster << Header.ClusterBits, ClusterSize);
        }
        catch (BlockException)
        {
            // It is free, and keeps its room on the host.
        }
    }

    private Qcow2Table? Load(int index)
    {
        if (_l2[index] is { } there)
            return there;
        var entry = _l1[index];
        var offset = Qcow2Entry.OffsetOf(entry);
        if (offset == 0)
            return null;
        if ((offset & (ClusterSize - 1)) != 0 || offset > _file.Length - 1)
            throw Damaged($"L1 entry {index} is 0x{entry:x}, which is no cluster of the file");
        MakeRoom(forReading: true);
        var table = new Qcow2Table(offset, ClusterSize) { LastUse = ++_now };
        _file.ReadPadded(offset, new BlockBuffers(table.Data));
        _loaded.Add(index);
        Volatile.Write(ref _l2[index], table);
        return table;
    }

    /// <summary>Forgets the tables that were used longest ago when there are many.</summary>
    /// <param name="forReading">If the host has no room for what has changed that stays in memory, and is no error.</param>
    private void MakeRoom(bool forReading)
    {
        var limit = Math.Max(16, CachedBytes >> Header.ClusterBits);
        if (_loaded.Count < limit)
            return;
        try
        {
            Write();
        }
        catch (BlockException) when (forReading)
        {
            // Who writes is told.
        }

        // Look-ups go on, and with them LastUse: OrderBy looks at it once.
        var surplus = _loaded.Count - (limit * 3 / 4);
        foreach (var index in _loaded.Where(i => !_l2[i]!.IsDirty).OrderBy(i => _l2[i]!.LastUse).Take(surplus))
            Volatile.Write(ref _l2[index], null);
        _loaded.RemoveAll(i => _l2[i] is null);
    }
}
