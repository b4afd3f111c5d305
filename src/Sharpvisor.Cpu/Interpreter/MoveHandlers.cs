using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

internal unsafe struct MovRegReg : IRegisterHandler
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        Access.Set<T>(c, op->Dst, Access.Get<T>(c, op->Src));
        Access.Next(c, op);
    }
}

internal unsafe struct MovRegImm : IRegisterHandler
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        Access.Set<T>(c, op->Dst, op->Imm);
        Access.Next(c, op);
    }
}

internal unsafe struct MovRegMem : IMemoryHandler
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        Access.Set<T>(c, op->Dst, Access.Load<T>(c, op, TEa.Linear(c, op, sizeof(T), false)));
        Access.Next(c, op);
    }
}

internal unsafe struct MovMemReg : IMemoryHandler
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        Access.Store<T>(c, op, TEa.Linear(c, op, sizeof(T), true), Access.Get<T>(c, op->Src));
        Access.Next(c, op);
    }
}

internal unsafe struct MovMemImm : IMemoryHandler
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        Access.Store<T>(c, op, TEa.Linear(c, op, sizeof(T), true), op->Imm);
        Access.Next(c, op);
    }
}

/// <summary>MOVBE.</summary>
internal unsafe struct MovbeRegMem : IMemoryHandler
{
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        var value = Access.Load<T>(c, op, TEa.Linear(c, op, sizeof(T), false));
        Access.Set<T>(c, op->Dst, BinaryPrimitives.ReverseEndianness(value) >> (64 - (8 * sizeof(T))));
        Access.Next(c, op);
    }
}

internal unsafe struct MovbeMemReg : IMemoryHandler
{
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        var value = BinaryPrimitives.ReverseEndianness(Access.Get<T>(c, op->Src)) >> (64 - (8 * sizeof(T)));
        Access.Store<T>(c, op, TEa.Linear(c, op, sizeof(T), true), value);
        Access.Next(c, op);
    }
}

/// <summary>MOVZX from TFrom; the width of the handler is the destination's.</summary>
internal unsafe struct MovzxReg<TFrom> : IRegisterHandler where TFrom : unmanaged
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        Access.Set<T>(c, op->Dst, Access.Get<TFrom>(c, op->Src));
        Access.Next(c, op);
    }
}

internal unsafe struct MovzxMem<TFrom> : IMemoryHandler where TFrom : unmanaged
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        Access.Set<T>(c, op->Dst, Access.Load<TFrom>(c, op, TEa.Linear(c, op, sizeof(TFrom), false)));
        Access.Next(c, op);
    }
}

internal unsafe struct MovsxReg<TFrom> : IRegisterHandler where TFrom : unmanaged
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        Access.Set<T>(c, op->Dst, Width.SignExtend<TFrom>(Access.Get<TFrom>(c, op->Src)));
        Access.Next(c, op);
    }
}

internal unsafe struct MovsxMem<TFrom> : IMemoryHandler where TFrom : unmanaged
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        Access.Set<T>(c, op->Dst, Width.SignExtend<TFrom>(Access.Load<TFrom>(c, op, TEa.Linear(c, op, sizeof(TFrom), false))));
        Access.Next(c, op);
    }
}

/// <summary>LEA: the width is the destination's, the address size is in the operation.</summary>
internal unsafe struct Lea : IRegisterHandler
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        Access.Set<T>(c, op->Dst, Access.Offset(c, op));
        Access.Next(c, op);
    }
}

/// <summary>LEA with a 64-bit address.</summary>
internal unsafe struct Lea64 : IRegisterHandler
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        Access.Set<T>(c, op->Dst, *(ulong*)((byte*)c + op->Base) + (*(ulong*)((byte*)c + op->Index) << op->Scale) + (ulong)op->Disp);
        Access.Next(c, op);
    }
}

internal unsafe struct XchgRegReg : IRegisterHandler
{
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var a = Access.Get<T>(c, op->Dst);
        Access.Set<T>(c, op->Dst, Access.Get<T>(c, op->Src));
        Access.Set<T>(c, op->Src, a);
        Access.Next(c, op);
    }
}

