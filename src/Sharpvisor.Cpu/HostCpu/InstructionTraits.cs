// Which instructions run natively, and what has to be known about each that its encoding does not tell: SDM vol. 2,
// "Type n" exception classes (2.4), vol. 1 chapter 11.5 and appendix C (which instructions raise SIMD exceptions).
using System.Collections.Concurrent;
using Iced.Intel;

namespace Sharpvisor.Cpu.HostCpu;

/// <summary>The shape of the code that a thunk consists of.</summary>
internal enum ThunkForm
{
    /// <summary>Not to be run natively.</summary>
    None,

    /// <summary>Load registers, execute, store registers.</summary>
    Registers,

    /// <summary>On the live x87 stack: control word switched when it unmasks exceptions.</summary>
    X87,

    Wait, StoreStatusWord, StoreControlWord, LoadControlWord,

    /// <summary>VZEROUPPER and VZEROALL act on the saved registers.</summary>
    ZeroUpper, ZeroAll,

    /// <summary>The whole x87 environment, in C#.</summary>
    Environment,
}

/// <summary>What is constant for all instructions of one <see cref="Code"/>.</summary>
internal sealed record InstructionTraits(ThunkForm Form, HostIsa Isa, bool UsesMxcsr, bool Waits, bool IsAligned, bool IsVex)
{
    private static readonly ConcurrentDictionary<Code, InstructionTraits> s_known = new();
    private static readonly InstructionTraits s_refused = new(ThunkForm.None, HostIsa.Gpr, false, false, false, false);

    /// <summary>
    /// Integer instructions that can neither fault (DIV), nor jump, nor touch the stack, a segment, or an address that
    /// depends on a register operand. An interpreter has the commonest of them itself; a fuzzer wants all.
    /// </summary>
    private static readonly HashSet<Mnemonic> s_integer =
    [
        Mnemonic.Adc, Mnemonic.Adcx, Mnemonic.Add, Mnemonic.Adox, Mnemonic.And, Mnemonic.Andn, Mnemonic.Bextr, Mnemonic.Blsi,
        Mnemonic.Blsmsk, Mnemonic.Blsr, Mnemonic.Bsf, Mnemonic.Bsr, Mnemonic.Bswap, Mnemonic.Bt, Mnemonic.Btc, Mnemonic.Btr,
        Mnemonic.Bts, Mnemonic.Bzhi, Mnemonic.Cbw, Mnemonic.Cdq, Mnemonic.Cdqe, Mnemonic.Clc, Mnemonic.Cmc, Mnemonic.Cmova,
        Mnemonic.Cmovae, Mnemonic.Cmovb, Mnemonic.Cmovbe, Mnemonic.Cmove, Mnemonic.Cmovg, Mnemonic.Cmovge, Mnemonic.Cmovl,
        Mnemonic.Cmovle, Mnemonic.Cmovne, Mnemonic.Cmovno, Mnemonic.Cmovnp, Mnemonic.Cmovns, Mnemonic.Cmovo, Mnemonic.Cmovp,
        Mnemonic.Cmovs, Mnemonic.Cmp, Mnemonic.Cmpxchg, Mnemonic.Cmpxchg16b, Mnemonic.Cmpxchg8b, Mnemonic.Cqo, Mnemonic.Crc32,
        Mnemonic.Cwd, Mnemonic.Cwde, Mnemonic.Dec, Mnemonic.Imul, Mnemonic.Inc, Mnemonic.Lahf, Mnemonic.Lzcnt, Mnemonic.Movbe,
        Mnemonic.Movnti, Mnemonic.Movsx, Mnemonic.Movsxd, Mnemonic.Movzx, Mnemonic.Mul, Mnemonic.Mulx, Mnemonic.Neg, Mnemonic.Not,
        Mnemonic.Or, Mnemonic.Pdep, Mnemonic.Pext, Mnemonic.Popcnt, Mnemonic.Rcl, Mnemonic.Rcr, Mnemonic.Rol, Mnemonic.Ror,
        Mnemonic.Rorx, Mnemonic.Sahf, Mnemonic.Sal, Mnemonic.Sar, Mnemonic.Sarx, Mnemonic.Sbb, Mnemonic.Seta, Mnemonic.Setae,
        Mnemonic.Setb, Mnemonic.Setbe, Mnemonic.Sete, Mnemonic.Setg, Mnemonic.Setge, Mnemonic.Setl, Mnemonic.Setle, Mnemonic.Setne,
        Mnemonic.Setno, Mnemonic.Setnp, Mnemonic.Setns, Mnemonic.Seto, Mnemonic.Setp, Mnemonic.Sets, Mnemonic.Shl, Mnemonic.Shld,
        Mnemonic.Shlx, Mnemonic.Shr, Mnemonic.Shrd, Mnemonic.Shrx, Mnemonic.Stc, Mnemonic.Sub, Mnemonic.Test, Mnemonic.Tzcnt,
        Mnemonic.Xadd, Mnemonic.Xor,
    ];

