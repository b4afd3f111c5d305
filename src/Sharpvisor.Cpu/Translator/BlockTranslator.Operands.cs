using Iced.Intel;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.HostCpu;
using Sharpvisor.Cpu.Interpreter;

namespace Sharpvisor.Cpu.Translator;

/// <content>Where instructions access memory, and how much of it.</content>
internal sealed unsafe partial class BlockTranslator
{
    /// <summary>Describes the implicit stack access. False: not one that is translated.</summary>
    private bool FindStack(ref Item item, ItemKind kind)
    {
        ref var ins = ref item.Instruction;
        var size = StackSize(in ins);
        if (_is64 != (size == 8))
            return false;
        item.StackStep = 0;
        if (kind is ItemKind.Jump or ItemKind.JumpIndirect)
            return true;
        item.HasStack = true;
        item.Stack = new MemoryAccess { Base = AddressBase.Rsp, Index = -1, Size = size, Alignment = 1, Group = -1, Segment = -1 };
        if (!_is64)
        {
            item.Stack.Address32 = (_key & (uint)BlockMode.Stack32) != 0;
            item.Stack.Address16 = !item.Stack.Address32;
            item.Stack.Segment = (sbyte)(_isSegmented ? SS : -1);
        }

        if (kind is ItemKind.Pop or ItemKind.PopSelector or ItemKind.Return)
        {
            item.Stack.Reads = true;
            item.StackStep = size + (kind == ItemKind.Return && ins.OpCount > 0 ? ins.Immediate16 : 0);
        }
        else if (kind == ItemKind.Leave)
        {
            item.Stack.Reads = true;
            item.Stack.Base = 5;
        }
        else
        {
            item.Stack.Writes = true;
            item.Stack.Displacement = -size;
            item.StackStep = -size;
            if (kind == ItemKind.PushSelector)
                item.Stack.Size = 2; // the rest of 32 bits stays as it was
        }

        return true;
    }

    /// <summary>The operand size of a near branch or an instruction that uses the stack, in bytes.</summary>
    private static int StackSize(in Instruction ins)
    {
        switch (ins.Code)
        {
            case Code.Push_r16 or Code.Pop_r16 or Code.Push_imm16 or Code.Pushw_imm8 or Code.Push_rm16 or Code.Pushfw or Code.Leavew
                or Code.Call_rel16 or Code.Call_rm16 or Code.Retnw or Code.Retnw_imm16 or Code.Jmp_rel16 or Code.Jmp_rel8_16 or Code.Jmp_rm16
                or Code.Pushw_ES or Code.Pushw_CS or Code.Pushw_SS or Code.Pushw_DS or Code.Pushw_FS or Code.Pushw_GS
                or Code.Popw_ES or Code.Popw_SS or Code.Popw_DS or Code.Popw_FS or Code.Popw_GS:
                return 2;
            case Code.Push_r32 or Code.Pop_r32 or Code.Pushd_imm32 or Code.Pushd_imm8 or Code.Push_rm32 or Code.Pushfd or Code.Leaved
                or Code.Call_rel32_32 or Code.Call_rm32 or Code.Retnd or Code.Retnd_imm16 or Code.Jmp_rel32_32 or Code.Jmp_rel8_32 or Code.Jmp_rm32
                or Code.Pushd_ES or Code.Pushd_CS or Code.Pushd_SS or Code.Pushd_DS or Code.Pushd_FS or Code.Pushd_GS
                or Code.Popd_ES or Code.Popd_SS or Code.Popd_DS or Code.Popd_FS or Code.Popd_GS:
                return 4;
            default:
                return 8;
        }
    }

