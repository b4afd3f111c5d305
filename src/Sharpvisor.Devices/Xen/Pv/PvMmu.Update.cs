using System.Runtime.InteropServices;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Devices.Xen.Pv;

/// <content>Changes of single entries: mmu_update, update_va_mapping, and stores to tables.</content>
public sealed partial class PvMmu
{
    // What an entry may have changed without its references: NX, bits for the domain's use, global, dirty, accessed, user.
    private const ulong FreeBits = 0xFFF0_0000_0000_0F64;

    /// <summary>MMU_UPDATE_PREEMPTED.</summary>
    private const uint GoesOn = 1u << 31;

    // A call ends at the latest after so much, in fractions of a second: the machine's gate is held.
    private const uint MostRequests = 1 << 20;
    private const long MostWork = 1 << 27;

    private readonly ulong[] _before = new ulong[Entries], _after = new ulong[Entries];
    private ulong _written;

    /// <summary>The kernel stores to a page it may only read: true if it is a table of the last level.</summary>
    /// <param name="physical">The first byte of the operand.</param>
    public bool BeginTableWrite(ulong physical)
    {
        var mfn = physical >> PageShift;
        if (!IsTable(mfn, PvFrameType.Level1))
            return false;
        _written = mfn;
        return _memory.TryRead(mfn << PageShift, MemoryMarshal.AsBytes(_before.AsSpan()));
    }

    /// <summary>The store is done: checks what has changed. False: it is undone.</summary>
    public bool EndTableWrite(IParavirtualProcessor processor)
    {
        _caller = processor;
        _work = 0;
        var table = _written << PageShift;
        if (!_memory.TryRead(table, MemoryMarshal.AsBytes(_after.AsSpan())))
            return false;
        for (var i = NextChange(0); i < Entries; i = NextChange(i + 1))
        {
            if (!IsNewMapping(_before[i], _after[i]) || TakePage(_after[i], PageOwner.Self) == XenError.None)
                continue;
            for (var j = NextChange(0); j < Entries; j = NextChange(j + 1))
            {
                if (j < i && IsNewMapping(_before[j], _after[j]))
                    DropEntry(_after[j], _written, PvFrameType.Level1);
                NoteChange(WriteEntry(table + (ulong)(j * EntrySize), _before[j], keeps: 0), PvFrameType.Level1);
            }

            Flush(AllProcessors); // others may have seen it
            return false;
        }

        for (var i = NextChange(0); i < Entries; i = NextChange(i + 1))
        {
            NoteChange(_before[i], PvFrameType.Level1);
            if (((_before[i] ^ _after[i]) & ~FreeBits) != 0)
                DropEntry(_before[i], _written, PvFrameType.Level1);
        }

        return true;

        int NextChange(int from) => from + _before.AsSpan(from).CommonPrefixLength(_after.AsSpan(from));
        static bool IsNewMapping(ulong old, ulong value) => (value & Present) != 0 && ((old ^ value) & ~FreeBits) != 0;
    }

    /// <summary>HYPERVISOR_mmu_update: requests of 16 bytes, of which each says its kind in the low bits of an address.</summary>
    private XenError Update(in Hypercall call, IParavirtualProcessor processor)
    {
        const int size = 16, atOnce = 64;
        var (list, count, done) = (call.Arg1, (uint)call.Arg2, 0u);
        var error = BeginBatch(call, processor, ref count, ref done);
        if (error != XenError.None)
            return error;
        if ((uint)call.Arg4 >> 16 is not 0 and var tables && tables - 1 != (uint)_number)
            return XenError.ESRCH;
        error = FindOwner((ushort)call.Arg4, out var owner);
        if (error != XenError.None)
            return error;

        Span<ulong> requests = stackalloc ulong[atOnce * 2];
        uint at = 0, read = 0;
        for (; at < count; at++)
        {
            if (at == MostRequests || _work > MostWork)
            {
                error = XenError.E2BIG;
                break;
            }

            var inList = (int)(at % atOnce);
            if (at == read)
            {
                // Several at a time; where that goes beyond what is mapped, as many as there are.
                var part = Math.Min(count - at, (uint)(atOnce - inList));
                if (!processor.TryRead(list + ((ulong)at * size), MemoryMarshal.AsBytes(requests.Slice(inList * 2, (int)part * 2))))
                {
                    part = 1;
                    if (!processor.TryRead(list + ((ulong)at * size), MemoryMarshal.AsBytes(requests.Slice(inList * 2, 2))))
                    {
                        error = XenError.EFAULT;
                        break;
                    }
                }

                read = at + part;
            }

            error = Update(requests[inList * 2], requests[(inList * 2) + 1], owner);
            if (error != XenError.None)
                break;
        }

        EndBatch(call, processor, done + at);
        return error;
    }