    /// <summary>Element-wise memory access (<see cref="MaskedMemory"/>), or state that the interpreter keeps itself.</summary>
    private static readonly HashSet<Mnemonic> s_notNative =
    [
        Mnemonic.Maskmovq, Mnemonic.Maskmovdqu, Mnemonic.Vmaskmovdqu, Mnemonic.Vmaskmovps, Mnemonic.Vmaskmovpd,
        Mnemonic.Vpmaskmovd, Mnemonic.Vpmaskmovq, Mnemonic.Vgatherdps, Mnemonic.Vgatherdpd, Mnemonic.Vgatherqps,
        Mnemonic.Vgatherqpd, Mnemonic.Vpgatherdd, Mnemonic.Vpgatherdq, Mnemonic.Vpgatherqd, Mnemonic.Vpgatherqq,
        Mnemonic.Ldmxcsr, Mnemonic.Stmxcsr, Mnemonic.Vldmxcsr, Mnemonic.Vstmxcsr,
    ];

    /// <summary>16 bytes of memory without a demand on its alignment, among the legacy encodings.</summary>
    private static readonly HashSet<Mnemonic> s_unaligned =
    [
        Mnemonic.Movups, Mnemonic.Movupd, Mnemonic.Movdqu, Mnemonic.Lddqu,
        Mnemonic.Pcmpestri, Mnemonic.Pcmpestri64, Mnemonic.Pcmpestrm, Mnemonic.Pcmpestrm64, Mnemonic.Pcmpistri, Mnemonic.Pcmpistrm,
    ];

    /// <summary>The only VEX encodings that demand it.</summary>
    private static readonly HashSet<Mnemonic> s_alignedVex =
    [
        Mnemonic.Vmovaps, Mnemonic.Vmovapd, Mnemonic.Vmovdqa, Mnemonic.Vmovntps, Mnemonic.Vmovntpd, Mnemonic.Vmovntdq,
        Mnemonic.Vmovntdqa,
    ];

    public static InstructionTraits Of(Code code) => s_known.GetOrAdd(code, Classify);

    private static InstructionTraits Classify(Code code)
    {
        var op = code.ToOpCode();
        if (!op.IsInstruction || !op.Mode64 || op.Encoding is not (EncodingKind.Legacy or EncodingKind.VEX) || op.IsPrivileged)
            return s_refused;
        foreach (var feature in code.CpuidFeatures())
        {
            if (!HostFeatures.Has(feature))
                return s_refused;
        }

        var mnemonic = code.Mnemonic();
        var vex = op.Encoding == EncodingKind.VEX;
        if (!vex && op.Table == OpCodeTableKind.Normal && op.OpCode is (>= 0xD8 and <= 0xDF) or 0x9B or (>= 0xD800 and <= 0xDFFF))
            return ClassifyX87(op, mnemonic);
        if (s_integer.Contains(mnemonic) && !HasVectorOperand(op))
            return new InstructionTraits(ThunkForm.Registers, HostIsa.Gpr, false, false, mnemonic == Mnemonic.Cmpxchg16b, vex);
        if (mnemonic is Mnemonic.Vzeroupper or Mnemonic.Vzeroall)
        {
            var form = mnemonic == Mnemonic.Vzeroall ? ThunkForm.ZeroAll : ThunkForm.ZeroUpper;
            return new InstructionTraits(form, HostIsa.Avx, false, false, false, true);
        }

        if (mnemonic == Mnemonic.Emms)
            return new InstructionTraits(ThunkForm.Registers, HostIsa.Mmx, false, true, false, false);
        if (!HasVectorOperand(op) || s_notNative.Contains(mnemonic))
            return s_refused;

        var isa = vex ? HostIsa.Avx : HasXmmOperand(op) ? HostIsa.Sse : HostIsa.Mmx;
        var aligned = isa switch
        {
            HostIsa.Avx => s_alignedVex.Contains(mnemonic),
            HostIsa.Sse => op.MemorySize.GetSize() == 16 && !s_unaligned.Contains(mnemonic),
            _ => false,
        };
        return new InstructionTraits(ThunkForm.Registers, isa, isa != HostIsa.Mmx && IsFloatingPoint(mnemonic), false, aligned, vex);
    }