/// <summary>XCHG with memory is atomic with and without LOCK.</summary>
internal unsafe struct XchgMemReg : IMemoryHandler
{
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        var linear = TEa.Linear(c, op, sizeof(T), true);
        var p = Access.Open<T>(c, op, linear);
        var old = Atomic.Exchange<T>(p, Access.Get<T>(c, op->Src));
        Access.Commit<T>(c, op, p, linear);
        Access.Set<T>(c, op->Src, old);
        Access.Next(c, op);
    }
}

internal unsafe struct XaddRegReg : IRegisterHandler
{
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var a = Access.Get<T>(c, op->Dst);
        var r = Add.Do<T>(c, a, Access.Get<T>(c, op->Src));
        Access.Set<T>(c, op->Src, a);
        Access.Set<T>(c, op->Dst, r);
        Access.Next(c, op);
    }
}

internal unsafe struct XaddMemReg : IMemoryHandler
{
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        var linear = TEa.Linear(c, op, sizeof(T), true);
        var p = Access.Open<T>(c, op, linear);
        var b = Access.Get<T>(c, op->Src);
        ulong a;
        do
        {
            a = Width.ReadRaw<T>(p);
        }
        while (Atomic.CompareExchange<T>(p, a + b, a) != a);
        Access.Commit<T>(c, op, p, linear);
        Add.Do<T>(c, a, b);
        Access.Set<T>(c, op->Src, a);
        Access.Next(c, op);
    }
}

internal unsafe struct CmpxchgRegReg : IRegisterHandler
{
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var old = Access.Get<T>(c, op->Dst);
        var accumulator = Width.Cut<T>(c->Arch.Gpr[0]);
        Cmp.Do<T>(c, accumulator, old);
        if (old == accumulator)
            Access.Set<T>(c, op->Dst, Access.Get<T>(c, op->Src));
        else
            Access.Set<T>(c, 0, old);
        Access.Next(c, op);
    }
}

/// <summary>CMPXCHG writes its operand back even if unequal, so a page must be writable either way.</summary>
internal unsafe struct CmpxchgMemReg : IMemoryHandler
{
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        var linear = TEa.Linear(c, op, sizeof(T), true);
        var p = Access.Open<T>(c, op, linear);
        var accumulator = Width.Cut<T>(c->Arch.Gpr[0]);
        var old = Atomic.CompareExchange<T>(p, Access.Get<T>(c, op->Src), accumulator);
        Access.Commit<T>(c, op, p, linear);
        Cmp.Do<T>(c, accumulator, old);
        if (old != accumulator)
            Access.Set<T>(c, 0, old);
        Access.Next(c, op);
    }
}

internal unsafe struct CmovReg<TCondition> : IRegisterHandler where TCondition : struct, ICondition
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        // A 32-bit CMOV clears the upper half even when it does not move.
        Access.Set<T>(c, op->Dst, Access.Get<T>(c, TCondition.Test(c) ? op->Src : op->Dst));
        Access.Next(c, op);
    }
}

internal unsafe struct CmovMem<TCondition> : IMemoryHandler where TCondition : struct, ICondition
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        var value = Access.Load<T>(c, op, TEa.Linear(c, op, sizeof(T), false));
        Access.Set<T>(c, op->Dst, TCondition.Test(c) ? value : Access.Get<T>(c, op->Dst));
        Access.Next(c, op);
    }
}

internal unsafe struct SetReg<TCondition> : IRegisterHandler where TCondition : struct, ICondition
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        *((byte*)c + op->Dst) = TCondition.Test(c) ? (byte)1 : (byte)0;
        Access.Next(c, op);
    }
}

internal unsafe struct SetMem<TCondition> : IMemoryHandler where TCondition : struct, ICondition
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        Access.Store<T>(c, op, TEa.Linear(c, op, sizeof(T), true), TCondition.Test(c) ? 1UL : 0);
        Access.Next(c, op);
    }
}

internal unsafe struct Bswap : IRegisterHandler
{
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        // With a 16-bit operand the result is undefined; processors give zero.
        var value = sizeof(T) == 2 ? 0 : BinaryPrimitives.ReverseEndianness(Access.Get<T>(c, op->Dst)) >> (64 - (8 * sizeof(T)));
        Access.Set<T>(c, op->Dst, value);
        Access.Next(c, op);
    }
}

