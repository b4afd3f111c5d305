using Iced.Intel;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.HostCpu;
using Sharpvisor.Cpu.Interpreter;

namespace Sharpvisor.Cpu.Translator;

/// <summary>Decoding and classification.</summary>
internal sealed unsafe partial class BlockTranslator
{
    private const int GroupRange = 512;

    private readonly PageReader _reader = new();
    private readonly Decoder[] _decoders;
    private readonly InstructionInfoFactory _infoFactory = new();
    private readonly Item[] _items = new Item[MaxInstructions];
    private readonly AccessGroup[] _groups = new AccessGroup[2 * MaxInstructions];
    private readonly int[] _activeGroup = new int[AddressBase.Count];
    private readonly IndexGroup[] _indexGroups = new IndexGroup[8];
    private readonly int[] _uses = new int[8];
    private int _count, _groupCount;

    /// <summary>By code: what <see cref="Classify"/> found, plus one.</summary>
    private static readonly byte[] s_kinds = new byte[Enum.GetValues<Code>().Length];

    /// <summary>Decodes up to the end of the block. False: nothing to translate here.</summary>
    private bool Decode(byte* page, int start, int end, ulong pageBase)
    {
        var decoder = _decoders[_key & (uint)BlockMode.CodeMask];
        _reader.Set(page + start, page + end);
        decoder.IP = pageBase + (ulong)start;
        _count = 0;
        var offset = start;
        var branches = 0;
        while (_count < MaxInstructions)
        {
            if (_count > 0 && Guards is not null && Guards.Contains(offset))
                break;
            ref var item = ref _items[_count];
            decoder.Decode(out item.Instruction);
            ref var ins = ref item.Instruction;
            if (ins.IsInvalid)
                break; // perhaps the rest is in the next page; else the interpreter raises what has to be raised
            item.Offset = offset;
            offset += ins.Length;
            item.Next = offset;
            if (_is64 && ins.SegmentPrefix is Register.ES or Register.CS or Register.SS or Register.DS)
                ins.SegmentPrefix = Register.None;
            Inspect(ref item);
            _count++;
            if (EndsBlock(item.Kind))
            {
                if (item.Kind == ItemKind.JumpIf && ++branches <= MaxSideExits && _count < MaxInstructions - 8)
                    continue;
                break;
            }
        }

        return _count > 0;
    }

    private static bool EndsBlock(ItemKind kind) => kind is ItemKind.FallbackEnd or ItemKind.Call or ItemKind.CallIndirect or ItemKind.Return
        or ItemKind.Jump or ItemKind.JumpIndirect or ItemKind.JumpIf or ItemKind.Loop or ItemKind.SystemCall or ItemKind.SystemReturn or ItemKind.InterruptReturn;

    /// <summary>Finds out everything about one instruction.</summary>
    private void Inspect(ref Item item)
    {
        ref var ins = ref item.Instruction;
        item.HasOperand = item.HasStack = false;
        item.Written = item.Read = 0;
        item.UsesSse = item.UsesAvx = item.UsesX87 = false;
        ref readonly var info = ref _infoFactory.GetInfo(ins);
        foreach (var used in info.GetUsedRegisters())
        {
            var register = used.Register;
            if (register.IsGPR())
            {
                var bit = (ushort)(1 << (register.GetFullRegister() - Register.RAX));
                if (used.Access is OpAccess.Write or OpAccess.CondWrite or OpAccess.ReadWrite or OpAccess.ReadCondWrite)
                    item.Written |= bit;
                item.Read |= bit;
            }
        }

        var modified = ins.RflagsModified & Arithmetic;
        item.ChangesFlags = modified != 0;
        item.SetsAllFlags = modified == Arithmetic && (ins.RflagsRead & Arithmetic) == 0 && !MayKeepFlags(in ins);
        item.ReadsFlags = (ins.RflagsRead & Arithmetic) != 0;
        item.NeedsFlags = item.ReadsFlags || (item.ChangesFlags && !item.SetsAllFlags);
        item.Kind = KindOf(ref item, in info);
        if (item.Kind == ItemKind.Fallback && OpEndsBlock(in ins))
            item.Kind = ItemKind.FallbackEnd;
    }

