using System.Numerics;
using Iced.Intel;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.HostCpu;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>Instructions that are too rare for a handler of their own: those of user mode.</summary>
public unsafe partial class InterpreterVcpu
{
    private const uint PausesBeforeYield = 64;

    private uint _pauses;

    /// <summary>Whether the block ends with this instruction.</summary>
    internal static bool RareEndsBlock(in Instruction ins) => ins.Mnemonic switch
    {
        Mnemonic.Lahf or Mnemonic.Sahf or Mnemonic.Clc or Mnemonic.Stc or Mnemonic.Cmc or Mnemonic.Cld or Mnemonic.Std
            or Mnemonic.Crc32 or Mnemonic.Bt or Mnemonic.Bts or Mnemonic.Btr or Mnemonic.Btc
            or Mnemonic.Shld or Mnemonic.Shrd or Mnemonic.Cmpxchg8b or Mnemonic.Cmpxchg16b or Mnemonic.Xlatb
            or Mnemonic.Aaa or Mnemonic.Aas or Mnemonic.Aam or Mnemonic.Aad or Mnemonic.Daa or Mnemonic.Das or Mnemonic.Salc
            or Mnemonic.Bound or Mnemonic.Enter or Mnemonic.Leave or Mnemonic.Pushf or Mnemonic.Pushfd or Mnemonic.Pushfq
            or Mnemonic.Pusha or Mnemonic.Pushad or Mnemonic.Popa or Mnemonic.Popad or Mnemonic.Push or Mnemonic.Mfence
            or Mnemonic.Rdtsc or Mnemonic.Rdtscp or Mnemonic.Rdpid or Mnemonic.Rdrand or Mnemonic.Rdseed or Mnemonic.Xgetbv
            or Mnemonic.Rdfsbase or Mnemonic.Rdgsbase or Mnemonic.Wrfsbase or Mnemonic.Wrgsbase or Mnemonic.Clflush or Mnemonic.Clflushopt or Mnemonic.Clwb
            or Mnemonic.Ldmxcsr or Mnemonic.Stmxcsr or Mnemonic.Vldmxcsr or Mnemonic.Vstmxcsr or Mnemonic.Fxsave or Mnemonic.Fxsave64
            or Mnemonic.Xsave or Mnemonic.Xsave64 or Mnemonic.Xsaveopt or Mnemonic.Xsaveopt64 or Mnemonic.Xsavec or Mnemonic.Xsavec64
            or Mnemonic.Sldt or Mnemonic.Str or Mnemonic.Smsw or Mnemonic.Sgdt or Mnemonic.Sidt or Mnemonic.Verr or Mnemonic.Verw or Mnemonic.Lar or Mnemonic.Lsl or Mnemonic.Arpl
            or Mnemonic.Swapgs or Mnemonic.Cpuid or Mnemonic.Rdpmc => false,
        Mnemonic.Mov => ins.OpCount == 2 && ins.Op0Kind == OpKind.Register && (ins.Op0Register.IsSegmentRegister() || ins.Op0Register.IsCR() || ins.Op0Register.IsDR()),
        _ => true,
    };

