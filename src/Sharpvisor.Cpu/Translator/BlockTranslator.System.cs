// System instructions that Linux executes often, for their usual case: SDM vol. 2 for each. Whatever is not usual, and
// everything that faults, is left to the interpreter before anything has changed.
//
// Not here: IRET to or from 32-bit code, SYSENTER, SYSEXIT, SYSRET to 32-bit code, writes of control registers, and MSRs.
using Iced.Intel;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Translator;

/// <summary>Time, segment registers, and changes of privilege.</summary>
internal sealed unsafe partial class BlockTranslator
{
    private const int ES = 0, CS = 1, SS = 2, DS = 3, FS = 4, GS = 5;

    /// <summary>Attributes of the flat segments that go with 64-bit code, by privilege.</summary>
    private const ushort KernelCode = 0xA09B, KernelData = 0xC093, UserCode = 0xA0FB, UserData = 0xC0F3;

    /// <summary>What RFLAGS gets from R11 or from the stack besides the arithmetic flags.</summary>
    private const ulong LoadedFlags = Rflags.TF | Rflags.IF | Rflags.DF | Rflags.IOPL | Rflags.NT | Rflags.AC | Rflags.VIF | Rflags.VIP | Rflags.ID;

    /// <summary>Where SYSCALL, SYSRET and IRETQ go on, with the canonical register map; or 0.</summary>
    private readonly ulong[] _transitions = new ulong[3];

    /// <summary>The end of the instruction of IRETQ that tests flags of the frame.</summary>
    private ulong _resumeFlagTest;
    private bool _keepsResumeFlag;

    /// <summary>The end of the instruction of SYSCALL that tests EFER.SCE.</summary>
    private ulong _systemCallTest;
    private bool _leavesSystemCalls;

    /// <summary>SYSCALL is left to the interpreter: the test of EFER then tests no bit at all.</summary>
    public bool LeavesSystemCalls
    {
        set
        {
            if (_leavesSystemCalls == value)
                return;
            _leavesSystemCalls = value;
            if (_systemCallTest != 0)
                *(byte*)_cache.Hot.Writable(_systemCallTest - 1) = value ? (byte)0 : (byte)ControlRegisters.SCE;
        }
    }

    /// <summary>IRETQ to an instruction that has faulted is left to the interpreter.</summary>
    public bool KeepsResumeFlag
    {
        set
        {
            _keepsResumeFlag = value;
            if (_resumeFlagTest != 0)
                *(int*)_cache.Hot.Writable(_resumeFlagTest - sizeof(int)) = (int)(value ? Rflags.TF | Rflags.RF : Rflags.TF);
        }
    }

    private static int KindOf(uint key) => (int)(key >> TranslationKey.KindShift) & 3;

    private bool IsKernel => (_key & TranslationKey.Kernel) != 0;

    private PrivilegeKey* Privilege(int kind) => (PrivilegeKey*)&_t->Privileges + kind;

    /// <summary>A way out by which the interpreter executes the instruction; the flags are saved. The address of the code that leaves by it.</summary>
    private ulong LeaveForInterpreter(ref Item item, out int exit)
    {
        exit = NewFallback(ref item, ends: false);
        return EmitExit(exit);
    }

    /// <summary>The interpreter goes on here after it has executed the instruction.</summary>
    private void ResumeHere(int exit) => _exits[exit].Resume = _hot.Address;

