// The paravirtual side of a domain (Xen PV, 64 bits): what its kernel, which runs in ring 3, asks for in place of privileged
// instructions: traps, stacks, segments, page tables, and the start of further processors.
// Follows: Xen's public headers xen.h, arch-x86/xen.h, arch-x86/xen-x86_64.h, callback.h, vcpu.h, physdev.h, and
// arch/x86/pv of Xen's source for what happens when.
// Leaves out: domains of 32 bits; machine checks; devices of the host.

using System.Buffers.Binary;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Xen.Pv;

/// <summary>Used with the machine's gate held, but for what processors ask while they translate addresses.</summary>
public sealed partial class PvDomain : IParavirtualDomain
{
    /// <summary>XENFEAT_*: mmu_pt_update_preserve_ad, highmem_assist, gnttab_map_avail_bits; Linux insists on the first and the last.</summary>
    internal const uint Features = 1 << 5 | 1 << 6 | 1 << 7;

    /// <summary>Pages of the GDT that are the domain's; the one behind them has the hypervisor's flat segments.</summary>
    private const int GdtPages = 14, FlatPage = GdtPages;

    private const ulong PageSize = GuestMemory.PageSize;

    private readonly XenDomain _domain;
    private readonly GuestMemory _memory;
    private readonly GuestErrorLog _errors;
    private readonly IMachineControl _control;
    private readonly ILogger _logger;
    private readonly PvProcessor[] _processors;
    private readonly ulong _flatSegments, _zeroes;
    private volatile bool _showsIoPrivilege;

    /// <param name="layout">Its memory.</param>
    public PvDomain(XenDomain domain, PvLayout layout, GuestMemory memory, IMachineControl control, GuestErrorLog errors, ILogger logger)
    {
        _domain = domain;
        _memory = memory;
        _errors = errors;
        _control = control;
        _logger = logger;
        Mmu = new PvMmu(memory, layout, domain.Number, domain.Processors.Count, errors);
        domain.Grants.Frames = Mmu;
        memory.Map(PvLayout.SharedPages, memory.AddRegion("xen-shared", PvLayout.SharedPageCount * PageSize));
        (_flatSegments, _zeroes) = (XenDomain.OwnPage(0), XenDomain.OwnPage(1));
        _processors = [.. domain.Processors.Select(_ => new PvProcessor())];
    }

    public PvMmu Mmu { get; }

    /// <summary>Where a processor's interrupt pin is: an event that it does not mask is told there.</summary>
    public void Connect(int processor, IProcessorSignals signals) => _processors[processor].Signals = signals;

    /// <summary>The numbers of those that run, with a blank before each.</summary>
    public string DescribeProcessors() => string.Concat(_processors.Select((p, i) => p.IsUp ? $" {i}" : ""));

    internal void Signal(int processor) => _processors[processor].Signals?.SetInterruptRequest(true);

    /// <summary>Power-on and reset: only the first processor runs.</summary>
    public void Reset()
    {
        foreach (var processor in _processors)
            processor.Reset();
        _processors[0].IsUp = true;
        _showsIoPrivilege = false;
        const int ring1Code = 0x18, ring3Code32 = 0x20, ring3Data = 0x28, ring3Code64 = 0x30, ring1Data = 0x10;
        Span<byte> page = new byte[PageSize];
        BinaryPrimitives.WriteUInt64LittleEndian(page[ring1Data..], 0x00CF_B300_0000_FFFF);
        BinaryPrimitives.WriteUInt64LittleEndian(page[ring1Code..], 0x00CF_BB00_0000_FFFF);
        BinaryPrimitives.WriteUInt64LittleEndian(page[ring3Code32..], 0x00CF_FB00_0000_FFFF);
        BinaryPrimitives.WriteUInt64LittleEndian(page[ring3Data..], 0x00CF_F300_0000_FFFF);
        BinaryPrimitives.WriteUInt64LittleEndian(page[ring3Code64..], 0x00AF_FB00_0000_FFFF);
        _memory.TryWrite(_flatSegments, page);
    }

    /// <summary>The domain's memory is filled: its page tables count from now on.</summary>
    /// <param name="root">Machine address of the first processor's.</param>
    public void Build(ulong root)
    {
        Mmu.Reset(root);
        Mmu.Share(PvLayout.SharedPages);

        // The other ends of these rings have them mapped.
        Mmu.TryAcquire(_domain.StorePage / PageSize, writable: true);
        Mmu.TryAcquire(_domain.ConsolePage / PageSize, writable: true);
    }