    /// <summary>Executes one instruction. True: RIP is set, control went elsewhere.</summary>
    internal bool ExecuteRare(in Instruction ins, Op* op)
    {
        var c = _c;
        switch (ins.Mnemonic)
        {
            case Mnemonic.Clc:
                Flags.SetCarry(c, false);
                return false;
            case Mnemonic.Stc:
                Flags.SetCarry(c, true);
                return false;
            case Mnemonic.Cmc:
                Flags.SetCarry(c, !Flags.Carry(c));
                return false;
            case Mnemonic.Cld:
                c->Arch.Rflags &= ~Rflags.DF;
                return false;
            case Mnemonic.Std:
                c->Arch.Rflags |= Rflags.DF;
                return false;
            case Mnemonic.Lahf:
                Access.Set<byte>(c, 1, (Flags.Arithmetic(c) & 0xD5) | 2);
                return false;
            case Mnemonic.Sahf:
                Flags.SetArithmetic(c, (Flags.Arithmetic(c) & Rflags.OF) | (Access.Get<byte>(c, 1) & 0xD5));
                return false;
            case Mnemonic.Salc:
                Access.Set<byte>(c, 0, Flags.Carry(c) ? 0xFFUL : 0);
                return false;
            case Mnemonic.Crc32:
                AccumulateCrc32(in ins, op);
                return false;
            case Mnemonic.Bt or Mnemonic.Bts or Mnemonic.Btr or Mnemonic.Btc:
                BitTestMemory(in ins, op);
                return false;
            case Mnemonic.Shld or Mnemonic.Shrd:
                DoubleShift(in ins, op);
                return false;
            case Mnemonic.Cmpxchg8b:
                CompareExchange8(op);
                return false;
            case Mnemonic.Cmpxchg16b:
                CompareExchange16(op);
                return false;
            case Mnemonic.Xlatb:
                Translate(in ins, op);
                return false;
            case Mnemonic.Aaa or Mnemonic.Aas or Mnemonic.Aam or Mnemonic.Aad or Mnemonic.Daa or Mnemonic.Das:
                DecimalAdjust(in ins);
                return false;
            case Mnemonic.Bound:
                Bound(in ins, op);
                return false;
            case Mnemonic.Enter:
                Enter(in ins);
                return false;
            case Mnemonic.Leave:
                Leave(ins.Code switch { Code.Leavew => 2, Code.Leaved => 4, _ => 8 });
                return false;
            case Mnemonic.Pushf or Mnemonic.Pushfd or Mnemonic.Pushfq:
                PushFlags(ins.Mnemonic switch { Mnemonic.Pushf => 2, Mnemonic.Pushfd => 4, _ => 8 });
                return false;
            case Mnemonic.Popf or Mnemonic.Popfd or Mnemonic.Popfq:
                PopFlags(ins.Mnemonic switch { Mnemonic.Popf => 2, Mnemonic.Popfd => 4, _ => 8 });
                return false;
            case Mnemonic.Pusha:
                PushAll(2);
                return false;
            case Mnemonic.Pushad:
                PushAll(4);
                return false;
            case Mnemonic.Popa:
                PopAll(2);
                return false;
            case Mnemonic.Popad:
                PopAll(4);
                return false;
            case Mnemonic.Push:
                PushOperand(in ins, op);
                return false;
            case Mnemonic.Pop:
                PopOperand(in ins, op);
                return false;
            case Mnemonic.Mov:
                MoveSystemRegister(in ins, op);
                return false;
            case Mnemonic.Lds or Mnemonic.Les or Mnemonic.Lfs or Mnemonic.Lgs or Mnemonic.Lss:
                LoadFarPointer(in ins, op);
                return false;
            case Mnemonic.Mfence:
                Thread.MemoryBarrier();
                return false;
            case Mnemonic.Clflush or Mnemonic.Clflushopt or Mnemonic.Clwb:
                ReadLinear(MemoryLinear(op, 1, false), 1);
                return false;
            case Mnemonic.Cldemote or Mnemonic.Prefetchit0 or Mnemonic.Prefetchit1 or Mnemonic.Bndmov or Mnemonic.Bndmk or Mnemonic.Bndcl
                or Mnemonic.Bndcu or Mnemonic.Bndcn or Mnemonic.Bndldx or Mnemonic.Bndstx:
                return false; // hints, and what was MPX: no operation
            case Mnemonic.Pause:
                // Another vCPU may need this host processor to make progress. Not each time: who yields may be gone for
                // a time slice, and most locks are free again within microseconds.
                if (_environment.ProcessorCount > 1 && (++_pauses & (PausesBeforeYield - 1)) == 0)
                    Thread.Yield();
                return false;
            case Mnemonic.Jmp:
                FarTransfer(in ins, op, call: false);
                return true;
            case Mnemonic.Call:
                if (!ins.IsCallFar && !ins.IsCallFarIndirect)
                    break;
                FarTransfer(in ins, op, call: true);
                return true;
            case Mnemonic.Retf:
                FarReturn(ins.Code switch { Code.Retfw or Code.Retfw_imm16 => 2, Code.Retfd or Code.Retfd_imm16 => 4, _ => 8 }, ins.OpCount == 0 ? 0 : (int)ins.GetImmediate(0));
                return true;
            case Mnemonic.Int3:
                SoftwareInterrupt(3, NextRip(op), ioplSensitive: false);
                return true;
            case Mnemonic.Int:
                SoftwareInterrupt((int)ins.GetImmediate(0), NextRip(op), ioplSensitive: true);
                return true;
            case Mnemonic.Into:
                if (!Flags.Overflow(c))
                    return false;
                SoftwareInterrupt(4, NextRip(op), ioplSensitive: false);
                return true;
            case Mnemonic.Int1:
                SoftwareDebugTrap(NextRip(op));
                return true;
            case Mnemonic.Insb or Mnemonic.Insw or Mnemonic.Insd:
                return PortString(in ins, op, input: true);
            case Mnemonic.Outsb or Mnemonic.Outsw or Mnemonic.Outsd:
                return PortString(in ins, op, input: false);
            case Mnemonic.In:
                PortInput(in ins);
                return false;
            case Mnemonic.Out:
                PortOutput(in ins);
                return false;
        }

        return ExecuteSystem(in ins, op);
    }

