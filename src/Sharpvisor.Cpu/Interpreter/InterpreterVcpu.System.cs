using System.Runtime.InteropServices;
using System.Security.Cryptography;
using Iced.Intel;
using Sharpvisor.Core.Tracing;
using Sharpvisor.Cpu.Cpuid;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>System instructions: SDM vol. 3, chapter 2 and vol. 2 for each.</summary>
public unsafe partial class InterpreterVcpu
{
    private bool ExecuteSystem(in Instruction ins, Op* op)
    {
        var c = _c;
        switch (ins.Mnemonic)
        {
            case Mnemonic.Cli:
                RequireIopl();
                c->Arch.Rflags &= ~Rflags.IF;
                return false;
            case Mnemonic.Sti:
                RequireIopl();
                if ((c->Arch.Rflags & Rflags.IF) == 0)
                {
                    c->Arch.Rflags |= Rflags.IF;
                    SetShadow();
                }

                return false;
            case Mnemonic.Clac or Mnemonic.Stac:
                if (c->Cpl != 0 || !_environment.Model.Has(CpuFeature.Smap))
                    Raise(Vectors.UD);
                c->Arch.Rflags = ins.Mnemonic == Mnemonic.Stac ? c->Arch.Rflags | Rflags.AC : c->Arch.Rflags & ~Rflags.AC;
                UpdateTlbKind();
                return false;
            case Mnemonic.Hlt:
                RequireCpl0();
                c->Arch.Rip = NextRip(op);
                c->Arch.Activity = ActivityState.Halted;
                return true;
            case Mnemonic.Iret:
                InterruptReturn(2);
                return true;
            case Mnemonic.Iretd:
                InterruptReturn(4);
                return true;
            case Mnemonic.Iretq:
                InterruptReturn(8);
                return true;
            case Mnemonic.Syscall:
                SystemCall(op);
                return true;
            case Mnemonic.Sysret or Mnemonic.Sysretq:
                SystemReturn(ins.Mnemonic == Mnemonic.Sysretq);
                return true;
            case Mnemonic.Sysenter:
                SystemEnter();
                return true;
            case Mnemonic.Sysexit or Mnemonic.Sysexitq:
                SystemExit(ins.Mnemonic == Mnemonic.Sysexitq);
                return true;
            case Mnemonic.Swapgs:
                RequireLong();
                RequireCpl0();
                (c->Arch.KernelGsBase, c->Arch.Segments[GS].Base) = (c->Arch.Segments[GS].Base, c->Arch.KernelGsBase);
                return false;
            case Mnemonic.Rdfsbase or Mnemonic.Rdgsbase:
                RequireFsGsBase();
                WriteRegister(ins.Op0Register, c->Arch.Segments[ins.Mnemonic == Mnemonic.Rdfsbase ? FS : GS].Base);
                return false;
            case Mnemonic.Wrfsbase or Mnemonic.Wrgsbase:
                RequireFsGsBase();
                var segmentBase = ReadOperand(in ins, 0, op, ins.Op0Register.GetSize());
                if (!IsCanonical(segmentBase))
                    Raise(Vectors.GP);
                c->Arch.Segments[ins.Mnemonic == Mnemonic.Wrfsbase ? FS : GS].Base = segmentBase;
                return false;
            case Mnemonic.Cpuid:
                var leaf = Cpuid((uint)c->Arch.Gpr[0], (uint)c->Arch.Gpr[1]);
                c->Arch.Gpr[0] = leaf.Eax;
                c->Arch.Gpr[3] = leaf.Ebx;
                c->Arch.Gpr[1] = leaf.Ecx;
                c->Arch.Gpr[2] = leaf.Edx;
                return false;
            case Mnemonic.Rdtsc or Mnemonic.Rdtscp:
                if (c->Cpl != 0 && (c->Arch.Cr4 & ControlRegisters.TSD) != 0)
                    Raise(Vectors.GP);
                SetPair(Tsc);
                if (ins.Mnemonic == Mnemonic.Rdtscp)
                    c->Arch.Gpr[1] = (uint)c->Arch.TscAux;
                return false;
            case Mnemonic.Rdpid:
                WriteRegister(ins.Op0Register, (uint)c->Arch.TscAux);
                return false;
            case Mnemonic.Rdpmc:
                Raise(Vectors.GP); // there are no counters
                return false;
            case Mnemonic.Rdrand or Mnemonic.Rdseed:
                ulong random = 0;
                RandomNumberGenerator.Fill(MemoryMarshal.AsBytes(new Span<ulong>(ref random)));
                WriteRegister(ins.Op0Register, random);
                Flags.SetArithmetic(c, Rflags.CF);
                return false;
            case Mnemonic.Rdmsr:
                RequireCpl0();
                SetPair(ReadMsr((uint)c->Arch.Gpr[1]));
                return false;
            case Mnemonic.Wrmsr:
                RequireCpl0();
                WriteMsr((uint)c->Arch.Gpr[1], (uint)c->Arch.Gpr[0] | (c->Arch.Gpr[2] << 32));
                return false;
            case Mnemonic.Lgdt or Mnemonic.Lidt:
                LoadTable(in ins, op);
                return false;
            case Mnemonic.Sgdt or Mnemonic.Sidt:
                StoreTable(in ins, op);
                return false;
            case Mnemonic.Lldt:
                RequireProtectedCpl0();
                LoadLdtr((ushort)ReadOperand(in ins, 0, op, 2));
                return false;
            case Mnemonic.Ltr:
                RequireProtectedCpl0();
                LoadTr((ushort)ReadOperand(in ins, 0, op, 2));
                return false;
            case Mnemonic.Sldt:
                RequireProtected();
                RequireNoUmip();
                StoreSelector(in ins, op, c->Arch.Ldtr.Selector);
                return false;
            case Mnemonic.Str:
                RequireProtected();
                RequireNoUmip();
                StoreSelector(in ins, op, c->Arch.Tr.Selector);
                return false;
            case Mnemonic.Smsw:
                RequireNoUmip();
                StoreSelector(in ins, op, c->Arch.Cr0);
                return false;
            case Mnemonic.Lmsw:
                RequireCpl0();
                var msw = ReadOperand(in ins, 0, op, 2);
                WriteCr0((c->Arch.Cr0 & ~0xEUL) | (msw & 0xE) | (msw & 1)); // PE can be set, not cleared
                return false;
            case Mnemonic.Clts:
                RequireCpl0();
                c->Arch.Cr0 &= ~ControlRegisters.TS;
                UpdateMode();
                return false;
            case Mnemonic.Verr or Mnemonic.Verw:
                RequireProtected();
                Flags.SetZero(c, VerifySegment((ushort)ReadOperand(in ins, 0, op, 2), ins.Mnemonic == Mnemonic.Verw));
                return false;
            case Mnemonic.Lar or Mnemonic.Lsl:
                RequireProtected();
                var found = TryLookAtDescriptor((ushort)ReadOperand(in ins, 1, op, 2), ins.Mnemonic == Mnemonic.Lsl, out var descriptor);
                if (found)
                    WriteRegister(ins.Op0Register, ins.Mnemonic == Mnemonic.Lar ? (descriptor.Raw >> 32) & 0xFFFF00 : descriptor.Limit);
                Flags.SetZero(c, found);
                return false;
            case Mnemonic.Arpl:
                RequireProtected();
                AdjustRpl(in ins, op);
                return false;
            case Mnemonic.Invlpg:
                RequireCpl0();
                var address = Access.Offset(c, op);
                FlushTlbPage(c->Is64 != 0 ? (op->Segment >= 4 ? c->Arch.Segments[op->Segment].Base : 0) + address : (uint)(c->Arch.Segments[op->Segment].Base + address));
                return false;
            case Mnemonic.Invpcid:
                InvalidatePcid(in ins, op);
                return false;
            case Mnemonic.Invd or Mnemonic.Wbinvd or Mnemonic.Wbnoinvd:
                RequireCpl0();
                return false;
            case Mnemonic.Xgetbv:
                RequireOsXsave();
                if ((uint)c->Arch.Gpr[1] != 0)
                    Raise(Vectors.GP);
                SetPair(c->Arch.Xcr0);
                return false;
            case Mnemonic.Xsetbv:
                RequireOsXsave();
                RequireCpl0();
                WriteXcr0();
                return false;
            case Mnemonic.Fxsave or Mnemonic.Fxsave64:
                FxSave(op);
                return false;
            case Mnemonic.Fxrstor or Mnemonic.Fxrstor64:
                FxRestore(op);
                return false;
            case Mnemonic.Xsave or Mnemonic.Xsave64 or Mnemonic.Xsaveopt or Mnemonic.Xsaveopt64:
                XSave(op, compact: false, ins.Mnemonic is Mnemonic.Xsaveopt or Mnemonic.Xsaveopt64);
                return false;
            case Mnemonic.Xsavec or Mnemonic.Xsavec64:
                XSave(op, compact: true, optimise: true);
                return false;
            case Mnemonic.Xrstor or Mnemonic.Xrstor64:
                XRestore(op);
                return false;
            case Mnemonic.Ldmxcsr or Mnemonic.Vldmxcsr:
                RequireSse(vex: ins.Mnemonic == Mnemonic.Vldmxcsr);
                var mxcsr = (uint)ReadOperand(in ins, 0, op, 4);
                if ((mxcsr & ~0xFFFFu) != 0)
                    Raise(Vectors.GP);
                c->Arch.Mxcsr = mxcsr;
                return false;
            case Mnemonic.Stmxcsr or Mnemonic.Vstmxcsr:
                RequireSse(vex: ins.Mnemonic == Mnemonic.Vstmxcsr);
                WriteOperand(in ins, 0, op, 4, c->Arch.Mxcsr);
                return false;
            case Mnemonic.Vmcall or Mnemonic.Vmmcall:
                if (IsParavirtual)
                    Raise(Vectors.UD); // not in ring 3
                if (ExecuteHypercall())
                    return false;
                c->Arch.Rip += op->Offset;
                return true;
            default:
                if (TryExecuteMasked(in ins, op))
                    return false;
                Raise(Vectors.UD);
                return false;
        }
    }

