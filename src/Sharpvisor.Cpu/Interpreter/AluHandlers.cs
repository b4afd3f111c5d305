using System.Runtime.CompilerServices;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>A two-operand integer operation that sets the arithmetic flags.</summary>
internal unsafe interface IAlu
{
    /// <summary>False for CMP and TEST.</summary>
    static abstract bool Writes { get; }

    static abstract ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged;
}

internal unsafe struct Add : IAlu
{
    public static bool Writes => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        var r = a + b;
        Flags.SetAdd<T>(c, a, b, r);
        return r;
    }
}

internal unsafe struct Adc : IAlu
{
    public static bool Writes => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        var r = a + b + (c->FlagAux >> 63);
        Flags.SetAdd<T>(c, a, b, r);
        return r;
    }
}

internal unsafe struct Sub : IAlu
{
    public static bool Writes => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        var r = a - b;
        Flags.SetSub<T>(c, a, b, r);
        return r;
    }
}

internal unsafe struct Sbb : IAlu
{
    public static bool Writes => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        var r = a - b - (c->FlagAux >> 63);
        Flags.SetSub<T>(c, a, b, r);
        return r;
    }
}

internal unsafe struct Cmp : IAlu
{
    public static bool Writes => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        Flags.SetSub<T>(c, a, b, a - b);
        return a;
    }
}

internal unsafe struct And : IAlu
{
    public static bool Writes => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        Flags.SetLogic<T>(c, a & b);
        return a & b;
    }
}

internal unsafe struct Test : IAlu
{
    public static bool Writes => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        Flags.SetLogic<T>(c, a & b);
        return a;
    }
}

internal unsafe struct Or : IAlu
{
    public static bool Writes => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        Flags.SetLogic<T>(c, a | b);
        return a | b;
    }
}

internal unsafe struct Xor : IAlu
{
    public static bool Writes => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        Flags.SetLogic<T>(c, a ^ b);
        return a ^ b;
    }
}

/// <summary>INC: the second operand is 1, CF is kept.</summary>
internal unsafe struct Inc : IAlu
{
    public static bool Writes => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        var old = c->FlagAux;
        Flags.SetAdd<T>(c, a, 1, a + 1);
        Flags.KeepCarry(c, old);
        return a + 1;
    }
}

internal unsafe struct Dec : IAlu
{
    public static bool Writes => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        var old = c->FlagAux;
        Flags.SetSub<T>(c, a, 1, a - 1);
        Flags.KeepCarry(c, old);
        return a - 1;
    }
}

internal unsafe struct Neg : IAlu
{
    public static bool Writes => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        Flags.SetSub<T>(c, 0, a, 0 - a);
        return 0 - a;
    }
}

/// <summary>NOT changes no flag.</summary>
internal unsafe struct Not : IAlu
{
    public static bool Writes => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged => ~a;
}

internal unsafe struct Shl : IAlu
{
    public static bool Writes => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        var bits = 8 * sizeof(T);
        var n = (int)b & (sizeof(T) == 8 ? 63 : 31);
        if (n == 0)
            return a;
        var r = a << n;
        var carry = n <= bits && ((a >> (bits - n)) & 1) != 0;
        Flags.SetResultCarryOverflow<T>(c, r, carry, Width.Top<T>(r) != carry);
        return r;
    }
}

internal unsafe struct Shr : IAlu
{
    public static bool Writes => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        var n = (int)b & (sizeof(T) == 8 ? 63 : 31);
        if (n == 0)
            return a;
        var r = a >> n;
        // For counts above 1 OF is undefined; processors give the top bit of the value before its last shift.
        Flags.SetResultCarryOverflow<T>(c, r, ((a >> (n - 1)) & 1) != 0, Width.Top<T>(a >> (n - 1)));
        return r;
    }
}

internal unsafe struct Sar : IAlu
{
    public static bool Writes => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        var n = (int)b & (sizeof(T) == 8 ? 63 : 31);
        if (n == 0)
            return a;
        var s = (long)Width.SignExtend<T>(a);
        var r = (ulong)(s >> n);
        Flags.SetResultCarryOverflow<T>(c, r, ((s >> (n - 1)) & 1) != 0, false);
        return r;
    }
}

internal unsafe struct Rol : IAlu
{
    public static bool Writes => true;

    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        var bits = 8 * sizeof(T);
        var count = (int)b & (sizeof(T) == 8 ? 63 : 31);
        if (count == 0)
            return a;
        var n = count & (bits - 1);
        var r = n == 0 ? a : Width.Cut<T>((a << n) | (a >> (bits - n)));
        var carry = (r & 1) != 0;
        Flags.SetCarryOverflow(c, carry, Width.Top<T>(r) != carry);
        return r;
    }
}

