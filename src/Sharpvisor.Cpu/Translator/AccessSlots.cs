using System.Runtime.InteropServices;
using Sharpvisor.Core.Host;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Translator;

/// <summary>The translation that one place of generated code used last.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct AccessSlot
{
    /// <summary>The page's linear address.</summary>
    public ulong Tag;

    /// <summary>What makes a host address of a linear one.</summary>
    public ulong Delta;

    /// <summary>The largest offset in a page at which the accesses do not run over its end.</summary>
    public ulong Limit;

    /// <summary>Bit 0: the translation is global (the low half of <see cref="Paging.TlbEntry.Physical"/>).</summary>
    public uint Physical;

    /// <summary>Used by the translator: which exit belongs to it.</summary>
    public uint Exit;
}

/// <summary>
/// The access slots of a vCPU's generated code: a check compares one tag at a fixed place, without a look-up. Filled
/// slots are noted by their page, so that they can be emptied when the TLB is.
/// </summary>
internal sealed unsafe class AccessSlots : IDisposable
{
    public const int DeltaOffset = 8, LimitOffset = 16, PhysicalOffset = 24;
    public const int Buckets = SlotLogCounts.Count;
    public const int BucketBits = 9;
    public const int BucketSize = 1 << BucketBits;

    private readonly int _capacity;
    private readonly AccessSlot* _slots;
    private readonly int* _log;
    private readonly TranslatorContext* _t;
    private readonly List<nint> _overflow = [];
    private readonly ulong _nowhere;
    private readonly byte* _dummy;

    public AccessSlots(TranslatorContext* t, int capacity)
    {
        _t = t;
        _capacity = capacity;
        _slots = (AccessSlot*)HostMemory.ReserveLow((ulong)capacity * (ulong)sizeof(AccessSlot));
        _log = (int*)HostMemory.ReserveLow(Buckets * BucketSize * sizeof(int));

        // An empty slot must match no address that a guest can think of, and if it did, must lead nowhere in the host:
        // a page of the non-canonical hole that changes from run to run, and a page for it that nobody uses.
        _dummy = (byte*)HostMemory.Reserve(8192, hugePages: false);
        _nowhere = 0x4000_0000_0000_0000 | ((ulong)Random.Shared.NextInt64(1L << 45) << 13);
    }

    public int Used { get; private set; }

    public bool IsFull => Used > _capacity - 256;

    public int* Log => _log;

    /// <summary>So many slots are noted that all should be emptied when no block is at work.</summary>
    public bool WantsFlush { get; private set; }

    /// <summary>Slots that were emptied because the TLB was flushed.</summary>
    public long Emptied { get; private set; }

    public AccessSlot* Allocate(int range)
    {
        var slot = _slots + Used++;
        *slot = default;
        slot->Limit = (ulong)(4096 - range);
        Empty(slot);
        return slot;
    }

    /// <summary>A place for the page (tag) and the key (delta) under which a jump to another page is linked.</summary>
    public AccessSlot* AllocateLink()
    {
        var slot = _slots + Used++;
        *slot = new AccessSlot { Tag = 1 };
        return slot;
    }

    public void Fill(AccessSlot* slot, ulong page, ulong delta, bool global)
    {
        slot->Tag = page;
        slot->Delta = delta;
        slot->Physical = global ? 1u : 0;
        Note(slot);
    }

    /// <summary>Empties what was filled from translations that are gone: all, or all but global ones.</summary>
    public void Flush(bool global)
    {
        WantsFlush &= !global;
        for (var bucket = 0; bucket < Buckets; bucket++)
            FlushBucket(bucket, global);
        for (var i = _overflow.Count - 1; i >= 0; i--)
        {
            var slot = (AccessSlot*)_overflow[i];
            if (!global && (slot->Physical & 1) != 0)
                continue;
            Empty(slot);
            _overflow.RemoveAt(i);
        }
    }