    /// <summary>RDTSC, RDTSCP: <see cref="Core.Time.TscLineData"/> says how.</summary>
    private void EmitReadTimeStamp(ref Item item)
    {
        SaveFlags();
        var leave = LeaveForInterpreter(ref item, out var exit);
        if (!IsKernel)
        {
            _hot.TestByte(&_c->Arch.Cr4, (byte)ControlRegisters.TSD);
            _hot.JumpIf(5, leave); // jne
        }

        var ordered = item.Instruction.Mnemonic == Mnemonic.Rdtscp;
        if (ordered)
            _hot.Raw(0x0F, 0xAE, 0xE8); // lfence
        _hot.Load(Host.T1, &_clock->Version);
        _hot.Raw(0x0F, 0x31); // rdtsc
        _hot.Shift(4, Host.Rdx, 32);
        _hot.Op(0x09, Host.Rax, Host.Rdx);
        _hot.OnAbsolute(0x2B, Host.Rax, &_clock->Tsc, wide: true); // sub
        _hot.OnAbsolute(0x3B, Host.Rax, &_clock->Span, wide: true); // cmp
        _hot.JumpIf(3, leave); // jae
        _hot.MultiplyBy(Host.Rax, &_clock->Slope);
        _hot.Shift(5, Host.Rax, 32);
        _hot.OnAbsolute(0x03, Host.Rax, &_clock->Ns, wide: true); // add

        // The version is looked at again after the TSC was read: the address depends on what was.
        _hot.Move32(Host.T0, Host.Rax);
        _hot.Immediate(4, Host.T0, 0, wide: false);
        _hot.OnMemory(0x3B, Host.T1, Host.T0, -1, checked((int)(long)&_clock->Version), wide: true);
        _hot.JumpIf(5, leave);
        _hot.OnAbsolute(0x03, Host.Rax, &_c->Arch.TscOffset, wide: true);
        _hot.Move(Host.Rdx, Host.Rax);
        _hot.Shift(5, Host.Rdx, 32);
        _hot.Move32(Host.Rax, Host.Rax);
        if (ordered)
            _hot.Load32(Host.Rcx, &_c->Arch.TscAux);
        ResumeHere(exit);
    }

    /// <summary>The host register for the result of an instruction; <see cref="StoreResult"/> puts that where it belongs.</summary>
    private int ResultRegister(in Item item, out int guest)
    {
        guest = item.Instruction.Op0Register.GetFullRegister() - Register.RAX;
        return _map[guest] < 0 ? Host.T0 : _map[guest];
    }

    private void StoreResult(int guest)
    {
        if (_map[guest] < 0)
            _hot.Store(Gpr(guest), Host.T0);
    }

    private void EmitReadSelector(ref Item item)
    {
        var selector = &Segment(item.Instruction.Op1Register - Register.ES)->Selector;
        if (item.HasOperand)
        {
            var operand = FreeT0(EmitAccess(ref item, ref item.Operand));
            _hot.LoadWord(Host.T0, selector);
            StoreTo(operand, Host.T0, 2);
            return;
        }

        var to = ResultRegister(in item, out var guest);
        if (item.Instruction.Op0Register.GetSize() > 2)
        {
            _hot.LoadWord(to, selector);
            StoreResult(guest);
        }
        else if (_map[guest] < 0)
        {
            _hot.LoadWord(to, selector);
            _hot.StoreWord(Gpr(guest), to);
        }
        else
        {
            _hot.OnWord(0x8B, to, selector); // mov
        }
    }

    /// <summary>MOV and POP of a segment register in real and virtual-8086 mode.</summary>
    private void EmitLoadSelector(ref Item item)
    {
        ref var ins = ref item.Instruction;
        if (item.Kind == ItemKind.PopSelector)
        {
            LoadFrom(Host.T0, EmitAccess(ref item, ref item.Stack), 2);
            AdjustStack(item.StackStep);
        }
        else if (item.HasOperand)
        {
            LoadFrom(Host.T0, EmitAccess(ref item, ref item.Operand), 2);
        }
        else
        {
            ReleaseFlags();
            _hot.ZeroExtend16(Host.T0, Use(ins.Op1Register.GetFullRegister() - Register.RAX, Host.T0));
        }

        var number = ins.Op0Register - Register.ES;
        var register = Segment(number);
        _hot.StoreWord(&register->Selector, Host.T0);
        _hot.Shift(4, Host.T0, 4, wide: false);
        _hot.Store(&register->Base, Host.T0);
        if ((_key & (uint)BlockMode.Virtual86) != 0)
        {
            _hot.StoreImmediate32(&register->Limit, 0xFFFF);
            _hot.StoreImmediateWord(&register->Attributes, 0xF3);
        }
        else
        {
            // The limit and the size of its offsets stay: "unreal" mode.
            _hot.LoadWord(Host.T0, &register->Attributes);
            _hot.Immediate(4, Host.T0, ~0x9F, wide: false);
            _hot.Immediate(1, Host.T0, 0x93, wide: false);
            _hot.StoreWord(&register->Attributes, Host.T0);
        }

        _hot.Load32(Host.T0, &register->Limit);
        _hot.Store(ReadLimit(number), Host.T0);
        _hot.Store(WriteLimit(number), Host.T0);
    }

