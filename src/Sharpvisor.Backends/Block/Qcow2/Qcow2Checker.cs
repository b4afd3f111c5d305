// Counts how often each cluster of a qcow2 file is used, compares that with its refcounts, and makes them right.
// Follows: QEMU's docs/interop/qcow2.txt; qemu-img(1), "check".
// Leaves out: data that two clusters of the disk share by mistake, of which nobody can know whose they are.
using System.Buffers.Binary;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Qcow2;

internal sealed class Qcow2Checker
{
    private readonly ImageFile _file;
    private readonly Qcow2Header _header;
    private readonly ImageRepair _repair;
    private readonly Qcow2Refcounts _refcounts;
    private readonly Qcow2UseCounts _uses = new();
    private readonly HashSet<long> _tables = [];
    private readonly ImageCheckResult _result = new();

    /// <summary>Clusters of refcount blocks that hold another table, too.</summary>
    private readonly HashSet<long> _doubleBlocks = [];

    /// <summary>The L1 entries of the disk as it is now: where they lie, and what they are.</summary>
    private readonly List<(long At, ulong Entry)> _active = [];
    private readonly long _fileClusters;

    private Qcow2Checker(ImageFile file, Qcow2Header header, ImageRepair repair)
    {
        (_file, _header, _repair) = (file, header, repair);
        _refcounts = new Qcow2Refcounts(file, header, what => new BlockException($"is damaged: {what}"));
        _fileClusters = _refcounts.HighWater;
    }

    private int Bits => _header.ClusterBits;

    public static ImageCheckResult Run(ImageFile file, Qcow2Header header, ImageRepair repair) => new Qcow2Checker(file, header, repair).Run();

    private ImageCheckResult Run()
    {
        if ((_header.Incompatible & Qcow2Header.Corrupt) != 0)
            Found("is marked as corrupt", canFix: true);
        UseTable("header", 0, 1);
        UseTable("L1 table", _header.L1Offset, _header.L1Size * 8L);
        var snapshots = Qcow2Snapshot.ReadAll(_file, _header, out var length);
        UseTable("snapshot table", _header.SnapshotsOffset, length);
        foreach (var (cluster, wrong) in _refcounts.OwnClusters().ToList())
        {
            if (wrong is not null)
                Found(wrong, canFix: true);
            else if (!UseTable("refcount table or block", cluster << Bits, 1))
                _doubleBlocks.Add(cluster);
        }

        // Tables that snapshots share are looked at once.
        var l2 = new Dictionary<long, int>();
        Collect(l2, _header.L1Offset, _header.L1Size, "", isActive: true);
        foreach (var snapshot in snapshots)
        {
            UseTable($"L1 table of snapshot {snapshot.Id}", snapshot.L1Offset, snapshot.L1Size * 8L);
            Collect(l2, snapshot.L1Offset, snapshot.L1Size, $" of snapshot {snapshot.Id}", isActive: false);
        }

        foreach (var (offset, uses) in l2)
            UseTable("L2 table", offset, 1, uses);
        foreach (var (offset, uses) in l2)
            CountTable(offset, uses);
        CompareRefcounts();
        CheckCopied();
        Finish();
        return _result;
    }

    private void Found(string message, bool canFix)
    {
        _result.Corruption(message);
        if (canFix && _repair == ImageRepair.All)
            _result.FixedCorruptions++;
    }

    /// <summary>Notes clusters that hold a table.</summary>
    /// <returns>False: another one is there, or the file ends before.</returns>
    private bool UseTable(string what, long offset, long length, int uses = 1)
    {
        var isRight = offset + length <= _fileClusters << Bits;
        if (!isRight)
        {
            Found($"{what} at byte {offset}: lies behind the end of the file", canFix: false);
            return false;
        }

        for (var cluster = offset >> Bits; cluster << Bits < offset + length; cluster++)
        {
            if (!_tables.Add(cluster))
            {
                Found($"{what} at byte {offset}: another table is there, too", canFix: false);
                isRight = false;
            }

            _uses.Add(cluster, uses);
        }

        return isRight;
    }

    private void Collect(Dictionary<long, int> l2, long l1Offset, int size, string whose, bool isActive)
    {
        var table = new byte[size * 8];
        _file.ReadWhole(l1Offset, table, $"L1 table{whose}");
        for (var i = 0; i < size; i++)
        {
            var entry = BinaryPrimitives.ReadUInt64BigEndian(table.AsSpan(i * 8));
            var offset = Qcow2Entry.OffsetOf(entry);
            if (offset == 0)
                continue;
            if (!IsCluster(offset))
            {
                Found($"L1 entry {i}{whose} is 0x{entry:x}, which is no cluster of the file", canFix: true);
                Replace(l1Offset + (i * 8L), 0);
                continue;
            }

            if (isActive && l2.ContainsKey(offset))
            {
                Found($"L1 entry {i} is 0x{entry:x}, which another entry has, too", canFix: false);
                continue;
            }

            l2[offset] = l2.GetValueOrDefault(offset) + 1;
            if (isActive)
                _active.Add((l1Offset + (i * 8L), entry));
        }
    }

    private bool IsCluster(long offset) => (offset & (_header.ClusterSize - 1)) == 0 && offset < _fileClusters << Bits;

