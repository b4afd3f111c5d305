using Iced.Intel;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Translator;

/// <content>String instructions and REP.</content>
internal sealed unsafe partial class BlockTranslator
{
    /// <summary>REP MOVS and STOS: the shared routine, and the interpreter for what that leaves.</summary>
    private void EmitRepeat(ref Item item)
    {
        SaveFlags();
        CutRegisters();
        _hot.Call(RepeatRoutine(in item.Instruction));
        CutRegisters();
        var exit = NewFallback(ref item, ends: false);
        _hot.JumpIf(5, EmitExit(exit)); // jne
        _exits[exit].Resume = _hot.Address;

        // The routine counts in 64 bits, and may come to 4 GiB.
        void CutRegisters()
        {
            if (_is64)
                return;
            foreach (var register in (ReadOnlySpan<int>)[Host.Rcx, Host.Rsi, Host.Rdi])
                _hot.Move32(register, register);
        }
    }

    /// <summary>MOVS, LODS and STOS without a prefix, upwards.</summary>
    private void EmitString(ref Item item)
    {
        SaveFlags();
        var exit = NewExit(new ExitInfo { Kind = ExitKind.Interpret, Map = _mask, Block = _block, Offset = item.Offset });
        _hot.TestByte((byte*)&_c->Arch.Rflags + 1, (byte)(Interpreter.Rflags.DF >> 8));
        _hot.JumpIf(5, EmitExit(exit)); // jne
        var size = item.HasOperand ? item.Operand.Size : item.Stack.Size;
        if (item.HasOperand && item.HasStack)
        {
            // The destination is checked first; when both fault the interpreter knows the order.
            KeepAddress(EmitAccess(ref item, ref item.Stack));
            MoveSized(Host.T0, EmitAccess(ref item, ref item.Operand), 0x8A);
            _hot.Load(Host.T1, &_t->KeptAddress);
            MoveSized(Host.T0, new HostOperand(Host.T1, -1, 0), 0x88);
        }
        else if (item.HasOperand)
        {
            MoveSized(Host.Rax, EmitAccess(ref item, ref item.Operand), 0x8A);
        }
        else
        {
            MoveSized(Host.Rax, EmitAccess(ref item, ref item.Stack), 0x88);
        }

        if (item.HasOperand)
            Advance(Host.Rsi, in item.Operand);
        if (item.HasStack)
            Advance(Host.Rdi, in item.Stack);

        void MoveSized(int register, HostOperand operand, byte opcode)
        {
            if (size == 2)
                _hot.Raw(0x66);
            _hot.OnMemory((byte)(size == 1 ? opcode : opcode + 1), register, operand.Base, operand.Index, operand.Displacement, size == 8);
        }

        void Advance(int register, in MemoryAccess m)
        {
            if (m.Address16)
                _hot.Raw(0x66);
            _hot.Lea(register, register, -1, size, wide: !m.Address16 && !m.Address32);
        }
    }

    private ulong RepeatRoutine(in Instruction ins) => ins.Mnemonic switch
    {
        Mnemonic.Movsb => _routines.Repeat(Kind, move: true, 0),
        Mnemonic.Movsw => _routines.Repeat(Kind, move: true, 1),
        Mnemonic.Movsd => _routines.Repeat(Kind, move: true, 2),
        Mnemonic.Movsq => _routines.Repeat(Kind, move: true, 3),
        Mnemonic.Stosb => _routines.Repeat(Kind, move: false, 0),
        Mnemonic.Stosw => _routines.Repeat(Kind, move: false, 1),
        Mnemonic.Stosd => _routines.Repeat(Kind, move: false, 2),
        _ => _routines.Repeat(Kind, move: false, 3),
    };
}