    private static InstructionTraits ClassifyX87(OpCodeInfo op, Mnemonic mnemonic)
    {
        // The forms with a WAIT in front are two instructions to a processor, and to Iced's decoder.
        var form = mnemonic switch
        {
            Mnemonic.Wait => ThunkForm.Wait,
            Mnemonic.Fnstsw => ThunkForm.StoreStatusWord,
            Mnemonic.Fnstcw => ThunkForm.StoreControlWord,
            Mnemonic.Fldcw => ThunkForm.LoadControlWord,
            Mnemonic.Fnstenv or Mnemonic.Fldenv or Mnemonic.Fnsave or Mnemonic.Frstor or Mnemonic.Fninit => ThunkForm.Environment,
            Mnemonic.Fstsw or Mnemonic.Fstcw or Mnemonic.Fstenv or Mnemonic.Fsave or Mnemonic.Finit or Mnemonic.Fclex
                or Mnemonic.Fdisi or Mnemonic.Feni or Mnemonic.Fstdw or Mnemonic.Fstsg => ThunkForm.None,
            _ => op.MandatoryPrefix == MandatoryPrefix.None && op.Encoding == EncodingKind.Legacy ? ThunkForm.X87 : ThunkForm.None,
        };
        var waits = mnemonic is not (Mnemonic.Fnclex or Mnemonic.Fndisi or Mnemonic.Fneni or Mnemonic.Fnsetpm or Mnemonic.Fnstsw
            or Mnemonic.Fnstcw or Mnemonic.Fnstenv or Mnemonic.Fnsave or Mnemonic.Fninit);
        return new InstructionTraits(form, HostIsa.X87, false, waits, false, false);
    }

    private static bool HasVectorOperand(OpCodeInfo op) => AnyOperand(op, name => name.Contains("mm", StringComparison.Ordinal));

    private static bool HasXmmOperand(OpCodeInfo op) =>
        AnyOperand(op, name => name.Contains("xmm", StringComparison.Ordinal) || name.Contains("ymm", StringComparison.Ordinal));

    private static bool AnyOperand(OpCodeInfo op, Func<string, bool> test)
    {
        for (var i = 0; i < op.OpCount; i++)
        {
            var kind = op.GetOpKind(i);
            if (!IsImmediate(kind) && test(kind.ToString()))
                return true;
        }

        return false;
    }

    private static bool IsImmediate(OpCodeOperandKind kind) => kind.ToString().StartsWith("imm", StringComparison.Ordinal);

    /// <summary>Whether MXCSR has to do with it: arithmetic, comparisons and conversions, but neither moves nor estimates.</summary>
    private static bool IsFloatingPoint(Mnemonic mnemonic)
    {
        var name = mnemonic.ToString().ToLowerInvariant();
        if (name[0] == 'v')
            name = name[1..];
        if (name.StartsWith("cvt", StringComparison.Ordinal) || name.StartsWith("comis", StringComparison.Ordinal)
            || name.StartsWith("ucomis", StringComparison.Ordinal))
            return true;
        if (name.StartsWith("fmadd", StringComparison.Ordinal) || name.StartsWith("fmsub", StringComparison.Ordinal)
            || name.StartsWith("fnmadd", StringComparison.Ordinal) || name.StartsWith("fnmsub", StringComparison.Ordinal))
            return true;
        if (name.Length < 4 || name[^2..] is not ("ps" or "pd" or "ss" or "sd"))
            return false;
        var stem = name[..^2];
        return stem is "add" or "sub" or "mul" or "div" or "sqrt" or "min" or "max" or "addsub" or "hadd" or "hsub" or "dp" or "round"
            || stem.StartsWith("cmp", StringComparison.Ordinal);
    }
}