    /// <summary>CF, PF, AF, ZF, SF and OF in Iced's terms.</summary>
    private const RflagsBits Arithmetic = RflagsBits.CF | RflagsBits.PF | RflagsBits.AF | RflagsBits.ZF | RflagsBits.SF | RflagsBits.OF;

    /// <summary>
    /// Instructions that leave a flag as it was, by definition (a shift by zero) or because a processor does so with
    /// flags that it may leave undefined: these have to see the guest's.
    /// </summary>
    private static bool MayKeepFlags(in Instruction ins)
    {
        switch (ins.Mnemonic)
        {
            case Mnemonic.Shl or Mnemonic.Sal or Mnemonic.Shr or Mnemonic.Sar:
                return ins.Op1Kind != OpKind.Immediate8 || (ins.Immediate8 & 31) == 0;
            case Mnemonic.Shld or Mnemonic.Shrd:
                return ins.Op2Kind != OpKind.Immediate8 || (ins.Immediate8 & 31) == 0;
            case Mnemonic.And or Mnemonic.Or or Mnemonic.Xor or Mnemonic.Test or Mnemonic.Andn or Mnemonic.Blsi or Mnemonic.Blsr
                or Mnemonic.Blsmsk or Mnemonic.Bzhi or Mnemonic.Bextr or Mnemonic.Popcnt:
                return false;
            default:
                return (ins.RflagsUndefined & Arithmetic) != 0;
        }
    }

