using Iced.Intel;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.HostCpu;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <content>Rare instructions that work on the stack: ENTER, LEAVE, flags and all registers at once, operands in memory.</content>
public unsafe partial class InterpreterVcpu
{
    private void Enter(in Instruction ins)
    {
        var c = _c;
        var size = ins.Code switch { Code.Enterw_imm16_imm8 => 2, Code.Enterd_imm16_imm8 => 4, _ => 8 };
        var bytes = (ulong)(ushort)ins.GetImmediate(0);
        var level = (int)ins.GetImmediate(1) & 31;
        var rsp = c->Arch.Gpr[4];
        var rbp = c->Arch.Gpr[5];
        Push(ref rsp, size, rbp);
        var frame = rsp;
        for (var i = 1; i < level; i++)
        {
            rbp = (rbp & ~c->StackMask) | ((rbp - (ulong)size) & c->StackMask);
            var linear = Access.Segmented(c, c->CurrentOp, SS, rbp & c->StackMask, size, false);
            Push(ref rsp, size, ReadLinear(linear, size));
        }

        if (level > 0)
            Push(ref rsp, size, frame);
        rsp -= bytes;

        // The page below the new frame must be writable, as if something were pushed there.
        var probe = Access.Segmented(c, c->CurrentOp, SS, rsp & c->StackMask, size, true);
        CheckWrite(probe, size);
        SetStackPointer(rsp);
        if (size == 2)
            Access.Set<ushort>(c, 40, frame);
        else
            c->Arch.Gpr[5] = size == 8 ? frame : (uint)frame;
    }

    private void Leave(int size)
    {
        var c = _c;
        var rsp = (c->Arch.Gpr[4] & ~c->StackMask) | (c->Arch.Gpr[5] & c->StackMask);
        var rbp = Pop(ref rsp, size);
        SetStackPointer(rsp);
        if (size == 2)
            Access.Set<ushort>(c, 40, rbp);
        else
            c->Arch.Gpr[5] = rbp;
    }

    private void PushFlags(int size)
    {
        if (IsVm86 && ((_c->Arch.Rflags >> 12) & 3) < 3)
            Raise(Vectors.GP, 0);
        var rsp = _c->Arch.Gpr[4];
        Push(ref rsp, size, Flags.Get(_c) & ~(Rflags.RF | Rflags.VM));
        SetStackPointer(rsp);
    }

    private void PopFlags(int size)
    {
        var c = _c;
        var iopl = (int)(c->Arch.Rflags >> 12) & 3;
        if (IsVm86 && iopl < 3)
            Raise(Vectors.GP, 0);
        var rsp = c->Arch.Gpr[4];
        var flags = Pop(ref rsp, size);
        SetStackPointer(rsp);
        var mask = Rflags.TF | Rflags.DF | Rflags.NT;
        if (size > 2)
            mask |= Rflags.AC | Rflags.ID;
        if (c->Cpl == 0)
            mask |= Rflags.IOPL;
        if (c->Cpl <= iopl)
            mask |= Rflags.IF;
        Flags.SetArithmetic(c, flags);
        c->Arch.Rflags = (c->Arch.Rflags & ~(mask | Rflags.RF)) | (flags & mask);
        UpdateTlbKind();
        UpdateSlow();
    }

    private void PushAll(int size)
    {
        var rsp = _c->Arch.Gpr[4];
        var old = rsp;
        for (var i = 0; i < 8; i++)
            Push(ref rsp, size, i == 4 ? old : _c->Arch.Gpr[i]);
        SetStackPointer(rsp);
    }

    private void PopAll(int size)
    {
        Span<ulong> values = stackalloc ulong[8];
        var rsp = _c->Arch.Gpr[4];
        for (var i = 7; i >= 0; i--)
            values[i] = Pop(ref rsp, size);
        for (var i = 0; i < 8; i++)
        {
            if (i == 4)
                continue;
            if (size == 2)
                Access.Set<ushort>(_c, i * 8, values[i]);
            else
                _c->Arch.Gpr[i] = (uint)values[i];
        }

        SetStackPointer(rsp);
    }

    /// <summary>PUSH of memory outside of 64-bit mode, and of segment registers.</summary>
    private void PushOperand(in Instruction ins, Op* op)
    {
        var size = -ins.StackPointerIncrement;
        var rsp = _c->Arch.Gpr[4];
        if (ins.Op0Kind == OpKind.Register)
        {
            // Only 16 bits are written; the rest of a 32-bit slot stays as it was.
            var selector = _c->Arch.Segments[ins.Op0Register - Register.ES].Selector;
            if (size == 4)
            {
                var next = (rsp - 4) & _c->StackMask;
                WriteLinear(Access.Segmented(_c, op, SS, next, 2, true), 2, selector);
                rsp = (rsp & ~_c->StackMask) | next;
            }
            else
            {
                Push(ref rsp, size, selector);
            }
        }
        else
        {
            Push(ref rsp, size, ReadOperand(in ins, 0, op, size));
        }

        SetStackPointer(rsp);
    }

    /// <summary>POP to memory and to segment registers.</summary>
    private void PopOperand(in Instruction ins, Op* op)
    {
        var c = _c;
        var size = ins.StackPointerIncrement;
        var old = c->Arch.Gpr[4];
        var rsp = old;
        if (ins.Op0Kind == OpKind.Register)
        {
            var index = ins.Op0Register - Register.ES;
            var selector = (ushort)Pop(ref rsp, size);
            LoadSegment(index, selector);
            SetStackPointer(rsp);
            if (index == SS)
                SetStackShadow();
            return;
        }

        // The address of the operand is computed with RSP already moved.
        var value = Pop(ref rsp, size);
        SetStackPointer(rsp);
        try
        {
            WriteOperand(in ins, 0, op, size, value);
        }
        catch (GuestFaultException)
        {
            c->Arch.Gpr[4] = old;
            throw;
        }
    }
}
