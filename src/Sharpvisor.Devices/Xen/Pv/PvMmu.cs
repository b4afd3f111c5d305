// The memory management that Xen does for a paravirtual 64-bit domain: the domain writes page tables with machine frames
// itself, but only entries that Xen has checked, and page tables are mapped read-only. A frame has a type with a count
// (page table of a level, descriptors, writable), so that it is never two of these at a time.
// Follows: Xen's public header xen.h (mmu_update, mmuext_op, update_va_mapping) and memory.h; what is refused, and by which
// error, is that of arch/x86/mm.c, arch/x86/pv/ro-page-fault.c and common/memory.c. Processors walk the tables as they are.
// Leaves out: superpages; cache attributes (refused, as for domains without devices); other domains' frames; the user and
// global bits that Xen adds to entries of the domain, because these processors tell kernel and user by the mode they are in.

using System.Runtime.CompilerServices;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Xen.Pv;

/// <summary>Of one domain. Used with the machine's gate held, but for <see cref="TryTranslateHole"/>.</summary>
/// <remarks>
/// Nothing here depends on entries staying what they were when they were checked: processors have old translations until a
/// call ends, and back ends write to frames. A domain that uses this has wrong counts, which are its own.
/// </remarks>
public sealed partial class PvMmu : IDomainFrames
{
    private const int PageShift = 12, Entries = 512, EntrySize = 8;
    private const ulong Page = GuestMemory.PageSize;
    private const string Device = "xen-pv";

    private readonly GuestMemory _memory;
    private readonly GuestErrorLog _errors;
    private readonly int _number;
    private readonly int _processorCount;

    /// <summary>By machine frame.</summary>
    private readonly PvFrame[] _frames;

    /// <summary>By processor: frames of the tables that are referenced for it; 0: none.</summary>
    private readonly ulong[] _kernelRoots, _userRoots;

    /// <summary>Who calls; null: nobody that runs.</summary>
    private IParavirtualProcessor? _caller;