    public void FlushPage(ulong linear)
    {
        var page = linear & ~0xFFFUL;
        var bucket = (int)(page >> 12) & (Buckets - 1);
        var log = _log + (bucket * BucketSize);
        ref var count = ref _t->LogCounts[bucket];
        for (var i = 0; i < count;)
        {
            var slot = (AccessSlot*)log[i];
            if (slot->Tag == page)
                Empty(slot);
            if (((slot->Tag >> 12) & (Buckets - 1)) == (ulong)bucket && slot->Tag != page && slot->Tag != _nowhere)
            {
                i++;
                continue;
            }

            log[i] = log[--count]; // it is empty, or noted in another bucket since
        }

        for (var i = _overflow.Count - 1; i >= 0; i--)
        {
            var slot = (AccessSlot*)_overflow[i];
            if (slot->Tag != page)
                continue;
            Empty(slot);
            _overflow.RemoveAt(i);
        }
    }

    /// <summary>Empties slots that lead to a page of the host.</summary>
    public void FlushHostPage(byte* hostPage)
    {
        for (var bucket = 0; bucket < Buckets; bucket++)
        {
            var log = _log + (bucket * BucketSize);
            for (var i = 0; i < _t->LogCounts[bucket]; i++)
            {
                var slot = (AccessSlot*)log[i];
                if (slot->Tag + slot->Delta == (ulong)hostPage)
                    Empty(slot);
            }
        }

        foreach (var pointer in _overflow)
        {
            var slot = (AccessSlot*)pointer;
            if (slot->Tag + slot->Delta == (ulong)hostPage)
                Empty(slot);
        }
    }

    /// <summary>Forgets all slots: the code that uses them is gone.</summary>
    public void Clear()
    {
        Used = 0;
        _t->LogCounts = default;
        _overflow.Clear();
    }

    public void Dispose()
    {
        HostMemory.Release(_slots, (ulong)_capacity * (ulong)sizeof(AccessSlot));
        HostMemory.Release(_log, Buckets * BucketSize * sizeof(int));
        HostMemory.Release(_dummy, 8192);
    }

    private void Note(AccessSlot* slot)
    {
        var bucket = (int)(slot->Tag >> 12) & (Buckets - 1);
        ref var count = ref _t->LogCounts[bucket];
        if (count == BucketSize)
            Compact(bucket);
        if (count < BucketSize)
            _log[(bucket * BucketSize) + count++] = (int)(nint)slot;
        else
            _overflow.Add((nint)slot);
        WantsFlush |= count > BucketSize * 3 / 4;
    }

    /// <summary>Takes out what is noted twice or has been filled with a page of another bucket since.</summary>
    private void Compact(int bucket)
    {
        ref var count = ref _t->LogCounts[bucket];
        var log = new Span<int>(_log + (bucket * BucketSize), count);
        log.Sort();
        var kept = 0;
        for (var i = 0; i < count; i++)
        {
            if ((kept == 0 || log[i] != log[kept - 1]) && ((((AccessSlot*)log[i])->Tag >> 12) & (Buckets - 1)) == (ulong)bucket)
                log[kept++] = log[i];
        }

        count = kept;
    }

    private void FlushBucket(int bucket, bool global)
    {
        var log = _log + (bucket * BucketSize);
        ref var count = ref _t->LogCounts[bucket];
        var kept = 0;
        for (var i = 0; i < count; i++)
        {
            var slot = (AccessSlot*)log[i];
            if (!global && (slot->Physical & 1) != 0 && ((slot->Tag >> 12) & (Buckets - 1)) == (ulong)bucket)
                log[kept++] = log[i];
            else if (global || (slot->Physical & 1) == 0)
                Empty(slot);
        }

        count = kept;
    }

    private void Empty(AccessSlot* slot)
    {
        slot->Tag = _nowhere;
        slot->Delta = (ulong)_dummy - _nowhere;
        slot->Physical = 0;
        Emptied++;
    }
}
