using Iced.Intel;
using Sharpvisor.Cpu.HostCpu;

namespace Sharpvisor.Cpu.Cpuid;

/// <summary>A feature with the names that <c>-cpu</c> takes for it and what it stands on.</summary>
/// <param name="Names">As Linux and QEMU spell it; the first is shown.</param>
/// <param name="Requires">Goes with it: added before it, and it goes when that goes.</param>
/// <param name="Native">Instructions that only the host processor can execute.</param>
internal sealed record FeatureInfo(CpuFeature Feature, string[] Names, CpuFeature? Requires = null, CpuidFeature? Native = null);

/// <summary>Everything that the engine implements, by itself or on the host processor.</summary>
internal static class FeatureCatalog
{
    public static IReadOnlyList<FeatureInfo> All { get; } =
    [
        new(CpuFeature.Fpu, ["fpu"]), new(CpuFeature.De, ["de"]), new(CpuFeature.Pse, ["pse"]), new(CpuFeature.Tsc, ["tsc"]),
        new(CpuFeature.Msr, ["msr"]), new(CpuFeature.Pae, ["pae"]), new(CpuFeature.Mce, ["mce"]), new(CpuFeature.Cx8, ["cx8"]),
        new(CpuFeature.Apic, ["apic"]), new(CpuFeature.Sep, ["sep"]), new(CpuFeature.Mtrr, ["mtrr"]), new(CpuFeature.Pge, ["pge"]),
        new(CpuFeature.Mca, ["mca"]), new(CpuFeature.Cmov, ["cmov"]), new(CpuFeature.Pat, ["pat"]), new(CpuFeature.Pse36, ["pse36"]),
        new(CpuFeature.ClFlush, ["clflush"]), new(CpuFeature.Mmx, ["mmx"]), new(CpuFeature.Fxsr, ["fxsr"]),
        new(CpuFeature.Sse, ["sse"], CpuFeature.Fxsr), new(CpuFeature.Sse2, ["sse2"], CpuFeature.Sse),

        new(CpuFeature.Sse3, ["sse3", "pni"], CpuFeature.Sse2, CpuidFeature.SSE3),
        new(CpuFeature.Ssse3, ["ssse3"], CpuFeature.Sse3, CpuidFeature.SSSE3),
        new(CpuFeature.Sse41, ["sse4.1", "sse4_1"], CpuFeature.Ssse3, CpuidFeature.SSE4_1),
        new(CpuFeature.Sse42, ["sse4.2", "sse4_2"], CpuFeature.Sse41, CpuidFeature.SSE4_2),
        new(CpuFeature.Sse4A, ["sse4a"], CpuFeature.Sse3, CpuidFeature.SSE4A),
        new(CpuFeature.Aes, ["aes"], CpuFeature.Sse2, CpuidFeature.AES),
        new(CpuFeature.PclmulQdq, ["pclmulqdq"], CpuFeature.Sse2, CpuidFeature.PCLMULQDQ),
        new(CpuFeature.Sha, ["sha-ni", "sha_ni", "sha"], CpuFeature.Sse2, CpuidFeature.SHA),
        new(CpuFeature.Gfni, ["gfni"], CpuFeature.Sse2, CpuidFeature.GFNI),
        new(CpuFeature.Xsave, ["xsave"], CpuFeature.Fxsr),
        new(CpuFeature.XsaveOpt, ["xsaveopt"], CpuFeature.Xsave), new(CpuFeature.Xsavec, ["xsavec"], CpuFeature.Xsave),
        new(CpuFeature.Xgetbv1, ["xgetbv1"], CpuFeature.Xsave),
        new(CpuFeature.Avx, ["avx"], CpuFeature.Xsave, CpuidFeature.AVX), new(CpuFeature.Avx2, ["avx2"], CpuFeature.Avx, CpuidFeature.AVX2),
        new(CpuFeature.F16C, ["f16c"], CpuFeature.Avx, CpuidFeature.F16C), new(CpuFeature.Fma, ["fma"], CpuFeature.Avx, CpuidFeature.FMA),
        new(CpuFeature.Vaes, ["vaes"], CpuFeature.Avx, CpuidFeature.VAES),
        new(CpuFeature.VpclmulQdq, ["vpclmulqdq"], CpuFeature.Avx, CpuidFeature.VPCLMULQDQ),
        new(CpuFeature.Bmi1, ["bmi1"], null, CpuidFeature.BMI1), new(CpuFeature.Bmi2, ["bmi2"], null, CpuidFeature.BMI2),
        new(CpuFeature.Adx, ["adx"], null, CpuidFeature.ADX), new(CpuFeature.Movbe, ["movbe"]),
        new(CpuFeature.Popcnt, ["popcnt"], null, CpuidFeature.POPCNT),
        new(CpuFeature.Lzcnt, ["abm", "lzcnt"], null, CpuidFeature.LZCNT),
        new(CpuFeature.Cmpxchg16B, ["cx16"]), new(CpuFeature.Rdrand, ["rdrand"]), new(CpuFeature.Rdseed, ["rdseed"]),
        new(CpuFeature.Rdtscp, ["rdtscp"]), new(CpuFeature.Rdpid, ["rdpid"]), new(CpuFeature.FsGsBase, ["fsgsbase"]),
        new(CpuFeature.Erms, ["erms"]), new(CpuFeature.ClFlushOpt, ["clflushopt"]), new(CpuFeature.Clwb, ["clwb"]),
        new(CpuFeature.PrefetchW, ["3dnowprefetch"]), new(CpuFeature.Lahf64, ["lahf-lm", "lahf_lm"]),

        new(CpuFeature.Syscall, ["syscall"]), new(CpuFeature.LongMode, ["lm"], CpuFeature.Pae), new(CpuFeature.Nx, ["nx"], CpuFeature.Pae),
        new(CpuFeature.Page1G, ["pdpe1gb"], CpuFeature.LongMode), new(CpuFeature.Pcid, ["pcid"], CpuFeature.LongMode),
        new(CpuFeature.Invpcid, ["invpcid"], CpuFeature.LongMode),
        new(CpuFeature.Smep, ["smep"]), new(CpuFeature.Smap, ["smap"]), new(CpuFeature.Umip, ["umip"]),
        new(CpuFeature.X2Apic, ["x2apic"], CpuFeature.Apic), new(CpuFeature.TscDeadline, ["tsc-deadline", "tsc_deadline_timer"], CpuFeature.Apic),
        new(CpuFeature.InvariantTsc, ["invtsc"]), new(CpuFeature.Arat, ["arat"], CpuFeature.Apic),
        new(CpuFeature.Hypervisor, ["hypervisor"]), new(CpuFeature.ArchCapabilities, ["arch-capabilities", "arch_capabilities"]),
    ];

    public static FeatureInfo? Find(string name) =>
        All.FirstOrDefault(f => f.Names.Contains(name, StringComparer.OrdinalIgnoreCase));

    /// <summary>Whether this host can execute what belongs to the feature.</summary>
    public static bool IsOnHost(FeatureInfo info) => info.Native is not { } native || HostThunks.IsSupported && HostFeatures.Has(native);
}
