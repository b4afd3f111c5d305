using System.Runtime.InteropServices;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Devices.Xen.Pv;

/// <content>Types of frames, and what a table has references to.</content>
public sealed partial class PvMmu
{
    private const ulong Present = 1, Writable = 2, Accessed = 0x20, Dirty = 0x40, FrameMask = 0x000F_FFFF_FFFF_F000;

    /// <summary>PWT, PCD, PSE or PAT, and global, which is allowed in the last level.</summary>
    private const ulong DisallowedInTable = 0x198, DisallowedInLevel1 = 0x098;

    /// <summary>Slots of a top table that are Xen's.</summary>
    private const int FirstXenSlot = 256, XenSlots = 16;

    private const int RootCounters = 256;

    private const ulong InvalidFrame = FrameMask >> PageShift;

    /// <summary>Which of <see cref="PvLayout.SharedPages"/> the domain may map.</summary>
    private readonly ulong[] _shared = new ulong[PvLayout.SharedPageCount / 64];

    /// <summary>When each processor has forgotten all translations, by <see cref="_clock"/>.</summary>
    private readonly uint[] _flushed;

    /// <summary>Counts flushes, so that processors that have flushed since a frame was in use are left alone.</summary>
    private uint _clock;

    private long _tableGeneration, _codeGeneration;

    /// <summary>By the low bits of the frame.</summary>
    private readonly long[] _rootGenerations = new long[RootCounters];

    /// <summary>Entries looked at since the call began.</summary>
    private long _work;

    /// <summary>Takes a reference, and one as a type.</summary>
    private XenError TakeFrame(ulong mfn, PvFrameType type)
    {
        if (!IsOwned(mfn) || _frames[mfn].References == uint.MaxValue)
            return XenError.EINVAL;
        _frames[mfn].References++;
        var error = TakeType(mfn, type);
        if (error != XenError.None)
            DropReference(mfn);
        return error;
    }

    private void DropFrame(ulong mfn, PvFrameType type)
    {
        DropType(mfn, type);
        DropReference(mfn);
    }

    private void DropReference(ulong mfn)
    {
        ref var frame = ref _frames[mfn];
        if (frame.References == 0)
        {
            WrongCount(mfn);
            return;
        }

        if (--frame.References == 0)
            Free(mfn);
    }

    /// <summary>Takes a reference as a type, of a frame that there is a reference of.</summary>
    private XenError TakeType(ulong mfn, PvFrameType type)
    {
        ref var frame = ref _frames[mfn];
        if (frame.TypeCount == 0)
        {
            if (frame.Type != type)
            {
                // Nobody may write by an old translation what becomes a table, nor use a table that is one no more.
                FlushStale(frame.Stamp);
                frame.Type = type;
                frame.Flags &= ~PvFrameFlags.Validated;
            }
        }
        else if (frame.Type != type)
        {
            // A table where the one below is expected may be meant to be linear: the caller looks.
            var isLinear = type < PvFrameType.Level4 && frame.Type == type + 1;
            return isLinear ? XenError.EINVAL : Refuse(XenError.EINVAL, "a frame is of another type than it is to be used as", mfn, (ulong)frame.Type);
        }
        else if (frame.TypeCount == uint.MaxValue || (frame.Flags & PvFrameFlags.Validated) == 0)
        {
            return Refuse(XenError.EINVAL, "a frame is used as a type too often", mfn);
        }

        frame.TypeCount++;
        if ((frame.Flags & PvFrameFlags.Validated) != 0)
            return XenError.None;
        frame.Linear = 0;
        var error = type is >= PvFrameType.Level1 and <= PvFrameType.Level4 ? Promote(mfn, type) : XenError.None;
        if (error == XenError.None)
        {
            frame.Flags |= PvFrameFlags.Validated;
            return XenError.None;
        }

        (frame.TypeCount, frame.Type) = (0, PvFrameType.None);
        return Refuse(error, "a page table is refused", mfn, (ulong)type);
    }

    private void DropType(ulong mfn, PvFrameType type)
    {
        ref var frame = ref _frames[mfn];
        if (frame.TypeCount == 0 || frame.Type != type)
        {
            WrongCount(mfn);
            return;
        }

        if (frame.TypeCount == 1)
        {
            if (type <= PvFrameType.Level4)
            {
                frame.Flags &= ~PvFrameFlags.Validated;
                if (type == PvFrameType.Level4)
                {
                    // What is reached only from here may change unseen from now on.
                    Interlocked.Increment(ref _tableGeneration);
                    Interlocked.Increment(ref _rootGenerations[mfn % RootCounters]);
                }

                Demote(mfn, type);
            }

            frame.Stamp = _clock;
        }

        frame.TypeCount--;
    }

