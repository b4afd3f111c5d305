using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.InteropServices;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Xen.Pv;

/// <content>HYPERVISOR_memory_op, the machine-to-physical table, and the frames that the domain does not have at the moment.</content>
public sealed partial class PvMmu
{
    /// <summary>The largest extent that a domain may ask for, as a power of two of pages: Xen's default.</summary>
    private const int LargestOrder = 9;

    private const int BitsPerWord = 64, WordShift = 6;

    // The machine-to-physical table is told in parts of so many bytes.
    private const ulong TablePart = 2 << 20;

    /// <summary>What the domain reads at IParavirtualDomain.MachineToPhysical.</summary>
    private readonly MemoryRegion _table;

    /// <summary>By machine frame, a bit each: RAM that the domain has given back.</summary>
    private readonly ulong[] _free;

    /// <summary>Where the search for a free frame begins.</summary>
    private int _freeHint;

    /// <summary>Frames that are none of the domain's are 2^64 - 1.</summary>
    private void FillTable()
    {
        const ulong atOnce = 1 << 20;
        for (ulong at = 0; at < _table.Size; at += atOnce)
            _table.Bytes(at, (int)Math.Min(atOnce, _table.Size - at)).Fill(0xFF);
        for (ulong pfn = 0; pfn < Layout.PageCount; pfn++)
            SetPhysical(Layout.ToMachine(pfn), pfn);
    }

    private void SetPhysical(ulong mfn, ulong pfn) => Volatile.Write(ref MemoryMarshal.Cast<byte, ulong>(_table.Bytes(mfn * EntrySize, EntrySize))[0], pfn);

    private ulong MemoryOp(in Hypercall call, IParavirtualProcessor processor)
    {
        const ulong commands = 63;
        const int startShift = 6;
        const int increase = 0, decrease = 1, maximumRamPage = 2, currentReservation = 3, maximumReservation = 4, tableParts = 5, populate = 6,
            addToPhysmap = 7, memoryMap = 9, exchange = 11, table = 12, maximumPage = 14, removeFromPhysmap = 15;
        var start = (call.Arg1 & uint.MaxValue) >> startShift;
        switch (call.Arg1 & commands)
        {
            case increase:
                return ChangeReservation(call.Arg2, start, processor, Increase);
            case decrease:
                return ChangeReservation(call.Arg2, start, processor, Decrease);
            case populate:
                return ChangeReservation(call.Arg2, start, processor, Populate);
            case maximumRamPage:
                return Layout.MachineFrames;
            case maximumPage:
                return Layout.PageCount - 1;
            case currentReservation:
                return FindSelf(call.Arg2, processor) is not XenError.None and var error ? Result(error) : PageCount;
            case maximumReservation:
                return FindSelf(call.Arg2, processor) is not XenError.None and var unknown ? Result(unknown) : Layout.PageCount;
            case tableParts:
                return Result(WriteTableParts(call.Arg2, processor));
            case table:
                Span<ulong> mapping = [IParavirtualDomain.MachineToPhysical, IParavirtualDomain.MachineToPhysical + _table.Size, Layout.MachineFrames - 1];
                return Result(processor.TryWrite(call.Arg2, MemoryMarshal.AsBytes(mapping)) ? XenError.None : XenError.EFAULT);
            case memoryMap:
                return Result(WriteMemoryMap(call.Arg2, processor));
            case exchange:
                return Result(Exchange(call.Arg2, processor));
            case addToPhysmap or removeFromPhysmap:
                return Result(XenError.EACCES); // for domains without frame numbers of their own
            default:
                return Result(Refuse(XenError.ENOSYS, "a memory_op that is not there", 0, call.Arg1 & commands));
        }
    }

    private XenError FindSelf(ulong address, IParavirtualProcessor processor)
    {
        Span<byte> domain = stackalloc byte[sizeof(ushort)];
        if (!processor.TryRead(address, domain))
            return XenError.EFAULT;
        var error = FindOwner(BinaryPrimitives.ReadUInt16LittleEndian(domain), out var owner);
        return error == XenError.None && owner != PageOwner.Self ? XenError.ESRCH : error;
    }

