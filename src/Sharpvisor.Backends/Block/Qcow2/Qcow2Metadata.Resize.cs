// qcow2: an L1 table of another length.
// Follows: QEMU's docs/interop/qcow2.txt, "Header" (l1_size, l1_table_offset).

using System.Buffers.Binary;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Qcow2;

/// <summary>A longer or shorter disk.</summary>
internal sealed partial class Qcow2Metadata
{
    /// <summary>Makes room in the L1 table for a disk of a size: a longer table is written before the header names it.</summary>
    public void GrowL1(long size)
    {
        var entries = (int)Header.L1SizeFor(size);
        if (entries <= _l1.Length)
            return;
        Write(closing: true);
        var old = (Offset: Header.L1Offset, Size: Header.L1Size);
        var clusters = (int)(((entries * 8L) + ClusterSize - 1) >> Header.ClusterBits);
        var first = Refcounts!.Allocate(clusters, out _, all: true);
        var header = Header with { L1Offset = first << Header.ClusterBits, L1Size = entries };
        var bytes = new byte[(long)clusters << Header.ClusterBits];
        for (var i = 0; i < _l1.Length; i++)
            BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(i * 8), _l1[i]);
        var named = new byte[12];
        BinaryPrimitives.WriteUInt32BigEndian(named, (uint)entries);
        BinaryPrimitives.WriteUInt64BigEndian(named.AsSpan(4), (ulong)header.L1Offset);
        try
        {
            Refcounts.Write();
            _file.Write(header.L1Offset, bytes);
            _file.Sync();
            _file.Write(Qcow2Header.L1SizeAt, named);
        }
        catch (BlockException)
        {
            for (var cluster = first; cluster < first + clusters; cluster++)
                Refcounts.Add(cluster, -1);
            throw;
        }

        Header = header;
        Array.Resize(ref _l1, entries);
        Array.Resize(ref _l2, entries);
        Mark("L1 table", header.L1Offset, entries * 8L);
        _file.Sync();
        for (var cluster = old.Offset >> Header.ClusterBits; cluster << Header.ClusterBits < old.Offset + (old.Size * 8L); cluster++)
        {
            _tableClusters.TryRemove(cluster, out _);
            Refcounts.Add(cluster, -1);
        }
    }

    public void SetSize(long size)
    {
        var bytes = new byte[8];
        BinaryPrimitives.WriteUInt64BigEndian(bytes, (ulong)size);
        _file.Write(Qcow2Header.SizeAt, bytes);
        Header = Header with { Size = size };
    }

    /// <exception cref="BlockException">The disk can't have that size.</exception>
    public void CheckSize(long size)
    {
        if (size > Header.MaximumSize)
            throw new BlockException(BlockError.Unsupported, $"a qcow2 image with clusters of {ClusterSize} bytes has {Header.MaximumSize} bytes at most");
        if (size < Header.Size && Header.SnapshotCount > 0)
            throw new BlockException(BlockError.Unsupported, "a qcow2 image with snapshots can't be made shorter; delete them with qemu-img snapshot -d");
    }
}