internal unsafe struct Ror : IAlu
{
    public static bool Writes => true;

    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        var bits = 8 * sizeof(T);
        var count = (int)b & (sizeof(T) == 8 ? 63 : 31);
        if (count == 0)
            return a;
        var n = count & (bits - 1);
        var r = n == 0 ? a : Width.Cut<T>((a >> n) | (a << (bits - n)));
        var carry = Width.Top<T>(r);
        Flags.SetCarryOverflow(c, carry, carry != (((r >> (bits - 2)) & 1) != 0));
        return r;
    }
}

internal unsafe struct Rcl : IAlu
{
    public static bool Writes => true;

    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        var bits = 8 * sizeof(T);
        var count = ((int)b & (sizeof(T) == 8 ? 63 : 31)) % (bits + 1);
        if (count == 0)
            return a;
        var carry = Flags.Carry(c) ? 1UL : 0;
        for (var i = 0; i < count; i++)
        {
            var top = (a >> (bits - 1)) & 1;
            a = Width.Cut<T>((a << 1) | carry);
            carry = top;
        }

        Flags.SetCarryOverflow(c, carry != 0, Width.Top<T>(a) != (carry != 0));
        return a;
    }
}

internal unsafe struct Rcr : IAlu
{
    public static bool Writes => true;

    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        var bits = 8 * sizeof(T);
        var count = ((int)b & (sizeof(T) == 8 ? 63 : 31)) % (bits + 1);
        if (count == 0)
            return a;
        var carry = Flags.Carry(c) ? 1UL : 0;
        for (var i = 0; i < count; i++)
        {
            var low = a & 1;
            a = (a >> 1) | (carry << (bits - 1));
            carry = low;
        }

        Flags.SetCarryOverflow(c, carry != 0, Width.Top<T>(a) != (((a >> (bits - 2)) & 1) != 0));
        return a;
    }
}

/// <summary>BT, BTS, BTR, BTC within an operand: only CF changes.</summary>
internal unsafe struct Bt : IAlu
{
    public static bool Writes => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        Flags.SetCarry(c, ((a >> ((int)b & ((8 * sizeof(T)) - 1))) & 1) != 0);
        return a;
    }
}

internal unsafe struct Bts : IAlu
{
    public static bool Writes => true;

    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged =>
        Bt.Do<T>(c, a, b) | (1UL << ((int)b & ((8 * sizeof(T)) - 1)));
}

internal unsafe struct Btr : IAlu
{
    public static bool Writes => true;

    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged =>
        Bt.Do<T>(c, a, b) & ~(1UL << ((int)b & ((8 * sizeof(T)) - 1)));
}

internal unsafe struct Btc : IAlu
{
    public static bool Writes => true;

    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged =>
        Bt.Do<T>(c, a, b) ^ (1UL << ((int)b & ((8 * sizeof(T)) - 1)));
}

/// <summary>IMUL with two or three operands.</summary>
internal unsafe struct Imul : IAlu
{
    public static bool Writes => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Do<T>(CpuContext* c, ulong a, ulong b) where T : unmanaged
    {
        var x = (long)Width.SignExtend<T>(a);
        var y = (long)Width.SignExtend<T>(b);
        var r = (ulong)(x * y);
        bool overflow;
        if (sizeof(T) == 8)
        {
            var high = Math.BigMul(x, y, out long low);
            overflow = high != low >> 63;
        }
        else
        {
            overflow = Width.SignExtend<T>(r) != r;
        }

        Flags.SetResultCarryOverflow<T>(c, r, overflow, overflow);
        return r;
    }
}

// --- forms: which operands come from where ---

internal unsafe struct AluRegReg<TOp> : IRegisterHandler where TOp : struct, IAlu
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var r = TOp.Do<T>(c, Access.Get<T>(c, op->Dst), Access.Get<T>(c, op->Src));
        if (TOp.Writes)
            Access.Set<T>(c, op->Dst, r);
        Access.Next(c, op);
    }
}

internal unsafe struct AluRegImm<TOp> : IRegisterHandler where TOp : struct, IAlu
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var r = TOp.Do<T>(c, Access.Get<T>(c, op->Dst), op->Imm);
        if (TOp.Writes)
            Access.Set<T>(c, op->Dst, r);
        Access.Next(c, op);
    }
}

/// <summary>Like <see cref="AluRegReg{TOp}"/>, with an 8-bit second register: shifts by CL.</summary>
internal unsafe struct AluRegCl<TOp> : IRegisterHandler where TOp : struct, IAlu
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        Access.Set<T>(c, op->Dst, TOp.Do<T>(c, Access.Get<T>(c, op->Dst), (byte)c->Arch.Gpr[1]));
        Access.Next(c, op);
    }
}

/// <summary>dst = src op imm: three-operand IMUL.</summary>
internal unsafe struct AluRegRegImm<TOp> : IRegisterHandler where TOp : struct, IAlu
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        Access.Set<T>(c, op->Dst, TOp.Do<T>(c, Access.Get<T>(c, op->Src), op->Imm));
        Access.Next(c, op);
    }
}