    /// <param name="number">The domain's.</param>
    /// <param name="processorCount">At most 64.</param>
    public PvMmu(GuestMemory memory, PvLayout layout, int number, int processorCount, GuestErrorLog errors)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(processorCount, 64);
        _memory = memory;
        Layout = layout;
        _number = number;
        _processorCount = processorCount;
        _errors = errors;
        _frames = new PvFrame[layout.MachineFrames];
        _kernelRoots = new ulong[processorCount];
        _userRoots = new ulong[processorCount];
        _flushed = new uint[processorCount];
        _free = new ulong[(layout.MachineFrames + 63) / 64];
        _table = memory.AddRegion("xen-m2p", layout.MachineFrames * EntrySize);
        memory.Map(PvLayout.MachineToPhysical, _table, isRom: true);
    }

    public PvLayout Layout { get; }

    /// <summary>Frames that the domain has now.</summary>
    public ulong PageCount { get; private set; }

    /// <summary>See <see cref="IParavirtualDomain.TableGeneration"/>.</summary>
    public long TableGeneration => Interlocked.Read(ref _tableGeneration);

    /// <summary>See <see cref="IParavirtualDomain.CodeGeneration"/>.</summary>
    public long CodeGeneration => Interlocked.Read(ref _codeGeneration);

    /// <summary>See <see cref="IParavirtualDomain.RootGeneration"/>.</summary>
    public long RootGeneration(ulong root) => Interlocked.Read(ref _rootGenerations[(root >> PageShift) % RootCounters]);

    /// <summary>A new domain with all of its frames and the tables that its builder has made, which are pinned.</summary>
    /// <param name="root">Machine address of the top table.</param>
    /// <exception cref="InvalidOperationException">These tables are wrong.</exception>
    public void Reset(ulong root)
    {
        _caller = null;
        Array.Clear(_frames);
        Array.Clear(_kernelRoots);
        Array.Clear(_userRoots);
        Array.Clear(_shared);
        Array.Clear(_free);
        _clock = 1;
        Array.Fill(_flushed, _clock);
        Interlocked.Increment(ref _tableGeneration);
        Interlocked.Increment(ref _codeGeneration);
        foreach (ref var generation in _rootGenerations.AsSpan())
            Interlocked.Increment(ref generation);
        PageCount = Layout.PageCount;
        FillTable();
        for (ulong pfn = 0; pfn < PageCount; pfn++)
            _frames[Layout.ToMachine(pfn)] = new PvFrame { References = 1, Flags = PvFrameFlags.Allocated };
        _work = 0;
        if (Pin(root >> PageShift, PvFrameType.Level4) is not XenError.None and var error)
            throw new InvalidOperationException($"the first page tables of the domain are refused: {error}");
    }

    /// <summary>Lets the domain map a page of Xen's own: shared_info, a frame of the grant table.</summary>
    /// <param name="page">Machine address, one of <see cref="PvLayout.SharedPages"/>.</param>
    public void Share(ulong page)
    {
        var index = (page - PvLayout.SharedPages) >> PageShift;
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, (ulong)PvLayout.SharedPageCount, nameof(page));
        _shared[index / 64] |= 1UL << (int)(index % 64);
    }

    /// <summary>Gives a processor other page tables.</summary>
    /// <param name="kernel">Machine address.</param>
    /// <param name="user">Machine address; 0: none.</param>
    public XenError SetRoots(IParavirtualProcessor processor, ulong kernel, ulong user)
    {
        var (oldKernel, oldUser) = RootsOf(processor.Index);
        var error = TakeRoots(processor, processor.Index, kernel >> PageShift, user >> PageShift);
        if (error != XenError.None)
            return error;
        UseRoots(processor);
        DropRoots(oldKernel, oldUser);
        return XenError.None;
    }

    /// <summary>Takes page tables for a processor that does not run: it begins with them (<see cref="UseRoots"/>).</summary>
    /// <param name="kernel">Machine address.</param>
    /// <param name="user">Machine address; 0: none.</param>
    public XenError ReserveRoots(IParavirtualProcessor caller, int index, ulong kernel, ulong user)
    {
        var (oldKernel, oldUser) = RootsOf(index);
        var error = TakeRoots(caller, index, kernel >> PageShift, user >> PageShift);
        if (error == XenError.None)
            DropRoots(oldKernel, oldUser);
        return error;
    }

    /// <summary>Has a processor use the page tables that are taken for it.</summary>
    public void UseRoots(IParavirtualProcessor processor)
    {
        _caller = processor;
        var (kernel, user) = RootsOf(processor.Index);
        (processor.KernelRoot, processor.UserRoot) = (kernel << PageShift, user << PageShift);
        Flush(1UL << processor.Index);
    }

    /// <summary>Frames of the top tables of a processor, for the kernel and for its programs; 0: none.</summary>
    public (ulong Kernel, ulong User) RootsOf(int processor) => (_kernelRoots[processor], _userRoots[processor]);

    private XenError TakeRoots(IParavirtualProcessor caller, int index, ulong kernel, ulong user)
    {
        _caller = caller;
        _work = 0;
        if (TakeFrame(kernel, PvFrameType.Level4) is not XenError.None and var error)
            return Refuse(error, "a processor starts with a table that can't be its top", kernel);
        if (user != 0 && TakeFrame(user, PvFrameType.Level4) is not XenError.None and var userError)
        {
            DropFrame(kernel, PvFrameType.Level4);
            return Refuse(userError, "a processor starts with a table that can't be its top", user);
        }

        (_kernelRoots[index], _userRoots[index]) = (kernel, user);
        return XenError.None;
    }

    private void DropRoots(ulong kernel, ulong user)
    {
        if (kernel != 0)
            DropFrame(kernel, PvFrameType.Level4);
        if (user != 0)
            DropFrame(user, PvFrameType.Level4);
    }

    /// <summary>Takes a frame of the domain in use for Xen or a back end: it stays, and is no page table while it is written.</summary>
    public bool TryAcquire(ulong mfn, bool writable)
    {
        if (!IsOwned(mfn) || _frames[mfn].References == uint.MaxValue)
            return false;
        _work = 0;
        _caller = null;
        if (writable && TakeType(mfn, PvFrameType.Writable) != XenError.None)
            return false;
        _frames[mfn].References++;
        return true;
    }

    /// <summary>The end of <see cref="TryAcquire"/>.</summary>
    public void Release(ulong mfn, bool writable)
    {
        if (writable)
            DropType(mfn, PvFrameType.Writable);
        DropReference(mfn);
    }

    /// <summary>Takes a frame in use for descriptors; it can't be written by the domain meanwhile. Their contents are not checked.</summary>
    public bool TryTakeSegmentPage(IParavirtualProcessor processor, ulong mfn)
    {
        _caller = processor;
        _work = 0;
        return TakeFrame(mfn, PvFrameType.Segments) == XenError.None;
    }

    public void ReleaseSegmentPage(ulong mfn) => DropFrame(mfn, PvFrameType.Segments);

    /// <summary>Whether Xen may write a descriptor for the domain: the frame is in use for descriptors, or may be written.</summary>
    public bool MayWriteDescriptor(ulong mfn) => IsOwned(mfn) && (_frames[mfn].TypeCount == 0 || _frames[mfn].Type is PvFrameType.Segments or PvFrameType.Writable);

    /// <summary>What Xen knows of a machine frame, for dumps.</summary>
    public PvFrameInfo Describe(ulong mfn) => mfn < (ulong)_frames.Length
        ? new PvFrameInfo(_frames[mfn].Type, _frames[mfn].TypeCount, _frames[mfn].References, (_frames[mfn].Flags & PvFrameFlags.Pinned) != 0, (_frames[mfn].Flags & PvFrameFlags.Allocated) != 0, _frames[mfn].Linear)
        : default;

    /// <summary>Serves a hypercall if it is one of memory management.</summary>
    /// <returns>False: it is not.</returns>
    public bool TryCall(in Hypercall call, IParavirtualProcessor processor, out ulong result)
    {
        const int mmuUpdate = 1, memoryOp = 12, updateVaMapping = 14, updateVaMappingOtherDomain = 22, mmuExtendedOp = 26;
        _caller = processor;
        _work = 0;
        switch (call.Number)
        {
            case mmuUpdate:
                result = Result(Update(call, processor));
                return true;
            case memoryOp:
                result = MemoryOp(call, processor);
                return true;
            case updateVaMapping:
                result = Result(UpdateMapping(call, processor, PageOwner.Self));
                return true;
            case updateVaMappingOtherDomain:
                var error = FindOwner((uint)call.Arg4, out var owner);
                result = Result(error == XenError.None ? UpdateMapping(call, processor, owner) : error);
                return true;
            case mmuExtendedOp:
                result = Result(Extended(call, processor));
                return true;
            default:
                result = 0;
                return false;
        }
    }

    /// <summary>The part of the hypervisor's addresses where the domain reads the machine-to-physical table.</summary>
    public bool TryTranslateHole(ulong linear, out ulong physical)
    {
        var offset = linear - IParavirtualDomain.MachineToPhysical;
        physical = PvLayout.MachineToPhysical + offset;
        return offset < _table.Size;
    }

    private static ulong Result(XenError error) => (ulong)(long)error;

    private static ulong FrameOf(ulong entry) => (entry & FrameMask) >> PageShift;

    /// <summary>Whether a frame is the domain's; frames that it has given back stay its own while they are mapped.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool IsOwned(ulong mfn) => mfn < (ulong)_frames.Length && _frames[mfn].References != 0;

    private bool IsShared(ulong mfn)
    {
        var index = mfn - (PvLayout.SharedPages >> PageShift);
        return index < PvLayout.SharedPageCount && (_shared[index / 64] >> (int)(index % 64) & 1) != 0;
    }

    private XenError Refuse(XenError error, string kind, ulong mfn, ulong value = 0)
    {
        _errors.Report(Device, kind, $"frame 0x{mfn:x} value 0x{value:x}");
        return error;
    }

    /// <summary>Whose frames a call names (foreigndom).</summary>
    private XenError FindOwner(uint domain, out PageOwner owner)
    {
        const uint self = 0x7FF0, io = 0x7FF1, xen = 0x7FF2;
        owner = domain == io ? PageOwner.Io : PageOwner.Self;
        if (domain == self || domain == _number || domain == io)
            return XenError.None;
        return domain is xen or 0 ? XenError.EPERM : XenError.ESRCH;
    }

    private enum PageOwner
    {
        Self,

        /// <summary>DOMID_IO: memory that is a device's, of which this domain has none.</summary>
        Io,
    }
}
