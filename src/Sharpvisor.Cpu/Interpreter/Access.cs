using System.Runtime.CompilerServices;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>How a memory operand's linear address is computed: a type, so that each handler is compiled for each way.</summary>
internal unsafe interface IEffectiveAddress
{
    /// <summary>The linear address of <paramref name="size"/> bytes; raises #GP or #SS where the segment forbids them.</summary>
    static abstract ulong Linear(CpuContext* c, Op* op, int size, bool write);
}

/// <summary>64-bit mode, no segment: base + displacement.</summary>
internal unsafe struct EaBase : IEffectiveAddress
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Linear(CpuContext* c, Op* op, int size, bool write) =>
        *(ulong*)((byte*)c + op->Base) + (ulong)op->Disp;
}

/// <summary>64-bit mode, no segment: base + index * scale + displacement.</summary>
internal unsafe struct EaIndex : IEffectiveAddress
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Linear(CpuContext* c, Op* op, int size, bool write) =>
        *(ulong*)((byte*)c + op->Base) + (*(ulong*)((byte*)c + op->Index) << op->Scale) + (ulong)op->Disp;
}

/// <summary>32-bit mode with a flat segment.</summary>
internal unsafe struct EaFlat32 : IEffectiveAddress
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Linear(CpuContext* c, Op* op, int size, bool write) =>
        (uint)(*(uint*)((byte*)c + op->Base) + (*(uint*)((byte*)c + op->Index) << op->Scale) + (uint)op->Disp);
}

/// <summary>Everything else: any address size, segment bases, limits and rights.</summary>
internal unsafe struct EaSegment : IEffectiveAddress
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Linear(CpuContext* c, Op* op, int size, bool write) =>
        Access.Segmented(c, op, op->Segment, Access.Offset(c, op), size, write);
}