    /// <summary>The RIP behind the current instruction.</summary>
    internal ulong NextRip(Op* op) => (_c->Arch.Rip + op->Next) & _c->RipMask;

    internal ulong MemoryLinear(Op* op, int size, bool write) =>
        Access.Segmented(_c, op, op->Segment, Access.Offset(_c, op), size, write);

    private ulong ReadOperand(in Instruction ins, int operand, Op* op, int size)
    {
        switch (ins.GetOpKind(operand))
        {
            case OpKind.Memory:
                return ReadLinear(MemoryLinear(op, size, false), size);
            case OpKind.Register:
                return ReadSized((byte*)_c + OpBuilder.RegisterOffset(ins.GetOpRegister(operand)), size);
            default:
                return ins.GetImmediate(operand);
        }
    }

    private void WriteOperand(in Instruction ins, int operand, Op* op, int size, ulong value)
    {
        if (ins.GetOpKind(operand) == OpKind.Memory)
            WriteLinear(MemoryLinear(op, size, true), size, value);
        else
            WriteRegister(ins.GetOpRegister(operand), value);
    }

    /// <summary>Writes a general register; 32 bits clear the upper half.</summary>
    private void WriteRegister(Register register, ulong value)
    {
        var offset = OpBuilder.RegisterOffset(register);
        switch (register.GetSize())
        {
            case 1: Access.Set<byte>(_c, offset, value); break;
            case 2: Access.Set<ushort>(_c, offset, value); break;
            case 4: Access.Set<uint>(_c, offset, value); break;
            default: Access.Set<ulong>(_c, offset, value); break;
        }
    }

    private void AccumulateCrc32(in Instruction ins, Op* op)
    {
        var size = ins.Op1Kind == OpKind.Memory ? ins.MemorySize.GetSize() : ins.Op1Register.GetSize();
        var data = ReadOperand(in ins, 1, op, size);
        var crc = (uint)Access.Get<uint>(_c, OpBuilder.RegisterOffset(ins.Op0Register));
        crc = size switch
        {
            1 => BitOperations.Crc32C(crc, (byte)data),
            2 => BitOperations.Crc32C(crc, (ushort)data),
            4 => BitOperations.Crc32C(crc, (uint)data),
            _ => BitOperations.Crc32C(crc, data),
        };
        WriteRegister(ins.Op0Register, crc);
    }