    private SegmentRegister* Segment(int number) => (SegmentRegister*)SegmentBase(number);

    private void EmitReadControl(ref Item item)
    {
        var to = ResultRegister(in item, out var guest);
        _hot.Load(to, item.Instruction.Op1Register switch
        {
            Register.CR0 => &_c->Arch.Cr0,
            Register.CR2 => &_c->Arch.Cr2,
            Register.CR3 => &_c->Arch.Cr3,
            _ => &_c->Arch.Cr4,
        });
        StoreResult(guest);
    }

    private void EmitReadProcessorId(ref Item item)
    {
        var to = ResultRegister(in item, out var guest);
        _hot.Load32(to, &_c->Arch.TscAux);
        StoreResult(guest);
    }

    /// <summary>RDFSBASE, RDGSBASE.</summary>
    private void EmitReadBase(ref Item item)
    {
        SaveFlags();
        var leave = LeaveForInterpreter(ref item, out var exit);
        EmitFsGsBaseCheck(leave);
        var to = ResultRegister(in item, out var guest);
        var segment = SegmentBase(item.Instruction.Mnemonic == Mnemonic.Rdfsbase ? 4 : 5);
        _hot.OnAbsolute(0x8B, to, segment, item.Instruction.Op0Register.GetSize() == 8);
        StoreResult(guest);
        ResumeHere(exit);
    }

    /// <summary>WRFSBASE, WRGSBASE.</summary>
    private void EmitWriteBase(ref Item item)
    {
        SaveFlags();
        var leave = LeaveForInterpreter(ref item, out var exit);
        EmitFsGsBaseCheck(leave);
        var register = item.Instruction.Op0Register;
        var from = Use(register.GetFullRegister() - Register.RAX, Host.T0);
        if (register.GetSize() == 8)
        {
            EmitCanonicalCheck(from, leave);
        }
        else
        {
            _hot.Move32(Host.T0, from);
            from = Host.T0;
        }

        _hot.Store(SegmentBase(item.Instruction.Mnemonic == Mnemonic.Wrfsbase ? 4 : 5), from);
        ResumeHere(exit);
    }

    private void EmitFsGsBaseCheck(ulong leave)
    {
        _hot.TestByte((byte*)&_c->Arch.Cr4 + 2, (byte)(ControlRegisters.FSGSBASE >> 16));
        _hot.JumpIf(4, leave); // je
    }

    /// <summary>Leaves if an address is not one of 48 bits. Uses T1.</summary>
    private void EmitCanonicalCheck(int register, ulong leave)
    {
        _hot.Move(Host.T1, register);
        _hot.Shift(4, Host.T1, 16);
        _hot.Shift(7, Host.T1, 16);
        _hot.Op(0x39, Host.T1, register);
        _hot.JumpIf(5, leave); // jne
    }

    /// <summary>STAC and CLAC: from here on accesses go by another kind of the TLB.</summary>
    private void EmitAllowAccess(ref Item item)
    {
        SaveFlags();
        var allow = item.Kind == ItemKind.AllowAccess;
        var kind = allow ? 2 : 1;
        if (Kind != kind)
        {
            var leave = EmitExit(NewFallback(ref item, ends: true));
            if (!allow)
            {
                _hot.TestByte((byte*)&_c->Arch.Cr4 + 2, (byte)(ControlRegisters.SMAP >> 16));
                _hot.JumpIf(4, leave); // je: without SMAP the kind stays
            }

            _hot.Load32(Host.T0, &Privilege(kind)->Number);
            _hot.Op(0x85, Host.T0, Host.T0, wide: false);
            _hot.JumpIf(4, leave);
            _hot.Load(Host.T1, &Privilege(kind)->Key);
            _hot.Store32(&_t->KeyNumber, Host.T0);
            _hot.Store(&_t->Key, Host.T1);
            Kind = kind;
        }

        _hot.ImmediateOnAbsolute(allow ? 1 : 4, &_c->Arch.Rflags, allow ? (int)Rflags.AC : ~(int)Rflags.AC, wide: true);
    }

