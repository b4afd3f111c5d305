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
    public static void Jump16(CpuContext* c, Op* op) => c->Arch.Rip = (ushort)(c->Arch.Rip + op->Imm);

    public static void JumpIf<TCondition>(CpuContext* c, Op* op) where TCondition : struct, ICondition =>
        c->Arch.Rip = (c->Arch.Rip + (TCondition.Test(c) ? op->Imm : op->Next)) & c->RipMask;

    public static void Jump16If<TCondition>(CpuContext* c, Op* op) where TCondition : struct, ICondition =>
        c->Arch.Rip = TCondition.Test(c) ? (ushort)(c->Arch.Rip + op->Imm) : (c->Arch.Rip + op->Next) & c->RipMask;

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
        Stack.Push<T>(c, op, c->Arch.Rip + op->Next);
        c->Arch.Rip = Width.Cut<T>(c->Arch.Rip + op->Imm);
    }

    public static void Return<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var rip = Stack.Pop<T>(c, op);
        if (op->Imm != 0)
            Stack.SetPointer(c, (c->Arch.Gpr[4] + op->Imm) & c->StackMask);
        c->Arch.Rip = rip;
    }

    public static void JumpReg<T>(CpuContext* c, Op* op) where T : unmanaged => c->Arch.Rip = Access.Get<T>(c, op->Src);

    public static void CallReg<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var target = Access.Get<T>(c, op->Src);
        Stack.Push<T>(c, op, c->Arch.Rip + op->Next);
        c->Arch.Rip = target;
    }

    /// <summary>LOOP, LOOPE, LOOPNE and JCXZ: <c>Extra</c> is 0 to 3, the counter has the address size.</summary>
    public static void Loop(CpuContext* c, Op* op)
    {
        var mask = op->AddressSize == 4 ? ulong.MaxValue : op->AddressSize == 2 ? uint.MaxValue : 0xFFFFUL;
        bool taken;
        if (op->Extra == 3)
        {
            taken = (c->Arch.Gpr[1] & mask) == 0;
        }
        else
        {
            var count = (c->Arch.Gpr[1] - 1) & mask;
            if (op->AddressSize == 1)
                Access.Set<ushort>(c, 8, count);
            else
                c->Arch.Gpr[1] = count;
            taken = count != 0 && (op->Extra == 0 || Flags.Zero(c) == (op->Extra == 1));
        }

        var rip = c->Arch.Rip + (taken ? op->Imm : op->Next);
        c->Arch.Rip = taken && op->Dst == 2 ? (ushort)rip : rip & c->RipMask; // Dst: operand size in bytes
    }
}

internal unsafe struct JumpMem : IMemoryHandler
{
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        var target = Access.Load<T>(c, op, TEa.Linear(c, op, sizeof(T), false));
        if (sizeof(T) == 8)
            Access.CheckTarget(c, op, target);
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
            Stack.Push<T>(c, op, c->Arch.Rip + op->Next);
        }

        c->Arch.Rip = target;
    }
}