internal unsafe struct AluRegMem<TOp> : IMemoryHandler where TOp : struct, IAlu
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        var b = Access.Load<T>(c, op, TEa.Linear(c, op, sizeof(T), false));
        var r = TOp.Do<T>(c, Access.Get<T>(c, op->Dst), b);
        if (TOp.Writes)
            Access.Set<T>(c, op->Dst, r);
        Access.Next(c, op);
    }
}

/// <summary>dst = mem op imm: three-operand IMUL.</summary>
internal unsafe struct AluRegMemImm<TOp> : IMemoryHandler where TOp : struct, IAlu
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        var a = Access.Load<T>(c, op, TEa.Linear(c, op, sizeof(T), false));
        Access.Set<T>(c, op->Dst, TOp.Do<T>(c, a, op->Imm));
        Access.Next(c, op);
    }
}

internal unsafe struct AluMemReg<TOp> : IMemoryHandler where TOp : struct, IAlu
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress =>
        AluMem.Run<TOp, T, TEa>(c, op, Access.Get<T>(c, op->Src));
}

internal unsafe struct AluMemImm<TOp> : IMemoryHandler where TOp : struct, IAlu
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress =>
        AluMem.Run<TOp, T, TEa>(c, op, op->Imm);
}

internal unsafe struct AluMemCl<TOp> : IMemoryHandler where TOp : struct, IAlu
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress =>
        AluMem.Run<TOp, T, TEa>(c, op, (byte)c->Arch.Gpr[1]);
}

/// <summary>LOCK: atomic for the other vCPUs.</summary>
internal unsafe struct LockedMemReg<TOp> : IMemoryHandler where TOp : struct, IAlu
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress =>
        AluMem.RunLocked<TOp, T, TEa>(c, op, Access.Get<T>(c, op->Src));
}

internal unsafe struct LockedMemImm<TOp> : IMemoryHandler where TOp : struct, IAlu
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<T, TEa>(CpuContext* c, Op* op) where T : unmanaged where TEa : struct, IEffectiveAddress =>
        AluMem.RunLocked<TOp, T, TEa>(c, op, op->Imm);
}

internal static unsafe class AluMem
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<TOp, T, TEa>(CpuContext* c, Op* op, ulong b) where TOp : struct, IAlu where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        var linear = TEa.Linear(c, op, sizeof(T), TOp.Writes);
        if (TOp.Writes)
        {
            var p = Access.Open<T>(c, op, linear);
            Width.WriteRaw<T>(p, TOp.Do<T>(c, Width.ReadRaw<T>(p), b));
            Access.Commit<T>(c, op, p, linear);
        }
        else
        {
            TOp.Do<T>(c, Access.Load<T>(c, op, linear), b);
        }

        Access.Next(c, op);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void RunLocked<TOp, T, TEa>(CpuContext* c, Op* op, ulong b) where TOp : struct, IAlu where T : unmanaged where TEa : struct, IEffectiveAddress
    {
        var linear = TEa.Linear(c, op, sizeof(T), true);
        var p = Access.Open<T>(c, op, linear);
        var result = c->FlagResult;
        var aux = c->FlagAux;
        while (true)
        {
            var a = Width.ReadRaw<T>(p);
            c->FlagResult = result;
            c->FlagAux = aux;
            if (Atomic.CompareExchange<T>(p, TOp.Do<T>(c, a, b), a) == a)
                break;
        }

        Access.Commit<T>(c, op, p, linear);
        Access.Next(c, op);
    }
}

/// <summary>Guest atomics are host atomics.</summary>
internal static unsafe class Atomic
{
    /// <summary>Unaligned addresses are fine on x86: the host locks as the guest would.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong CompareExchange<T>(byte* p, ulong value, ulong comparand) where T : unmanaged =>
        sizeof(T) == 1 ? Interlocked.CompareExchange(ref *p, (byte)value, (byte)comparand)
        : sizeof(T) == 2 ? Interlocked.CompareExchange(ref *(ushort*)p, (ushort)value, (ushort)comparand)
        : sizeof(T) == 4 ? Interlocked.CompareExchange(ref *(uint*)p, (uint)value, (uint)comparand)
        : Interlocked.CompareExchange(ref *(ulong*)p, value, comparand);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Exchange<T>(byte* p, ulong value) where T : unmanaged =>
        sizeof(T) == 1 ? Interlocked.Exchange(ref *p, (byte)value)
        : sizeof(T) == 2 ? Interlocked.Exchange(ref *(ushort*)p, (ushort)value)
        : sizeof(T) == 4 ? Interlocked.Exchange(ref *(uint*)p, (uint)value)
        : Interlocked.Exchange(ref *(ulong*)p, value);
}
