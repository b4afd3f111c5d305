// qcow2: writes of data, with copy-on-write of shared and compressed clusters.
// Follows: QEMU's docs/interop/qcow2.txt, "Cluster mapping"; the order of what reaches the file: Qcow2Metadata.cs.
// Leaves out: writing compressed clusters into a disk in use (`image convert -c` does, into a new one).

using System.Buffers;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Qcow2;

/// <summary>Writing: in place where a cluster is this image's alone, else into new ones.</summary>
public sealed partial class Qcow2Image
{
    private const int FreesAtOnce = 16384;

    /// <summary>Clusters of the disk that are being made, without their tables' lock.</summary>
    private readonly List<(long First, int Count)> _making = [];

    internal override void Write(long offset, BlockBuffers buffers)
    {
        _tables.BeginModification();
        _transfers.EnterReadLock();
        try
        {
            for (var done = 0; done < buffers.Length;)
                done += WriteSome(offset + done, buffers.Slice(done));
        }
        finally
        {
            _transfers.ExitReadLock();
        }

        FlushManyFrees();
    }

    /// <summary>Before what waits to be freed takes much memory.</summary>
    private void FlushManyFrees()
    {
        if (_tables.FreeCount > FreesAtOnce)
            Flush();
    }

    private protected override void Flush()
    {
        List<ulong> frees;
        lock (_tables.Lock)
        {
            RequireSound();
            _tables.Write();
            frees = _tables.TakeFrees();
        }

        File.Sync();
        if (frees.Count == 0)
            return;
        _transfers.EnterWriteLock();
        try
        {
            lock (_tables.Lock)
                _tables.ApplyFrees(frees, CanDiscard);
        }
        finally
        {
            _transfers.ExitWriteLock();
        }
    }

    private void RequireSound()
    {
        if (_tables.IsDamaged)
            throw new BlockException("is damaged and read-only until it is repaired: sharpvisor image check -r all");
    }

    /// <summary>Writes what lies in clusters of one kind.</summary>
    /// <returns>How many bytes; 0: look again.</returns>
    private int WriteSome(long offset, BlockBuffers buffers)
    {
        RequireSound();
        var run = RunAt(offset, buffers.Length);
        if (run.Kind != ClusterKind.Standard || (run.Entry & Qcow2Entry.Copied) == 0)
            return WriteNew(offset, buffers);
        for (var at = run.FileOffset >> ClusterBits; at << ClusterBits < run.FileOffset + run.Length; at++)
        {
            if (_tables.IsTable(at))
                throw _tables.Damaged($"data of the disk at byte {offset} lie in cluster {at} of the file, which holds a table");
        }

        File.Write(run.FileOffset, buffers.Slice(0, run.Length));
        return run.Length;
    }

    /// <summary>Writes into new clusters, with what the old ones had around it, and only then refers to them.</summary>
    /// <returns>How many bytes; 0: look again.</returns>
    private int WriteNew(long offset, BlockBuffers buffers)
    {
        var first = offset >> ClusterBits;
        var inCluster = (int)(offset & (ClusterSize - 1));
        if (!TryBegin(first, (int)((inCluster + (long)buffers.Length + ClusterSize - 1) >> ClusterBits), out var made))
            return 0;
        var isDone = false;
        try
        {
            var length = (int)Math.Min(buffers.Length, ((long)made.Count << ClusterBits) - inCluster);
            var end = inCluster + length;
            CopyOld(first << ClusterBits, inCluster, made.Place, made.IsFresh);
            File.Write(made.Place + inCluster, buffers.Slice(0, length));
            var tail = (int)(-(long)end & (ClusterSize - 1));
            CopyOld(offset + length, tail, made.Place + end, made.IsFresh);
            isDone = true;
            return length;
        }
        finally
        {
            End(first, made, isDone);
        }
    }

