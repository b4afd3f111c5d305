using System.Runtime.CompilerServices;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>An operation of the accumulator pair with one operand: MUL, IMUL, DIV, IDIV.</summary>
internal unsafe interface IAccumulatorOperation
{
    static abstract void Do<T>(CpuContext* c, Op* op, ulong b) where T : unmanaged;
}

internal unsafe struct Mul : IAccumulatorOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Do<T>(CpuContext* c, Op* op, ulong b) where T : unmanaged
    {
        var a = Width.Cut<T>(c->Arch.Gpr[0]);
        ulong low, high;
        if (sizeof(T) == 8)
        {
            high = Math.BigMul(a, b, out low);
        }
        else
        {
            low = a * b;
            high = low >> (8 * sizeof(T));
        }

        if (sizeof(T) == 1)
        {
            Access.Set<ushort>(c, 0, low);
        }
        else
        {
            Access.Set<T>(c, 0, low);
            Access.Set<T>(c, 16, high);
        }

        Flags.SetResultCarryOverflow<T>(c, low, high != 0, high != 0);
    }
}

internal unsafe struct ImulOne : IAccumulatorOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Do<T>(CpuContext* c, Op* op, ulong b) where T : unmanaged
    {
        var x = (long)Width.SignExtend<T>(c->Arch.Gpr[0]);
        var y = (long)Width.SignExtend<T>(b);
        ulong low, high;
        if (sizeof(T) == 8)
        {
            high = (ulong)Math.BigMul(x, y, out long l);
            low = (ulong)l;
        }
        else
        {
            low = (ulong)(x * y);
            high = low >> (8 * sizeof(T));
        }

        if (sizeof(T) == 1)
        {
            Access.Set<ushort>(c, 0, low);
        }
        else
        {
            Access.Set<T>(c, 0, low);
            Access.Set<T>(c, 16, high);
        }

        var overflow = Width.Cut<T>(high) != Width.Cut<T>((ulong)((long)Width.SignExtend<T>(low) >> 63));
        Flags.SetResultCarryOverflow<T>(c, low, overflow, overflow);
    }
}

internal unsafe struct Div : IAccumulatorOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Do<T>(CpuContext* c, Op* op, ulong b) where T : unmanaged
    {
        if (b == 0)
            InterpreterVcpu.Fault(c, op, Vectors.DE, 0);
        ulong quotient, remainder;
        if (sizeof(T) == 8)
        {
            var high = c->Arch.Gpr[2];
            if (high >= b)
                InterpreterVcpu.Fault(c, op, Vectors.DE, 0);
            if (high == 0)
            {
                (quotient, remainder) = Math.DivRem(c->Arch.Gpr[0], b);
            }
            else
            {
                var (q, r) = UInt128.DivRem(new UInt128(high, c->Arch.Gpr[0]), b);
                quotient = (ulong)q;
                remainder = (ulong)r;
            }
        }
        else
        {
            var dividend = sizeof(T) == 1 ? (ushort)c->Arch.Gpr[0]
                : Width.Cut<T>(c->Arch.Gpr[0]) | (Width.Cut<T>(c->Arch.Gpr[2]) << (8 * sizeof(T)));
            (quotient, remainder) = Math.DivRem(dividend, b);
            if (Width.Cut<T>(quotient) != quotient)
                InterpreterVcpu.Fault(c, op, Vectors.DE, 0);
        }

        DivisionResult.Set<T>(c, quotient, remainder);
    }
}

internal unsafe struct Idiv : IAccumulatorOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Do<T>(CpuContext* c, Op* op, ulong b) where T : unmanaged
    {
        var divisor = (long)Width.SignExtend<T>(b);
        if (divisor == 0)
            InterpreterVcpu.Fault(c, op, Vectors.DE, 0);
        long quotient, remainder;
        if (sizeof(T) == 8)
        {
            var low = c->Arch.Gpr[0];
            var high = c->Arch.Gpr[2];
            if ((long)high == (long)low >> 63 && divisor != -1)
            {
                (quotient, remainder) = Math.DivRem((long)low, divisor);
            }
            else
            {
                var dividend = new Int128(high, low);
                if (dividend == Int128.MinValue)
                    InterpreterVcpu.Fault(c, op, Vectors.DE, 0);
                var (q, r) = Int128.DivRem(dividend, divisor);
                if (q > long.MaxValue || q < long.MinValue)
                    InterpreterVcpu.Fault(c, op, Vectors.DE, 0);
                quotient = (long)q;
                remainder = (long)r;
            }
        }
        else
        {
            var dividend = sizeof(T) == 1 ? (short)c->Arch.Gpr[0]
                : sizeof(T) == 2 ? (int)((uint)(ushort)c->Arch.Gpr[0] | ((uint)c->Arch.Gpr[2] << 16))
                : (long)((uint)c->Arch.Gpr[0] | (c->Arch.Gpr[2] << 32));
            if (divisor == -1)
            {
                if (dividend == long.MinValue)
                    InterpreterVcpu.Fault(c, op, Vectors.DE, 0);
                quotient = -dividend;
                remainder = 0;
            }
            else
            {
                (quotient, remainder) = Math.DivRem(dividend, divisor);
            }

            if ((long)Width.SignExtend<T>((ulong)quotient) != quotient)
                InterpreterVcpu.Fault(c, op, Vectors.DE, 0);
        }

        DivisionResult.Set<T>(c, (ulong)quotient, (ulong)remainder);
    }
}

internal static unsafe class DivisionResult
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Set<T>(CpuContext* c, ulong quotient, ulong remainder) where T : unmanaged
    {
        if (sizeof(T) == 1)
        {
            Access.Set<ushort>(c, 0, (byte)quotient | ((remainder & 0xFF) << 8));
        }
        else
        {
            Access.Set<T>(c, 0, quotient);
            Access.Set<T>(c, 16, remainder);
        }
    }
}

internal unsafe struct AccumulatorReg<TOp> : IRegisterHandler where TOp : struct, IAccumulatorOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        TOp.Do<T>(c, op, Access.Get<T>(c, op->Src));
        Access.Next(c, op);
    }
}

internal unsafe struct AccumulatorMem<TOp> : IMemoryHandler where TOp : struct, IAccumulatorOperation
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        TOp.Do<T>(c, op, Access.Load<T>(c, op, TEa.Linear(c, op, sizeof(T), false)));
        Access.Next(c, op);
    }
}
