// A processor of a paravirtual domain (Xen PV, 64 bits): the kernel is in ring 3, like its programs, and the hypervisor keeps
// for it what hardware would in ring 0. Kernel and programs have a root of page tables each, and a flag says whose turn it is.
// Follows: Xen's public headers arch-x86/xen.h and xen-x86_64.h; arch/x86/pv of Xen's source for what happens when.
// Leaves out: kernels of 32 bits (their programs may be); superpages; the event frames of machine checks.
using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <content>What the hypervisor sets and asks.</content>
public unsafe partial class InterpreterVcpu : IParavirtualProcessor
{
    /// <summary>Selectors of the hypervisor's own flat segments (FLAT_RING3_*).</summary>
    private const ushort FlatCode64 = 0xE033, FlatCode32 = 0xE023, FlatData = 0xE02B;

    /// <summary>Attributes of flat segments of ring 3.</summary>
    private const ushort UserCodeAttributes = 0xA0FB, UserDataAttributes = 0xC0F3;

    private const ulong NoPage = ulong.MaxValue;

    /// <summary>The kind of the TLB for accesses of the processor itself, which reach descriptor tables in the hypervisor's hole.</summary>
    private const int ProcessorKind = 1;

    private readonly IParavirtualDomain? _domain;
    private readonly TrapGate[] _traps;
    private readonly (ulong Address, bool MasksEvents)[] _entries;
    private bool _isParavirtualKernel;
    private ulong _userRoot;
    private ulong _kernelSp;

    /// <summary>It has run since the last reset: what starts it again finds it where it went down.</summary>
    private bool _isStarted;
    private ulong _ioBitmap;
    private int _ioBitmapPorts;

    /// <summary>The page that the instruction at work may write to although it is mapped for reading only; <see cref="NoPage"/>: none.</summary>
    private ulong _tablePage = NoPage;
    private ulong _flushWaits;

    private protected bool IsParavirtual => _domain is not null;

    int IParavirtualProcessor.IoPrivilege { get; set; }

    ulong IParavirtualProcessor.KernelRoot
    {
        get => _c->Arch.Cr3;
        set => SwitchKernelRoot(value);
    }

    ulong IParavirtualProcessor.UserRoot
    {
        get => _userRoot;
        set => SwitchUserRoot(value);
    }

    void IParavirtualProcessor.SetIoBitmap(ulong linear, int ports) => (_ioBitmap, _ioBitmapPorts) = (linear, ports);

    void IParavirtualProcessor.SetTaskSwitched(bool value)
    {
        _c->Arch.Cr0 = value ? _c->Arch.Cr0 | ControlRegisters.TS : _c->Arch.Cr0 & ~ControlRegisters.TS;
        UpdateMode();
    }

    void IParavirtualProcessor.SetTrap(int vector, in TrapGate gate) => _traps[vector] = gate;

    void IParavirtualProcessor.SetEntry(ParavirtualEntry entry, ulong address, bool masksEvents)
    {
        if (entry == ParavirtualEntry.Nmi)
            _traps[Vectors.NMI] = new TrapGate(address, 0, masksEvents); // another way to say it
        else
            _entries[(int)entry] = (address, masksEvents);
    }

    // The selector counts for kernels of 32 bits only: SS in the kernel is the hypervisor's flat segment.
    void IParavirtualProcessor.SetKernelStack(ushort selector, ulong pointer) => _kernelSp = pointer;

    void IParavirtualProcessor.SetGdt(int entries)
    {
        for (var page = 0UL; page < IParavirtualDomain.DescriptorTableLength; page += 4096)
            FlushTlbPage(_c->Arch.Gdtr.Base + page);
    }

    void IParavirtualProcessor.SetLdt(ulong linear, int entries) => _c->Arch.Ldtr = entries == 0
        ? default
        : new SegmentRegister { Selector = 8, Base = linear, Limit = (uint)((entries * 8) - 1), Attributes = 0x82 };

    bool IParavirtualProcessor.SetSegmentBase(ParavirtualSegmentBase kind, ulong value)
    {
        if (kind == ParavirtualSegmentBase.UserGsSelector)
        {
            SetUserGs((ushort)value);
            return true;
        }

        if (!IsCanonical(value))
            return false;
        if (kind == ParavirtualSegmentBase.Fs)
            _c->Arch.Segments[FS].Base = value;
        else if (kind == ParavirtualSegmentBase.KernelGs == _isParavirtualKernel)
            _c->Arch.Segments[GS].Base = value;
        else
            _c->Arch.KernelGsBase = value;
        return true;
    }