    /// <summary>SYSCALL, SYSRET and IRETQ: what they do is the same everywhere, and lies in one place.</summary>
    private void EmitTransition(ref Item item)
    {
        SaveFlags();
        if (item.Kind == ItemKind.InterruptReturn)
        {
            var frame = EmitAccess(ref item, ref item.Stack);
            _hot.Lea(Host.T0, frame.Base, frame.Index, frame.Displacement);
        }

        _routines.Adapt(_hot, _mask, RegisterMap.Canonical);
        var exit = NewFallback(ref item, ends: true);
        _exits[exit].Map = RegisterMap.Canonical;
        _hot.StoreImmediate32(&_t->Exit, exit);
        if (item.Kind == ItemKind.SystemCall)
            EmitReturnAddress(item.Next);
        _hot.Jump(_transitions[item.Kind - ItemKind.SystemCall]);
    }

    /// <summary>Makes the common part of SYSCALL, SYSRET or IRETQ, unless there is one.</summary>
    private void MakeTransition(ItemKind kind)
    {
        ref var start = ref _transitions[kind - ItemKind.SystemCall];
        if (start != 0)
            return;
        _hot = _cache.Hot;
        _cold = _cache.Cold;
        _hot.Align(16);
        start = _hot.Address;
        var leave = _routines.Exit(RegisterMap.Canonical); // by the exit that the block has set
        if (kind == ItemKind.SystemCall)
            EmitSystemCall(leave);
        else if (kind == ItemKind.SystemReturn)
            EmitSystemReturn(leave);
        else
            EmitInterruptReturn(leave);
        EmitLookup(NewExit(new ExitInfo { Kind = ExitKind.Indirect, Map = RegisterMap.Canonical, Block = _block }));
    }

    /// <summary>T0 is the address behind the SYSCALL.</summary>
    private void EmitSystemCall(ulong leave)
    {
        _hot.TestByte(&_c->Arch.Efer, _leavesSystemCalls ? (byte)0 : (byte)ControlRegisters.SCE);
        _systemCallTest = _hot.Address;
        _hot.JumpIf(4, leave); // je
        _hot.TestByte((byte*)&_c->Arch.Fmask + 2, (byte)(Rflags.AC >> 16));
        _hot.JumpIf(4, leave); // je
        _hot.Load(Host.T1, &_c->Arch.Lstar);
        _hot.Store(&_t->JumpTarget, Host.T0);
        _hot.Move(Host.T0, Host.T1);
        EmitCanonicalCheck(Host.T0, leave);

        EmitKernelPrivilege(Host.T0);
        EmitPrivilege(Host.T0, leave);

        _hot.Load(Host.Rcx, &_t->JumpTarget);
        EmitFlagsWord(); // into T0, without RF
        _hot.Store(Gpr(11), Host.T0);
        _hot.Load(Host.T1, &_c->Arch.Fmask);
        _hot.Raw(0x49, 0xF7, 0xD7); // not r15
        _hot.Op(0x21, Host.T0, Host.T1);
        _hot.Immediate(1, Host.T0, (int)Rflags.Reserved1);
        _hot.Store(&_c->Arch.Rflags, Host.T0);
        EmitSavedFlags();
        EmitSegment(CS, 32, 0, 0, KernelCode);
        EmitSegment(SS, 32, 8, 0, KernelData);
        _hot.Load(Host.T0, &_c->Arch.Lstar);
    }