    private void CountTable(long offset, int uses)
    {
        foreach (var (index, entry) in Entries(offset))
        {
            if ((entry & Qcow2Entry.CompressedFlag) != 0)
            {
                var (start, end) = Qcow2Entry.CompressedRange(entry, Bits);
                if (start >= _file.Length)
                {
                    Lost(offset, index, entry);
                    continue;
                }

                _result.CompressedClusters++;
                _result.AllocatedClusters++;
                for (var cluster = start >> Bits; cluster <= (end - 1) >> Bits; cluster++)
                    UseData(cluster, uses, entry);
                continue;
            }

            var place = Qcow2Entry.OffsetOf(entry);
            if (place == 0)
                continue;
            if (!IsCluster(place))
            {
                Lost(offset, index, entry);
                continue;
            }

            _result.AllocatedClusters++;
            UseData(place >> Bits, uses, entry);
        }
    }

    private void UseData(long cluster, int uses, ulong entry)
    {
        if (cluster >= _fileClusters)
        {
            Found($"L2 entry 0x{entry:x}: ends behind the end of the file", canFix: false);
            return;
        }

        if (_tables.Contains(cluster))
            Found($"L2 entry 0x{entry:x}: there is a table", canFix: false);
        _uses.Add(cluster, uses);
    }

    /// <summary>What an entry refers to is not there: nothing is lost by saying so.</summary>
    private void Lost(long table, int index, ulong entry)
    {
        Found($"L2 entry 0x{entry:x} is no cluster of the file", canFix: true);
        Replace(table + (index * 8L), _header.Version >= 3 ? Qcow2Entry.ZeroFlag : 0);
    }

    private IEnumerable<(int Index, ulong Entry)> Entries(long offset)
    {
        var table = new byte[_header.ClusterSize];
        _file.ReadPadded(offset, new BlockBuffers(table));
        for (var i = 0; i < table.Length / 8; i++)
        {
            var entry = BinaryPrimitives.ReadUInt64BigEndian(table.AsSpan(i * 8));
            if (entry != 0)
                yield return (i, entry);
        }
    }

    private void Replace(long at, ulong entry)
    {
        if (_repair != ImageRepair.All)
            return;
        var bytes = new byte[8];
        BinaryPrimitives.WriteUInt64BigEndian(bytes, entry);
        _file.Write(at, bytes);
    }

    private void CompareRefcounts()
    {
        if (_repair == ImageRepair.All)
            _refcounts.DropWrongBlocks(_doubleBlocks.Contains);
        List<(long Cluster, ulong Uses)> wrong = [];
        foreach (var (cluster, stored, uses) in _refcounts.Compare(_uses, _doubleBlocks.Contains))
        {
            if (stored > uses)
                _result.Leak($"cluster {cluster} is counted {stored} times and used {uses} times");
            else
                _result.Corruption($"cluster {cluster} is counted {stored} times and used {uses} times");
            var mayFix = _repair == ImageRepair.All || (_repair == ImageRepair.Leaks && stored > uses);
            if (!mayFix || uses > _refcounts.Maximum)
                continue;
            wrong.Add((cluster, uses));
            if (stored > uses)
                _result.FixedLeaks++;
            else
                _result.FixedCorruptions++;
        }

        _refcounts.Next = Math.Max(_fileClusters, _uses.End);
        foreach (var (cluster, uses) in wrong)
            _refcounts.Set(cluster, uses);
        _refcounts.Write();
        _result.ImageEnd = _uses.End << Bits;
        _result.TotalClusters = (_header.Size + _header.ClusterSize - 1) >> Bits;
    }

    /// <summary>Whether entries of the disk as it is now say rightly what may be written in place.</summary>
    private void CheckCopied()
    {
        foreach (var (at, entry) in _active)
        {
            var offset = Qcow2Entry.OffsetOf(entry);
            if (IsWrong(entry, offset))
                Correct(at, entry, "L1");
            foreach (var (index, data) in Entries(offset))
            {
                if ((data & Qcow2Entry.CompressedFlag) == 0 && IsCluster(Qcow2Entry.OffsetOf(data)) && Qcow2Entry.OffsetOf(data) != 0 && IsWrong(data, Qcow2Entry.OffsetOf(data)))
                    Correct(offset + (index * 8L), data, "L2");
            }
        }

        bool IsWrong(ulong entry, long offset) => (entry & Qcow2Entry.Copied) != 0 != (_refcounts.GetSafely(offset >> Bits) == 1);
    }

    private void Correct(long at, ulong entry, string kind)
    {
        Found($"{kind} entry 0x{entry:x} is wrong about its refcount being 1", canFix: true);
        Replace(at, entry ^ Qcow2Entry.Copied);
    }

    private void Finish()
    {
        if (_repair == ImageRepair.None)
            return;
        _file.Sync();
        var marks = Qcow2Header.Dirty | Qcow2Header.Corrupt;
        if (_header.Version >= 3 && _result.Corruptions == _result.FixedCorruptions && (_header.Incompatible & marks) != 0 && _repair == ImageRepair.All)
            Replace(Qcow2Header.IncompatibleAt, _header.Incompatible & ~marks);
        _file.Sync();
    }
}