    /// <summary>Describes the explicit memory operand. False: not one that is translated.</summary>
    private bool FindOperand(ref Item item, in InstructionInfo info, ItemKind kind)
    {
        ref var ins = ref item.Instruction;
        var operand = -1;
        for (var i = 0; i < ins.OpCount; i++)
        {
            var opKind = ins.GetOpKind(i);
            if (opKind == OpKind.Memory)
                operand = i;
            else if (opKind is >= OpKind.MemorySegSI and <= OpKind.MemoryESRDI)
                return false;
        }

        if (kind == ItemKind.Nothing || operand < 0)
            return true;
        if (ins.HasXacquirePrefix || ins.HasXreleasePrefix)
        {
            ins.HasXacquirePrefix = false;
            ins.HasXreleasePrefix = false;
        }

        ref var m = ref item.Operand;
        m = new MemoryAccess { Index = -1, Group = -1, Segment = -1, Alignment = 1 };
        var size = ins.MemoryBase != Register.None ? ins.MemoryBase : ins.MemoryIndex;
        var addressSize = _is64 ? 64 : 32;
        if (ins.IsIPRelativeMemoryOperand)
        {
            if (ins.MemoryBase == Register.EIP)
                return false;
            m.Base = AddressBase.Rip;
            m.Displacement = (long)(ins.IPRelativeMemoryAddress - _pageBase);
        }
        else
        {
            if (size.IsGPR())
                addressSize = size.GetSize() * 8;
            else if (size != Register.None)
                return false; // VSIB
            else if (ins.MemoryDisplSize == 2 && !_is64)
                addressSize = 16;
            else if (ins.MemoryDisplSize == 4 && _is64)
                addressSize = ins.MemoryDisplacement64 <= int.MaxValue ? 64 : 32;
            m.Base = ins.MemoryBase == Register.None ? (sbyte)AddressBase.None : (sbyte)(ins.MemoryBase.GetFullRegister() - Register.RAX);
            if (ins.MemoryIndex != Register.None)
            {
                m.Index = (sbyte)(ins.MemoryIndex.GetFullRegister() - Register.RAX);
                m.Scale = (byte)(ins.MemoryIndexScale switch { 1 => 0, 2 => 1, 4 => 2, _ => 3 });
            }

            m.Displacement = addressSize switch
            {
                16 => (short)ins.MemoryDisplacement64,
                32 => (int)ins.MemoryDisplacement64,
                _ => (long)ins.MemoryDisplacement64,
            };
        }

        m.Address16 = addressSize == 16;
        m.Address32 = addressSize == 32;
        if (ins.Mnemonic == Mnemonic.Lea)
        {
            item.HasOperand = true;
            return m.Displacement == (int)m.Displacement;
        }

        var segment = ins.MemorySegment;
        var access = operand == 0 ? info.Op0Access : operand == 1 ? info.Op1Access : info.GetOpAccess(operand);
        m.Reads = access is OpAccess.Read or OpAccess.CondRead or OpAccess.ReadWrite or OpAccess.ReadCondWrite;
        m.Writes = access is OpAccess.Write or OpAccess.CondWrite or OpAccess.ReadWrite or OpAccess.ReadCondWrite;
        if (!TrySetSegment(ref m, segment))
            return false;
        if (_is64 && m.Segment >= 0)
        {
            m.Segment = -1;
            if (m.Base is AddressBase.None or AddressBase.Rip && m.Index < 0)
            {
                // Per-CPU data: the segment's base takes the place of the register.
                if (m.Base == AddressBase.Rip)
                    m.Segment = (sbyte)(segment - Register.ES);
                else
                    m.Base = (sbyte)(segment == Register.FS ? AddressBase.Fs : AddressBase.Gs);
            }
            else
            {
                m.Segment = (sbyte)(segment - Register.ES);
            }
        }
        if (ins.Code is Code.Bt_rm16_r16 or Code.Bts_rm16_r16 or Code.Btr_rm16_r16 or Code.Btc_rm16_r16)
            return false;
        m.Size = ins.MemorySize.GetSize();
        if (m.Size is 0 or > 512 || (!m.Reads && !m.Writes))
            return false;
        if (m.Displacement != (int)m.Displacement && m.Base != AddressBase.None)
            return false;
        if (kind == ItemKind.BitTest && m.Address32)
            return false;
        if (ins.Mnemonic is Mnemonic.Stmxcsr or Mnemonic.Vstmxcsr && (_key >> TranslationKey.VectorShift & 1) == 0)
            return false;
        if (kind == ItemKind.Same)
        {
            var traits = InstructionTraits.Of(ins.Code);
            if (traits.IsAligned && m.Size >= 16)
                m.Alignment = m.Size;
        }

        item.HasOperand = true;
        return true;
    }
}