    // --- checks ---

    private void RequireCpl0()
    {
        if (_c->Cpl != 0)
            Raise(Vectors.GP);
    }

    private void RequireIopl()
    {
        if (IsProtected && _c->Cpl > (int)((_c->Arch.Rflags >> 12) & 3))
            Raise(Vectors.GP);
    }

    private void RequireProtected()
    {
        if (RealOrVm86)
            Raise(Vectors.UD);
    }

    private void RequireProtectedCpl0()
    {
        RequireProtected();
        RequireCpl0();
    }

    private void RequireLong()
    {
        if (_c->Is64 == 0)
            Raise(Vectors.UD);
    }

    private void RequireNoUmip()
    {
        if (_c->Cpl != 0 && (_c->Arch.Cr4 & ControlRegisters.UMIP) != 0)
            Raise(Vectors.GP);
    }

    private void RequireFsGsBase()
    {
        RequireLong();
        if ((_c->Arch.Cr4 & ControlRegisters.FSGSBASE) == 0)
            Raise(Vectors.UD);
    }

    private void RequireOsXsave()
    {
        if ((_c->Arch.Cr4 & ControlRegisters.OSXSAVE) == 0)
            Raise(Vectors.UD);
    }

    private void RequireSse(bool vex)
    {
        var traps = (FpuTraps)_c->FpuTrap;
        if ((traps & (vex ? FpuTraps.AvxUndefined : FpuTraps.SseUndefined)) != 0)
            Raise(Vectors.UD);
        if ((traps & FpuTraps.TaskSwitched) != 0)
            Raise(Vectors.NM);
    }

