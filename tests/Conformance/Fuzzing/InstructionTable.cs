using Iced.Intel;

namespace Conformance.Fuzzing;

/// <summary>
/// Which instructions can be compared with the host's processor: user code up to x86-64-v3 whose result depends on
/// nothing but registers, flags and memory. Privileged ones take part with their #GP.
/// </summary>
public sealed class InstructionTable
{
    private static readonly HashSet<CpuidFeature> s_features =
    [
        CpuidFeature.INTEL8086, CpuidFeature.INTEL8086_ONLY, CpuidFeature.INTEL186, CpuidFeature.INTEL286, CpuidFeature.INTEL386, CpuidFeature.INTEL486,
        CpuidFeature.X64, CpuidFeature.FPU, CpuidFeature.FPU287, CpuidFeature.FPU387, CpuidFeature.CMOV, CpuidFeature.MMX, CpuidFeature.SSE,
        CpuidFeature.SSE2, CpuidFeature.SSE3, CpuidFeature.SSSE3, CpuidFeature.SSE4_1, CpuidFeature.SSE4_2, CpuidFeature.POPCNT, CpuidFeature.LZCNT,
        CpuidFeature.BMI1, CpuidFeature.BMI2, CpuidFeature.AVX, CpuidFeature.AVX2, CpuidFeature.FMA, CpuidFeature.F16C, CpuidFeature.MOVBE,
        CpuidFeature.CX8, CpuidFeature.CMPXCHG16B, CpuidFeature.AES, CpuidFeature.PCLMULQDQ, CpuidFeature.ADX, CpuidFeature.MULTIBYTENOP,
        CpuidFeature.PAUSE, CpuidFeature.PREFETCHW, CpuidFeature.CLFSH,
    ];

    /// <summary>
    /// Left out: what tells of the machine (CPUID, clocks, descriptor tables, FS and GS of the host's C library, the
    /// x87 instruction pointer), what enters the kernel, what differs between makers.
    /// </summary>
    private static readonly HashSet<Mnemonic> s_excluded =
    [
        Mnemonic.Cpuid, Mnemonic.Rdtsc, Mnemonic.Syscall, Mnemonic.Sysenter, Mnemonic.Sysret, Mnemonic.Sysexit, Mnemonic.Int, Mnemonic.Int1,
        Mnemonic.Rsm, Mnemonic.Lar, Mnemonic.Lsl, Mnemonic.Verr, Mnemonic.Verw, Mnemonic.Sldt, Mnemonic.Str, Mnemonic.Smsw,
        Mnemonic.Sgdt, Mnemonic.Sidt, Mnemonic.Arpl,
        Mnemonic.Fnstenv, Mnemonic.Fstenv, Mnemonic.Fnsave, Mnemonic.Fsave, Mnemonic.Fxsave, Mnemonic.Fxsave64,
        Mnemonic.Fndisi, Mnemonic.Fneni, Mnemonic.Fdisi, Mnemonic.Feni, Mnemonic.Fnsetpm, Mnemonic.Fsetpm, Mnemonic.Frstpm, Mnemonic.Fstdw, Mnemonic.Fstsg,
        Mnemonic.Iret, Mnemonic.Iretd, Mnemonic.Iretq, Mnemonic.Retf, Mnemonic.Lds, Mnemonic.Les, Mnemonic.Lfs, Mnemonic.Lgs, Mnemonic.Lss,
        Mnemonic.Ud0, Mnemonic.Ud1, Mnemonic.Salc, Mnemonic.Reservednop, Mnemonic.Loadall,
        Mnemonic.Storeall, Mnemonic.Umov, Mnemonic.Xbts, Mnemonic.Ibts, Mnemonic.Rdpmc,
    ];