    private XenError Update(ulong address, ulong value, PageOwner owner)
    {
        const ulong normal = 0, machineToPhysical = 1, preserve = 2, normalUntranslated = 3, kinds = 7;
        var kind = address & kinds;
        address -= kind;
        var mfn = address >> PageShift;
        if (kind == machineToPhysical)
        {
            if (!IsOwned(mfn) || owner != PageOwner.Self)
                return Refuse(XenError.EINVAL, "a machine-to-physical entry of a frame that is not the domain's is changed", mfn, value);
            SetPhysical(mfn, value);
            return XenError.None;
        }

        if (kind is not (normal or preserve or normalUntranslated))
            return XenError.ENOSYS;
        if (!IsOwned(mfn))
            return Refuse(XenError.EINVAL, "an entry in a frame that is not the domain's is changed", mfn, value);
        ref var frame = ref _frames[mfn];
        var keeps = kind == preserve ? Accessed | Dirty : 0;
        if (frame.TypeCount == 0 || frame.Type == PvFrameType.Writable)
        {
            // Not a table: an ordinary store, if the domain could do it itself.
            if (TakeType(mfn, PvFrameType.Writable) is not XenError.None and var error)
                return error;
            WriteEntry(address, value, keeps: 0);
            DropType(mfn, PvFrameType.Writable);
            return XenError.None;
        }

        if (frame.Type == PvFrameType.Level1)
            return UpdatePage(address, value, owner, keeps);
        return frame.Type == PvFrameType.Segments || owner != PageOwner.Self
            ? Refuse(XenError.EINVAL, "an entry is changed that is none", mfn, value)
            : UpdateTable(address, value, frame.Type, keeps);
    }

    /// <summary>Changes an entry of the last level.</summary>
    private XenError UpdatePage(ulong address, ulong value, PageOwner owner, ulong keeps)
    {
        if (!_memory.TryRead(address, out ulong old))
            return XenError.EINVAL;
        if ((value & Present) != 0)
        {
            if ((value & DisallowedInLevel1) != 0)
                return Refuse(XenError.EINVAL, "an entry of a page has bits that it may not have", address >> PageShift, value);
            if (((old ^ value) & ~FreeBits) == 0)
            {
                NoteChange(WriteEntry(address, value, keeps), PvFrameType.Level1);
                return XenError.None;
            }

            if (TakePage(value, owner) is not XenError.None and var error)
                return error;
        }

        old = WriteEntry(address, value, keeps);
        NoteChange(old, PvFrameType.Level1);
        DropEntry(old, address >> PageShift, PvFrameType.Level1);
        return XenError.None;
    }

    private XenError UpdateTable(ulong address, ulong value, PvFrameType type, ulong keeps)
    {
        var mfn = address >> PageShift;
        if (type == PvFrameType.Level4 && IsXenSlot((int)(address % Page) / EntrySize))
            return Refuse(XenError.EINVAL, "an entry of the top table that is Xen's is changed", mfn, value);
        if (!_memory.TryRead(address, out ulong old))
            return XenError.EINVAL;
        if ((value & Present) != 0)
        {
            if ((value & DisallowedInTable) != 0)
                return Refuse(XenError.EINVAL, "an entry of a table has bits that it may not have", mfn, value);
            if (((old ^ value) & ~FreeBits) == 0)
            {
                NoteChange(WriteEntry(address, value, keeps), type);
                return XenError.None;
            }

            if (TakeTable(value, mfn, type) is not XenError.None and var error)
                return error;
        }

        old = WriteEntry(address, value, keeps);
        NoteChange(old, type);
        DropEntry(old, mfn, type);
        return XenError.None;
    }