    /// <summary>Checks all entries of a page that becomes a table, and takes references to what they map; or takes none.</summary>
    private XenError Promote(ulong mfn, PvFrameType type)
    {
        Span<ulong> table = stackalloc ulong[Entries];
        if (!ReadTable(mfn, table))
            return XenError.EINVAL;
        for (var i = 0; i < Entries; i++)
        {
            var entry = table[i];
            if ((entry & Present) == 0 || (type == PvFrameType.Level4 && IsXenSlot(i)))
                continue;
            var error = TakeEntry(entry, mfn, type, PageOwner.Self);
            if (error == XenError.None)
                continue;
            while (--i >= 0)
            {
                if (type != PvFrameType.Level4 || !IsXenSlot(i))
                    DropEntry(table[i], mfn, type);
            }

            return error;
        }

        return XenError.None;
    }

    /// <summary>Drops all references of a page that is a table no more.</summary>
    private void Demote(ulong mfn, PvFrameType type)
    {
        Span<ulong> table = stackalloc ulong[Entries];
        if (!ReadTable(mfn, table))
            return;
        for (var i = 0; i < Entries; i++)
        {
            if ((table[i] & Present) != 0 && (type != PvFrameType.Level4 || !IsXenSlot(i)))
                DropEntry(table[i], mfn, type);
        }
    }

    private bool ReadTable(ulong mfn, Span<ulong> table)
    {
        _work += Entries;
        return _memory.TryRead(mfn << PageShift, MemoryMarshal.AsBytes(table));
    }

    /// <summary>Checks a present entry of a table and takes a reference to what it maps.</summary>
    private XenError TakeEntry(ulong entry, ulong table, PvFrameType type, PageOwner owner) =>
        type == PvFrameType.Level1 ? TakePage(entry, owner) : TakeTable(entry, table, type);

    private XenError TakePage(ulong entry, PageOwner owner)
    {
        var mfn = FrameOf(entry);
        if ((entry & DisallowedInLevel1) != 0)
            return Refuse(XenError.EINVAL, "an entry of a page has bits that it may not have", mfn, entry);
        if (!IsOwned(mfn))
            return IsShared(mfn) && owner == PageOwner.Self ? XenError.None : RefuseForeign(entry, mfn);
        ref var frame = ref _frames[mfn];
        if (owner != PageOwner.Self || frame.References == uint.MaxValue)
            return Refuse(XenError.EBUSY, "a page is mapped as another domain's, or too often", mfn, entry);
        if ((entry & Writable) != 0)
        {
            if (frame.Type == PvFrameType.Writable && frame.TypeCount - 1 < uint.MaxValue - 1)
                frame.TypeCount++;
            else if (TakeType(mfn, PvFrameType.Writable) != XenError.None)
                return Refuse(XenError.EBUSY, "a page that may not be written is mapped writable", mfn, entry);
        }

        frame.References++;
        return XenError.None;
    }

    private XenError RefuseForeign(ulong entry, ulong mfn)
    {
        var isXen = Layout.IsDomainRam(mfn) || mfn - (PvLayout.MachineToPhysical >> PageShift) < _table.Size >> PageShift;
        if (isXen)
            return Refuse(XenError.EBUSY, "a frame that is not the domain's is mapped", mfn, entry);
        return mfn == InvalidFrame ? XenError.EINVAL : Refuse(XenError.EPERM, "a frame that is no memory of the domain is mapped", mfn, entry);
    }

    private XenError TakeTable(ulong entry, ulong table, PvFrameType type)
    {
        var mfn = FrameOf(entry);
        if ((entry & DisallowedInTable) != 0)
            return Refuse(XenError.EINVAL, "an entry of a table has bits that it may not have", mfn, entry);
        var error = TakeFrame(mfn, type - 1);
        if (error == XenError.EINVAL && IsOwned(mfn) && _frames[mfn].Type == type)
            error = TakeLinear(entry, table, type);
        return error;
    }