    private void EmitSystemReturn(ulong leave)
    {
        _hot.TestByte(&_c->Arch.Efer, (byte)ControlRegisters.SCE);
        _hot.JumpIf(4, leave); // je
        EmitCanonicalCheck(Host.Rcx, leave);
        _hot.ImmediateOnAbsolute(7, &_c->Pending, 0, wide: false);
        _hot.JumpIf(5, leave); // jne: perhaps an interrupt that RFLAGS.IF lets through now
        _hot.Load(Host.T0, Gpr(11));
        _hot.Raw(0x41, 0xF7, 0xC6); // test r14d, imm32
        _hot.Int32((int)(Rflags.TF | Rflags.AC));
        _hot.JumpIf(5, leave);
        _hot.MoveImmediate(Host.T0, (ulong)Privilege(0));
        EmitPrivilege(Host.T0, leave);

        _hot.Load(Host.T0, Gpr(11));
        EmitLoadFlags();
        EmitSegment(CS, 48, 16, 3, UserCode);
        EmitSegment(SS, 48, 8, 3, UserData);
        _hot.Move(Host.T0, Host.Rcx);
    }

    /// <summary>T0 is the host address of the frame.</summary>
    /// <remarks>
    /// RFLAGS.RF, which every fault leaves in its frame, is dropped: generated code runs only while no breakpoint is
    /// enabled, and the next instruction clears it. Only an interrupt before that one could show that it was missing; and
    /// a debugger's breakpoint, see <see cref="KeepsResumeFlag"/>.
    /// </remarks>
    private void EmitInterruptReturn(ulong leave)
    {
        _hot.TestByte((byte*)&_c->Arch.Rflags + 1, (byte)(Rflags.NT >> 8));
        _hot.JumpIf(5, leave); // jne
        _hot.CompareByte(&_c->Arch.NmiBlocked, 0);
        _hot.JumpIf(5, leave);
        _hot.ImmediateOnAbsolute(7, &_c->Pending, 0, wide: false);
        _hot.JumpIf(5, leave); // perhaps an interrupt that RFLAGS.IF lets through now

        // RAX and RDX are borrowed for selectors and descriptors, RCX for the flags.
        var fail = _cold.Address;
        _cold.Raw(0x5A, 0x59, 0x58); // pop rdx, rcx, rax
        _cold.Jump(leave);
        _hot.Raw(0x50, 0x51, 0x52); // push rax, rcx, rdx
        _hot.Load(Host.Rdx, Host.T0, -1, 0);
        EmitCanonicalCheck(Host.Rdx, fail);
        _hot.Load(Host.Rcx, Host.T0, -1, 16);
        EmitFlagsTest(Rflags.TF);
        _resumeFlagTest = _hot.Address;
        KeepsResumeFlag = _keepsResumeFlag;
        _hot.JumpIf(5, fail);
        EmitFrameSelector(8);
        _hot.Raw(0xA8, 0x03); // test al, 3
        var toKernel = LongJumpIfEqual();

        EmitFlagsTest(Rflags.AC);
        _hot.JumpIf(5, fail);
        EmitDescriptorCheck(UserCode, fail);
        EmitFrameSelector(32);
        EmitDescriptorCheck(UserData, fail);

        // Data segments that the user may not have become null: none of them is anything else in 64-bit kernels.
        _hot.LoadWord(Host.Rdx, &Segment(ES)->Selector);
        foreach (var segment in (ReadOnlySpan<int>)[DS, FS, GS])
            _hot.OnWord(0x0B, Host.Rdx, &Segment(segment)->Selector); // or
        _hot.Raw(0xF7, 0xC2); // test edx, imm32
        _hot.Int32(0xFFFC);
        _hot.JumpIf(5, fail);
        _hot.MoveImmediate(Host.Rdx, (ulong)Privilege(0));
        EmitPrivilege(Host.Rdx, fail);
        EmitFrameSegment(CS, 8, UserCode);
        EmitFrameSegment(SS, 32, UserData);
        var returned = _hot.LongJump();

        _hot.LandLong(toKernel);
        EmitDescriptorCheck(KernelCode, fail);
        EmitFrameSelector(32);
        _hot.Raw(0xA9); // test eax, imm32: null has RPL 0 here, as all selectors
        _hot.Int32(0xFFFF);
        var isNull = LongJumpIfEqual();
        EmitDescriptorCheck(KernelData, fail);
        _hot.LandLong(isNull);
        EmitKernelPrivilege(Host.Rdx);
        EmitFlagsTest(Rflags.AC);
        var denied = _hot.ShortJump(0x74); // je
        _hot.MoveImmediate(Host.Rdx, (ulong)Privilege(2));
        _hot.Land(denied);
        EmitPrivilege(Host.Rdx, fail);
        EmitFrameSegment(CS, 8, KernelCode);
        EmitFrameSegment(SS, 32, KernelData);
        _hot.Op(0x85, Host.Rax, Host.Rax, wide: false);
        var isData = _hot.ShortJump(0x75); // jne
        _hot.StoreImmediate(&Segment(SS)->Limit, 0); // and selector and attributes
        _hot.Land(isData);

        _hot.LandLong(returned);
        _hot.Load(Host.GuestRsp, Host.T0, -1, 24);
        _hot.Load(Host.Rdx, Host.T0, -1, 0);
        _hot.Move(Host.T0, Host.Rcx);
        EmitLoadFlags();
        _hot.Move(Host.T0, Host.Rdx);
        _hot.Raw(0x5A, 0x59, 0x58);
    }