    private void SetPair(ulong value)
    {
        _c->Arch.Gpr[0] = (uint)value;
        _c->Arch.Gpr[2] = value >> 32;
    }

    private void SetShadow()
    {
        _c->Arch.InterruptShadow = true;
        UpdateSlow();
    }

    /// <summary>MOV SS and POP SS hold back debug traps too (SDM vol. 3, 6.8.3); LSS need not and does not.</summary>
    private void SetStackShadow()
    {
        _debugHeld = true;
        SetShadow();
    }

    private CpuidLeaf Cpuid(uint leaf, uint subleaf)
    {
        if (_environment.Hypervisor is not { } hypervisor || leaf is < 0x4000_0000 or > 0x4000_00FF)
        {
            var found = _environment.Model.Query(leaf, subleaf, CpuidContext());
            return IsParavirtual ? CpuModel.ForParavirtual(leaf, subleaf, found) : found;
        }

        var (eax, ebx, ecx, edx) = hypervisor.QueryCpuid(Index, leaf, subleaf);
        return new CpuidLeaf(eax, ebx, ecx, edx);
    }

    private CpuidContext CpuidContext() => new()
    {
        ApicId = (uint)Index,
        ProcessorCount = _environment.ProcessorCount,
        OsXsave = (_c->Arch.Cr4 & ControlRegisters.OSXSAVE) != 0,
        Xcr0 = _c->Arch.Xcr0,
        ApicEnabled = IsApicEnabled,
    };