    /// <summary>
    /// A table of the same level in the place of one below: so its entries are seen as pages. Allowed when read-only, of
    /// itself or of tables that do no such thing.
    /// </summary>
    private XenError TakeLinear(ulong entry, ulong table, PvFrameType type)
    {
        var mfn = FrameOf(entry);
        if ((entry & Writable) != 0)
            return Refuse(XenError.EINVAL, "a linear page table is to be writable", mfn, entry);
        if (mfn == table)
            return XenError.None;
        ref var parent = ref _frames[table];
        ref var frame = ref _frames[mfn];
        if (parent.Linear is < 0 or short.MaxValue || frame.Linear is > 0 or short.MinValue ||
            frame.TypeCount is 0 or uint.MaxValue || frame.References == uint.MaxValue || (frame.Flags & PvFrameFlags.Validated) == 0)
        {
            return Refuse(XenError.EINVAL, "a linear page table is of a table that can't be one", mfn, entry);
        }

        parent.Linear++;
        frame.Linear--;
        frame.TypeCount++;
        frame.References++;
        return XenError.None;
    }

    /// <summary>Drops the reference of an entry, present or not.</summary>
    private void DropEntry(ulong entry, ulong table, PvFrameType type)
    {
        var mfn = FrameOf(entry);
        if ((entry & Present) == 0 || mfn >= (ulong)_frames.Length)
            return;
        ref var frame = ref _frames[mfn];
        if (frame.References == 0)
        {
            if (Layout.IsDomainRam(mfn))
                WrongCount(mfn);
            return;
        }

        if (type == PvFrameType.Level1)
        {
            if ((entry & Writable) != 0)
                DropType(mfn, PvFrameType.Writable);
            DropReference(mfn);
            return;
        }

        if (mfn == table)
            return;
        if (frame.Type == type)
        {
            // Only so does a table end one of its own level, and there is one step of it: the depth is bounded.
            ref var parent = ref _frames[table];
            if (parent.Linear <= 0 || frame.Linear >= 0)
            {
                WrongCount(mfn);
                return;
            }

            DropType(mfn, type);
            parent.Linear--;
            frame.Linear++;
        }
        else
        {
            DropType(mfn, type - 1);
        }

        DropReference(mfn);
    }

    /// <summary>An entry has changed: translations by the old one may be known to processors.</summary>
    private void NoteChange(ulong old, PvFrameType type)
    {
        const ulong noExecute = 1UL << 63;
        if ((old & Present) == 0 || (type != PvFrameType.Level1 && IsEmpty(FrameOf(old))))
            return;
        Interlocked.Increment(ref _tableGeneration);
        if (type != PvFrameType.Level1 || (old & noExecute) == 0)
            Interlocked.Increment(ref _codeGeneration);
    }

    /// <summary>A table without a present entry, from which nothing can be known. Programs that end leave many of them.</summary>
    private bool IsEmpty(ulong table)
    {
        Span<ulong> entries = stackalloc ulong[Entries];
        if (!_memory.TryRead(table << PageShift, MemoryMarshal.AsBytes(entries)))
            return true;
        ulong any = 0;
        foreach (var entry in entries)
            any |= entry;
        return (any & Present) == 0;
    }

    private static bool IsXenSlot(int slot) => (uint)(slot - FirstXenSlot) < XenSlots;

    /// <summary>The domain has changed a table behind Xen's back.</summary>
    private void WrongCount(ulong mfn) => _errors.Report(Device, "the references of a frame are wrong", $"frame 0x{mfn:x}");

    /// <summary>Has those processors flush that have not done so since a frame was in use last.</summary>
    private void FlushStale(uint stamp)
    {
        ulong processors = 0;
        for (var i = 0; i < _flushed.Length; i++)
        {
            if (_flushed[i] <= stamp)
                processors |= 1UL << i;
        }

        if (processors != 0)
            Flush(processors);
    }

    /// <summary>Has processors forget all translations.</summary>
    private void Flush(ulong processors)
    {
        if (_caller is not { } caller)
            return;
        var self = 1UL << caller.Index;
        if (++_clock == uint.MaxValue)
        {
            // So late that all begins anew.
            processors = AllProcessors;
            _clock = 1;
            for (var i = 0; i < _frames.Length; i++)
                _frames[i].Stamp = 0;
        }

        for (var i = 0; i < _flushed.Length; i++)
        {
            if ((processors >> i & 1) != 0)
                _flushed[i] = _clock;
        }

        if ((processors & self) != 0)
            caller.FlushTlb(null);
        if ((processors & ~self) != 0)
            caller.FlushTlbOf(processors & ~self, null);
    }

    /// <summary>Has processors forget the translations of one page.</summary>
    private static void Flush(IParavirtualProcessor caller, ulong processors, ulong linear)
    {
        var self = 1UL << caller.Index;
        if ((processors & self) != 0)
            caller.FlushTlb(linear);
        if ((processors & ~self) != 0)
            caller.FlushTlbOf(processors & ~self, linear);
    }

    private ulong AllProcessors => ulong.MaxValue >> (64 - _processorCount);
}