    /// <summary>Takes the frame in use of a structure that is written to from now on, in place of the one before.</summary>
    /// <param name="address">Machine address; 0: it is written to no more.</param>
    /// <returns>False: the domain can't write there itself.</returns>
    internal bool TryHold(int processor, PvStructure structure, ulong address)
    {
        ref var held = ref _processors[processor].Held[(int)structure];
        var frame = address / PageSize;
        if (address != 0 && !Mmu.TryAcquire(frame, writable: true))
            return false;
        if (held != 0)
            Mmu.Release(held, writable: true);
        held = frame;
        return true;
    }

    internal bool IsHeld(int processor, PvStructure structure) => _processors[processor].Held[(int)structure] != 0;

    public long TableGeneration => Mmu.TableGeneration;

    public long RootGeneration(ulong root) => Mmu.RootGeneration(root);

    public long CodeGeneration => Mmu.CodeGeneration;

    public ulong VcpuInfo(int processor) => _domain.Events.VcpuInfo(processor);

    public bool TryTranslateHole(int processor, ulong linear, out ulong physical)
    {
        var offset = linear - IParavirtualDomain.DescriptorTables;
        if (offset >= (ulong)_processors.Length * IParavirtualDomain.DescriptorTableLength)
            return Mmu.TryTranslateHole(linear, out physical);
        var page = (int)(offset % IParavirtualDomain.DescriptorTableLength / PageSize);
        var owner = _processors[offset / IParavirtualDomain.DescriptorTableLength];
        var frame = page < GdtPages ? Volatile.Read(ref owner.Gdt[page]) * PageSize : page == FlatPage ? _flatSegments : 0;
        physical = (frame == 0 ? _zeroes : frame) | (linear & (PageSize - 1));
        return true;
    }

    public bool ShowsIoPrivilege => _showsIoPrivilege;

    public bool TrySetRoot(IParavirtualProcessor processor, ulong root) => Mmu.SetRoots(processor, root, processor.UserRoot) == XenError.None;

    public bool BeginTableWrite(ulong physical) => Mmu.BeginTableWrite(physical);

    public bool EndTableWrite(IParavirtualProcessor processor) => Mmu.EndTableWrite(processor);

    public void Crash(int processor, string reason, string state)
    {
        _logger.LogError("the domain is killed: processor {Processor}: {Reason}\nlast hypercall: {Call}\n{State}", processor, reason, _domain.DescribeLastCall(processor), state);
        _control.ReportPanic("Xen", isHandled: false);
    }

    public bool StartProcessor(IParavirtualProcessor processor)
    {
        var state = _processors[processor.Index];
        if (!state.IsUp || state.Context is not { } context)
            return false;
        Mmu.UseRoots(processor);
        foreach (var (vector, gate) in context.Traps)
            processor.SetTrap(vector, gate);
        for (var i = 0; i < context.DebugRegisters.Count; i++)
            processor.SetDebugRegister(i, context.DebugRegisters[i]);
        _showsIoPrivilege |= (context.Assists & 1 << ArchitecturalIopl) != 0;
        processor.SetGdt(context.GdtEntries);
        processor.SetLdt(context.LdtAddress, context.LdtEntries);
        processor.SetKernelStack(context.KernelStackSelector, context.KernelStack);
        processor.SetEntry(ParavirtualEntry.Event, context.EventEntry, masksEvents: true);
        processor.SetEntry(ParavirtualEntry.Failsafe, context.FailsafeEntry, context.FailsafeMasksEvents);
        processor.SetEntry(ParavirtualEntry.SystemCall, context.SystemCallEntry, context.SystemCallMasksEvents);
        if (!processor.SetRegisters(context.Registers))
        {
            Crash(processor.Index, "it is started with registers that no processor takes", "");
            return false;
        }

        processor.SetSegmentBase(ParavirtualSegmentBase.Fs, context.FsBase);
        processor.SetSegmentBase(ParavirtualSegmentBase.KernelGs, context.KernelGsBase);
        processor.SetSegmentBase(ParavirtualSegmentBase.UserGs, context.UserGsBase);
        return true;
    }

    /// <summary>What is kept for one processor beside what it keeps itself.</summary>
    private sealed class PvProcessor
    {
        /// <summary>Machine frames; 0: none.</summary>
        public readonly ulong[] Gdt = new ulong[GdtPages];

        /// <summary>Machine frames by <see cref="PvStructure"/>; 0: none.</summary>
        public readonly ulong[] Held = new ulong[3];

        public IProcessorSignals? Signals { get; set; }

        public bool IsUp { get; set; }

        /// <summary>What VCPUOP_initialise said.</summary>
        public PvContext? Context { get; set; }

        public void Reset()
        {
            Array.Clear(Gdt);
            Array.Clear(Held);
            IsUp = false;
            Context = null;
        }
    }
}

/// <summary>What the hypervisor writes to at any time, wherever the domain wants it.</summary>
internal enum PvStructure
{
    VcpuInfo,
    Runstate,
    Time,
}
