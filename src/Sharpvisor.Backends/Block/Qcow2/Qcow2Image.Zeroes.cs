// qcow2: zeroes, discards and another length of the disk.
// Follows: QEMU's docs/interop/qcow2.txt, "Cluster mapping" (bit 0 of standard clusters: reads as zeroes, version 3).

using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Qcow2;

/// <summary>What needs no data: discards, zeroes, another length. Clusters change alone, with no transfer under way.</summary>
public sealed partial class Qcow2Image
{
    private byte[]? _packBuffer;
    private long _packAt;

    internal override void WriteZeroes(long offset, long length, bool mayDiscard)
    {
        // Zero clusters came with version 3.
        var canMark = Header.Version >= 3 || (_backing is null && mayDiscard);
        var (first, end) = canMark ? WholeClusters(offset, length) : (offset, offset);
        if (first < end)
        {
            ClearPart(offset, first - offset);
            ChangeClusters(first, end, entry => Zeroed(entry, mayDiscard));
            ClearPart(end, offset + length - end);
        }
        else
        {
            ClearPart(offset, length);
        }
    }

    private protected override void Discard(long offset, long length)
    {
        // Without zero clusters what is discarded would show what the backing image has.
        if (Header.Version < 3 && _backing is not null)
            return;
        var (first, end) = WholeClusters(offset, length);
        if (first < end)
            ChangeClusters(first, end, entry => Zeroed(entry, mayDiscard: true));
    }

    private protected override void Resize(long length)
    {
        length = (length + SectorSize - 1) & -SectorSize;
        _tables.CheckSize(length);
        _tables.BeginModification();
        var old = Length;
        if (length < old)
        {
            // What comes back when it grows again are zeroes.
            var end = (old + ClusterSize - 1) & -ClusterSize;
            var whole = (length + ClusterSize - 1) & -ClusterSize;
            if (whole > length)
                WriteZeroes(length, Math.Min(whole, old) - length, mayDiscard: false);
            ChangeClusters(whole, end, _ => 0);
            Flush();
        }

        _transfers.EnterWriteLock();
        try
        {
            lock (_tables.Lock)
                _tables.GrowL1(length);
            Volatile.Write(ref _length, length);
        }
        finally
        {
            _transfers.ExitWriteLock();
        }

        try
        {
            // Nor does what a longer backing image has there.
            if (length > old && _backing is not null && _backing.Length > old)
                WriteZeroes(old, Math.Min(length, _backing.Length) - old, mayDiscard: false);
            Flush();
            lock (_tables.Lock)
                _tables.SetSize(length);
        }
        catch (BlockException)
        {
            Volatile.Write(ref _length, old);
            throw;
        }

        Flush();
    }

    /// <summary>Gives an image that is being made its length.</summary>
    internal void ResizeNew(long length)
    {
        lock (_tables.Lock)
        {
            _tables.BeginModification();
            _tables.GrowL1(length);
            _tables.SetSize(length);
        }

        Volatile.Write(ref _length, length);
    }

    /// <summary>Gives every cluster of a new image its room, and closes it.</summary>
    internal void Preallocate(Preallocation mode)
    {
        var count = mode == Preallocation.Off ? 0 : (Length + ClusterSize - 1) >> ClusterBits;
        for (long cluster = 0; cluster < count;)
        {
            if (!TryBegin(cluster, (int)Math.Min(count - cluster, 1 << 20), out var made))
                continue;
            var (place, length) = (made.Place, (long)made.Count << ClusterBits);
            if (mode == Block.Preallocation.Full)
                File.Clear(place, length);
            else if (mode == Block.Preallocation.Falloc)
                File.WriteZeroes(place, length, mayPunch: false);
            else if (File.Length < place + length)
                File.SetLength(place + length);
            End(cluster, made, isDone: true);
            cluster += made.Count;
        }

        lock (_tables.Lock)
            _tables.Close();
    }