    /// <summary>
    /// PUSH of a segment register writes 32 bits or 16 of them, MOVSXD with a 16-bit operand reads 16 or 32, as the
    /// processor likes (SDM vol. 2, PUSH and MOVSXD; AMD reads 32).
    /// </summary>
    private static readonly HashSet<Code> s_excludedCodes =
    [
        Code.Pushd_ES, Code.Pushd_CS, Code.Pushd_SS, Code.Pushd_DS, Code.Pushd_FS, Code.Pushd_GS, Code.Movsxd_r16_rm16,
    ];

    private readonly Code[][] _byMnemonic;
    private readonly Code[] _all;

    private InstructionTable(int bitness, bool segmented)
    {
        _all = [.. Enum.GetValues<Code>().Where(c => IsUsed(c, bitness, segmented))];
        _byMnemonic = [.. _all.GroupBy(c => c.Mnemonic()).Select(g => g.ToArray())];
    }

    public static InstructionTable Bits64 { get; } = new(64, false);

    public static InstructionTable Bits32 { get; } = new(32, false);

    /// <summary>Code that starts near the start of its segment: branches with an operand of 16 bits lead to it.</summary>
    public static InstructionTable Segmented32 { get; } = new(32, true);

    public static InstructionTable Bits16 { get; } = new(16, true);

    public IReadOnlyList<Code> All => _all;

    /// <summary>Half of the time every encoding is as likely as any other, half of the time every mnemonic.</summary>
    public Code Pick(Random random)
    {
        if (random.Next(2) == 0)
            return _all[random.Next(_all.Length)];
        var group = _byMnemonic[random.Next(_byMnemonic.Length)];
        return group[random.Next(group.Length)];
    }

    private static bool IsUsed(Code code, int bitness, bool segmented)
    {
        var info = code.ToOpCode();
        if (!info.IsInstruction || !(bitness switch { 64 => info.Mode64, 32 => info.Mode32, _ => info.Mode16 }) || info.Encoding is not (EncodingKind.Legacy or EncodingKind.VEX))
            return false;
        if (s_excludedCodes.Contains(code))
            return false;
        if (code.CpuidFeatures().Any(f => !s_features.Contains(f)) || s_excluded.Contains(code.Mnemonic()))
            return false;
        for (var i = 0; i < info.OpCount; i++)
        {
            switch (info.GetOpKind(i))
            {
                case OpCodeOperandKind.farbr2_2 or OpCodeOperandKind.farbr4_2:
                case OpCodeOperandKind.br16_1 or OpCodeOperandKind.br16_2 when !segmented:
                case OpCodeOperandKind.br32_1 or OpCodeOperandKind.br32_4 when bitness == 64:
                case OpCodeOperandKind.seg_reg or OpCodeOperandKind.es or OpCodeOperandKind.cs or OpCodeOperandKind.ss or OpCodeOperandKind.ds
                    or OpCodeOperandKind.fs or OpCodeOperandKind.gs when i == 0 && code.Mnemonic() != Mnemonic.Push:
                case OpCodeOperandKind.tr_reg:
                    return false;
            }
        }

        // Far transfers through memory; a near return or jump with a 16-bit operand goes to a page that is not ours.
        return code.FlowControl() switch
        {
            FlowControl.Next or FlowControl.UnconditionalBranch or FlowControl.ConditionalBranch or FlowControl.Call => true,
            FlowControl.Return => code is Code.Retnq or Code.Retnq_imm16 or Code.Retnd or Code.Retnd_imm16 || (segmented && code is Code.Retnw or Code.Retnw_imm16),
            FlowControl.IndirectBranch => code is Code.Jmp_rm64 or Code.Jmp_rm32 || (segmented && code == Code.Jmp_rm16),
            FlowControl.IndirectCall => code is Code.Call_rm64 or Code.Call_rm32 || (segmented && code == Code.Call_rm16),
            FlowControl.Exception => code is Code.Ud2,
            FlowControl.Interrupt => code is Code.Int3 or Code.Into,
            _ => false,
        };
    }
}