    private ItemKind KindOf(ref Item item, in InstructionInfo info)
    {
        ref var ins = ref item.Instruction;
        if (!_builder.IsSupported(in ins))
            return ItemKind.FallbackEnd;
        ref var known = ref s_kinds[(int)ins.Code];
        if (known == 0)
            known = (byte)(1 + (int)Classify(ins.Code));
        var kind = (ItemKind)(known - 1);
        if (kind == ItemKind.PushMemory && ins.Op0Kind == OpKind.Register)
            kind = ItemKind.Push;
        switch (kind)
        {
            case ItemKind.Fallback:
                return kind;
            case ItemKind.DisableInterrupts or ItemKind.EnableInterrupts:
                return (_key & TranslationKey.Kernel) != 0 ? kind : ItemKind.Fallback;
            case ItemKind.PushFlags when (_key & (uint)BlockMode.Virtual86) != 0:
                return ItemKind.Fallback; // IOPL may forbid it
            case ItemKind.Push or ItemKind.PushImmediate or ItemKind.PushMemory or ItemKind.PushSelector or ItemKind.Pop or ItemKind.PushFlags or ItemKind.Leave
                or ItemKind.Call or ItemKind.CallIndirect or ItemKind.Return or ItemKind.Jump or ItemKind.JumpIndirect or ItemKind.PopSelector:
                if (kind == ItemKind.PopSelector && !IsReal)
                    return ItemKind.Fallback;
                if (!FindStack(ref item, kind) || !IsNear(in ins))
                    return ItemKind.Fallback;
                break;
            case ItemKind.LoadSelector:
                if (!IsReal || ins.Op0Register == Register.CS)
                    return ItemKind.Fallback;
                break;
            case ItemKind.Loop:
                return IsNear(in ins) && item.Next <= 4096 && IsInside(Target(in item)) ? kind : ItemKind.Fallback; // else it might fault
            case ItemKind.RepeatString:
                if (!ins.HasRepPrefix && !ins.HasRepnePrefix)
                    return FindString(ref item) ? ItemKind.String : ItemKind.Fallback;
                if (!ins.HasRepPrefix || ins.Mnemonic is Mnemonic.Lodsb or Mnemonic.Lodsw or Mnemonic.Lodsd or Mnemonic.Lodsq)
                    return ItemKind.Fallback;
                return !_isSegmented && ins.SegmentPrefix == Register.None && AddressBits(in ins) == (_is64 ? 64 : 32) ? kind : ItemKind.Fallback;
            case ItemKind.ReadTimeStamp:
                return _clock != null ? kind : ItemKind.Fallback;
            case ItemKind.Nothing when ins.Mnemonic == Mnemonic.Pause:
                return _smp ? ItemKind.Fallback : kind; // others may wait for the host processor
            case ItemKind.ReadSelector:
                break;
            case ItemKind.ReadProcessorId or ItemKind.ReadBase or ItemKind.WriteBase or ItemKind.SystemCall:
                return _is64 ? kind : ItemKind.Fallback;
            case ItemKind.ReadControl:
                return IsKernel && ins.Op1Register is Register.CR0 or Register.CR2 or Register.CR3 or Register.CR4 ? kind : ItemKind.Fallback;
            case ItemKind.InterruptReturn:
                if (!_is64 || !IsKernel)
                    return ItemKind.Fallback;
                item.HasStack = true;
                item.Stack = new MemoryAccess { Base = AddressBase.Rsp, Index = -1, Size = 40, Alignment = 1, Group = -1, Segment = -1, Reads = true };
                break;
            case ItemKind.SwapGs or ItemKind.AllowAccess or ItemKind.DenyAccess or ItemKind.SystemReturn:
                return _is64 && (_key & TranslationKey.Kernel) != 0 ? kind : ItemKind.Fallback;
            case ItemKind.BitTest:
                if (ins.Op0Kind == OpKind.Register)
                    kind = ItemKind.Same;
                else if (!_is64)
                    return ItemKind.Fallback;
                break;
            case ItemKind.LoadMxcsr:
                if ((_key >> TranslationKey.VectorShift & 1) == 0)
                    return ItemKind.Fallback;
                break;
            case ItemKind.JumpIf:
                return IsNear(in ins) ? kind : ItemKind.Fallback;
        }

        if (!FindOperand(ref item, in info, kind))
            return ItemKind.Fallback;
        if (kind == ItemKind.Same)
        {
            var traits = InstructionTraits.Of(ins.Code);
            item.UsesSse = traits.Isa == HostIsa.Sse;
            item.UsesAvx = traits.Isa == HostIsa.Avx;
            var available = _key >> TranslationKey.VectorShift;
            if ((item.UsesSse && (available & 1) == 0) || (item.UsesAvx && (available & 2) == 0))
                return ItemKind.Fallback;
            item.UsesX87 = traits.Isa is HostIsa.X87 or HostIsa.Mmx || UsesMmx(in ins);
            if (ins.Mnemonic is Mnemonic.Fnstcw or Mnemonic.Fnstsw or Mnemonic.Wait)
                item.UsesX87 = true;
            if (!_is64 && traits.Form is ThunkForm.ZeroUpper or ThunkForm.ZeroAll)
                return ItemKind.Fallback; // eight registers there, sixteen here
            if (!CanRename(in item) || (traits.IsVex && IsReal))
                return ItemKind.Fallback;
        }
        else if (kind is ItemKind.Divide or ItemKind.DivideSigned)
        {
            item.NeedsFlags = false; // they stay as they were: none is defined
            item.ChangesFlags = false;
            if (ins.Op0Kind == OpKind.Register && ins.Op0Register is >= Register.AH and <= Register.BH)
                return ItemKind.Fallback;
            if (ins.Op0Kind == OpKind.Register ? ins.Op0Register.GetSize() < 2 : item.Operand.Size < 2)
                return ItemKind.Fallback;
        }

        return kind;
    }

    private bool IsReal => (_key & (uint)BlockMode.Real) != 0;

    /// <summary>Not a branch, or one with an operand size that is not cut to less than the code's.</summary>
    private bool IsNear(in Instruction ins) => ins.Op0Kind != OpKind.NearBranch16 || (_key & (uint)BlockMode.CodeMask) == (uint)BlockMode.Code16;

    private static bool LoadsStackSegment(in Item item) =>
        item.Kind is ItemKind.LoadSelector or ItemKind.PopSelector && item.Instruction.Op0Register == Register.SS;