    /// <summary>Writes a whole cluster of a new image compressed.</summary>
    /// <returns>False: it does not get smaller, or has been written to already.</returns>
    internal bool TryWriteCompressed(long offset, ReadOnlySpan<byte> data)
    {
        if (data.Length != ClusterSize || _compression.Compress(data) is not { } packed)
            return false;
        _tables.BeginModification();
        lock (_tables.Lock)
        {
            RequireSound();
            var cluster = offset >> ClusterBits;
            if (_tables.Lookup(cluster) != 0)
                return false;
            var table = _tables.TableForWrite(cluster);
            var left = (int)(-_packAt & (ClusterSize - 1));
            if (packed.Length <= left && _tables.Refcounts!.Get(_packAt >> ClusterBits) < _tables.Refcounts.Maximum)
                _tables.Refcounts.Add(_packAt >> ClusterBits, 1);
            else
                _packAt = _tables.Refcounts!.Allocate(1, out _) << ClusterBits;

            // To the end of the sector, which is what readers read.
            _packBuffer ??= new byte[ClusterSize];
            var padded = (int)(((_packAt + packed.Length + 511) & -512) - _packAt);
            packed.CopyTo(_packBuffer, 0);
            _packBuffer.AsSpan(packed.Length, padded - packed.Length).Clear();
            File.Write(_packAt, _packBuffer.AsMemory(0, padded));
            table[(int)(cluster & ((1 << _tables.L2Bits) - 1))] = Qcow2Entry.Compressed(_packAt, packed.Length, ClusterBits);
            _packAt += packed.Length;
            return true;
        }
    }

    /// <summary>The entry of a cluster that reads as zeroes from now on.</summary>
    private ulong Zeroed(ulong entry, bool mayDiscard)
    {
        var kind = Qcow2Entry.KindOf(entry);
        var isNothing = _backing is null || Header.Version < 3;
        if (kind == ClusterKind.Unallocated)
            return isNothing ? 0 : Qcow2Entry.ZeroFlag;
        if (!mayDiscard && kind is ClusterKind.Standard or ClusterKind.Zero && (entry & Qcow2Entry.Copied) != 0)
            return entry | Qcow2Entry.ZeroFlag;
        return isNothing ? 0 : Qcow2Entry.ZeroFlag;
    }

    private (long First, long End) WholeClusters(long offset, long length)
    {
        // The last cluster of a disk may be cut off by its end.
        var end = offset + length;
        end = end >= Length ? (Length + ClusterSize - 1) & -ClusterSize : end & -ClusterSize;
        return ((offset + ClusterSize - 1) & -ClusterSize, end);
    }

    /// <summary>Writes zeroes to a part of a cluster, or parts of two, where there are none yet.</summary>
    private void ClearPart(long offset, long length)
    {
        while (length > 0)
        {
            var extent = Map(offset, length);
            if (!extent.IsZero)
            {
                var zeroes = new byte[Math.Min(extent.Length, 1 << 20)];
                extent = extent with { Length = zeroes.Length };
                Write(offset, new BlockBuffers(zeroes));
            }

            offset += extent.Length;
            length -= extent.Length;
        }
    }

    private void ChangeClusters(long first, long end, Func<ulong, ulong> change)
    {
        if (first >= end)
            return;
        _tables.BeginModification();
        for (var cluster = first >> ClusterBits; cluster < end >> ClusterBits;)
        {
            var next = Math.Min(((cluster >> _tables.L2Bits) + 1) << _tables.L2Bits, end >> ClusterBits);
            _transfers.EnterWriteLock();
            try
            {
                lock (_tables.Lock)
                {
                    RequireSound();
                    if (_tables.HasTable(cluster) || change(0) != 0)
                        ChangeTable(cluster, next, change);
                }
            }
            finally
            {
                _transfers.ExitWriteLock();
            }

            FlushManyFrees();
            cluster = next;
        }
    }

    /// <summary>Clusters of one L2 table.</summary>
    private void ChangeTable(long cluster, long end, Func<ulong, ulong> change)
    {
        Qcow2Table? table = null;
        for (; cluster < end; cluster++)
        {
            var old = _tables.Lookup(cluster);
            var entry = change(old);
            if (entry == old)
                continue;
            table ??= _tables.TableForWrite(cluster);
            table[(int)(cluster & ((1 << _tables.L2Bits) - 1))] = entry;
            if ((entry & Qcow2Entry.OffsetMask) != 0)
                continue; // its room is kept
            _compression.Forget(old);
            _tables.Free(old);
        }
    }
}
