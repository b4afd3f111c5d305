using System.Numerics;
using System.Runtime.CompilerServices;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>Bits of RFLAGS (SDM vol. 1, 3.4.3).</summary>
internal static class Rflags
{
    public const ulong CF = 1, PF = 4, AF = 0x10, ZF = 0x40, SF = 0x80, TF = 0x100, IF = 0x200, DF = 0x400, OF = 0x800;
    public const ulong IOPL = 0x3000, NT = 0x4000, RF = 0x10000, VM = 0x20000, AC = 0x40000, VIF = 0x80000, VIP = 0x100000, ID = 0x200000;
    public const ulong Arithmetic = CF | PF | AF | ZF | SF | OF;
    public const ulong Reserved1 = 2;
}

/// <summary>
/// Lazy arithmetic flags: an instruction stores its sign-extended result and its vector of carries, whoever needs a
/// flag computes it.
/// </summary>
/// <remarks>
/// <c>FlagAux</c>: bit 63 carry out of the top bit (CF), bit 62 carry into it (OF = bit 63 xor bit 62), bit 3 carry out
/// of bit 3 (AF), bits 8 to 15 a correction of the parity byte, bit 0 a correction of the sign. The two corrections
/// allow combinations that no result has, as POPF can make.
/// </remarks>
internal static unsafe class Flags
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Carry(CpuContext* c) => (long)c->FlagAux < 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Overflow(CpuContext* c) => (long)(c->FlagAux ^ (c->FlagAux << 1)) < 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Zero(CpuContext* c) => c->FlagResult == 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Sign(CpuContext* c) => (long)(c->FlagResult ^ (c->FlagAux << 63)) < 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Parity(CpuContext* c) => (BitOperations.PopCount((uint)((c->FlagResult ^ (c->FlagAux >> 8)) & 0xFF)) & 1) == 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Auxiliary(CpuContext* c) => (c->FlagAux & 8) != 0;

    /// <summary>The six arithmetic flags at their places in RFLAGS.</summary>
    public static ulong Arithmetic(CpuContext* c) =>
        (Carry(c) ? Rflags.CF : 0) | (Parity(c) ? Rflags.PF : 0) | (Auxiliary(c) ? Rflags.AF : 0)
        | (Zero(c) ? Rflags.ZF : 0) | (Sign(c) ? Rflags.SF : 0) | (Overflow(c) ? Rflags.OF : 0);

    /// <summary>All of RFLAGS.</summary>
    public static ulong Get(CpuContext* c) => (c->Arch.Rflags & ~Rflags.Arithmetic) | Arithmetic(c) | Rflags.Reserved1;

    /// <summary>Sets the six arithmetic flags from their places in RFLAGS.</summary>
    public static void SetArithmetic(CpuContext* c, ulong flags)
    {
        c->FlagResult = (flags & Rflags.ZF) != 0 ? 0UL : 0x100;
        var carry = flags & 1;
        var overflow = (flags >> 11) & 1;
        c->FlagAux = (carry << 63) | ((carry ^ overflow) << 62)
            | ((flags & Rflags.AF) >> 1) | ((flags & Rflags.PF) != 0 ? 0UL : 0x100) | ((flags >> 7) & 1);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetLogic<T>(CpuContext* c, ulong result) where T : unmanaged
    {
        c->FlagResult = Width.SignExtend<T>(result);
        c->FlagAux = 0;
    }

    /// <summary>After a + b (+ carry): all operands zero-extended, the result not yet cut.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetAdd<T>(CpuContext* c, ulong a, ulong b, ulong result) where T : unmanaged =>
        SetCarries<T>(c, (a & b) | ((a | b) & ~result), result);

    /// <summary>After a - b (- borrow).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetSub<T>(CpuContext* c, ulong a, ulong b, ulong result) where T : unmanaged =>
        SetCarries<T>(c, (~a & b) | (~(a ^ b) & result), result);

    /// <summary>After INC or DEC: all but CF.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void KeepCarry(CpuContext* c, ulong oldAux)
    {
        var overflow = (c->FlagAux ^ (c->FlagAux << 1)) & (1UL << 63);
        var carry = oldAux & (1UL << 63);
        c->FlagAux = (c->FlagAux & 8) | carry | ((carry ^ overflow) >> 1);
    }

    /// <summary>CF and OF as given; SF, ZF and PF from the result, AF clear: shifts and multiplications.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetResultCarryOverflow<T>(CpuContext* c, ulong result, bool carry, bool overflow) where T : unmanaged
    {
        c->FlagResult = Width.SignExtend<T>(result);
        c->FlagAux = (carry ? 1UL << 63 : 0) | (carry != overflow ? 1UL << 62 : 0);
    }

    /// <summary>CF and OF as given, the others kept: rotates.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetCarryOverflow(CpuContext* c, bool carry, bool overflow) =>
        c->FlagAux = (c->FlagAux & ~(3UL << 62)) | (carry ? 1UL << 63 : 0) | (carry != overflow ? 1UL << 62 : 0);

    /// <summary>CF alone.</summary>
    public static void SetCarry(CpuContext* c, bool carry) => SetCarryOverflow(c, carry, Overflow(c));

    /// <summary>ZF alone.</summary>
    public static void SetZero(CpuContext* c, bool zero) =>
        SetArithmetic(c, (Arithmetic(c) & ~Rflags.ZF) | (zero ? Rflags.ZF : 0));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void SetCarries<T>(CpuContext* c, ulong carries, ulong result) where T : unmanaged
    {
        c->FlagResult = Width.SignExtend<T>(result);
        c->FlagAux = sizeof(T) == 8 ? carries & 0xC000_0000_0000_0008 : ((carries << (64 - (8 * sizeof(T)))) & (3UL << 62)) | (carries & 8);
    }
}

/// <summary>Operand widths as types: byte, ushort, uint, ulong. Values travel as zero-extended ulong.</summary>
internal static unsafe class Width
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong SignExtend<T>(ulong value) where T : unmanaged =>
        sizeof(T) == 1 ? (ulong)(sbyte)value : sizeof(T) == 2 ? (ulong)(short)value : sizeof(T) == 4 ? (ulong)(int)value : value;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Cut<T>(ulong value) where T : unmanaged =>
        sizeof(T) == 1 ? (byte)value : sizeof(T) == 2 ? (ushort)value : sizeof(T) == 4 ? (uint)value : value;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong ReadRaw<T>(void* p) where T : unmanaged =>
        sizeof(T) == 1 ? *(byte*)p : sizeof(T) == 2 ? Unsafe.ReadUnaligned<ushort>(p) : sizeof(T) == 4 ? Unsafe.ReadUnaligned<uint>(p) : Unsafe.ReadUnaligned<ulong>(p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void WriteRaw<T>(void* p, ulong value) where T : unmanaged
    {
        if (sizeof(T) == 1)
            *(byte*)p = (byte)value;
        else if (sizeof(T) == 2)
            Unsafe.WriteUnaligned(p, (ushort)value);
        else if (sizeof(T) == 4)
            Unsafe.WriteUnaligned(p, (uint)value);
        else
            Unsafe.WriteUnaligned(p, value);
    }

    /// <summary>The top bit of a value of this width.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Top<T>(ulong value) where T : unmanaged => ((value >> ((8 * sizeof(T)) - 1)) & 1) != 0;
}
