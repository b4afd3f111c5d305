using System.Buffers.Binary;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Devices.Xen.Pv;

/// <content>HYPERVISOR_mmuext_op.</content>
public sealed partial class PvMmu
{
    private const uint PinLevel1 = 0, PinLevel4 = 3, Unpin = 4, NewBase = 5, TlbFlushLocal = 6, InvalidateLocal = 7, TlbFlushMulti = 8,
        InvalidateMulti = 9, TlbFlushAll = 10, InvalidateAll = 11, FlushCache = 12, SetLdt = 13, NewUserBase = 15, ClearPage = 16,
        CopyPage = 17, FlushCacheGlobal = 18, MarkSuper = 19, UnmarkSuper = 20;

    private XenError Extended(in Hypercall call, IParavirtualProcessor processor)
    {
        const int size = 24;
        var (count, done) = ((uint)call.Arg2, 0u);
        var error = BeginBatch(call, processor, ref count, ref done);
        if (error != XenError.None)
            return error;
        error = FindOwner((uint)call.Arg4, out var owner);
        if (error != XenError.None)
            return error;
        if (owner != PageOwner.Self)
            return XenError.EINVAL;
        Span<byte> request = stackalloc byte[size];
        uint at = 0;
        for (; at < count && error == XenError.None; at++)
        {
            if (at == MostRequests || _work > MostWork)
                error = XenError.E2BIG;
            else if (!processor.TryRead(call.Arg1 + ((ulong)at * size), request))
                error = XenError.EFAULT;
            else
                error = Extended(processor, BinaryPrimitives.ReadUInt32LittleEndian(request), BinaryPrimitives.ReadUInt64LittleEndian(request[8..]), BinaryPrimitives.ReadUInt64LittleEndian(request[16..]));
            if (error != XenError.None)
                break;
        }

        EndBatch(call, processor, done + at);
        return error;
    }

    private XenError Extended(IParavirtualProcessor processor, uint command, ulong first, ulong second)
    {
        const uint mostDescriptors = 8192;
        _work++;
        switch (command)
        {
            case >= PinLevel1 and <= PinLevel4:
                return Pin(first, PvFrameType.Level1 + (byte)(command - PinLevel1));
            case Unpin:
                return UnpinTable(first);
            case NewBase:
                return SetKernelRoot(processor, first);
            case NewUserBase:
                return SetUserRoot(processor, first);
            case TlbFlushLocal:
                Flush(1UL << processor.Index);
                return XenError.None;
            case TlbFlushAll:
                Flush(AllProcessors);
                return XenError.None;
            case InvalidateLocal:
                processor.FlushTlb(first);
                return XenError.None;
            case InvalidateAll:
                if (IsAddress(first))
                    Flush(processor, AllProcessors, first);
                return XenError.None;
            case TlbFlushMulti or InvalidateMulti:
                if (!TryReadProcessors(processor, second, out var processors))
                    return XenError.EINVAL;
                if (command == TlbFlushMulti)
                    Flush(processors);
                else if (IsAddress(first))
                    Flush(processor, processors, first);
                return XenError.None;
            case FlushCache:
                return XenError.EACCES; // for domains with devices
            case FlushCacheGlobal:
                return XenError.EINVAL;
            case SetLdt:
                var entries = (uint)second;
                var linear = entries == 0 ? 0 : first;
                if (linear % Page != 0 || !IsAddress(linear) || entries > mostDescriptors)
                    return Refuse(XenError.EINVAL, "an LDT is nowhere, or too long", linear >> PageShift, entries);
                processor.SetLdt(linear, (int)entries);
                return XenError.None;
            case ClearPage:
                return Store(first, source: null);
            case CopyPage:
                return IsOwned(second) ? Store(first, second) : Refuse(XenError.EINVAL, "a page is copied that is not the domain's", second);
            case MarkSuper or UnmarkSuper:
                return XenError.EOPNOTSUPP;
            default:
                return XenError.ENOSYS;
        }
    }

    private XenError Pin(ulong mfn, PvFrameType type)
    {
        if (TakeFrame(mfn, type) is not XenError.None and var error)
            return Refuse(error, "a page is pinned that can't be such a table", mfn, (ulong)type);
        ref var frame = ref _frames[mfn];
        if ((frame.Flags & PvFrameFlags.Pinned) == 0)
        {
            frame.Flags |= PvFrameFlags.Pinned;
            return XenError.None;
        }

        DropFrame(mfn, type);
        return Refuse(XenError.EINVAL, "a table is pinned twice", mfn, (ulong)type);
    }

    private XenError UnpinTable(ulong mfn)
    {
        if (!IsOwned(mfn) || (_frames[mfn].Flags & PvFrameFlags.Pinned) == 0)
            return Refuse(XenError.EINVAL, "a page is unpinned that is not pinned", mfn);
        DropPin(mfn);
        return XenError.None;
    }

    private void DropPin(ulong mfn)
    {
        ref var frame = ref _frames[mfn];
        frame.Flags &= ~PvFrameFlags.Pinned;
        DropFrame(mfn, frame.Type);
    }

    private XenError SetKernelRoot(IParavirtualProcessor processor, ulong mfn)
    {
        ref var root = ref _kernelRoots[processor.Index];
        var old = root;
        if (old == mfn)
        {
            Flush(1UL << processor.Index);
            return XenError.None;
        }

        if (TakeFrame(mfn, PvFrameType.Level4) is not XenError.None and var error)
            return Refuse(error, "a page becomes the kernel's top table that can't be one", mfn);
        root = mfn;
        processor.KernelRoot = mfn << PageShift;
        if (old != 0)
            DropFrame(old, PvFrameType.Level4);
        return XenError.None;
    }

    /// <param name="mfn">0: none.</param>
    private XenError SetUserRoot(IParavirtualProcessor processor, ulong mfn)
    {
        ref var root = ref _userRoots[processor.Index];
        var old = root;
        if (old == mfn)
            return XenError.None;
        if (mfn != 0 && TakeFrame(mfn, PvFrameType.Level4) is not XenError.None and var error)
            return Refuse(error, "a page becomes the programs' top table that can't be one", mfn);
        root = mfn;
        processor.UserRoot = mfn << PageShift;
        if (old != 0)
            DropFrame(old, PvFrameType.Level4);
        return XenError.None;
    }

    /// <summary>Clears a page, or copies one to it, if the domain could do so itself.</summary>
    private XenError Store(ulong mfn, ulong? source)
    {
        if (TakeFrame(mfn, PvFrameType.Writable) is not XenError.None and var error)
            return Refuse(error, "a page is cleared or copied to that may not be written", mfn);
        Span<byte> page = stackalloc byte[(int)Page];
        page.Clear();
        if (source is { } from)
            _memory.TryRead(from << PageShift, page);
        _memory.TryWrite(mfn << PageShift, page);
        DropFrame(mfn, PvFrameType.Writable);
        _work += Entries;
        return XenError.None;
    }
}
