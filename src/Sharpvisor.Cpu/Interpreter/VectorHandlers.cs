using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>A bitwise or integer vector operation: the ones that string functions are made of. All others are thunks.</summary>
internal interface IVector
{
    static abstract Vector128<byte> Do(Vector128<byte> a, Vector128<byte> b);

    static abstract Vector256<byte> Do(Vector256<byte> a, Vector256<byte> b);
}

internal struct VectorXor : IVector
{
    public static Vector128<byte> Do(Vector128<byte> a, Vector128<byte> b) => a ^ b;

    public static Vector256<byte> Do(Vector256<byte> a, Vector256<byte> b) => a ^ b;
}

internal struct VectorOr : IVector
{
    public static Vector128<byte> Do(Vector128<byte> a, Vector128<byte> b) => a | b;

    public static Vector256<byte> Do(Vector256<byte> a, Vector256<byte> b) => a | b;
}

internal struct VectorAnd : IVector
{
    public static Vector128<byte> Do(Vector128<byte> a, Vector128<byte> b) => a & b;

    public static Vector256<byte> Do(Vector256<byte> a, Vector256<byte> b) => a & b;
}

internal struct VectorAndNot : IVector
{
    public static Vector128<byte> Do(Vector128<byte> a, Vector128<byte> b) => ~a & b;

    public static Vector256<byte> Do(Vector256<byte> a, Vector256<byte> b) => ~a & b;
}

internal struct VectorEqualBytes : IVector
{
    public static Vector128<byte> Do(Vector128<byte> a, Vector128<byte> b) => Vector128.Equals(a, b);

    public static Vector256<byte> Do(Vector256<byte> a, Vector256<byte> b) => Vector256.Equals(a, b);
}

internal struct VectorEqualDwords : IVector
{
    public static Vector128<byte> Do(Vector128<byte> a, Vector128<byte> b) => Vector128.Equals(a.AsUInt32(), b.AsUInt32()).AsByte();

    public static Vector256<byte> Do(Vector256<byte> a, Vector256<byte> b) => Vector256.Equals(a.AsUInt32(), b.AsUInt32()).AsByte();
}

internal struct VectorMinBytes : IVector
{
    public static Vector128<byte> Do(Vector128<byte> a, Vector128<byte> b) => Vector128.Min(a, b);

    public static Vector256<byte> Do(Vector256<byte> a, Vector256<byte> b) => Vector256.Min(a, b);
}

internal struct VectorSubtractBytes : IVector
{
    public static Vector128<byte> Do(Vector128<byte> a, Vector128<byte> b) => a - b;

    public static Vector256<byte> Do(Vector256<byte> a, Vector256<byte> b) => a - b;
}

internal struct VectorAddDwords : IVector
{
    public static Vector128<byte> Do(Vector128<byte> a, Vector128<byte> b) => (a.AsUInt32() + b.AsUInt32()).AsByte();

    public static Vector256<byte> Do(Vector256<byte> a, Vector256<byte> b) => (a.AsUInt32() + b.AsUInt32()).AsByte();
}

/// <summary>Moves: the second operand.</summary>
internal struct VectorMove : IVector
{
    public static Vector128<byte> Do(Vector128<byte> a, Vector128<byte> b) => b;

    public static Vector256<byte> Do(Vector256<byte> a, Vector256<byte> b) => b;
}

/// <summary>How an encoding treats the register's upper half.</summary>
internal interface IVectorForm
{
    static abstract bool Wide { get; }

    /// <summary>VEX.128 clears bits 128 to 255.</summary>
    static abstract bool ClearsUpper { get; }
}

internal struct LegacyForm : IVectorForm
{
    public static bool Wide => false;

    public static bool ClearsUpper => false;
}

internal struct Vex128Form : IVectorForm
{
    public static bool Wide => false;

    public static bool ClearsUpper => true;
}

internal struct Vex256Form : IVectorForm
{
    public static bool Wide => true;

    public static bool ClearsUpper => false;
}

/// <summary>
/// <c>Imm</c>: the <see cref="ThunkInfo"/> with checks and alignment; <c>Dst</c>, <c>Src</c> (first source) and, for
/// register forms, <c>Index</c> (second source) are places of vector registers.
/// </summary>
internal static unsafe class VectorHandlers
{
    public static void Register<TOp, TForm>(CpuContext* c, Op* op) where TOp : struct, IVector where TForm : struct, IVectorForm
    {
        Check(c, op);
        Apply<TOp, TForm>(c, op, (byte*)c + op->Index);
        Access.Next(c, op);
    }

    /// <summary>PMOVMSKB: the top bits of the bytes to a general register.</summary>
    public static void MoveMask<TForm>(CpuContext* c, Op* op) where TForm : struct, IVectorForm
    {
        Check(c, op);
        var source = (byte*)c + op->Src;
        Access.Set<uint>(c, op->Dst, TForm.Wide ? Vector256.Load(source).ExtractMostSignificantBits() : Vector128.Load(source).ExtractMostSignificantBits());
        Access.Next(c, op);
    }

    /// <summary>VZEROUPPER.</summary>
    public static void ZeroUpper(CpuContext* c, Op* op)
    {
        Check(c, op);
        var registers = (byte*)&c->Arch.Ymm;
        var count = c->Is64 != 0 ? 16 : 8;

        // Whole registers are stored: a load over two stores could not be forwarded from either and would wait for both.
        for (var i = 0; i < count; i++)
            Vector128.Load(registers + (i * 32)).ToVector256().Store(registers + (i * 32));
        Access.Next(c, op);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Check(CpuContext* c, Op* op)
    {
        var t = (ThunkInfo*)op->Imm;
        if ((c->FpuTrap & (byte)t->Traps) != 0)
            ThunkHandlers.Prepare(c, op, t);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Apply<TOp, TForm>(CpuContext* c, Op* op, byte* second) where TOp : struct, IVector where TForm : struct, IVectorForm
    {
        var destination = (byte*)c + op->Dst;
        var first = (byte*)c + op->Src;
        if (TForm.Wide)
        {
            TOp.Do(Vector256.Load(first), Vector256.Load(second)).Store(destination);
            return;
        }

        var result = TOp.Do(Vector128.Load(first), Vector128.Load(second));
        if (TForm.ClearsUpper)
            result.ToVector256().Store(destination);
        else
            result.Store(destination);
    }
}

internal unsafe struct VectorMemory<TOp, TForm> : IMemoryHandler where TOp : struct, IVector where TForm : struct, IVectorForm
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        VectorHandlers.Check(c, op);
        var memory = ThunkHandlers.Open(c, op, (ThunkInfo*)op->Imm, TEa.Linear(c, op, TForm.Wide ? 32 : 16, false));
        VectorHandlers.Apply<TOp, TForm>(c, op, memory);
        Access.Next(c, op);
    }
}

/// <summary>Stores of whole registers.</summary>
internal unsafe struct VectorStore<TForm> : IMemoryHandler where TForm : struct, IVectorForm
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        VectorHandlers.Check(c, op);
        var t = (ThunkInfo*)op->Imm;
        var linear = TEa.Linear(c, op, TForm.Wide ? 32 : 16, true);
        var memory = ThunkHandlers.Open(c, op, t, linear);
        if (TForm.Wide)
            Vector256.Load((byte*)c + op->Src).Store(memory);
        else
            Vector128.Load((byte*)c + op->Src).Store(memory);
        if (memory == ThunkHandlers.Bounce(c))
            ThunkHandlers.Commit(c, op, t, linear);
        Access.Next(c, op);
    }
}