    /// <summary>je rel32 forward.</summary>
    private ulong LongJumpIfEqual()
    {
        _hot.Raw(0x0F, 0x84);
        _hot.Int32(0);
        return _hot.Address;
    }

    /// <summary>EAX is a selector of the frame.</summary>
    private void EmitFrameSelector(int offset)
    {
        _hot.Load(Host.Rax, Host.T0, -1, offset, wide: false);
        _hot.Raw(0x0F, 0xB7, 0xC0); // movzx eax, ax
    }

    /// <summary>test ecx, bits</summary>
    private void EmitFlagsTest(ulong bits)
    {
        _hot.Raw(0xF7, 0xC1);
        _hot.Int32((int)bits);
    }

    /// <summary>
    /// Fails unless the selector in EAX has the RPL of the wanted segment and names a flat segment of that kind in the
    /// GDT, which is looked for in the TLB only. Uses RDX and T1.
    /// </summary>
    private void EmitDescriptorCheck(ushort attributes, ulong fail)
    {
        var rpl = (attributes >> 5) & 3;
        var entries = checked((int)(long)_tlb.Kind(1));
        _hot.Move32(Host.Rdx, Host.Rax);
        _hot.Immediate(4, Host.Rdx, 7, wide: false); // TI and RPL
        _hot.Immediate(7, Host.Rdx, rpl, wide: false);
        _hot.JumpIf(5, fail); // jne
        _hot.Move32(Host.Rdx, Host.Rax);
        _hot.Immediate(4, Host.Rdx, 0xFFF8, wide: false);
        _hot.JumpIf(4, fail); // je: null
        _hot.Lea(Host.T1, Host.Rdx, -1, 7, wide: false);
        _hot.OnAbsolute(0x3B, Host.T1, &_c->Arch.Gdtr.Limit, wide: false);
        _hot.JumpIf(7, fail); // ja
        _hot.OnAbsolute(0x03, Host.Rdx, &_c->Arch.Gdtr.Base, wide: true); // add
        Routines.EmitIndex(_hot, Host.T1, Host.Rdx);
        _hot.TestByte((byte*)&_c->Arch.Cr4 + 2, (byte)(ControlRegisters.SMAP >> 16));
        var smap = _hot.ShortJump(0x75); // jne
        _hot.Immediate(0, Host.T1, checked((int)((byte*)_tlb.Kind(2) - (byte*)_tlb.Kind(1))));
        _hot.Land(smap);
        _hot.Raw(0x50); // push rax
        _hot.Move(Host.Rax, Host.Rdx);
        _hot.OnMemory(0x33, Host.Rax, Host.T1, -1, entries + TlbEntry.TagOffset(false), wide: true); // xor
        _hot.Immediate(7, Host.Rax, 4096 - 8);
        _hot.Raw(0x58);
        _hot.JumpIf(7, fail); // ja
        _hot.Load(Host.T1, Host.T1, -1, entries + TlbEntry.DeltaOffset);
        _hot.Load(Host.Rdx, Host.Rdx, Host.T1, 0);
        _hot.MoveImmediate(Host.T1, 0x000F_0000_0000_FFFF | ((ulong)attributes << 40));
        _hot.Op(0x39, Host.Rdx, Host.T1);
        _hot.JumpIf(5, fail);
    }