    /// <summary>Takes clusters of the file for clusters of the disk that nobody else is making.</summary>
    private bool TryBegin(long first, int wanted, out Making made)
    {
        lock (_tables.Lock)
        {
            made = default;
            if (IsBeingMade(first))
            {
                Monitor.Wait(_tables.Lock);
                return false;
            }

            var entry = _tables.Lookup(first);
            if (!NeedsNew(entry))
                return false;
            _tables.TableForWrite(first); // what may fail does so before there is anything to undo
            wanted = (int)Math.Min(wanted, (((first >> _tables.L2Bits) + 1) << _tables.L2Bits) - first);
            var count = 1;
            if (Qcow2Entry.KindOf(entry) == ClusterKind.Zero && (entry & Qcow2Entry.Copied) != 0 && (entry & Qcow2Entry.OffsetMask) != 0)
            {
                // Zeroes that have kept their room.
                CheckEntry(first, entry);
                if (_tables.IsTable(Qcow2Entry.OffsetOf(entry) >> ClusterBits))
                    throw _tables.Damaged($"the cluster of the disk at byte {first << ClusterBits} lies where a table is");
                made = new Making(Qcow2Entry.OffsetOf(entry), 1, false, true);
            }
            else
            {
                while (count < wanted && !IsBeingMade(first + count) && NeedsNew(_tables.Lookup(first + count)))
                    count++;
                var highWater = _tables.Refcounts!.HighWater;
                var cluster = _tables.Refcounts.Allocate(count, out count);
                made = new Making(cluster << ClusterBits, count, cluster >= highWater, false);
            }

            _making.Add((first, made.Count));
            return true;
        }
    }

    private void End(long first, Making made, bool isDone)
    {
        lock (_tables.Lock)
        {
            try
            {
                if (isDone)
                    Refer(first, made);
                else
                    Undo(made);
            }
            finally
            {
                _making.Remove((first, made.Count));
                Monitor.PulseAll(_tables.Lock);
            }
        }
    }

    private void Refer(long first, Making made)
    {
        Qcow2Table table;
        try
        {
            table = _tables.TableForWrite(first);
        }
        catch (BlockException)
        {
            Undo(made);
            throw;
        }

        var index = (int)(first & ((1 << _tables.L2Bits) - 1));
        for (var i = 0; i < made.Count; i++)
        {
            var old = table[index + i];
            table[index + i] = (ulong)(made.Place + ((long)i << ClusterBits)) | Qcow2Entry.Copied;
            if (made.IsReused)
                continue;
            _compression.Forget(old);
            _tables.Free(old);
        }
    }

    private void Undo(Making made)
    {
        for (var i = 0; i < made.Count && !made.IsReused; i++)
            _tables.Refcounts!.Add((made.Place >> ClusterBits) + i, -1);
    }

    private bool IsBeingMade(long cluster)
    {
        foreach (var (first, count) in _making)
        {
            if (cluster >= first && cluster < first + count)
                return true;
        }

        return false;
    }

    private static bool NeedsNew(ulong entry) => Qcow2Entry.KindOf(entry) != ClusterKind.Standard || (entry & Qcow2Entry.Copied) == 0;

    /// <summary>Brings what a part of a cluster has had so far to its new place.</summary>
    /// <param name="isFresh">The new place reads as zeroes.</param>
    private void CopyOld(long offset, int length, long place, bool isFresh)
    {
        if (length == 0)
            return;
        var run = RunAt(offset, length);
        var isZero = run.Kind == ClusterKind.Zero || (run.Kind == ClusterKind.Unallocated && (_backing is null || offset >= Math.Min(_backing.Length, Length)));
        if (isZero)
        {
            if (!isFresh)
                File.Clear(place, length);
            return;
        }

        var bounce = ArrayPool<byte>.Shared.Rent(length);
        try
        {
            var data = new BlockBuffers(bounce.AsMemory(0, length));
            ReadRun(run, offset, data);
            File.Write(place, data);
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(bounce);
        }
    }

    /// <param name="Place">In the file, in bytes.</param>
    /// <param name="IsFresh">Never written to: it reads as zeroes.</param>
    /// <param name="IsReused">The cluster had this place before.</param>
    private readonly record struct Making(long Place, int Count, bool IsFresh, bool IsReused);
}