    private bool IsApicEnabled
    {
        get
        {
            using (_environment.Gate.Enter())
                return _apic.TryReadMsr(0x1B, out var apicBase) && (apicBase & 0x800) != 0;
        }
    }

    internal ulong Tsc => (ulong)(_environment.Clock.NowNs + _c->Arch.TscOffset);

    // --- system calls ---

    private void SystemCall(Op* op)
    {
        var c = _c;
        if ((c->Arch.Efer & ControlRegisters.SCE) == 0 || !Is64)
            Raise(Vectors.UD);
        if (_isParavirtualKernel)
        {
            CallHypervisor(op);
            return;
        }

        if (_environment.Points is { } points && points.Wants(TraceKind.SystemCall))
            points.Write(new TraceEvent(TraceKind.SystemCall, Index, c->Arch.Gpr[0], c->Arch.Gpr[7], c->Arch.Gpr[6], c->Arch.Gpr[2]));
        var next = NextRip(op);
        if (IsParavirtual)
        {
            EnterBySystemCall(next);
            return;
        }

        var selector = (ushort)((c->Arch.Star >> 32) & 0xFFFC);
        c->Arch.Gpr[1] = next;
        c->Arch.Gpr[11] = Flags.Get(c) & ~Rflags.RF;
        Flags.SetArithmetic(c, Flags.Arithmetic(c) & ~c->Arch.Fmask);
        c->Arch.Rflags = (c->Arch.Rflags & ~(c->Arch.Fmask | Rflags.RF)) | Rflags.Reserved1;
        c->Arch.Rip = c->Arch.Lstar;
        c->Arch.Segments[CS] = new SegmentRegister { Selector = selector, Limit = uint.MaxValue, Attributes = 0xA09B };
        c->Arch.Segments[SS] = new SegmentRegister { Selector = (ushort)(selector + 8), Limit = uint.MaxValue, Attributes = 0xC093 };
        c->Cpl = 0;
        _singleStep &= (c->Arch.Rflags & Rflags.TF) != 0; // FMASK decides
        UpdateMode();
    }