    /// <summary>A flat segment register whose selector is in the frame. EAX is that selector behind it.</summary>
    private void EmitFrameSegment(int segment, int offset, ushort attributes)
    {
        EmitFrameSelector(offset);
        EmitFlatSegment(Segment(segment), Host.Rax, attributes);
    }

    /// <summary>The entry of the kernel with RFLAGS.AC clear.</summary>
    private void EmitKernelPrivilege(int to)
    {
        _hot.MoveImmediate(to, (ulong)Privilege(1));
        _hot.TestByte((byte*)&_c->Arch.Cr4 + 2, (byte)(ControlRegisters.SMAP >> 16));
        var smap = _hot.ShortJump(0x75); // jne
        _hot.MoveImmediate(to, (ulong)Privilege(2));
        _hot.Land(smap);
    }

    /// <summary>Takes the key of another privilege, or leaves if it is not known. Uses T1.</summary>
    private void EmitPrivilege(int entry, ulong leave)
    {
        _hot.Load(Host.T1, entry, -1, sizeof(ulong), wide: false);
        _hot.Op(0x85, Host.T1, Host.T1, wide: false);
        _hot.JumpIf(4, leave); // je
        _hot.Store32(&_t->KeyNumber, Host.T1);
        _hot.Load(Host.T1, entry, -1, 0);
        _hot.Store(&_t->Key, Host.T1);
    }

    /// <summary>All of RFLAGS from T0. Uses T0 and T1.</summary>
    private void EmitLoadFlags()
    {
        _hot.Move(Host.T1, Host.T0);
        _hot.Immediate(4, Host.T1, (int)LoadedFlags, wide: false);
        _hot.Immediate(1, Host.T1, (int)Rflags.Reserved1, wide: false);
        _hot.Store(&_c->Arch.Rflags, Host.T1);
        EmitSavedFlags();
    }

    /// <summary>Saves the arithmetic flags of T0 as LAHF and SETO would. Uses T0 and T1.</summary>
    private void EmitSavedFlags()
    {
        _hot.Move32(Host.T1, Host.T0);
        _hot.Immediate(4, Host.T1, 0xD5, wide: false);
        _hot.Shift(4, Host.T1, 8, wide: false);
        _hot.Shift(5, Host.T0, 11, wide: false);
        _hot.Immediate(4, Host.T0, 1, wide: false);
        _hot.Op(0x09, Host.T1, Host.T0, wide: false);
        _hot.Store32(&_t->SavedFlags, Host.T1);
    }

    /// <summary>A flat segment register whose selector STAR has. Uses T0 and T1.</summary>
    /// <param name="shift">Where STAR has the selector that it is counted from.</param>
    private void EmitSegment(int segment, int shift, int add, int rpl, ushort attributes)
    {
        _hot.LoadWord(Host.T0, (byte*)&_c->Arch.Star + (shift / 8));
        if (rpl == 0)
            _hot.Immediate(4, Host.T0, 0xFFFC, wide: false);
        if (add != 0)
            _hot.Immediate(0, Host.T0, add, wide: false);
        if (rpl != 0)
            _hot.Immediate(1, Host.T0, rpl, wide: false);
        EmitFlatSegment(Segment(segment), Host.T0, attributes);
    }

    private void EmitFlatSegment(SegmentRegister* register, int selector, ushort attributes)
    {
        _hot.StoreImmediate(&register->Base, 0);
        _hot.StoreImmediate32(&register->Limit, -1);
        _hot.StoreWord(&register->Selector, selector);
        _hot.StoreImmediateWord(&register->Attributes, attributes);
    }
}