    /// <summary>BT with a register index and a memory operand: the index is signed and reaches beyond the operand.</summary>
    private void BitTestMemory(in Instruction ins, Op* op)
    {
        var size = ins.Op1Register.GetSize();
        var raw = ReadSized((byte*)_c + OpBuilder.RegisterOffset(ins.Op1Register), size);
        var index = size == 2 ? (short)raw : size == 4 ? (int)raw : (long)raw;
        var bits = size * 8;
        var displacement = (index >> (size == 2 ? 4 : size == 4 ? 5 : 6)) * size;
        var offset = Access.Offset(_c, op) + (ulong)displacement;
        offset = op->AddressSize == 4 ? offset : op->AddressSize == 2 ? (uint)offset : (ushort)offset;
        var write = ins.Mnemonic != Mnemonic.Bt;
        var linear = Access.Segmented(_c, op, op->Segment, offset, size, write);
        var mask = 1UL << (int)(index & (bits - 1));
        if (!write)
        {
            Flags.SetCarry(_c, (ReadLinear(linear, size) & mask) != 0);
            return;
        }

        var p = OpenLinear(linear, size);
        var mnemonic = ins.Mnemonic;
        ulong old;
        do
        {
            old = ReadSized(p, size);
        }
        while (!TryReplace(p, size, old, mnemonic == Mnemonic.Bts ? old | mask : mnemonic == Mnemonic.Btr ? old & ~mask : old ^ mask));
        CommitLinear(p, linear, size);
        Flags.SetCarry(_c, (old & mask) != 0);
    }

    private static bool TryReplace(byte* p, int size, ulong old, ulong value) => size switch
    {
        2 => Atomic.CompareExchange<ushort>(p, value, old) == old,
        4 => Atomic.CompareExchange<uint>(p, value, old) == old,
        _ => Atomic.CompareExchange<ulong>(p, value, old) == old,
    };

    private void CommitLinear(byte* p, ulong linear, int size)
    {
        if (p == (byte*)&_c->Bounce)
            CommitLinear(linear, size);
    }

    private void DoubleShift(in Instruction ins, Op* op)
    {
        var size = ins.Op1Register.GetSize();
        var bits = size * 8;
        var count = (int)(ins.Op2Kind == OpKind.Register ? _c->Arch.Gpr[1] : ins.GetImmediate(2)) & (size == 8 ? 63 : 31);
        var memory = ins.Op0Kind == OpKind.Memory;
        var linear = memory ? MemoryLinear(op, size, true) : 0;
        if (memory && count == 0)
        {
            CheckWrite(linear, size); // a read-modify-write access even so
            return;
        }

        var p = memory ? OpenLinear(linear, size) : (byte*)_c + OpBuilder.RegisterOffset(ins.Op0Register);
        var a = ReadSized(p, size);
        if (count == 0)
        {
            if (size == 4)
                WriteRegister(ins.Op0Register, a);
            return;
        }

        var b = ReadSized((byte*)_c + OpBuilder.RegisterOffset(ins.Op1Register), size);
        ulong r;
        bool carry;
        if (size == 2)
        {
            // Counts above 16 are undefined; processors shift through dst:src:dst.
            var wide = ins.Mnemonic == Mnemonic.Shld ? (a << 32) | (b << 16) | a : a | (b << 16) | (a << 32);
            if (ins.Mnemonic == Mnemonic.Shld)
            {
                r = (wide >> (32 - count)) & 0xFFFF;
                carry = ((wide >> (48 - count)) & 1) != 0;
            }
            else
            {
                r = (wide >> count) & 0xFFFF;
                carry = ((wide >> (count - 1)) & 1) != 0;
            }
        }
        else if (ins.Mnemonic == Mnemonic.Shld)
        {
            r = (a << count) | (b >> (bits - count));
            carry = ((a >> (bits - count)) & 1) != 0;
        }
        else
        {
            r = (a >> count) | (b << (bits - count));
            carry = ((a >> (count - 1)) & 1) != 0;
        }

        if (size == 2)
        {
            Flags.SetResultCarryOverflow<ushort>(_c, r, carry, Width.Top<ushort>(a) != Width.Top<ushort>(r));
            WriteSized(p, 2, r);
        }
        else if (size == 4)
        {
            Flags.SetResultCarryOverflow<uint>(_c, r, carry, Width.Top<uint>(a) != Width.Top<uint>(r));
            if (memory)
                WriteSized(p, 4, r);
            else
                WriteRegister(ins.Op0Register, r);
        }
        else
        {
            Flags.SetResultCarryOverflow<ulong>(_c, r, carry, Width.Top<ulong>(a) != Width.Top<ulong>(r));
            WriteSized(p, 8, r);
        }

        if (memory)
            CommitLinear(p, linear, size);
    }

