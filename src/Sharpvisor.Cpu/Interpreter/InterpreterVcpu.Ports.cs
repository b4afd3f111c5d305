using Iced.Intel;
using Sharpvisor.Core.Buses;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>IN, OUT, INS and OUTS, with the rights of IOPL and of the TSS's bitmap (SDM vol. 1, 19.5).</summary>
public unsafe partial class InterpreterVcpu
{
    private void PortInput(in Instruction ins)
    {
        var size = ins.Op0Register.GetSize();
        var port = (ushort)(ins.Op1Kind == OpKind.Register ? _c->Arch.Gpr[2] : (byte)ins.GetImmediate(1));
        CheckPort(port, size);
        if (size == 4 && _environment.RegisterPort is { } device && port == device.Port)
            ReadRegisterPort(device);
        else
            WriteRegister(ins.Op0Register, _environment.Ports.Read(port, size));
    }

    private void ReadRegisterPort(IRegisterPort device)
    {
        Span<uint> registers = stackalloc uint[8], before = stackalloc uint[8];
        for (var i = 0; i < registers.Length; i++)
            registers[i] = (uint)_c->Arch.Gpr[i];
        registers.CopyTo(before);
        using (_environment.Gate.Enter())
            device.Read(registers);
        _c->Arch.Gpr[0] = registers[0];
        for (var i = 1; i < registers.Length; i++)
        {
            if (registers[i] != before[i])
                _c->Arch.Gpr[i] = registers[i];
        }
    }

    private void PortOutput(in Instruction ins)
    {
        var size = ins.Op1Register.GetSize();
        var port = (ushort)(ins.Op0Kind == OpKind.Register ? _c->Arch.Gpr[2] : (byte)ins.GetImmediate(0));
        CheckPort(port, size);
        _environment.Ports.Write(port, size, _c->Arch.Gpr[0] & (ulong.MaxValue >> (64 - (8 * size))));
    }

    /// <summary>IOPL, else the I/O permission bitmap of the TSS.</summary>
    private void CheckPort(ushort port, int size)
    {
        CheckPortWatch(port, size);
        if (!IsProtected || (!IsVm86 && _c->Cpl <= ((_c->Arch.Rflags >> 12) & 3)))
            return;
        ref var tr = ref _c->Arch.Tr;
        if (!tr.Present || (tr.Type & 8) == 0 || tr.Limit < 0x67)
            Raise(Vectors.GP, 0);
        var map = (uint)ReadSystem(tr.Base + 0x66, 2);
        var at = map + ((uint)port >> 3);
        if (at + 1 > tr.Limit)
            Raise(Vectors.GP, 0);
        var bits = (uint)ReadSystem(tr.Base + at, 2) >> (port & 7);
        if ((bits & ((1u << size) - 1)) != 0)
            Raise(Vectors.GP, 0);
    }

    private bool PortString(in Instruction ins, Op* op, bool input)
    {
        var c = _c;
        OpBuilder.LayOutString(op, in ins);
        var size = ins.MemorySize.GetSize();
        var port = (ushort)c->Arch.Gpr[2];
        CheckPort(port, size);
        var mask = StringHandlers.Mask(op);
        var step = (c->Arch.Rflags & Rflags.DF) != 0 ? -size : size;
        var left = op->Extra == 0 ? 1 : c->Arch.Gpr[1] & mask;
        for (var visits = 0; left != 0; visits++)
        {
            if (StringHandlers.MustLeave(c, visits))
            {
                StringHandlers.Again(c, op);
                return true;
            }

            if (input)
            {
                // The destination is checked before the device is read: what it gave must not be lost.
                var to = StringHandlers.Destination(c, op, c->Arch.Gpr[7] & mask, size, true);
                CheckWrite(to, size);
                WriteLinear(to, size, _environment.Ports.Read(port, size));
                StringHandlers.Advance(c, op, 7, step);
            }
            else
            {
                var from = StringHandlers.Source(c, op, c->Arch.Gpr[6] & mask, size);
                _environment.Ports.Write(port, size, ReadLinear(from, size));
                StringHandlers.Advance(c, op, 6, step);
            }

            left--;
            if (op->Extra != 0)
                StringHandlers.SetCounter(c, op, left);
        }

        return false;
    }
}
