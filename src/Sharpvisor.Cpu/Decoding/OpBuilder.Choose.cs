using Iced.Intel;
using Sharpvisor.Cpu.Cpuid;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Decoding;

/// <summary>The choice of handlers for the common instructions.</summary>
internal sealed unsafe partial class OpBuilder
{
    /// <summary>The handler, with register and immediate operands laid out; 0 for instructions without one.</summary>
    private nint Choose(Op* op, in Instruction ins, int memory, out bool ends)
    {
        ends = false;
        switch (ins.Mnemonic)
        {
            case Mnemonic.Mov:
                return Mov(op, in ins, memory);
            case Mnemonic.Add:
                return Alu<Add>(op, in ins, memory);
            case Mnemonic.Adc:
                return Alu<Adc>(op, in ins, memory);
            case Mnemonic.Sub:
                return Alu<Sub>(op, in ins, memory);
            case Mnemonic.Sbb:
                return Alu<Sbb>(op, in ins, memory);
            case Mnemonic.And:
                return Alu<And>(op, in ins, memory);
            case Mnemonic.Or:
                return Alu<Or>(op, in ins, memory);
            case Mnemonic.Xor:
                return Alu<Xor>(op, in ins, memory);
            case Mnemonic.Cmp:
                return Alu<Cmp>(op, in ins, memory);
            case Mnemonic.Test:
                return Alu<Test>(op, in ins, memory);
            case Mnemonic.Inc:
                return Unary<Inc>(op, in ins, memory);
            case Mnemonic.Dec:
                return Unary<Dec>(op, in ins, memory);
            case Mnemonic.Neg:
                return Unary<Neg>(op, in ins, memory);
            case Mnemonic.Not:
                return Unary<Not>(op, in ins, memory);
            case Mnemonic.Shl or Mnemonic.Sal:
                return Shift<Shl>(op, in ins, memory);
            case Mnemonic.Shr:
                return Shift<Shr>(op, in ins, memory);
            case Mnemonic.Sar:
                return Shift<Sar>(op, in ins, memory);
            case Mnemonic.Rol:
                return Shift<Rol>(op, in ins, memory);
            case Mnemonic.Ror:
                return Shift<Ror>(op, in ins, memory);
            case Mnemonic.Rcl:
                return Shift<Rcl>(op, in ins, memory);
            case Mnemonic.Rcr:
                return Shift<Rcr>(op, in ins, memory);
            case Mnemonic.Bt:
                return BitTest<Bt>(op, in ins, memory);
            case Mnemonic.Bts:
                return BitTest<Bts>(op, in ins, memory);
            case Mnemonic.Btr:
                return BitTest<Btr>(op, in ins, memory);
            case Mnemonic.Btc:
                return BitTest<Btc>(op, in ins, memory);
            case Mnemonic.Imul:
                return Imul(op, in ins, memory);
            case Mnemonic.Mul:
                return Accumulator<Mul>(op, in ins, memory);
            case Mnemonic.Div:
                return Accumulator<Div>(op, in ins, memory);
            case Mnemonic.Idiv:
                return Accumulator<Idiv>(op, in ins, memory);
            case Mnemonic.Lea:
                op->Dst = Reg(in ins, 0);
                return op->AddressSize == 4 ? Handlers.Pick<Lea64>(Size(in ins, 0)) : Handlers.Pick<Lea>(Size(in ins, 0));
            case Mnemonic.Movzx:
                return Size(in ins, 1) == 1 ? Extend<MovzxReg<byte>, MovzxMem<byte>>(op, in ins, memory) : Extend<MovzxReg<ushort>, MovzxMem<ushort>>(op, in ins, memory);
            case Mnemonic.Movsx or Mnemonic.Movsxd:
                return Size(in ins, 1) switch
                {
                    1 => Extend<MovsxReg<byte>, MovsxMem<byte>>(op, in ins, memory),
                    2 => Extend<MovsxReg<ushort>, MovsxMem<ushort>>(op, in ins, memory),
                    _ => Extend<MovsxReg<uint>, MovsxMem<uint>>(op, in ins, memory),
                };
            case Mnemonic.Xchg:
                return Exchange<XchgRegReg, XchgMemReg>(op, in ins, memory);
            case Mnemonic.Xadd:
                return Exchange<XaddRegReg, XaddMemReg>(op, in ins, memory);
            case Mnemonic.Cmpxchg:
                return Exchange<CmpxchgRegReg, CmpxchgMemReg>(op, in ins, memory);
            case Mnemonic.Bsf:
                return Extend<BitCountReg<Bsf>, BitCountMem<Bsf>>(op, in ins, memory);
            case Mnemonic.Bsr:
                return Extend<BitCountReg<Bsr>, BitCountMem<Bsr>>(op, in ins, memory);
            case Mnemonic.Tzcnt: // BSF on a model without it
                return _model.Has(CpuFeature.Bmi1) ? Extend<BitCountReg<Tzcnt>, BitCountMem<Tzcnt>>(op, in ins, memory) : Extend<BitCountReg<Bsf>, BitCountMem<Bsf>>(op, in ins, memory);
            case Mnemonic.Lzcnt: // BSR on a model without it
                return _model.Has(CpuFeature.Lzcnt) ? Extend<BitCountReg<Lzcnt>, BitCountMem<Lzcnt>>(op, in ins, memory) : Extend<BitCountReg<Bsr>, BitCountMem<Bsr>>(op, in ins, memory);
            case Mnemonic.Popcnt:
                return Extend<BitCountReg<Popcnt>, BitCountMem<Popcnt>>(op, in ins, memory);
            case Mnemonic.Bswap:
                op->Dst = Reg(in ins, 0);
                return Handlers.Pick<Bswap>(Size(in ins, 0));
            case Mnemonic.Movbe:
                if (memory == 0)
                    op->Src = Reg(in ins, 1);
                else
                    op->Dst = Reg(in ins, 0);
                return memory == 0 ? Handlers.Pick<MovbeMemReg>(Size(in ins, 1), Ea(op)) : Handlers.Pick<MovbeRegMem>(Size(in ins, 0), Ea(op));
            case Mnemonic.Cbw:
                return Handlers.Pick<ExtendAccumulator>(2);
            case Mnemonic.Cwde:
                return Handlers.Pick<ExtendAccumulator>(4);
            case Mnemonic.Cdqe:
                return Handlers.Pick<ExtendAccumulator>(8);
            case Mnemonic.Cwd:
                return Handlers.Pick<ExtendToData>(2);
            case Mnemonic.Cdq:
                return Handlers.Pick<ExtendToData>(4);
            case Mnemonic.Cqo:
                return Handlers.Pick<ExtendToData>(8);
            case Mnemonic.Nop or Mnemonic.Endbr64 or Mnemonic.Endbr32 or Mnemonic.Prefetchnta or Mnemonic.Prefetcht0 or Mnemonic.Prefetcht1
                or Mnemonic.Prefetcht2 or Mnemonic.Prefetchw or Mnemonic.Prefetch or Mnemonic.Prefetchwt1 or Mnemonic.Lfence or Mnemonic.Sfence or Mnemonic.Rdsspd or Mnemonic.Rdsspq:
                return Handlers.Pick<Nop>(1);
            case Mnemonic.Push:
                return Push(op, in ins, memory);
            case Mnemonic.Pop:
                return Pop(op, in ins, memory);
            case Mnemonic.Jmp:
                ends = true;
                return Jump(op, in ins, memory);
            case Mnemonic.Call:
                ends = true;
                return Call(op, in ins, memory);
            case Mnemonic.Ret:
                ends = true;
                op->Imm = ins.OpCount == 0 ? 0 : ins.GetImmediate(0);
                op->Segment = 2;
                return ins.Code switch
                {
                    Code.Retnq or Code.Retnq_imm16 => (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.Return64,
                    Code.Retnd or Code.Retnd_imm16 => (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.Return<uint>,
                    _ when !Is64 => (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.Return<ushort>,
                    _ => 0,
                };
            case Mnemonic.Loop:
                return Loop(op, in ins, 0, out ends);
            case Mnemonic.Loope:
                return Loop(op, in ins, 1, out ends);
            case Mnemonic.Loopne:
                return Loop(op, in ins, 2, out ends);
            case Mnemonic.Jcxz or Mnemonic.Jecxz or Mnemonic.Jrcxz:
                return Loop(op, in ins, 3, out ends);
            case Mnemonic.Movsb or Mnemonic.Movsw or Mnemonic.Movsd or Mnemonic.Movsq when ins.IsStringInstruction:
                return String(op, in ins, &StringHandlers.Movs<byte>, &StringHandlers.Movs<ushort>, &StringHandlers.Movs<uint>, &StringHandlers.Movs<ulong>);
            case Mnemonic.Stosb or Mnemonic.Stosw or Mnemonic.Stosd or Mnemonic.Stosq:
                return String(op, in ins, &StringHandlers.Stos<byte>, &StringHandlers.Stos<ushort>, &StringHandlers.Stos<uint>, &StringHandlers.Stos<ulong>);
            case Mnemonic.Lodsb or Mnemonic.Lodsw or Mnemonic.Lodsd or Mnemonic.Lodsq:
                return String(op, in ins, &StringHandlers.Lods<byte>, &StringHandlers.Lods<ushort>, &StringHandlers.Lods<uint>, &StringHandlers.Lods<ulong>);
            case Mnemonic.Scasb or Mnemonic.Scasw or Mnemonic.Scasd or Mnemonic.Scasq:
                return String(op, in ins, &StringHandlers.Scas<byte>, &StringHandlers.Scas<ushort>, &StringHandlers.Scas<uint>, &StringHandlers.Scas<ulong>);
            case Mnemonic.Cmpsb or Mnemonic.Cmpsw or Mnemonic.Cmpsd or Mnemonic.Cmpsq when ins.IsStringInstruction:
                return String(op, in ins, &StringHandlers.Cmps<byte>, &StringHandlers.Cmps<ushort>, &StringHandlers.Cmps<uint>, &StringHandlers.Cmps<ulong>);
        }

        if (ins.IsJccShortOrNear)
        {
            ends = true;
            return ConditionalJump(op, in ins);
        }

        if (IsSetcc(ins.Code))
            return SetCondition(op, in ins, memory);
        return IsCmov(ins.Code) ? MoveCondition(op, in ins, memory) : 0;
    }

    private static ushort Reg(in Instruction ins, int operand)
    {
        var offset = RegisterOffset(ins.GetOpRegister(operand));
        return offset < 0 ? throw new InvalidOperationException($"operand {operand} of {ins.Code} is not a general register") : (ushort)offset;
    }

    private static int Size(in Instruction ins, int operand) =>
        ins.GetOpKind(operand) == OpKind.Memory ? ins.MemorySize.GetSize() : ins.GetOpRegister(operand).GetSize();

    private static bool IsImmediate(in Instruction ins, int operand) =>
        operand < ins.OpCount && ins.GetOpKind(operand) is >= OpKind.Immediate8 and <= OpKind.Immediate32to64;

    private static bool IsGeneral(in Instruction ins, int operand) => RegisterOffset(ins.GetOpRegister(operand)) >= 0;

    private static ulong Immediate(in Instruction ins, int operand, int size)
    {
        var value = ins.GetImmediate(operand);
        return size == 8 ? value : value & ((1UL << (8 * size)) - 1);
    }

    private nint Mov(Op* op, in Instruction ins, int memory)
    {
        if (memory < 0)
        {
            if (!IsGeneral(in ins, 0) || (!IsImmediate(in ins, 1) && !IsGeneral(in ins, 1)))
                return 0; // segment, control and debug registers
            op->Dst = Reg(in ins, 0);
            if (IsImmediate(in ins, 1))
            {
                op->Imm = Immediate(in ins, 1, Size(in ins, 0));
                return Handlers.Pick<MovRegImm>(Size(in ins, 0));
            }

            op->Src = Reg(in ins, 1);
            return Handlers.Pick<MovRegReg>(Size(in ins, 0));
        }

        if (memory == 1)
        {
            if (!IsGeneral(in ins, 0))
                return 0;
            op->Dst = Reg(in ins, 0);
            return Handlers.Pick<MovRegMem>(Size(in ins, 0), Ea(op));
        }

        if (IsImmediate(in ins, 1))
        {
            op->Imm = Immediate(in ins, 1, Size(in ins, 0));
            return Handlers.Pick<MovMemImm>(Size(in ins, 0), Ea(op));
        }

        if (!IsGeneral(in ins, 1))
            return 0;
        op->Src = Reg(in ins, 1);
        return Handlers.Pick<MovMemReg>(Size(in ins, 1), Ea(op));
    }

    private nint Alu<TOp>(Op* op, in Instruction ins, int memory) where TOp : struct, IAlu
    {
        var size = Size(in ins, 0);
        var locked = ins.HasLockPrefix; // with one processor, too: it orders stores and loads towards devices' threads
        if (memory == 1)
        {
            op->Dst = Reg(in ins, 0);
            return Handlers.Pick<AluRegMem<TOp>>(size, Ea(op));
        }

        if (memory == 0)
        {
            if (IsImmediate(in ins, 1))
            {
                op->Imm = Immediate(in ins, 1, size);
                return locked ? Handlers.Pick<LockedMemImm<TOp>>(size, Ea(op)) : Handlers.Pick<AluMemImm<TOp>>(size, Ea(op));
            }

            op->Src = Reg(in ins, 1);
            return locked ? Handlers.Pick<LockedMemReg<TOp>>(size, Ea(op)) : Handlers.Pick<AluMemReg<TOp>>(size, Ea(op));
        }

        op->Dst = Reg(in ins, 0);
        if (IsImmediate(in ins, 1))
        {
            op->Imm = Immediate(in ins, 1, size);
            return Handlers.Pick<AluRegImm<TOp>>(size);
        }

        op->Src = Reg(in ins, 1);
        return Handlers.Pick<AluRegReg<TOp>>(size);
    }

    private nint Unary<TOp>(Op* op, in Instruction ins, int memory) where TOp : struct, IAlu
    {
        var size = Size(in ins, 0);
        if (memory == 0)
            return ins.HasLockPrefix ? Handlers.Pick<LockedMemImm<TOp>>(size, Ea(op)) : Handlers.Pick<AluMemImm<TOp>>(size, Ea(op));
        op->Dst = Reg(in ins, 0);
        return Handlers.Pick<AluRegImm<TOp>>(size);
    }

    private nint Shift<TOp>(Op* op, in Instruction ins, int memory) where TOp : struct, IAlu
    {
        var size = Size(in ins, 0);
        if (memory < 0)
            op->Dst = Reg(in ins, 0);
        if (IsImmediate(in ins, 1))
        {
            op->Imm = ins.GetImmediate(1);
            return memory == 0 ? Handlers.Pick<AluMemImm<TOp>>(size, Ea(op)) : Handlers.Pick<AluRegImm<TOp>>(size);
        }

        return memory == 0 ? Handlers.Pick<AluMemCl<TOp>>(size, Ea(op)) : Handlers.Pick<AluRegCl<TOp>>(size);
    }

    /// <summary>Bit tests with a register index reach beyond a memory operand: those are not here.</summary>
    private nint BitTest<TOp>(Op* op, in Instruction ins, int memory) where TOp : struct, IAlu =>
        memory == 0 && !IsImmediate(in ins, 1) ? 0 : Alu<TOp>(op, in ins, memory);

    private nint Imul(Op* op, in Instruction ins, int memory)
    {
        if (ins.OpCount == 1)
            return Accumulator<ImulOne>(op, in ins, memory);
        if (ins.OpCount == 2)
            return Alu<Imul>(op, in ins, memory);
        var size = Size(in ins, 0);
        op->Dst = Reg(in ins, 0);
        op->Imm = Immediate(in ins, 2, size);
        if (memory == 1)
            return Handlers.Pick<AluRegMemImm<Imul>>(size, Ea(op));
        op->Src = Reg(in ins, 1);
        return Handlers.Pick<AluRegRegImm<Imul>>(size);
    }

    private nint Accumulator<TOp>(Op* op, in Instruction ins, int memory) where TOp : struct, IAccumulatorOperation
    {
        var size = Size(in ins, 0);
        if (memory == 0)
            return Handlers.Pick<AccumulatorMem<TOp>>(size, Ea(op));
        op->Src = Reg(in ins, 0);
        return Handlers.Pick<AccumulatorReg<TOp>>(size);
    }

    private nint Extend<TRegister, TMemory>(Op* op, in Instruction ins, int memory) where TRegister : struct, IRegisterHandler where TMemory : struct, IMemoryHandler
    {
        op->Dst = Reg(in ins, 0);
        if (memory == 1)
            return Handlers.Pick<TMemory>(Size(in ins, 0), Ea(op));
        op->Src = Reg(in ins, 1);
        return Handlers.Pick<TRegister>(Size(in ins, 0));
    }

    private nint Exchange<TRegister, TMemory>(Op* op, in Instruction ins, int memory) where TRegister : struct, IRegisterHandler where TMemory : struct, IMemoryHandler
    {
        if (memory >= 0)
        {
            op->Src = Reg(in ins, 1 - memory);
            return Handlers.Pick<TMemory>(Size(in ins, 1 - memory), Ea(op));
        }

        op->Dst = Reg(in ins, 0);
        op->Src = Reg(in ins, 1);
        return Handlers.Pick<TRegister>(Size(in ins, 0));
    }

    private nint Push(Op* op, in Instruction ins, int memory)
    {
        int size;
        if (IsImmediate(in ins, 0))
        {
            size = -ins.StackPointerIncrement;
            op->Imm = Immediate(in ins, 0, size);
            op->Segment = 2;
            return Is64 ? Handlers.Pick<PushImm64>(size) : Handlers.Pick<PushImm>(size);
        }

        size = Size(in ins, 0);
        if (memory == 0)
            return Is64 ? Handlers.Pick<PushMem64>(size, Ea(op)) : 0;
        if (!IsGeneral(in ins, 0))
            return 0;
        op->Src = Reg(in ins, 0);
        op->Segment = 2;
        return Is64 ? Handlers.Pick<PushReg64>(size) : Handlers.Pick<PushReg>(size);
    }

    private nint Pop(Op* op, in Instruction ins, int memory)
    {
        if (memory == 0 || !IsGeneral(in ins, 0))
            return 0;
        op->Dst = Reg(in ins, 0);
        op->Segment = 2;
        return Is64 ? Handlers.Pick<PopReg64>(Size(in ins, 0)) : Handlers.Pick<PopReg>(Size(in ins, 0));
    }

    /// <summary>Operand size of a near branch in bytes.</summary>
    private static int BranchSize(in Instruction ins) => ins.GetOpKind(0) switch
    {
        OpKind.NearBranch16 => 2,
        OpKind.NearBranch32 => 4,
        _ => 8,
    };

    private nint Jump(Op* op, in Instruction ins, int memory)
    {
        if (ins.GetOpKind(0) is OpKind.NearBranch16 or OpKind.NearBranch32 or OpKind.NearBranch64)
        {
            op->Imm = ins.NearBranchTarget - _rip;
            return BranchSize(in ins) == 2 ? (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.Jump16
                : ChecksLimit ? (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.Jump32
                : (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.Jump;
        }

        if (ins.IsJmpFarIndirect || ins.IsJmpFar)
            return 0;
        var size = Size(in ins, 0);
        if (memory == 0)
            return Handlers.Pick<JumpMem>(size, Ea(op));
        op->Src = Reg(in ins, 0);
        return size switch
        {
            8 => (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.JumpReg64,
            4 => (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.JumpReg<uint>,
            _ => (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.JumpReg<ushort>,
        };
    }

    private nint Call(Op* op, in Instruction ins, int memory)
    {
        if (ins.GetOpKind(0) is OpKind.NearBranch16 or OpKind.NearBranch32 or OpKind.NearBranch64)
        {
            op->Imm = ins.NearBranchTarget - _rip;
            op->Segment = 2;
            return BranchSize(in ins) switch
            {
                8 => (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.Call64,
                4 => (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.Call<uint>,
                _ when !Is64 => (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.Call<ushort>,
                _ => 0,
            };
        }

        if (ins.IsCallFarIndirect || ins.IsCallFar)
            return 0;
        var size = Size(in ins, 0);
        if (Is64 && size != 8)
            return 0;
        if (memory == 0)
            return Handlers.Pick<CallMem>(size, Ea(op));
        op->Src = Reg(in ins, 0);
        op->Segment = 2;
        return size switch
        {
            8 => (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.CallReg64,
            4 => (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.CallReg<uint>,
            _ => (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.CallReg<ushort>,
        };
    }

    private nint Loop(Op* op, in Instruction ins, byte kind, out bool ends)
    {
        ends = true;
        op->Imm = ins.NearBranchTarget - _rip;
        op->Extra = kind;
        op->Dst = (ushort)BranchSize(in ins);
        op->AddressSize = (byte)(CounterSize(in ins) / 2);
        return (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.Loop;
    }

    /// <summary>Bytes of the counter of LOOP and its kin.</summary>
    internal static int CounterSize(in Instruction ins)
    {
        return ins.Code switch
        {
            Code.Loop_rel8_16_CX or Code.Loop_rel8_32_CX or Code.Loope_rel8_16_CX or Code.Loope_rel8_32_CX or Code.Loopne_rel8_16_CX or Code.Loopne_rel8_32_CX
                or Code.Jcxz_rel8_16 or Code.Jcxz_rel8_32 => 2,
            Code.Loop_rel8_16_RCX or Code.Loop_rel8_64_RCX or Code.Loope_rel8_16_RCX or Code.Loope_rel8_64_RCX or Code.Loopne_rel8_16_RCX or Code.Loopne_rel8_64_RCX
                or Code.Jrcxz_rel8_16 or Code.Jrcxz_rel8_64 => 8,
            _ => 4,
        };
    }

    private static nint String(Op* op, in Instruction ins, delegate*<CpuContext*, Op*, void> b, delegate*<CpuContext*, Op*, void> w, delegate*<CpuContext*, Op*, void> d, delegate*<CpuContext*, Op*, void> q)
    {
        LayOutString(op, in ins);
        return ins.MemorySize.GetSize() switch { 1 => (nint)b, 2 => (nint)w, 4 => (nint)d, _ => (nint)q };
    }

    /// <summary>Repeat prefix, address size and source segment of a string instruction.</summary>
    internal static void LayOutString(Op* op, in Instruction ins)
    {
        op->Extra = ins.HasRepnePrefix ? (byte)2 : ins.HasRepPrefix ? (byte)1 : (byte)0;
        op->Segment = 3;
        for (var i = 0; i < ins.OpCount; i++)
        {
            switch (ins.GetOpKind(i))
            {
                case OpKind.MemorySegSI or OpKind.MemorySegDI:
                    op->AddressSize = 1;
                    op->Segment = (byte)SegmentIndex(ins.MemorySegment);
                    break;
                case OpKind.MemorySegESI or OpKind.MemorySegEDI:
                    op->AddressSize = 2;
                    op->Segment = (byte)SegmentIndex(ins.MemorySegment);
                    break;
                case OpKind.MemorySegRSI or OpKind.MemorySegRDI:
                    op->AddressSize = 4;
                    op->Segment = (byte)SegmentIndex(ins.MemorySegment);
                    break;
                case OpKind.MemoryESDI:
                    op->AddressSize = 1;
                    break;
                case OpKind.MemoryESEDI:
                    op->AddressSize = 2;
                    break;
                case OpKind.MemoryESRDI:
                    op->AddressSize = 4;
                    break;
            }
        }
    }

    private nint ConditionalJump(Op* op, in Instruction ins)
    {
        op->Imm = ins.NearBranchTarget - _rip;
        var narrow = BranchSize(in ins) == 2;
        return ins.ConditionCode switch
        {
            ConditionCode.o => Jcc<CondO>(narrow),
            ConditionCode.no => Jcc<CondNO>(narrow),
            ConditionCode.b => Jcc<CondB>(narrow),
            ConditionCode.ae => Jcc<CondAE>(narrow),
            ConditionCode.e => Jcc<CondE>(narrow),
            ConditionCode.ne => Jcc<CondNE>(narrow),
            ConditionCode.be => Jcc<CondBE>(narrow),
            ConditionCode.a => Jcc<CondA>(narrow),
            ConditionCode.s => Jcc<CondS>(narrow),
            ConditionCode.ns => Jcc<CondNS>(narrow),
            ConditionCode.p => Jcc<CondP>(narrow),
            ConditionCode.np => Jcc<CondNP>(narrow),
            ConditionCode.l => Jcc<CondL>(narrow),
            ConditionCode.ge => Jcc<CondGE>(narrow),
            ConditionCode.le => Jcc<CondLE>(narrow),
            _ => Jcc<CondG>(narrow),
        };
    }

    /// <summary>Branches may leave the code segment.</summary>
    private bool ChecksLimit => !Is64 && !IsFlat;

    private nint Jcc<T>(bool narrow) where T : struct, ICondition => narrow
        ? (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.Jump16If<T>
        : ChecksLimit ? (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.Jump32If<T>
        : (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.JumpIf<T>;

    private static bool IsCmov(Code code) => code is >= Code.Cmovo_r16_rm16 and <= Code.Cmovg_r64_rm64;

    private static bool IsSetcc(Code code) => code is >= Code.Seto_rm8 and <= Code.Setg_rm8;

    private nint SetCondition(Op* op, in Instruction ins, int memory) => ins.ConditionCode switch
    {
        ConditionCode.o => Setcc<CondO>(op, in ins, memory),
        ConditionCode.no => Setcc<CondNO>(op, in ins, memory),
        ConditionCode.b => Setcc<CondB>(op, in ins, memory),
        ConditionCode.ae => Setcc<CondAE>(op, in ins, memory),
        ConditionCode.e => Setcc<CondE>(op, in ins, memory),
        ConditionCode.ne => Setcc<CondNE>(op, in ins, memory),
        ConditionCode.be => Setcc<CondBE>(op, in ins, memory),
        ConditionCode.a => Setcc<CondA>(op, in ins, memory),
        ConditionCode.s => Setcc<CondS>(op, in ins, memory),
        ConditionCode.ns => Setcc<CondNS>(op, in ins, memory),
        ConditionCode.p => Setcc<CondP>(op, in ins, memory),
        ConditionCode.np => Setcc<CondNP>(op, in ins, memory),
        ConditionCode.l => Setcc<CondL>(op, in ins, memory),
        ConditionCode.ge => Setcc<CondGE>(op, in ins, memory),
        ConditionCode.le => Setcc<CondLE>(op, in ins, memory),
        _ => Setcc<CondG>(op, in ins, memory),
    };

    private nint Setcc<T>(Op* op, in Instruction ins, int memory) where T : struct, ICondition
    {
        if (memory == 0)
            return Handlers.PickFixed<SetMem<T>, byte>(Ea(op));
        op->Dst = Reg(in ins, 0);
        return Handlers.Pick<SetReg<T>>(1);
    }

    private nint MoveCondition(Op* op, in Instruction ins, int memory) => ins.ConditionCode switch
    {
        ConditionCode.o => Extend<CmovReg<CondO>, CmovMem<CondO>>(op, in ins, memory),
        ConditionCode.no => Extend<CmovReg<CondNO>, CmovMem<CondNO>>(op, in ins, memory),
        ConditionCode.b => Extend<CmovReg<CondB>, CmovMem<CondB>>(op, in ins, memory),
        ConditionCode.ae => Extend<CmovReg<CondAE>, CmovMem<CondAE>>(op, in ins, memory),
        ConditionCode.e => Extend<CmovReg<CondE>, CmovMem<CondE>>(op, in ins, memory),
        ConditionCode.ne => Extend<CmovReg<CondNE>, CmovMem<CondNE>>(op, in ins, memory),
        ConditionCode.be => Extend<CmovReg<CondBE>, CmovMem<CondBE>>(op, in ins, memory),
        ConditionCode.a => Extend<CmovReg<CondA>, CmovMem<CondA>>(op, in ins, memory),
        ConditionCode.s => Extend<CmovReg<CondS>, CmovMem<CondS>>(op, in ins, memory),
        ConditionCode.ns => Extend<CmovReg<CondNS>, CmovMem<CondNS>>(op, in ins, memory),
        ConditionCode.p => Extend<CmovReg<CondP>, CmovMem<CondP>>(op, in ins, memory),
        ConditionCode.np => Extend<CmovReg<CondNP>, CmovMem<CondNP>>(op, in ins, memory),
        ConditionCode.l => Extend<CmovReg<CondL>, CmovMem<CondL>>(op, in ins, memory),
        ConditionCode.ge => Extend<CmovReg<CondGE>, CmovMem<CondGE>>(op, in ins, memory),
        ConditionCode.le => Extend<CmovReg<CondLE>, CmovMem<CondLE>>(op, in ins, memory),
        _ => Extend<CmovReg<CondG>, CmovMem<CondG>>(op, in ins, memory),
    };
}