/// <summary>Registers and memory as handlers use them.</summary>
internal static unsafe class Access
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Get<T>(CpuContext* c, int offset) where T : unmanaged => Width.ReadRaw<T>((byte*)c + offset);

    /// <summary>Writes a register: 32-bit results clear the upper half.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Set<T>(CpuContext* c, int offset, ulong value) where T : unmanaged
    {
        if (sizeof(T) == 4)
            *(ulong*)((byte*)c + offset) = (uint)value;
        else
            Width.WriteRaw<T>((byte*)c + offset, value);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Next(CpuContext* c, Op* op) => ((delegate*<CpuContext*, Op*, void>)op[1].Fn)(c, op + 1);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Load<T>(CpuContext* c, Op* op, ulong linear) where T : unmanaged
    {
        var entry = c->Tlb + Tlb.Index(linear);
        var within = linear ^ entry->ReadTag;
        return within <= (ulong)(4096 - sizeof(T)) ? Width.ReadRaw<T>((byte*)(entry->Delta + linear)) : LoadSlow(c, op, linear, sizeof(T));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store<T>(CpuContext* c, Op* op, ulong linear, ulong value) where T : unmanaged
    {
        var entry = c->Tlb + Tlb.Index(linear);
        var within = linear ^ entry->WriteTag;
        if (within <= (ulong)(4096 - sizeof(T)))
            Width.WriteRaw<T>((byte*)(entry->Delta + linear), value);
        else
            StoreSlow(c, op, linear, sizeof(T), value);
    }

    /// <summary>A push in 64-bit mode by an instruction whose operand's segment is another one.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreStack<T>(CpuContext* c, Op* op, ulong linear, ulong value) where T : unmanaged
    {
        var entry = c->Tlb + Tlb.Index(linear);
        var within = linear ^ entry->WriteTag;
        if (within <= (ulong)(4096 - sizeof(T)))
            Width.WriteRaw<T>((byte*)(entry->Delta + linear), value);
        else
            StoreStackSlow(c, op, linear, sizeof(T), value);
    }

    /// <summary>#GP(0) for a branch out of the canonical addresses: the branch itself faults, before it changes anything.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void CheckTarget(CpuContext* c, Op* op, ulong rip)
    {
        if ((ulong)((long)(rip << 16) >> 16) != rip)
            InterpreterVcpu.Fault(c, op, Vectors.GP, 0);
    }

    /// <summary>
    /// Opens an operand that is read and written: its host address, or a bounce buffer that
    /// <see cref="Commit{T}"/> writes back.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static byte* Open<T>(CpuContext* c, Op* op, ulong linear) where T : unmanaged
    {
        var entry = c->Tlb + Tlb.Index(linear);
        var within = linear ^ entry->WriteTag;
        return within <= (ulong)(4096 - sizeof(T)) ? (byte*)(entry->Delta + linear) : OpenSlow(c, op, linear, sizeof(T));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Commit<T>(CpuContext* c, Op* op, byte* p, ulong linear) where T : unmanaged
    {
        if (p == (byte*)&c->Bounce)
            CommitSlow(c, op, linear, sizeof(T));
    }

    /// <summary>The offset within the segment, cut to the address size.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Offset(CpuContext* c, Op* op)
    {
        var offset = *(ulong*)((byte*)c + op->Base) + (*(ulong*)((byte*)c + op->Index) << op->Scale) + (ulong)op->Disp;
        return op->AddressSize == 4 ? offset : op->AddressSize == 2 ? (uint)offset : (ushort)offset;
    }

    /// <summary>Segment base + offset, with the checks of the current mode.</summary>
    public static ulong Segmented(CpuContext* c, Op* op, int segment, ulong offset, int size, bool write)
    {
        ref var s = ref c->Arch.Segments[segment];
        if (c->Is64 != 0)
            return segment >= 4 ? s.Base + offset : offset;
        if (!SegmentAllows(in s, offset, size, write))
            InterpreterVcpu.Fault(c, op, segment == 2 ? Vectors.SS : Vectors.GP, 0);
        return (uint)(s.Base + offset);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    public static ulong LoadSlow(CpuContext* c, Op* op, ulong linear, int size)
    {
        c->CurrentOp = op;
        return InterpreterVcpu.Of(c).ReadLinear(linear, size);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    public static void StoreSlow(CpuContext* c, Op* op, ulong linear, int size, ulong value)
    {
        c->CurrentOp = op;
        InterpreterVcpu.Of(c).WriteLinear(linear, size, value);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void StoreStackSlow(CpuContext* c, Op* op, ulong linear, int size, ulong value)
    {
        c->CurrentOp = op;
        InterpreterVcpu.Of(c).WriteStack(linear, size, value);
    }

    /// <summary>SDM vol. 3, 5.3 and 5.4: present, type, limit, expand-down.</summary>
    private static bool SegmentAllows(in SegmentRegister s, ulong offset, int size, bool write)
    {
        var attributes = s.Attributes;
        if ((attributes & 0x90) != 0x90)
            return false;
        if ((attributes & 8) != 0 ? write || (attributes & 2) == 0 : write && (attributes & 2) == 0)
            return false;
        var last = offset + (ulong)size - 1;
        if ((attributes & 0xC) == 4) // expand-down data
            return offset > s.Limit && last <= ((attributes & 0x4000) != 0 ? uint.MaxValue : (ulong)ushort.MaxValue);
        return last <= s.Limit;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void CommitSlow(CpuContext* c, Op* op, ulong linear, int size)
    {
        c->CurrentOp = op;
        InterpreterVcpu.Of(c).CommitLinear(linear, size);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static byte* OpenSlow(CpuContext* c, Op* op, ulong linear, int size)
    {
        c->CurrentOp = op;
        return InterpreterVcpu.Of(c).OpenLinear(linear, size);
    }
}

/// <summary>Exception vectors (SDM vol. 3, 6.3.1).</summary>
internal static class Vectors
{
    public const int DE = 0, DB = 1, NMI = 2, BP = 3, OF = 4, BR = 5, UD = 6, NM = 7, DF = 8, TS = 10, NP = 11, SS = 12, GP = 13, PF = 14, MF = 16, AC = 17, MC = 18, XM = 19;
}