    private void CompareExchange8(Op* op)
    {
        var linear = MemoryLinear(op, 8, true);
        var p = OpenLinear(linear, 8);
        var comparand = (uint)_c->Arch.Gpr[0] | (_c->Arch.Gpr[2] << 32);
        var value = (uint)_c->Arch.Gpr[3] | (_c->Arch.Gpr[1] << 32);
        var old = Atomic.CompareExchange<ulong>(p, value, comparand);
        CommitLinear(p, linear, 8);
        Flags.SetZero(_c, old == comparand);
        if (old != comparand)
        {
            _c->Arch.Gpr[0] = (uint)old;
            _c->Arch.Gpr[2] = old >> 32;
        }
    }

    private void CompareExchange16(Op* op)
    {
        var linear = MemoryLinear(op, 16, true);
        if ((linear & 15) != 0)
            Raise(Vectors.GP, 0);
        CheckCanonical(linear, 16);
        CheckWatch(linear, 16, DataAccess.Read | DataAccess.Write);
        var p = TranslateForWrite(linear, out var physical);
        ulong low, high;
        bool equal;
        if (p == null)
        {
            low = ReadPhysical(physical, 8);
            high = ReadPhysical(physical + 8, 8);
            equal = low == _c->Arch.Gpr[0] && high == _c->Arch.Gpr[2];
            WritePhysical(physical, 8, equal ? _c->Arch.Gpr[3] : low);
            WritePhysical(physical + 8, 8, equal ? _c->Arch.Gpr[1] : high);
        }
        else
        {
            low = _c->Arch.Gpr[0];
            high = _c->Arch.Gpr[2];
            equal = HostAtomics.CompareExchange16(p, ref low, ref high, _c->Arch.Gpr[3], _c->Arch.Gpr[1]);
            WroteRam(physical, 16);
        }

        Flags.SetZero(_c, equal);
        if (!equal)
        {
            _c->Arch.Gpr[0] = low;
            _c->Arch.Gpr[2] = high;
        }
    }

    private void Translate(in Instruction ins, Op* op)
    {
        var mask = ins.MemoryBase == Register.RBX ? ulong.MaxValue : ins.MemoryBase == Register.EBX ? uint.MaxValue : 0xFFFFUL;
        var offset = (_c->Arch.Gpr[3] + (byte)_c->Arch.Gpr[0]) & mask;
        var linear = Access.Segmented(_c, op, (int)(ins.MemorySegment - Register.ES), offset, 1, false);
        Access.Set<byte>(_c, 0, ReadLinear(linear, 1));
    }

