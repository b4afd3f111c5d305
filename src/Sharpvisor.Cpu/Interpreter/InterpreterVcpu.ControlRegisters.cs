using Iced.Intel;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>MOV to and from segment, control and debug registers, and what their values must be (SDM vol. 3, 2.5 and 18.2).</summary>
public unsafe partial class InterpreterVcpu
{
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
        var keep = false;
        var c = _c;
        if (IsLongMode)
        {
            if ((c->Arch.Cr4 & ControlRegisters.PCIDE) != 0)
            {
                keep = value >> 63 != 0;
                value &= ~(1UL << 63);
            }

            if ((value >> _physicalBits) != 0)
                Raise(Vectors.GP);
        }
        else if ((c->Arch.Cr0 & ControlRegisters.PG) != 0)
        {
            CheckPdptes(value, c->Arch.Cr4);
        }

        var from = (c->Arch.Cr4 & ControlRegisters.PCIDE) != 0 ? UserSpace : -1;
        c->Arch.Cr3 = value;
        SwitchSpace(from, keep);
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
