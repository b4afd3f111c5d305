using System.Runtime.CompilerServices;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>Ends of blocks: they set RIP and return to the run loop. <c>Imm</c> is the target relative to the block.</summary>
internal static unsafe class ControlHandlers
{
    /// <summary>The block just ends: its length is limited, or its last instruction was one that ends blocks.</summary>
    public static void FallThrough(CpuContext* c, Op* op) => c->Arch.Rip = (c->Arch.Rip + op->Offset) & c->RipMask;

    public static void Jump(CpuContext* c, Op* op) => c->Arch.Rip = (c->Arch.Rip + op->Imm) & c->RipMask;

    /// <summary>A jump with 16-bit operand size outside of 64-bit mode.</summary>
    public static void Jump16(CpuContext* c, Op* op) => Branch(c, op, (ushort)(c->Arch.Rip + op->Imm));

    /// <summary>A jump in a 32-bit code segment that is not flat.</summary>
    public static void Jump32(CpuContext* c, Op* op) => Branch(c, op, (uint)(c->Arch.Rip + op->Imm));

    public static void JumpIf<TCondition>(CpuContext* c, Op* op) where TCondition : struct, ICondition =>
        c->Arch.Rip = (c->Arch.Rip + (TCondition.Test(c) ? op->Imm : op->Next)) & c->RipMask;

    public static void Jump16If<TCondition>(CpuContext* c, Op* op) where TCondition : struct, ICondition
    {
        if (TCondition.Test(c))
            Jump16(c, op);
        else
            c->Arch.Rip = (c->Arch.Rip + op->Next) & c->RipMask;
    }

    public static void Jump32If<TCondition>(CpuContext* c, Op* op) where TCondition : struct, ICondition
    {
        if (TCondition.Test(c))
            Jump32(c, op);
        else
            c->Arch.Rip = (c->Arch.Rip + op->Next) & c->RipMask;
    }

    /// <summary>#GP(0) outside of the code segment: the branch itself faults, before it changes anything.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void CheckLimit(CpuContext* c, Op* op, ulong rip)
    {
        if (rip > c->Arch.Segments[1].Limit)
            InterpreterVcpu.Fault(c, op, Vectors.GP, 0);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Branch(CpuContext* c, Op* op, ulong rip)
    {
        CheckLimit(c, op, rip);
        c->Arch.Rip = rip;
    }

    public static void Call64(CpuContext* c, Op* op)
    {
        var rsp = c->Arch.Gpr[4] - 8;
        Access.Store<ulong>(c, op, rsp, c->Arch.Rip + op->Next);
        c->Arch.Gpr[4] = rsp;
        c->Arch.Rip += op->Imm;
    }

    public static void Return64(CpuContext* c, Op* op)
    {
        var rsp = c->Arch.Gpr[4];
        var rip = Access.Load<ulong>(c, op, rsp);
        Access.CheckTarget(c, op, rip);
        c->Arch.Gpr[4] = rsp + 8 + op->Imm;
        c->Arch.Rip = rip;
    }

    public static void JumpReg64(CpuContext* c, Op* op)
    {
        var target = *(ulong*)((byte*)c + op->Src);
        Access.CheckTarget(c, op, target);
        c->Arch.Rip = target;
    }

    public static void CallReg64(CpuContext* c, Op* op)
    {
        var target = *(ulong*)((byte*)c + op->Src);
        Access.CheckTarget(c, op, target);
        var rsp = c->Arch.Gpr[4] - 8;
        Access.Store<ulong>(c, op, rsp, c->Arch.Rip + op->Next);
        c->Arch.Gpr[4] = rsp;
        c->Arch.Rip = target;
    }

    /// <summary>Calls and returns outside of 64-bit mode; the width is the operand size.</summary>
    public static void Call<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var target = Width.Cut<T>(c->Arch.Rip + op->Imm);
        CheckLimit(c, op, target);
        Stack.Push<T>(c, op, c->Arch.Rip + op->Next);
        c->Arch.Rip = target;
    }

    public static void Return<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var esp = c->Arch.Gpr[4];
        var rip = Stack.Pop<T>(c, op);
        if (rip > c->Arch.Segments[1].Limit)
        {
            c->Arch.Gpr[4] = esp;
            CheckLimit(c, op, rip);
        }

        if (op->Imm != 0)
            Stack.SetPointer(c, (c->Arch.Gpr[4] + op->Imm) & c->StackMask);
        c->Arch.Rip = rip;
    }

    public static void JumpReg<T>(CpuContext* c, Op* op) where T : unmanaged => Branch(c, op, Access.Get<T>(c, op->Src));

    public static void CallReg<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var target = Access.Get<T>(c, op->Src);
        CheckLimit(c, op, target);
        Stack.Push<T>(c, op, c->Arch.Rip + op->Next);
        c->Arch.Rip = target;
    }

    /// <summary>LOOP, LOOPE, LOOPNE and JCXZ: <c>Extra</c> is 0 to 3, the counter has the address size.</summary>
    public static void Loop(CpuContext* c, Op* op)
    {
        var mask = op->AddressSize == 4 ? ulong.MaxValue : op->AddressSize == 2 ? uint.MaxValue : 0xFFFFUL;
        var count = (c->Arch.Gpr[1] - (op->Extra == 3 ? 0UL : 1)) & mask;
        var taken = op->Extra == 3 ? count == 0 : count != 0 && (op->Extra == 0 || Flags.Zero(c) == (op->Extra == 1));
        var rip = c->Arch.Rip + (taken ? op->Imm : op->Next);
        rip = taken && op->Dst == 2 ? (ushort)rip : rip & c->RipMask; // Dst: operand size in bytes
        if (taken && c->Is64 == 0)
            CheckLimit(c, op, rip);
        if (op->Extra != 3)
        {
            if (op->AddressSize == 1)
                Access.Set<ushort>(c, 8, count);
            else
                c->Arch.Gpr[1] = count;
        }

        c->Arch.Rip = rip;
    }
}

internal unsafe struct JumpMem : IMemoryHandler
{
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        var target = Access.Load<T>(c, op, TEa.Linear(c, op, sizeof(T), false));
        if (sizeof(T) == 8)
            Access.CheckTarget(c, op, target);
        else
            ControlHandlers.CheckLimit(c, op, target);
        c->Arch.Rip = target;
    }
}

internal unsafe struct CallMem : IMemoryHandler
{
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        var target = Access.Load<T>(c, op, TEa.Linear(c, op, sizeof(T), false));
        if (sizeof(T) == 8)
        {
            Access.CheckTarget(c, op, target);
            var rsp = c->Arch.Gpr[4] - 8;
            Access.StoreStack<ulong>(c, op, rsp, c->Arch.Rip + op->Next);
            c->Arch.Gpr[4] = rsp;
        }
        else
        {
            ControlHandlers.CheckLimit(c, op, target);
            Stack.Push<T>(c, op, c->Arch.Rip + op->Next);
        }

        c->Arch.Rip = target;
    }
}
