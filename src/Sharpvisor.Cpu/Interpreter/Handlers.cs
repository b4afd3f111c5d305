using System.Runtime.CompilerServices;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>How a memory operand is addressed: which <see cref="IEffectiveAddress"/> serves.</summary>
internal enum EaKind
{
    Base,
    Index,
    Flat32,
    Segment,
}

/// <summary>A handler without a memory operand, for each operand width.</summary>
internal unsafe interface IRegisterHandler
{
    static abstract void Run<T>(CpuContext* c, Op* op) where T : unmanaged;
}

/// <summary>A handler with a memory operand, for each operand width and way to address.</summary>
internal unsafe interface IMemoryHandler
{
    static abstract void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress;
}

/// <summary>A condition of Jcc, SETcc and CMOVcc.</summary>
internal unsafe interface ICondition
{
    static abstract bool Test(CpuContext* c);
}

/// <summary>Picks the compiled form of a handler for the operands at hand.</summary>
internal static unsafe class Handlers
{
    public static nint Pick<THandler>(int size) where THandler : struct, IRegisterHandler => size switch
    {
        1 => (nint)(delegate*<CpuContext*, Op*, void>)&Register<THandler, byte>,
        2 => (nint)(delegate*<CpuContext*, Op*, void>)&Register<THandler, ushort>,
        4 => (nint)(delegate*<CpuContext*, Op*, void>)&Register<THandler, uint>,
        _ => (nint)(delegate*<CpuContext*, Op*, void>)&Register<THandler, ulong>,
    };

    public static nint Pick<THandler>(int size, EaKind ea) where THandler : struct, IMemoryHandler => ea switch
    {
        EaKind.Base => PickSize<THandler, EaBase>(size),
        EaKind.Index => PickSize<THandler, EaIndex>(size),
        EaKind.Flat32 => PickSize<THandler, EaFlat32>(size),
        _ => PickSize<THandler, EaSegment>(size),
    };

    /// <summary>A handler of one width.</summary>
    public static nint PickFixed<THandler, T>(EaKind ea) where THandler : struct, IMemoryHandler where T : unmanaged => ea switch
    {
        EaKind.Base => (nint)(delegate*<CpuContext*, Op*, void>)&Memory<THandler, T, EaBase>,
        EaKind.Index => (nint)(delegate*<CpuContext*, Op*, void>)&Memory<THandler, T, EaIndex>,
        EaKind.Flat32 => (nint)(delegate*<CpuContext*, Op*, void>)&Memory<THandler, T, EaFlat32>,
        _ => (nint)(delegate*<CpuContext*, Op*, void>)&Memory<THandler, T, EaSegment>,
    };

    private static nint PickSize<THandler, TEa>(int size) where THandler : struct, IMemoryHandler where TEa : struct, IEffectiveAddress => size switch
    {
        1 => (nint)(delegate*<CpuContext*, Op*, void>)&Memory<THandler, byte, TEa>,
        2 => (nint)(delegate*<CpuContext*, Op*, void>)&Memory<THandler, ushort, TEa>,
        4 => (nint)(delegate*<CpuContext*, Op*, void>)&Memory<THandler, uint, TEa>,
        _ => (nint)(delegate*<CpuContext*, Op*, void>)&Memory<THandler, ulong, TEa>,
    };

    private static void Register<THandler, T>(CpuContext* c, Op* op) where THandler : struct, IRegisterHandler where T : unmanaged =>
        THandler.Run<T>(c, op);

    private static void Memory<THandler, T, TEa>(CpuContext* c, Op* op)
        where THandler : struct, IMemoryHandler where T : unmanaged where TEa : struct, IEffectiveAddress => THandler.Run<T, TEa>(c, op);
}

internal unsafe struct CondO : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => Flags.Overflow(c); }

internal unsafe struct CondNO : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => !Flags.Overflow(c); }

internal unsafe struct CondB : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => Flags.Carry(c); }

internal unsafe struct CondAE : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => !Flags.Carry(c); }

internal unsafe struct CondE : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => Flags.Zero(c); }

internal unsafe struct CondNE : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => !Flags.Zero(c); }

internal unsafe struct CondBE : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => Flags.Carry(c) || Flags.Zero(c); }

internal unsafe struct CondA : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => !Flags.Carry(c) && !Flags.Zero(c); }

internal unsafe struct CondS : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => Flags.Sign(c); }

internal unsafe struct CondNS : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => !Flags.Sign(c); }

internal unsafe struct CondP : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => Flags.Parity(c); }

internal unsafe struct CondNP : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => !Flags.Parity(c); }

internal unsafe struct CondL : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => Flags.Sign(c) != Flags.Overflow(c); }

internal unsafe struct CondGE : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => Flags.Sign(c) == Flags.Overflow(c); }

internal unsafe struct CondLE : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => Flags.Zero(c) || Flags.Sign(c) != Flags.Overflow(c); }

internal unsafe struct CondG : ICondition { [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Test(CpuContext* c) => !Flags.Zero(c) && Flags.Sign(c) == Flags.Overflow(c); }