/// <summary>CBW, CWDE, CDQE: the width is the result's.</summary>
internal unsafe struct ExtendAccumulator : IRegisterHandler
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var rax = c->Arch.Gpr[0];
        Access.Set<T>(c, 0, sizeof(T) == 2 ? (ulong)(sbyte)rax : sizeof(T) == 4 ? (ulong)(short)rax : (ulong)(int)rax);
        Access.Next(c, op);
    }
}

/// <summary>CWD, CDQ, CQO.</summary>
internal unsafe struct ExtendToData : IRegisterHandler
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        Access.Set<T>(c, 16, (ulong)((long)Width.SignExtend<T>(c->Arch.Gpr[0]) >> 63));
        Access.Next(c, op);
    }
}

internal unsafe struct Nop : IRegisterHandler
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged => Access.Next(c, op);
}

/// <summary>PUSH and POP in 64-bit mode.</summary>
internal unsafe struct PushReg64 : IRegisterHandler
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var rsp = c->Arch.Gpr[4] - (ulong)sizeof(T);
        Access.Store<T>(c, op, rsp, Access.Get<T>(c, op->Src));
        c->Arch.Gpr[4] = rsp;
        Access.Next(c, op);
    }
}

internal unsafe struct PushImm64 : IRegisterHandler
{
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var rsp = c->Arch.Gpr[4] - (ulong)sizeof(T);
        Access.Store<T>(c, op, rsp, op->Imm);
        c->Arch.Gpr[4] = rsp;
        Access.Next(c, op);
    }
}

internal unsafe struct PopReg64 : IRegisterHandler
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var rsp = c->Arch.Gpr[4];
        var value = Access.Load<T>(c, op, rsp);
        c->Arch.Gpr[4] = rsp + (ulong)sizeof(T);
        Access.Set<T>(c, op->Dst, value);
        Access.Next(c, op);
    }
}

internal unsafe struct PushMem64 : IMemoryHandler
{
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        var value = Access.Load<T>(c, op, TEa.Linear(c, op, sizeof(T), false));
        var rsp = c->Arch.Gpr[4] - (ulong)sizeof(T);
        Access.StoreStack<T>(c, op, rsp, value);
        c->Arch.Gpr[4] = rsp;
        Access.Next(c, op);
    }
}

/// <summary>PUSH and POP on a stack segment of 16 or 32 bits.</summary>
internal unsafe struct PushReg : IRegisterHandler
{
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        Stack.Push<T>(c, op, Access.Get<T>(c, op->Src));
        Access.Next(c, op);
    }
}

internal unsafe struct PushImm : IRegisterHandler
{
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        Stack.Push<T>(c, op, op->Imm);
        Access.Next(c, op);
    }
}

internal unsafe struct PopReg : IRegisterHandler
{
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        Access.Set<T>(c, op->Dst, Stack.Pop<T>(c, op));
        Access.Next(c, op);
    }
}

/// <summary>The stack outside of 64-bit mode: SS base, limit, and a pointer of 16 or 32 bits.</summary>
internal static unsafe class Stack
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Push<T>(CpuContext* c, Op* op, ulong value) where T : unmanaged
    {
        var sp = (c->Arch.Gpr[4] - (ulong)sizeof(T)) & c->StackMask;
        Access.Store<T>(c, op, Linear(c, op, sp, sizeof(T), true), value);
        SetPointer(c, sp);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Pop<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var sp = c->Arch.Gpr[4] & c->StackMask;
        var value = Access.Load<T>(c, op, Linear(c, op, sp, sizeof(T), false));
        SetPointer(c, (sp + (ulong)sizeof(T)) & c->StackMask);
        return value;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetPointer(CpuContext* c, ulong sp)
    {
        if (c->StackMask == 0xFFFF)
            *(ushort*)((byte*)c + 32) = (ushort)sp;
        else
            *(ulong*)((byte*)c + 32) = sp;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Linear(CpuContext* c, Op* op, ulong sp, int size, bool write) =>
        (c->Mode & (uint)BlockMode.Flat) != 0 ? (uint)sp : Access.Segmented(c, op, 2, sp, size, write);
}