    int? IParavirtualProcessor.FindDebugRegister(ulong number) => number switch
    {
        4 or 5 => (_c->Arch.Cr4 & ControlRegisters.DE) == 0 ? (int)number + 2 : null,
        <= 7 => (int)number,
        _ => null,
    };

    ulong IParavirtualProcessor.GetDebugRegister(int index) => _c->Arch.Dr[index];

    bool IParavirtualProcessor.SetDebugRegister(int index, ulong value)
    {
        const ulong fixedDr6 = 0xFFFF_0FF0, fixedDr7 = 0x400, generalDetect = 0x2000, limitedDr6 = 0xE00F, limitedDr7 = 0xFFFF_0BFF;
        switch (index)
        {
            case >= 0 and <= 3:
                // Not in the hypervisor's part, as if it had one there.
                if (!IsCanonical(value) || value - IParavirtualDomain.HoleStart < IParavirtualDomain.HoleLength)
                    return false;
                break;
            case 6:
                value = (value & limitedDr6) | fixedDr6;
                break;
            case 7:
                if ((value >> 32) != 0 || (value & generalDetect) != 0)
                    return false;
                value = (value & limitedDr7) | fixedDr7;
                break;
            default:
                return false;
        }

        _c->Arch.Dr[index] = value;
        FlushTlb(global: true); // watched pages leave the fast path
        UpdateSlow();
        return true;
    }

    bool IParavirtualProcessor.SetRegisters(ParavirtualRegisters registers)
    {
        var c = _c;
        if (!IsCanonical(registers.Rip))
            return false;
        for (var i = 0; i < 16; i++)
            c->Arch.Gpr[i] = registers.General[i];
        c->Arch.Rip = registers.Rip;
        SetGuestFlags(registers.Rflags);
        ((IParavirtualProcessor)this).IoPrivilege = (int)(registers.Rflags >> 12) & 3;
        _isParavirtualKernel = registers.IsKernel;
        try
        {
            c->CurrentOp = _decoder.FetchOp;
            if (!TryReturnTo((ushort)(registers.Cs | 3), registers.Rip, (ushort)(registers.Ss | 3)))
                return false;
            LoadSegment(DS, registers.Ds);
            LoadSegment(ES, registers.Es);
            LoadSegment(FS, registers.Fs);
            LoadSegment(GS, registers.Gs);
        }
        catch (GuestFaultException)
        {
            return false;
        }

        return true;
    }

    void IParavirtualProcessor.FlushTlb(ulong? linear) => ForgetTranslations(linear);

    void IParavirtualProcessor.FlushTlbOf(ulong processors, ulong? linear)
    {
        processors &= ~(1UL << Index);
        _coherence.FlushTlbOf(processors, linear);
        _flushWaits |= processors;
    }

    /// <summary>The state that a domain's first processor is started from; the others wait.</summary>
    private void ResetParavirtual()
    {
        if (!IsParavirtual)
            return;
        var c = _c;
        Array.Clear(_traps);
        Array.Clear(_entries);
        _isParavirtualKernel = true;
        _userRoot = 0;
        _kernelSp = 0;
        _isStarted = Index == 0;
        (_ioBitmap, _ioBitmapPorts) = (0, 0);
        ((IParavirtualProcessor)this).IoPrivilege = 0;
        c->Cpl = 3;
        c->Arch.Rflags = Rflags.Reserved1 | Rflags.IF;
        c->Arch.Cr0 = ControlRegisters.PE | ControlRegisters.MP | ControlRegisters.ET | ControlRegisters.NE | ControlRegisters.WP | ControlRegisters.AM | ControlRegisters.PG;
        c->Arch.Cr4 = ControlRegisters.PAE | ControlRegisters.OSFXSR | ControlRegisters.OSXMMEXCPT;
        c->Arch.Efer = ControlRegisters.SCE | ControlRegisters.LME | ControlRegisters.LMA | ControlRegisters.NXE;
        for (var i = 0; i < 6; i++)
            c->Arch.Segments[i] = default;
        c->Arch.Segments[CS] = new SegmentRegister { Selector = FlatCode64, Limit = uint.MaxValue, Attributes = UserCodeAttributes };
        c->Arch.Segments[SS] = new SegmentRegister { Selector = FlatData, Limit = uint.MaxValue, Attributes = UserDataAttributes };
        c->Arch.Gdtr = new TableRegister
        {
            Base = IParavirtualDomain.DescriptorTables + ((ulong)Index * IParavirtualDomain.DescriptorTableLength),
            Limit = (uint)IParavirtualDomain.DescriptorTableLength - 1,
        };
        c->Arch.Ldtr = c->Arch.Tr = default;
        c->Arch.Idtr = default;
        *(ushort*)&c->Arch.X87 = 0x37F;
    }

