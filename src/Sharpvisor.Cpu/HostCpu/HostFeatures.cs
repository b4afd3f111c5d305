// What the host processor can execute, from CPUID (SDM vol. 2, CPUID) and from what the operating system enabled in XCR0.
using System.Runtime.Intrinsics.X86;
using Iced.Intel;

namespace Sharpvisor.Cpu.HostCpu;

/// <summary>The instruction sets of the host, in Iced's terms.</summary>
internal static class HostFeatures
{
    private static readonly HashSet<CpuidFeature> s_present = Detect();

    /// <summary>False also for what has not been thought about: such an instruction is never executed natively.</summary>
    public static bool Has(CpuidFeature feature) => s_present.Contains(feature);

    private static HashSet<CpuidFeature> Detect()
    {
        var present = new HashSet<CpuidFeature>();
        if (!X86Base.X64.IsSupported)
            return present;
        foreach (var always in (CpuidFeature[])
            [
                CpuidFeature.INTEL8086, CpuidFeature.INTEL186, CpuidFeature.INTEL286, CpuidFeature.INTEL386, CpuidFeature.INTEL486,
                CpuidFeature.INTEL8086_ONLY, CpuidFeature.X64, CpuidFeature.FPU, CpuidFeature.FPU287, CpuidFeature.FPU387,
                CpuidFeature.FPU387SL_ONLY, CpuidFeature.CX8, CpuidFeature.CMOV, CpuidFeature.MMX, CpuidFeature.SSE, CpuidFeature.SSE2,
            ])
            present.Add(always);

        var (_, _, c1, _) = X86Base.CpuId(1, 0);
        var maxLeaf = X86Base.CpuId(0, 0).Eax;
        var (_, b7, c7, _) = maxLeaf >= 7 ? X86Base.CpuId(7, 0) : default;
        var (_, _, cExtended, _) = X86Base.CpuId(unchecked((int)0x80000001), 0);
        Add(c1, 0, CpuidFeature.SSE3);
        Add(c1, 1, CpuidFeature.PCLMULQDQ);
        Add(c1, 9, CpuidFeature.SSSE3);
        Add(c1, 13, CpuidFeature.CMPXCHG16B);
        Add(c1, 19, CpuidFeature.SSE4_1);
        Add(c1, 20, CpuidFeature.SSE4_2);
        Add(c1, 22, CpuidFeature.MOVBE);
        Add(c1, 23, CpuidFeature.POPCNT);
        Add(c1, 25, CpuidFeature.AES);
        Add(b7, 3, CpuidFeature.BMI1);
        Add(b7, 8, CpuidFeature.BMI2);
        Add(b7, 19, CpuidFeature.ADX);
        Add(b7, 29, CpuidFeature.SHA);
        Add(c7, 8, CpuidFeature.GFNI);
        Add(cExtended, 5, CpuidFeature.LZCNT);
        Add(cExtended, 6, CpuidFeature.SSE4A);
        if (Avx.IsSupported)
        {
            present.Add(CpuidFeature.AVX);
            Add(c1, 12, CpuidFeature.FMA);
            Add(c1, 29, CpuidFeature.F16C);
            Add(b7, 5, CpuidFeature.AVX2);
            Add(c7, 9, CpuidFeature.VAES);
            Add(c7, 10, CpuidFeature.VPCLMULQDQ);
        }

        return present;

        void Add(int register, int bit, CpuidFeature feature)
        {
            if ((register >> bit & 1) != 0)
                present.Add(feature);
        }
    }
}