    /// <summary>Writes an entry; walkers may set its accessed and dirty bits at the same time.</summary>
    /// <param name="keeps">Bits that stay set.</param>
    /// <returns>What was there.</returns>
    private ulong WriteEntry(ulong address, ulong value, ulong keeps)
    {
        _memory.TryRead(address, out ulong old);
        while (_memory.TryCompareExchange(address, value | (old & keeps), old, out var seen) && seen != old)
            old = seen;
        return old;
    }

    /// <summary>HYPERVISOR_update_va_mapping: the entry that maps an address in the kernel's tables.</summary>
    private XenError UpdateMapping(in Hypercall call, IParavirtualProcessor processor, PageOwner owner)
    {
        const ulong typeMask = 3, flushAll = 1, flushPage = 2, everywhere = 4;
        var (linear, flags) = (call.Arg1, call.Arg3);
        if (!TryFindEntry(linear, processor, out var address) || !IsTable(address >> PageShift, PvFrameType.Level1))
            return Refuse(XenError.EINVAL, "an address without a page table is mapped", linear >> PageShift, call.Arg2);
        if (UpdatePage(address, call.Arg2, owner, keeps: 0) is not XenError.None and var error)
            return error;
        if ((flags & typeMask) is not (flushAll or flushPage))
            return XenError.None;
        ulong processors;
        switch (flags & ~typeMask)
        {
            case 0:
                processors = 1UL << processor.Index;
                break;
            case everywhere:
                processors = AllProcessors;
                break;
            case var list:
                if (!TryReadProcessors(processor, list, out processors))
                    return XenError.EFAULT;
                break;
        }

        if ((flags & typeMask) == flushAll)
            Flush(processors);
        else
            Flush(processor, processors, linear);
        return XenError.None;
    }

    /// <summary>Machine address of the entry of the last level.</summary>
    private bool TryFindEntry(ulong linear, IParavirtualProcessor processor, out ulong address)
    {
        const int topShift = 39, levelShift = 9;
        address = 0;
        if (!IsAddress(linear))
            return false;
        var table = processor.KernelRoot & FrameMask;
        for (var shift = topShift; shift >= PageShift; shift -= levelShift)
        {
            address = table + ((linear >> shift & (Entries - 1)) * EntrySize);
            if (shift == PageShift)
                return true;
            if (!_memory.TryRead(address, out ulong entry) || (entry & Present) == 0)
                return false;
            table = entry & FrameMask;
        }

        return false;
    }

    /// <summary>Canonical, and none of Xen's addresses.</summary>
    private static bool IsAddress(ulong linear) =>
        linear < 1UL << 47 || linear >= IParavirtualDomain.HoleStart + IParavirtualDomain.HoleLength;

    private bool IsTable(ulong mfn, PvFrameType type) =>
        IsOwned(mfn) && _frames[mfn].TypeCount != 0 && _frames[mfn].Type == type && (_frames[mfn].Flags & PvFrameFlags.Validated) != 0;

    /// <summary>What batches of mmu_update and mmuext_op have in common.</summary>
    /// <param name="done">What an earlier part of the same batch has done.</param>
    private static XenError BeginBatch(in Hypercall call, IParavirtualProcessor processor, ref uint count, ref uint done)
    {
        Span<byte> earlier = stackalloc byte[sizeof(uint)];
        if ((count & GoesOn) != 0)
        {
            count &= ~GoesOn;
            if (call.Arg3 != 0 && processor.TryRead(call.Arg3, earlier))
                done = MemoryMarshal.Read<uint>(earlier);
        }

        return IsAddress(call.Arg1) ? XenError.None : XenError.EFAULT;
    }

    private static void EndBatch(in Hypercall call, IParavirtualProcessor processor, uint done)
    {
        if (call.Arg3 != 0)
            processor.TryWrite(call.Arg3, MemoryMarshal.AsBytes(new ReadOnlySpan<uint>(in done)));
    }

    /// <summary>Reads a set of processors, a bit each.</summary>
    private bool TryReadProcessors(IParavirtualProcessor processor, ulong list, out ulong processors)
    {
        Span<ulong> word = stackalloc ulong[1];
        processors = 0;
        if (!processor.TryRead(list, MemoryMarshal.AsBytes(word)))
            return false;
        processors = word[0] & AllProcessors;
        return true;
    }
}