    private void SystemReturn(bool to64)
    {
        var c = _c;
        if ((c->Arch.Efer & ControlRegisters.SCE) == 0 || !Is64)
            Raise(Vectors.UD);
        RequireCpl0();
        var selector = (ushort)(c->Arch.Star >> 48);
        if (to64)
        {
            if (!IsCanonical(c->Arch.Gpr[1]))
                Raise(Vectors.GP);
            c->Arch.Segments[CS] = new SegmentRegister { Selector = (ushort)((selector + 16) | 3), Limit = uint.MaxValue, Attributes = 0xA0FB };
            c->Arch.Rip = c->Arch.Gpr[1];
        }
        else
        {
            c->Arch.Segments[CS] = new SegmentRegister { Selector = (ushort)(selector | 3), Limit = uint.MaxValue, Attributes = 0xC0FB };
            c->Arch.Rip = (uint)c->Arch.Gpr[1];
        }

        const ulong Loaded = Rflags.TF | Rflags.IF | Rflags.DF | Rflags.IOPL | Rflags.NT | Rflags.AC | Rflags.VIF | Rflags.VIP | Rflags.ID;
        Flags.SetArithmetic(c, c->Arch.Gpr[11]);
        c->Arch.Rflags = (c->Arch.Gpr[11] & Loaded) | Rflags.Reserved1;
        c->Arch.Segments[SS] = new SegmentRegister { Selector = (ushort)((selector + 8) | 3), Limit = uint.MaxValue, Attributes = 0xC0F3 };
        c->Cpl = 3;
        _singleStep = (c->Arch.Rflags & Rflags.TF) != 0; // as if the SYSCALL had just ended
        UpdateMode();
        if (_singleStep)
            RaiseDebugTrap(DebugStatus.SingleStep);
    }

    private void SystemEnter()
    {
        var c = _c;
        if (IsParavirtual)
        {
            EnterBySysenter();
            return;
        }

        if (!IsProtected || (c->Arch.SysenterCs & 0xFFFC) == 0)
            Raise(Vectors.GP);
        var selector = (ushort)(c->Arch.SysenterCs & 0xFFFC);
        c->Arch.Rflags &= ~(Rflags.VM | Rflags.IF | Rflags.RF);
        c->Arch.Segments[CS] = new SegmentRegister { Selector = selector, Limit = uint.MaxValue, Attributes = (ushort)(IsLongMode ? 0xA09B : 0xC09B) };
        c->Arch.Segments[SS] = new SegmentRegister { Selector = (ushort)(selector + 8), Limit = uint.MaxValue, Attributes = 0xC093 };
        c->Arch.Gpr[4] = IsLongMode ? c->Arch.SysenterEsp : (uint)c->Arch.SysenterEsp;
        c->Arch.Rip = IsLongMode ? c->Arch.SysenterEip : (uint)c->Arch.SysenterEip;
        c->Cpl = 0;
        UpdateMode();
    }

    private void SystemExit(bool to64)
    {
        var c = _c;
        if (!IsProtected || (c->Arch.SysenterCs & 0xFFFC) == 0 || c->Cpl != 0)
            Raise(Vectors.GP);
        if (to64 && (!IsCanonical(c->Arch.Gpr[2]) || !IsCanonical(c->Arch.Gpr[1])))
            Raise(Vectors.GP);
        var selector = (ushort)(c->Arch.SysenterCs & 0xFFFC);
        c->Arch.Segments[CS] = new SegmentRegister { Selector = (ushort)((selector + (to64 ? 32 : 16)) | 3), Limit = uint.MaxValue, Attributes = (ushort)(to64 ? 0xA0FB : 0xC0FB) };
        c->Arch.Segments[SS] = new SegmentRegister { Selector = (ushort)((selector + (to64 ? 40 : 24)) | 3), Limit = uint.MaxValue, Attributes = 0xC0F3 };
        c->Arch.Gpr[4] = to64 ? c->Arch.Gpr[1] : (uint)c->Arch.Gpr[1];
        c->Arch.Rip = to64 ? c->Arch.Gpr[2] : (uint)c->Arch.Gpr[2];
        c->Cpl = 3;
        UpdateMode();
    }

    // --- tables and selectors ---

    private void LoadTable(in Instruction ins, Op* op)
    {
        RequireCpl0();
        var wide = Is64 ? 8 : 4;
        var linear = MemoryLinear(op, 2 + wide, false);
        var limit = (uint)ReadLinear(linear, 2);
        var tableBase = ReadLinear(WrapLinear(linear + 2), wide);
        if (ins.Code is Code.Lgdt_m1632_16 or Code.Lidt_m1632_16)
            tableBase &= 0xFFFFFF;
        if (Is64 && !IsCanonical(tableBase))
            Raise(Vectors.GP);
        ref var table = ref ins.Mnemonic == Mnemonic.Lgdt ? ref _c->Arch.Gdtr : ref _c->Arch.Idtr;
        table = new TableRegister { Base = tableBase, Limit = limit };
    }

