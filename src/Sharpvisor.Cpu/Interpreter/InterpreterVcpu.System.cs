using System.Runtime.InteropServices;
using System.Security.Cryptography;
using Iced.Intel;
using Sharpvisor.Cpu.Cpuid;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>System instructions: SDM vol. 3, chapter 2 and vol. 2 for each.</summary>
public sealed unsafe partial class InterpreterVcpu
{
    /// <summary>What VMCALL answers to an unknown number: Linux' KVM_ENOSYS.</summary>
    private const long KvmEnosys = -1000;

    private const long KvmEperm = -1;

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
                var leaf = _environment.Model.Query((uint)c->Arch.Gpr[0], (uint)c->Arch.Gpr[1], CpuidContext());
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
                c->Arch.Gpr[0] = (ulong)(c->Cpl != 0 ? KvmEperm : KvmEnosys);
                return false;
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
        var selector = (ushort)((c->Arch.Star >> 32) & 0xFFFC);
        var next = NextRip(op);
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
        if (type == 0)
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

    // --- MOV to and from segment, control and debug registers ---

    private void MoveSystemRegister(in Instruction ins, Op* op)
    {
        var to = ins.Op0Kind == OpKind.Register ? ins.Op0Register : Register.None;
        var from = ins.Op1Kind == OpKind.Register ? ins.Op1Register : Register.None;
        if (to.IsSegmentRegister())
        {
            var selector = (ushort)ReadOperand(in ins, 1, op, 2);
            if (to == Register.CS)
                Raise(Vectors.UD);
            LoadSegment(to - Register.ES, selector);
            if (to == Register.SS)
                SetStackShadow();
            return;
        }

        if (from.IsSegmentRegister())
        {
            var selector = _c->Arch.Segments[from - Register.ES].Selector;
            if (to == Register.None)
                WriteLinear(MemoryLinear(op, 2, true), 2, selector);
            else
                WriteRegister(to, selector);
            return;
        }

        RequireCpl0();
        var size = Is64 ? 8 : 4;
        if (from.IsCR())
            WriteRegister(to, ReadControlRegister(from - Register.CR0));
        else if (to.IsCR())
            WriteControlRegister(to - Register.CR0, ReadOperand(in ins, 1, op, size));
        else if (from.IsDR())
            WriteRegister(to, ReadDebugRegister(from - Register.DR0));
        else if (to.IsDR())
            WriteDebugRegister(to - Register.DR0, ReadOperand(in ins, 1, op, size));
        else
            Raise(Vectors.UD);
    }

    private ulong ReadControlRegister(int index)
    {
        switch (index)
        {
            case 0: return _c->Arch.Cr0;
            case 2: return _c->Arch.Cr2;
            case 3: return _c->Arch.Cr3;
            case 4: return _c->Arch.Cr4;
            case 8:
                using (_environment.Gate.Enter())
                    return _apic.TaskPriority;
            default:
                Raise(Vectors.UD);
                return 0;
        }
    }

    private void WriteControlRegister(int index, ulong value)
    {
        switch (index)
        {
            case 0:
                WriteCr0(value);
                break;
            case 2:
                _c->Arch.Cr2 = value;
                break;
            case 3:
                WriteCr3(value);
                break;
            case 4:
                WriteCr4(value);
                break;
            case 8:
                if ((value & ~15UL) != 0)
                    Raise(Vectors.GP);
                using (_environment.Gate.Enter())
                    _apic.TaskPriority = (byte)value;
                break;
            default:
                Raise(Vectors.UD);
                break;
        }
    }

    private void WriteCr0(ulong value)
    {
        var c = _c;
        if ((value >> 32) != 0 || ((value & ControlRegisters.PG) != 0 && (value & ControlRegisters.PE) == 0)
            || ((value & ControlRegisters.NW) != 0 && (value & ControlRegisters.CD) == 0))
            Raise(Vectors.GP);
        const ulong Kept = ControlRegisters.PE | ControlRegisters.MP | ControlRegisters.EM | ControlRegisters.TS | ControlRegisters.NE | ControlRegisters.WP
            | ControlRegisters.AM | ControlRegisters.NW | ControlRegisters.CD | ControlRegisters.PG;
        value = (value & Kept) | ControlRegisters.ET;
        var changed = value ^ c->Arch.Cr0;
        if ((changed & ControlRegisters.PG) != 0)
        {
            if ((value & ControlRegisters.PG) != 0)
            {
                if ((c->Arch.Efer & ControlRegisters.LME) != 0)
                {
                    if ((c->Arch.Cr4 & ControlRegisters.PAE) == 0 || c->Arch.Segments[CS].Long)
                        Raise(Vectors.GP);
                    c->Arch.Efer |= ControlRegisters.LMA;
                }
            }
            else
            {
                if (c->Is64 != 0 || (c->Arch.Cr4 & ControlRegisters.PCIDE) != 0)
                    Raise(Vectors.GP);
                c->Arch.Efer &= ~ControlRegisters.LMA;
            }
        }

        if ((changed & value & ControlRegisters.PG) != 0)
            CheckPdptes(c->Arch.Cr3, c->Arch.Cr4);
        c->Arch.Cr0 = value;
        if ((changed & (ControlRegisters.PG | ControlRegisters.WP | ControlRegisters.PE)) != 0)
            FlushTlb(global: true);
        if ((changed & ControlRegisters.PE) != 0 && (value & ControlRegisters.PE) == 0)
            c->Cpl = 0;
        UpdateMode();
    }