    /// <summary>The address size of a string instruction.</summary>
    private static int AddressBits(in Instruction ins)
    {
        for (var i = 0; i < ins.OpCount; i++)
        {
            switch (ins.GetOpKind(i))
            {
                case OpKind.MemorySegSI or OpKind.MemoryESDI:
                    return 16;
                case OpKind.MemorySegESI or OpKind.MemoryESEDI:
                    return 32;
            }
        }

        return 64;
    }

    /// <summary>Describes what MOVS, LODS and STOS access. False: not one that is translated.</summary>
    private bool FindString(ref Item item)
    {
        ref var ins = ref item.Instruction;
        var bits = AddressBits(in ins);
        var m = new MemoryAccess
        {
            Index = -1,
            Group = -1,
            Segment = -1,
            Alignment = 1,
            Size = ins.MemorySize.GetSize(),
            Address16 = bits == 16,
            Address32 = bits == 32,
        };
        for (var i = 0; i < ins.OpCount; i++)
        {
            switch (ins.GetOpKind(i))
            {
                case OpKind.MemorySegSI or OpKind.MemorySegESI or OpKind.MemorySegRSI:
                    item.Operand = m with { Base = 6, Reads = true };
                    item.HasOperand = true;
                    if (!TrySetSegment(ref item.Operand, ins.MemorySegment))
                        return false;
                    break;
                case OpKind.MemoryESDI or OpKind.MemoryESEDI or OpKind.MemoryESRDI:
                    item.Stack = m with { Base = 7, Writes = true };
                    item.HasStack = true;
                    TrySetSegment(ref item.Stack, Register.ES);
                    break;
            }
        }

        return true;
    }

    /// <summary>Says which segment's base and limit matter to an access by registers, if any. False: not to be translated.</summary>
    private bool TrySetSegment(ref MemoryAccess m, Register segment)
    {
        if (_is64)
        {
            if (segment is not (Register.FS or Register.GS))
                return true;
            m.Segment = (sbyte)(segment - Register.ES);
            return !m.Address32;
        }

        // Flat ones need no look; CS is never writable, FS and GS may be anything.
        if (_isSegmented || segment is not (Register.ES or Register.SS or Register.DS))
            m.Segment = (sbyte)(segment - Register.ES);
        return true;
    }

    private static bool UsesMmx(in Instruction ins)
    {
        for (var i = 0; i < ins.OpCount; i++)
        {
            if (ins.GetOpKind(i) == OpKind.Register && ins.GetOpRegister(i).IsMM())
                return true;
        }

        return false;
    }

    /// <summary>False where a high byte would need a REX prefix.</summary>
    private static bool CanRename(in Item item)
    {
        ref readonly var ins = ref item.Instruction;
        var high = false;
        var rex = false;
        for (var i = 0; i < ins.OpCount; i++)
        {
            if (ins.GetOpKind(i) != OpKind.Register)
                continue;
            var register = ins.GetOpRegister(i);
            if (register is >= Register.AH and <= Register.BH)
                high = true;
            else if (register.IsGPR() && register.GetFullRegister() is Register.RSP or >= Register.R8 and <= Register.R15)
                rex = true;
        }

        return !high || !rex;
    }

