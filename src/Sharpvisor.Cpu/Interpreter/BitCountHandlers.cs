using System.Numerics;
using System.Runtime.CompilerServices;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>Counts and finds bits: BSF, BSR, TZCNT, LZCNT, POPCNT.</summary>
internal unsafe interface IBitCount
{
    /// <summary>The new destination; false to keep the old one whole.</summary>
    static abstract bool TryCount<T>(CpuContext* c, ulong value, out ulong result) where T : unmanaged;
}

/// <summary>ZF tells of a zero operand; the other flags are undefined.</summary>
internal unsafe struct Bsf : IBitCount
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool TryCount<T>(CpuContext* c, ulong value, out ulong result) where T : unmanaged
    {
        c->FlagResult = value == 0 ? 0UL : 1;
        c->FlagAux = 0;
        result = (ulong)BitOperations.TrailingZeroCount(value);
        return value != 0;
    }
}

internal unsafe struct Bsr : IBitCount
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool TryCount<T>(CpuContext* c, ulong value, out ulong result) where T : unmanaged
    {
        c->FlagResult = value == 0 ? 0UL : 1;
        c->FlagAux = 0;
        result = (ulong)(63 - BitOperations.LeadingZeroCount(value));
        return value != 0;
    }
}

internal unsafe struct Tzcnt : IBitCount
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool TryCount<T>(CpuContext* c, ulong value, out ulong result) where T : unmanaged
    {
        result = value == 0 ? 8 * (ulong)sizeof(T) : (ulong)BitOperations.TrailingZeroCount(value);
        Flags.SetResultCarryOverflow<T>(c, result, value == 0, false);
        return true;
    }
}

internal unsafe struct Lzcnt : IBitCount
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool TryCount<T>(CpuContext* c, ulong value, out ulong result) where T : unmanaged
    {
        result = (ulong)(BitOperations.LeadingZeroCount(value) - (64 - (8 * sizeof(T))));
        Flags.SetResultCarryOverflow<T>(c, result, value == 0, false);
        return true;
    }
}

/// <summary>All flags but ZF are cleared.</summary>
internal unsafe struct Popcnt : IBitCount
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool TryCount<T>(CpuContext* c, ulong value, out ulong result) where T : unmanaged
    {
        result = (ulong)BitOperations.PopCount(value);
        c->FlagResult = value == 0 ? 0UL : 0x100;
        c->FlagAux = 0x100; // the parity byte: odd
        return true;
    }
}

internal unsafe struct BitCountReg<TOp> : IRegisterHandler where TOp : struct, IBitCount
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        if (TOp.TryCount<T>(c, Access.Get<T>(c, op->Src), out var result))
            Access.Set<T>(c, op->Dst, result);
        Access.Next(c, op);
    }
}

internal unsafe struct BitCountMem<TOp> : IMemoryHandler where TOp : struct, IBitCount
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        if (TOp.TryCount<T>(c, Access.Load<T>(c, op, TEa.Linear(c, op, sizeof(T), false)), out var result))
            Access.Set<T>(c, op->Dst, result);
        Access.Next(c, op);
    }
}