    private void WriteCr3(ulong value)
    {
        var c = _c;
        if (IsLongMode)
        {
            if ((c->Arch.Cr4 & ControlRegisters.PCIDE) != 0)
                value &= ~(1UL << 63); // "keep this PCID's translations" is a hint; the TLB here is not tagged
            if ((value >> _physicalBits) != 0)
                Raise(Vectors.GP);
        }
        else if ((c->Arch.Cr0 & ControlRegisters.PG) != 0)
        {
            CheckPdptes(value, c->Arch.Cr4);
        }

        c->Arch.Cr3 = value;
        FlushTlb(global: false);
    }

    private void WriteCr4(ulong value)
    {
        var c = _c;
        if ((value & ~_cr4Mask) != 0)
            Raise(Vectors.GP);
        if (IsLongMode && (value & ControlRegisters.PAE) == 0)
            Raise(Vectors.GP);
        var changed = value ^ c->Arch.Cr4;
        if ((changed & value & ControlRegisters.PCIDE) != 0 && (!IsLongMode || (c->Arch.Cr3 & 0xFFF) != 0))
            Raise(Vectors.GP);
        if ((changed & (ControlRegisters.PAE | ControlRegisters.PGE | ControlRegisters.PSE | ControlRegisters.SMEP)) != 0 && (c->Arch.Cr0 & ControlRegisters.PG) != 0)
            CheckPdptes(c->Arch.Cr3, value);
        c->Arch.Cr4 = value;
        if ((changed & (ControlRegisters.PSE | ControlRegisters.PAE | ControlRegisters.PGE | ControlRegisters.PCIDE | ControlRegisters.SMEP | ControlRegisters.SMAP)) != 0)
            FlushTlb(global: true);
        UpdateMode();
    }

    /// <summary>PAE paging loads four registers from memory and refuses reserved bits there (SDM vol. 3, 4.4.1).</summary>
    private void CheckPdptes(ulong cr3, ulong cr4)
    {
        if (IsLongMode || (cr4 & ControlRegisters.PAE) == 0)
            return;
        for (var i = 0UL; i < 4; i++)
        {
            var pdpte = ReadPhysical((cr3 & 0xFFFF_FFE0) + (8 * i), 8);
            if ((pdpte & 1) != 0 && (pdpte & (0x1E6 | (ulong.MaxValue << _physicalBits))) != 0)
                Raise(Vectors.GP);
        }
    }

    private void WriteXcr0()
    {
        var value = (uint)_c->Arch.Gpr[0] | (_c->Arch.Gpr[2] << 32);
        if ((uint)_c->Arch.Gpr[1] != 0 || (value & 1) == 0 || (value & ~_environment.Model.Xcr0Mask) != 0 || ((value & 4) != 0 && (value & 2) == 0))
            Raise(Vectors.GP);
        _c->Arch.Xcr0 = value;
        UpdateMode();
    }

    private int DebugRegisterIndex(int index)
    {
        if (index is 4 or 5)
        {
            if ((_c->Arch.Cr4 & ControlRegisters.DE) != 0)
                Raise(Vectors.UD);
            index += 2;
        }

        if (index > 7)
            Raise(Vectors.UD);
        if ((_c->Arch.Dr[7] & 0x2000) != 0)
        {
            // General detect: the access itself is the exception.
            _c->Arch.Dr[6] |= DebugStatus.DebugRegisterAccess;
            _c->Arch.Dr[7] &= ~0x2000UL;
            Raise(Vectors.DB);
        }

        return index;
    }

    private ulong ReadDebugRegister(int index) => _c->Arch.Dr[DebugRegisterIndex(index)];

    private void WriteDebugRegister(int index, ulong value)
    {
        index = DebugRegisterIndex(index);
        if (index >= 6 && (value >> 32) != 0)
            Raise(Vectors.GP);
        _c->Arch.Dr[index] = index switch
        {
            6 => (value & 0xE00F) | 0xFFFF0FF0,
            7 => (value & 0xFFFF2BFF) | 0x400,
            _ => value,
        };
        FlushTlb(global: true); // watched pages leave the fast path
        UpdateSlow();
    }
}