    private void StartParavirtual()
    {
        using (_environment.Gate.Enter())
        {
            if (!_isStarted)
            {
                ResetParavirtual();
                if (!_domain!.StartProcessor(this))
                    return;
                _isStarted = true;
            }

            _c->Arch.Activity = ActivityState.Active;
        }

        WaitForFlushes();
        FlushTlb(global: true);
        UpdateMode();
        AskForEvents();
    }

    private void SetUserGs(ushort selector)
    {
        // As SWAPGS, MOV GS, SWAPGS do: the base of a descriptor goes where the user's is kept. A selector that leads
        // nowhere is no error here: it becomes null.
        var c = _c;
        var kernelBase = c->Arch.Segments[GS].Base;
        try
        {
            c->CurrentOp = _decoder.FetchOp;
            LoadSegment(GS, selector > 3 ? (ushort)(selector | 3) : selector);
        }
        catch (GuestFaultException)
        {
            c->Arch.Segments[GS] = default;
        }

        c->Arch.KernelGsBase = c->Arch.Segments[GS].Base;
        c->Arch.Segments[GS].Base = kernelBase;
    }

    /// <summary>
    /// A descriptor as a domain may use it, whatever it has written into its tables: code and data of ring 3. Gates and
    /// system segments are none.
    /// </summary>
    private static Descriptor OfRing3(Descriptor descriptor) => new(descriptor.IsCodeOrData ? descriptor.Raw | (3UL << 45) : 0);

    /// <summary>A page of an LDT may be mapped for reading only, and keeps its accessed bits then.</summary>
    private bool MayMark(ulong linear)
    {
        var cr2 = _c->Arch.Cr2;
        if (TryTranslate(linear, AccessKind.Write, SystemKind, out _, out _))
            return true;
        _c->Arch.Cr2 = cr2;
        return false;
    }

    // --- translation ---

    /// <summary>
    /// Walks as if every page were the user's, which the hypervisor makes them: the kernel's pages are not in the tables
    /// of its programs. The hypervisor's part of the address space is in no table.
    /// </summary>
    private bool TryWalkParavirtual(ulong linear, AccessKind access, int kind, out PageWalk walk)
    {
        if (linear - IParavirtualDomain.HoleStart < IParavirtualDomain.HoleLength)
        {
            walk = new PageWalk { PageShift = 12, Global = true, Writable = kind == ProcessorKind };
            // Programs see nothing of it: what VMASST_TYPE_m2p_strict asks for, whether a kernel does or not.
            var isTable = kind != 0 && linear - IParavirtualDomain.MachineToPhysical < IParavirtualDomain.DescriptorTables - IParavirtualDomain.MachineToPhysical;
            if ((kind == ProcessorKind || (isTable && access == AccessKind.Read)) && _domain!.TryTranslateHole(Index, linear, out walk.Physical))
                return true;
            walk.ErrorCode = (uint)(access & (AccessKind.Write | AccessKind.Fetch));
        }
        else
        {
            var root = kind == 0 ? _userRoot : _c->Arch.Cr3;
            if (PageWalker.Walk(in _c->Arch, root, _memory, _physicalBits, linear, access | AccessKind.UserPagesAllowed, out walk))
            {
                walk.Global = kind != 0 && (long)linear < 0;
                return true;
            }
        }

        if (!_isParavirtualKernel)
            walk.ErrorCode |= (uint)AccessKind.User;
        return false;
    }

    /// <summary>Whether a store that the tables bar is one to a page table that the instruction at work may make.</summary>
    private bool IsOwnTableWrite(ulong linear, AccessKind access, int kind, out ulong physical)
    {
        physical = 0;
        if (_tablePage == NoPage || access != AccessKind.Write || !TryWalk(linear, AccessKind.Read, kind, out var walk) || (walk.Physical & ~0xFFFUL) != _tablePage)
            return false;
        physical = walk.Physical;
        return true;
    }
}