    /// <summary>XENMEM_machphys_mfn_list: the first frame of each 2 MiB of the table.</summary>
    private XenError WriteTableParts(ulong address, IParavirtualProcessor processor)
    {
        Span<byte> arguments = stackalloc byte[20];
        if (!processor.TryRead(address, arguments))
            return XenError.EFAULT;
        var list = BinaryPrimitives.ReadUInt64LittleEndian(arguments[8..]);
        var count = (uint)Math.Min(BinaryPrimitives.ReadUInt32LittleEndian(arguments), (_table.Size + TablePart - 1) / TablePart);
        Span<byte> frame = stackalloc byte[EntrySize];
        for (uint i = 0; i < count; i++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(frame, (PvLayout.MachineToPhysical + (i * TablePart)) >> PageShift);
            if (!processor.TryWrite(list + (i * EntrySize), frame))
                return XenError.EFAULT;
        }

        BinaryPrimitives.WriteUInt32LittleEndian(arguments[16..], count);
        return processor.TryWrite(address, arguments) ? XenError.None : XenError.EFAULT;
    }

    /// <summary>XENMEM_memory_map: memory from 0 on, without holes.</summary>
    private XenError WriteMemoryMap(ulong address, IParavirtualProcessor processor)
    {
        const uint ram = 1;
        Span<byte> arguments = stackalloc byte[16], entry = stackalloc byte[20];
        if (!processor.TryRead(address, arguments))
            return XenError.EFAULT;
        entry.Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], Layout.PageCount * Page);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[16..], ram);
        var count = Math.Min(BinaryPrimitives.ReadUInt32LittleEndian(arguments), 1);
        if (count == 1 && !processor.TryWrite(BinaryPrimitives.ReadUInt64LittleEndian(arguments[8..]), entry))
            return XenError.EFAULT;
        BinaryPrimitives.WriteUInt32LittleEndian(arguments, count);
        return processor.TryWrite(address, arguments) ? XenError.None : XenError.EFAULT;
    }

    /// <summary>Serves a list of extents, one after the other.</summary>
    /// <returns>How many were served, with those before <paramref name="start"/>.</returns>
    private ulong ChangeReservation(ulong address, ulong start, IParavirtualProcessor processor, Func<Reservation, ulong, IParavirtualProcessor, bool> change)
    {
        const ulong mostExtents = uint.MaxValue >> 6;
        if (!TryReadReservation(processor, address, out var reservation) || reservation.Count > mostExtents || start >= reservation.Count ||
            reservation.Order > LargestOrder || FindOwner(reservation.Domain, out var owner) != XenError.None || owner != PageOwner.Self)
        {
            return start;
        }

        var done = start;
        while (done < reservation.Count && _work <= MostWork && change(reservation, done, processor))
            done++;
        return done;
    }

    private static bool TryReadReservation(IParavirtualProcessor processor, ulong address, out Reservation reservation)
    {
        Span<byte> arguments = stackalloc byte[26];
        reservation = default;
        if (!processor.TryRead(address, arguments))
            return false;
        reservation = new Reservation(
            BinaryPrimitives.ReadUInt64LittleEndian(arguments),
            BinaryPrimitives.ReadUInt64LittleEndian(arguments[8..]),
            BinaryPrimitives.ReadUInt32LittleEndian(arguments[16..]),
            BinaryPrimitives.ReadUInt16LittleEndian(arguments[24..]));
        return true;
    }

    /// <summary>Gives frames to the domain, without numbers of its own.</summary>
    private bool Increase(Reservation reservation, ulong index, IParavirtualProcessor processor) =>
        TryAllocate((int)reservation.Order, out var mfn) && (reservation.List == 0 || TryWriteWord(processor, reservation.List + (index * EntrySize), mfn));

    /// <summary>Gives frames to the domain under the numbers it says.</summary>
    private bool Populate(Reservation reservation, ulong index, IParavirtualProcessor processor)
    {
        var at = reservation.List + (index * EntrySize);
        return TryReadWord(processor, at, out var pfn) && TryAllocate((int)reservation.Order, out var mfn) && TryName(processor, at, mfn, pfn, (int)reservation.Order);
    }

    /// <summary>Takes machine frames from the domain.</summary>
    private bool Decrease(Reservation reservation, ulong index, IParavirtualProcessor processor)
    {
        if (!TryReadWord(processor, reservation.List + (index * EntrySize), out var mfn))
            return false;
        for (ulong i = 0; i < 1UL << (int)reservation.Order; i++)
        {
            if (!TryGiveBack(mfn + i))
                return false;
        }

        return true;
    }

    /// <summary>A frame leaves the reservation; it is free when nothing refers to it any more.</summary>
    private bool TryGiveBack(ulong mfn)
    {
        const int cost = 256;
        _work += cost;
        if (!IsOwned(mfn))
        {
            Refuse(XenError.EINVAL, "a frame is given back that is not the domain's", mfn);
            return false;
        }

        ref var frame = ref _frames[mfn];
        SetPhysical(mfn, ulong.MaxValue);
        if ((frame.Flags & PvFrameFlags.Pinned) != 0)
            DropPin(mfn);
        if ((frame.Flags & PvFrameFlags.Allocated) != 0)
        {
            frame.Flags &= ~PvFrameFlags.Allocated;
            DropReference(mfn);
        }

        return true;
    }

    /// <summary>XENMEM_exchange: frames for others, for example such that follow each other.</summary>
    private XenError Exchange(ulong address, IParavirtualProcessor processor)
    {
        const int outAt = 32, doneAt = 64;
        if (!TryReadReservation(processor, address, out var from) || !TryReadReservation(processor, address + outAt, out var to) ||
            !TryReadWord(processor, address + doneAt, out var done))
        {
            return XenError.EFAULT;
        }

        if (Math.Max(from.Order, to.Order) > LargestOrder)
            return XenError.EPERM;
        if (done > from.Count || from.Domain != to.Domain || from.Count > Layout.PageCount || to.Count > Layout.PageCount ||
            from.Count << (int)from.Order != to.Count << (int)to.Order)
        {
            return XenError.EINVAL;
        }

        if (FindOwner(from.Domain, out var owner) is not XenError.None and var unknown)
            return unknown;
        if (owner != PageOwner.Self)
            return XenError.EPERM;

        // Each round serves one extent of the larger kind, and as many of the smaller.
        var fromShift = (int)(Math.Max(from.Order, to.Order) - from.Order);
        var toShift = (int)(Math.Max(from.Order, to.Order) - to.Order);
        var error = XenError.None;
        var round = done >> fromShift;
        for (; round < from.Count >> fromShift && error == XenError.None; round++)
        {
            error = _work > MostWork ? XenError.E2BIG : ExchangeRound(processor, from, round << fromShift, 1UL << fromShift, to, round << toShift, 1UL << toShift);
            if (error != XenError.None)
                break;
        }

        return TryWriteWord(processor, address + doneAt, error == XenError.None ? from.Count : round << fromShift) ? error : XenError.EFAULT;
    }

    private XenError ExchangeRound(IParavirtualProcessor processor, in Reservation from, ulong fromIndex, ulong fromCount, in Reservation to, ulong toIndex, ulong toCount)
    {
        Span<ulong> taken = stackalloc ulong[1 << LargestOrder], numbers = stackalloc ulong[1 << LargestOrder], given = stackalloc ulong[1 << LargestOrder];
        var (takenCount, givenCount) = (0, 0);
        var error = XenError.None;
        for (ulong i = 0; i < fromCount && error == XenError.None; i++)
        {
            if (!TryReadWord(processor, from.List + ((fromIndex + i) * EntrySize), out var mfn))
                error = XenError.EFAULT;
            for (ulong j = 0; j < 1UL << (int)from.Order && error == XenError.None; j++)
            {
                if (!IsOwned(mfn + j) || _frames[mfn + j] is not { References: 1, TypeCount: 0, Flags: var flags } || (flags & PvFrameFlags.Allocated) == 0)
                {
                    error = Refuse(XenError.EINVAL, "a frame is exchanged that is in use, or not the domain's", mfn + j);
                    break;
                }

                // Out of the domain's hands at once: a frame that is named twice is refused.
                numbers[takenCount] = PhysicalOf(mfn + j);
                taken[takenCount++] = mfn + j;
                TryGiveBack(mfn + j);
            }
        }

        for (; givenCount < (int)toCount && error == XenError.None; givenCount++)
        {
            if (!TryAllocate((int)to.Order, out given[givenCount]))
            {
                error = XenError.ENOMEM;
                break;
            }
        }

        if (error != XenError.None)
        {
            for (var i = 0; i < givenCount; i++)
            {
                for (ulong j = 0; j < 1UL << (int)to.Order; j++)
                    TryGiveBack(given[i] + j);
            }

            // The domain has them as before, but for what was in them.
            for (var i = 0; i < takenCount; i++)
            {
                Allocate(taken[i]);
                SetPhysical(taken[i], numbers[i]);
            }

            return error;
        }

        for (var i = 0; i < givenCount; i++)
        {
            var at = to.List + ((toIndex + (ulong)i) * EntrySize);
            if (!TryReadWord(processor, at, out var pfn) || !TryName(processor, at, given[i], pfn, (int)to.Order))
                error = XenError.EFAULT;
        }

        return error;
    }

    private ulong PhysicalOf(ulong mfn) => BinaryPrimitives.ReadUInt64LittleEndian(_table.Bytes(mfn * EntrySize, EntrySize));

    /// <summary>Gives frames the domain's numbers, and tells it which frames.</summary>
    private bool TryName(IParavirtualProcessor processor, ulong list, ulong mfn, ulong pfn, int order)
    {
        for (ulong i = 0; i < 1UL << order; i++)
            SetPhysical(mfn + i, pfn + i);
        return TryWriteWord(processor, list, mfn);
    }

    private static bool TryReadWord(IParavirtualProcessor processor, ulong address, out ulong value)
    {
        Span<byte> word = stackalloc byte[EntrySize];
        var isRead = processor.TryRead(address, word);
        value = isRead ? BinaryPrimitives.ReadUInt64LittleEndian(word) : 0;
        return isRead;
    }

    private static bool TryWriteWord(IParavirtualProcessor processor, ulong address, ulong value)
    {
        Span<byte> word = stackalloc byte[EntrySize];
        BinaryPrimitives.WriteUInt64LittleEndian(word, value);
        return processor.TryWrite(address, word);
    }

    /// <summary>The last reference to a frame is gone: the host gets it, and zeroes are there when it is given anew.</summary>
    private void Free(ulong mfn)
    {
        ref var frame = ref _frames[mfn];
        frame = new PvFrame { Stamp = Math.Max(frame.Stamp, _clock) };
        _memory.TryDiscard(mfn << PageShift, Page);
        _free[mfn >> WordShift] |= 1UL << (int)(mfn % BitsPerWord);
        PageCount--;
    }

    /// <summary>Finds free frames that follow each other, on a boundary of their size.</summary>
    private bool TryAllocate(int order, out ulong mfn)
    {
        mfn = 0;
        var words = Math.Max(1, 1 << order >> WordShift);
        var mask = order >= WordShift ? ulong.MaxValue : (1UL << (1 << order)) - 1;
        var begin = _freeHint / words * words;
        for (var i = 0; i < _free.Length + words; i += words)
        {
            _work++;
            var word = (begin + i) % ((_free.Length + words - 1) / words * words);
            if (word + words > _free.Length || _free[word] == 0 || !TryFit(word, words, 1 << Math.Min(order, WordShift), mask, out var bit))
                continue;
            _freeHint = word;
            mfn = ((ulong)word << WordShift) + (ulong)bit;
            for (ulong j = 0; j < 1UL << order; j++)
                Allocate(mfn + j);
            return true;
        }

        return false;
    }

    private bool TryFit(int word, int words, int length, ulong mask, out int bit)
    {
        for (bit = words > 1 ? 0 : BitOperations.TrailingZeroCount(_free[word]) & -length; bit < BitsPerWord; bit += length)
        {
            if ((_free[word] >> bit & mask) == mask)
                return !_free.AsSpan(word, words).ContainsAnyExcept(words > 1 ? mask : _free[word]);
        }

        return false;
    }

    private void Allocate(ulong mfn)
    {
        _free[mfn >> WordShift] &= ~(1UL << (int)(mfn % BitsPerWord));
        _frames[mfn] = new PvFrame { References = 1, Flags = PvFrameFlags.Allocated, Stamp = _frames[mfn].Stamp };
        PageCount++;
    }

    /// <param name="List">Linear address of a word for each extent.</param>
    /// <param name="Order">Pages of an extent, as a power of two.</param>
    private readonly record struct Reservation(ulong List, ulong Count, uint Order, ushort Domain);
}