    /// <summary>What an instruction is, by its code alone.</summary>
    private static ItemKind Classify(Code code)
    {
        var op = code.ToOpCode();
        switch (code)
        {
            case Code.Push_r64 or Code.Push_r32 or Code.Push_r16:
                return ItemKind.Push;
            case Code.Pop_r64 or Code.Pop_r32 or Code.Pop_r16:
                return ItemKind.Pop;
            case Code.Pushq_imm32 or Code.Pushq_imm8 or Code.Pushd_imm32 or Code.Pushd_imm8 or Code.Push_imm16 or Code.Pushw_imm8:
                return ItemKind.PushImmediate;
            case Code.Push_rm64 or Code.Push_rm32 or Code.Push_rm16:
                return ItemKind.PushMemory;
            case Code.Pushw_ES or Code.Pushw_CS or Code.Pushw_SS or Code.Pushw_DS or Code.Pushw_FS or Code.Pushw_GS
                or Code.Pushd_ES or Code.Pushd_CS or Code.Pushd_SS or Code.Pushd_DS or Code.Pushd_FS or Code.Pushd_GS:
                return ItemKind.PushSelector;
            case Code.Popw_ES or Code.Popw_SS or Code.Popw_DS or Code.Popw_FS or Code.Popw_GS
                or Code.Popd_ES or Code.Popd_SS or Code.Popd_DS or Code.Popd_FS or Code.Popd_GS:
                return ItemKind.PopSelector;
            case Code.Mov_Sreg_rm16 or Code.Mov_Sreg_r32m16:
                return ItemKind.LoadSelector;
            case Code.Pushfq or Code.Pushfd or Code.Pushfw:
                return ItemKind.PushFlags;
            case Code.Leaveq or Code.Leaved or Code.Leavew:
                return ItemKind.Leave;
            case Code.Call_rel32_64 or Code.Call_rel32_32 or Code.Call_rel16:
                return ItemKind.Call;
            case Code.Call_rm64 or Code.Call_rm32 or Code.Call_rm16:
                return ItemKind.CallIndirect;
            case Code.Retnq or Code.Retnq_imm16 or Code.Retnd or Code.Retnd_imm16 or Code.Retnw or Code.Retnw_imm16:
                return ItemKind.Return;
            case Code.Jmp_rel32_64 or Code.Jmp_rel32_32 or Code.Jmp_rel8_64 or Code.Jmp_rel8_32 or Code.Jmp_rel16 or Code.Jmp_rel8_16:
                return ItemKind.Jump;
            case Code.Jmp_rm64 or Code.Jmp_rm32 or Code.Jmp_rm16:
                return ItemKind.JumpIndirect;
            case Code.Div_rm64 or Code.Div_rm32 or Code.Div_rm16:
                return ItemKind.Divide;
            case Code.Idiv_rm64 or Code.Idiv_rm32 or Code.Idiv_rm16:
                return ItemKind.DivideSigned;
            case Code.Cli:
                return ItemKind.DisableInterrupts;
            case Code.Sti:
                return ItemKind.EnableInterrupts;
            case Code.Cld:
                return ItemKind.ClearDirection;
            case Code.Std:
                return ItemKind.SetDirection;
            case Code.Endbr32 or Code.Endbr64:
                return ItemKind.Nothing;
            case Code.Movsb_m8_m8 or Code.Movsw_m16_m16 or Code.Movsd_m32_m32 or Code.Movsq_m64_m64
                or Code.Stosb_m8_AL or Code.Stosw_m16_AX or Code.Stosd_m32_EAX or Code.Stosq_m64_RAX
                or Code.Lodsb_AL_m8 or Code.Lodsw_AX_m16 or Code.Lodsd_EAX_m32 or Code.Lodsq_RAX_m64:
                return ItemKind.RepeatString;
            case Code.Bt_rm32_r32 or Code.Bt_rm64_r64 or Code.Bts_rm32_r32 or Code.Bts_rm64_r64
                or Code.Btr_rm32_r32 or Code.Btr_rm64_r64 or Code.Btc_rm32_r32 or Code.Btc_rm64_r64:
                return ItemKind.BitTest;
            case Code.Rdtsc or Code.Rdtscp:
                return ItemKind.ReadTimeStamp;
            case Code.Rdpid_r64:
                return ItemKind.ReadProcessorId;
            case Code.Mov_rm16_Sreg or Code.Mov_r32m16_Sreg or Code.Mov_r64m16_Sreg:
                return ItemKind.ReadSelector;
            case Code.Mov_r64_cr:
                return ItemKind.ReadControl;
            case Code.Rdfsbase_r32 or Code.Rdfsbase_r64 or Code.Rdgsbase_r32 or Code.Rdgsbase_r64:
                return ItemKind.ReadBase;
            case Code.Wrfsbase_r32 or Code.Wrfsbase_r64 or Code.Wrgsbase_r32 or Code.Wrgsbase_r64:
                return ItemKind.WriteBase;
            case Code.Stac:
                return ItemKind.AllowAccess;
            case Code.Clac:
                return ItemKind.DenyAccess;
            case Code.Syscall:
                return ItemKind.SystemCall;
            case Code.Sysretq:
                return ItemKind.SystemReturn;
            case Code.Iretq:
                return ItemKind.InterruptReturn;
            case Code.Pause:
                return ItemKind.Nothing;
            case Code.Swapgs:
                return ItemKind.SwapGs;
            case Code.Ldmxcsr_m32 or Code.VEX_Vldmxcsr_m32:
                return ItemKind.LoadMxcsr;
            case Code.Stmxcsr_m32 or Code.VEX_Vstmxcsr_m32:
                return ItemKind.Same;
            case Code.Mov_rm8_r8 or Code.Mov_rm16_r16 or Code.Mov_rm32_r32 or Code.Mov_rm64_r64 or Code.Mov_r8_rm8 or Code.Mov_r16_rm16
                or Code.Mov_r32_rm32 or Code.Mov_r64_rm64 or Code.Mov_r8_imm8 or Code.Mov_r16_imm16 or Code.Mov_r32_imm32 or Code.Mov_r64_imm64
                or Code.Mov_rm8_imm8 or Code.Mov_rm16_imm16 or Code.Mov_rm32_imm32 or Code.Mov_rm64_imm32
                or Code.Mov_AL_moffs8 or Code.Mov_AX_moffs16 or Code.Mov_EAX_moffs32 or Code.Mov_RAX_moffs64
                or Code.Mov_moffs8_AL or Code.Mov_moffs16_AX or Code.Mov_moffs32_EAX or Code.Mov_moffs64_RAX
                or Code.Lea_r16_m or Code.Lea_r32_m or Code.Lea_r64_m or Code.Inc_r16 or Code.Inc_r32 or Code.Dec_r16 or Code.Dec_r32
                or Code.Mfence or Code.Lfence or Code.Sfence:
                return ItemKind.Same;
        }

        if (code.IsJccShortOrNear())
            return ItemKind.JumpIf;
        var mnemonic = code.Mnemonic();
        switch (mnemonic)
        {
            case Mnemonic.Jcxz or Mnemonic.Jecxz or Mnemonic.Jrcxz or Mnemonic.Loop or Mnemonic.Loope or Mnemonic.Loopne:
                return ItemKind.Loop;
            case Mnemonic.Nop or Mnemonic.Prefetcht0 or Mnemonic.Prefetcht1 or Mnemonic.Prefetcht2 or Mnemonic.Prefetchnta
                or Mnemonic.Prefetchw or Mnemonic.Prefetch:
                return ItemKind.Nothing;
            case Mnemonic.Xchg:
                return ItemKind.Same;
        }

        var traits = InstructionTraits.Of(code);
        return traits.Form switch
        {
            ThunkForm.Registers => ItemKind.Same,
            ThunkForm.X87 or ThunkForm.Wait or ThunkForm.StoreStatusWord or ThunkForm.StoreControlWord => ItemKind.Same,
            ThunkForm.ZeroUpper or ThunkForm.ZeroAll => ItemKind.Same,
            _ => ItemKind.Fallback,
        };
    }

    /// <summary>Whether the interpreter's operation for an instruction ends a block.</summary>
    private bool OpEndsBlock(in Instruction ins)
    {
        Op op;
        var mark = _arena.Used;
        _builder.Begin(_arena, _pageBase, _key & TranslationKey.ModeMask);
        var ends = _builder.Build(&op, in ins, 0, tooLong: false);
        _arena.Release(mark);
        return ends;
    }

    /// <summary>The group that is open for accesses by two registers.</summary>
    private struct IndexGroup
    {
        public sbyte Base, Index;
        public byte Scale;
        public int Group;
    }

    private sealed class PageReader : CodeReader
    {
        private byte* _at, _end;

        public void Set(byte* start, byte* end)
        {
            _at = start;
            _end = end;
        }

        public override int ReadByte() => _at < _end ? *_at++ : -1;
    }
}