    private void StoreTable(in Instruction ins, Op* op)
    {
        RequireNoUmip();
        var wide = Is64 ? 8 : 4;
        var linear = MemoryLinear(op, 2 + wide, true);
        var table = ins.Mnemonic == Mnemonic.Sgdt ? _c->Arch.Gdtr : _c->Arch.Idtr;
        WriteLinear(linear, 2, table.Limit);
        WriteLinear(WrapLinear(linear + 2), wide, table.Base);
    }

    private void StoreSelector(in Instruction ins, Op* op, ulong value)
    {
        if (ins.Op0Kind == OpKind.Memory)
            WriteLinear(MemoryLinear(op, 2, true), 2, (ushort)value);
        else
            WriteRegister(ins.Op0Register, ins.Mnemonic == Mnemonic.Smsw ? value : (ushort)value);
    }

    private void AdjustRpl(in Instruction ins, Op* op)
    {
        var destination = (ushort)ReadOperand(in ins, 0, op, 2);
        var rpl = ReadOperand(in ins, 1, op, 2) & 3;
        var lower = (destination & 3u) < rpl;
        if (lower)
        {
            if (ins.Op0Kind == OpKind.Memory)
                WriteLinear(MemoryLinear(op, 2, true), 2, (destination & ~3UL) | rpl);
            else
                Access.Set<ushort>(_c, OpBuilder.RegisterOffset(ins.Op0Register), (destination & ~3UL) | rpl);
        }

        Flags.SetZero(_c, lower);
    }

    private void InvalidatePcid(in Instruction ins, Op* op)
    {
        RequireCpl0();
        var type = ReadOperand(in ins, 0, op, Is64 ? 8 : 4);
        var linear = MemoryLinear(op, 16, false);
        var pcid = ReadLinear(linear, 8);
        var address = ReadLinear(WrapLinear(linear + 8), 8);
        if (type > 3 || (pcid >> 12) != 0 || (type == 0 && !IsCanonical(address))
            || (type < 2 && (_c->Arch.Cr4 & ControlRegisters.PCIDE) == 0 && pcid != 0))
            Raise(Vectors.GP);
        if (type == 0 && pcid != (_c->Arch.Cr3 & 0xFFF) && (_c->Arch.Cr4 & ControlRegisters.PCIDE) != 0)
        {
            _tlb.DropSpace(1 + (int)pcid);
            ForgetCode(address);
        }
        else if (type == 0)
            FlushTlbPage(address);
        else
            FlushTlb(global: type == 2);
    }

    private bool Is64 => _c->Is64 != 0;

    /// <summary>The bits of CR4 that the model has something for.</summary>
    private static ulong Cr4MaskOf(CpuModel model)
    {
        var mask = ControlRegisters.TSD | ControlRegisters.DE | ControlRegisters.PSE | ControlRegisters.PAE | ControlRegisters.MCE
            | ControlRegisters.PGE | ControlRegisters.PCE | ControlRegisters.OSFXSR | ControlRegisters.OSXMMEXCPT;
        void Add(CpuFeature feature, ulong bit) => mask |= model.Has(feature) ? bit : 0;
        Add(CpuFeature.Umip, ControlRegisters.UMIP);
        Add(CpuFeature.FsGsBase, ControlRegisters.FSGSBASE);
        Add(CpuFeature.Pcid, ControlRegisters.PCIDE);
        Add(CpuFeature.Xsave, ControlRegisters.OSXSAVE);
        Add(CpuFeature.Smep, ControlRegisters.SMEP);
        Add(CpuFeature.Smap, ControlRegisters.SMAP);
        return mask;
    }
}
