using Iced.Intel;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>The way from an operation to the implementation of a rare instruction.</summary>
internal static unsafe class RareHandlers
{
    public static void Execute(CpuContext* c, Op* op)
    {
        c->CurrentOp = op;
        InterpreterVcpu.Of(c).ExecuteRare(in *(Instruction*)op->Imm, op);
        Access.Next(c, op);
    }

    /// <summary>For instructions that transfer control, or after which the rest of a block may mean something else.</summary>
    public static void ExecuteAndEnd(CpuContext* c, Op* op)
    {
        c->CurrentOp = op;
        if (!InterpreterVcpu.Of(c).ExecuteRare(in *(Instruction*)op->Imm, op))
            c->Arch.Rip = (c->Arch.Rip + op->Next) & c->RipMask;
    }

    public static void Invalid(CpuContext* c, Op* op) => InterpreterVcpu.Fault(c, op, op->Extra, 0);
}
