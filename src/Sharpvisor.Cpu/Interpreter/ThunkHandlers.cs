using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.HostCpu;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>What a handler needs of a <see cref="HostThunk"/>, in native memory next to the operation.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct ThunkInfo
{
    public delegate* unmanaged[SuppressGCTransition]<CpuState*, byte*, ulong, ulong> Code;

    /// <summary>Of RFLAGS.</summary>
    public ulong FlagsWritten;

    public int MemorySize;
    public int Alignment;
    public FpuTraps Traps;
    public bool Reads, Writes, ReadsFlags, NeedsX87;

    /// <summary>An x87 or MMX instruction that raises #MF when an exception is pending.</summary>
    public bool Waits;
}

/// <summary>Instructions that the host executes: vector, x87 and some integer instructions.</summary>
internal static unsafe class ThunkHandlers
{
    public static void Register(CpuContext* c, Op* op)
    {
        var t = (ThunkInfo*)op->Imm;
        if ((c->FpuTrap & (byte)t->Traps) != 0 || (t->NeedsX87 && c->X87Live == 0))
            Prepare(c, op, t);
        var result = t->Code((CpuState*)c, null, t->ReadsFlags ? Flags.Arithmetic(c) : 0);
        if (t->FlagsWritten != 0 || (long)result < 0)
            Finish(c, op, t, result);
        Access.Next(c, op);
    }

    public static void Special(CpuContext* c, Op* op)
    {
        c->CurrentOp = op;
        InterpreterVcpu.Of(c).ExecuteX87Special((ThunkInfo*)op->Imm, op);
        Access.Next(c, op);
    }

    /// <summary>#UD, #NM, and the x87 registers brought into the host's FPU.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static void Prepare(CpuContext* c, Op* op, ThunkInfo* t)
    {
        var traps = (FpuTraps)c->FpuTrap & t->Traps;
        if ((traps & (FpuTraps.MmxUndefined | FpuTraps.SseUndefined | FpuTraps.AvxUndefined | FpuTraps.VexUndefined)) != 0)
            InterpreterVcpu.Fault(c, op, Vectors.UD, 0);
        if (traps != 0)
            InterpreterVcpu.Fault(c, op, Vectors.NM, 0);
        if (!t->NeedsX87)
            return;
        if (c->X87Live == 0)
            InterpreterVcpu.Of(c).LoadX87();

        // An exception that waits is raised before the operand is touched; there is none while all are masked.
        if (t->Waits && (*(ushort*)&c->Arch.X87 & 0x3F) != 0x3F)
        {
            c->CurrentOp = op;
            InterpreterVcpu.Of(c).RaisePendingX87();
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    public static void Finish(CpuContext* c, Op* op, ThunkInfo* t, ulong result)
    {
        if ((long)result < 0)
        {
            c->CurrentOp = op;
            InterpreterVcpu.Of(c).RaiseThunkException(HostThunk.ResultOf(result));
            return;
        }

        Flags.SetArithmetic(c, (Flags.Arithmetic(c) & ~t->FlagsWritten) | (result & t->FlagsWritten));
    }

    /// <summary>Opens a memory operand of any size: the host address, or an aligned bounce buffer.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static byte* Open(CpuContext* c, Op* op, ThunkInfo* t, ulong linear)
    {
        if ((linear & (ulong)(t->Alignment - 1)) != 0)
            InterpreterVcpu.Fault(c, op, Vectors.GP, 0);
        var entry = c->Tlb + Tlb.Index(linear);
        var within = linear ^ (t->Writes ? entry->WriteTag : entry->ReadTag);
        return within <= (ulong)(4096 - t->MemorySize) ? (byte*)(entry->Delta + linear) : OpenSlow(c, op, t, linear);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    public static void Commit(CpuContext* c, Op* op, ThunkInfo* t, ulong linear)
    {
        c->CurrentOp = op;
        InterpreterVcpu.Of(c).WriteBytes(linear, Bounce(c), t->MemorySize);
    }

    public static byte* Bounce(CpuContext* c) => (byte*)(((ulong)&c->Bounce + 63) & ~63UL);

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static byte* OpenSlow(CpuContext* c, Op* op, ThunkInfo* t, ulong linear)
    {
        c->CurrentOp = op;
        var vcpu = InterpreterVcpu.Of(c);
        vcpu.CheckAlignment(linear, t->MemorySize);
        if (t->Writes)
            vcpu.CheckWrite(linear, t->MemorySize); // an operand that is read and written is checked for writing at once
        if (t->Reads)
            vcpu.ReadBytes(linear, Bounce(c), t->MemorySize);
        return Bounce(c);
    }
}

internal unsafe struct ThunkMemory : IMemoryHandler
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        var t = (ThunkInfo*)op->Imm;
        if ((c->FpuTrap & (byte)t->Traps) != 0 || t->NeedsX87)
            ThunkHandlers.Prepare(c, op, t);
        var linear = TEa.Linear(c, op, t->MemorySize, t->Writes);
        var memory = ThunkHandlers.Open(c, op, t, linear);
        var result = t->Code((CpuState*)c, memory, t->ReadsFlags ? Flags.Arithmetic(c) : 0);
        if (t->FlagsWritten != 0 || (long)result < 0)
            ThunkHandlers.Finish(c, op, t, result);
        if (t->Writes && memory == ThunkHandlers.Bounce(c) && (long)result >= 0)
            ThunkHandlers.Commit(c, op, t, linear);
        Access.Next(c, op);
    }
}