    private void DecimalAdjust(in Instruction ins)
    {
        var c = _c;
        var al = (byte)c->Arch.Gpr[0];
        var ah = (byte)(c->Arch.Gpr[0] >> 8);
        var carry = Flags.Carry(c);
        var auxiliary = Flags.Auxiliary(c);
        switch (ins.Mnemonic)
        {
            case Mnemonic.Daa or Mnemonic.Das:
                var old = al;
                var sign = ins.Mnemonic == Mnemonic.Daa ? 1 : -1;
                var newCarry = false;
                if ((al & 15) > 9 || auxiliary)
                {
                    newCarry = carry || (sign > 0 ? al + 6 > 255 : al < 6);
                    al = (byte)(al + (6 * sign));
                    auxiliary = true;
                }
                else
                {
                    auxiliary = false;
                }

                if (old > 0x99 || carry)
                {
                    al = (byte)(al + (0x60 * sign));
                    newCarry = true;
                }

                Access.Set<byte>(c, 0, al);
                SetDecimalFlags(al, newCarry, auxiliary);
                break;
            case Mnemonic.Aaa or Mnemonic.Aas:
                var adjust = (al & 15) > 9 || auxiliary;
                if (adjust)
                {
                    var ax = (ushort)c->Arch.Gpr[0];
                    ax = ins.Mnemonic == Mnemonic.Aaa ? (ushort)(ax + 0x106) : (ushort)(ax - 0x106);
                    Access.Set<ushort>(c, 0, ax);
                }

                al = (byte)(c->Arch.Gpr[0] & 15);
                Access.Set<byte>(c, 0, al);
                SetDecimalFlags(al, adjust, adjust);
                break;
            case Mnemonic.Aam:
                var divisor = (byte)ins.GetImmediate(0);
                if (divisor == 0)
                    Raise(Vectors.DE);
                Access.Set<ushort>(c, 0, (ulong)(((al / divisor) << 8) | (al % divisor)));
                SetDecimalFlags((byte)(al % divisor), false, false);
                break;
            default:
                al = (byte)(al + (ah * (byte)ins.GetImmediate(0)));
                Access.Set<ushort>(c, 0, al);
                SetDecimalFlags(al, false, false);
                break;
        }
    }

    private void SetDecimalFlags(byte result, bool carry, bool auxiliary)
    {
        Flags.SetResultCarryOverflow<byte>(_c, result, carry, false);
        if (auxiliary)
            _c->FlagAux |= 8;
    }

    private void Bound(in Instruction ins, Op* op)
    {
        var size = ins.Op0Register.GetSize();
        var linear = MemoryLinear(op, size * 2, false);
        var index = ReadSized((byte*)_c + OpBuilder.RegisterOffset(ins.Op0Register), size);
        var low = ReadLinear(linear, size);
        var high = ReadLinear(WrapLinear(linear + (ulong)size), size);
        var inside = size == 2
            ? (short)index >= (short)low && (short)index <= (short)high
            : (int)index >= (int)low && (int)index <= (int)high;
        if (!inside)
            Raise(Vectors.BR);
    }

    private void LoadFarPointer(in Instruction ins, Op* op)
    {
        var size = ins.Op0Register.GetSize();
        var linear = MemoryLinear(op, size + 2, false);
        var offset = ReadLinear(linear, size);
        var selector = (ushort)ReadLinear(WrapLinear(linear + (ulong)size), 2);
        LoadSegment(ins.Mnemonic switch { Mnemonic.Les => ES, Mnemonic.Lds => DS, Mnemonic.Lss => SS, Mnemonic.Lfs => FS, _ => GS }, selector);
        WriteRegister(ins.Op0Register, offset);
    }

    private void FarTransfer(in Instruction ins, Op* op, bool call)
    {
        int size;
        ulong offset;
        ushort selector;
        if (ins.Op0Kind is OpKind.FarBranch16 or OpKind.FarBranch32)
        {
            size = ins.Op0Kind == OpKind.FarBranch16 ? 2 : 4;
            offset = size == 2 ? ins.FarBranch16 : ins.FarBranch32;
            selector = ins.FarBranchSelector;
        }
        else
        {
            size = ins.MemorySize.GetSize() - 2;
            var linear = MemoryLinear(op, size + 2, false);
            offset = ReadLinear(linear, size);
            selector = (ushort)ReadLinear(WrapLinear(linear + (ulong)size), 2);
        }

        if (call)
            FarCall(selector, offset, size, NextRip(op));
        else
            FarJump(selector, offset, NextRip(op));
    }
}
