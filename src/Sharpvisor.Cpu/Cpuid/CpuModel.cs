// The processor that a guest sees: an in-order Intel of family 6, model 36h, whatever the host is. Why that one, and
// which MSRs follow from it: docs/decisions/0004-cpu-model.md.
// Specification: Intel SDM vol. 2, CPUID; vol. 4, table 2-2 (IA32_ARCH_CAPABILITIES).
// Left out: EVEX, MPX, VMX, TSX, MONITOR, performance monitoring, 5-level paging, VME, supervisor XSAVE states.
using Iced.Intel;

namespace Sharpvisor.Cpu.Cpuid;

/// <summary>A leaf of CPUID.</summary>
public readonly record struct CpuidLeaf(uint Eax, uint Ebx, uint Ecx, uint Edx);

/// <summary>A named processor model: what CPUID tells a guest.</summary>
public sealed partial class CpuModel
{
    private readonly FeatureSet _features;
    private readonly string _brand;

    private CpuModel(string name, string brand, FeatureSet features)
    {
        Name = name;
        _brand = brand;
        _features = features;
    }

    /// <summary>As given to <c>-cpu</c>, without the features.</summary>
    public string Name { get; }

    /// <summary>MAXPHYADDR: bits of a physical address. Independent of the host, so that a snapshot restores anywhere.</summary>
    public int PhysicalAddressBits => 40;

    /// <summary>Bits of a linear address.</summary>
    public int LinearAddressBits => 48;

    /// <summary>The bits that XCR0 may have; 0 without XSAVE.</summary>
    public ulong Xcr0Mask => Has(CpuFeature.Avx) ? 7ul : Has(CpuFeature.Xsave) ? 3ul : 0;

    /// <summary>The bits that MXCSR may have; LDMXCSR and the like answer others with #GP.</summary>
    public uint MxcsrMask => 0xFFFF;

    /// <summary>
    /// IA32_ARCH_CAPABILITIES: nothing speculates here, so the guest needs no mitigation. RDCL_NO, SKIP_L1DFL_VMENTRY,
    /// SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO,
    /// ITS_NO. Not IBRS_ALL: there is no IBRS.
    /// </summary>
    public ulong ArchCapabilities =>
        Bit(0) | Bit(3) | Bit(4) | Bit(5) | Bit(6) | Bit(8) | Bit(13) | Bit(14) | Bit(15) | Bit(20) | Bit(24) | Bit(26) | Bit(27) | Bit(62);

    public bool Has(CpuFeature feature) => _features.Has(feature);

    /// <summary>Bytes of an XSAVE area in standard format for the components of <paramref name="xcr0"/>.</summary>
    public static int XsaveSize(ulong xcr0) => (xcr0 & 4) != 0 ? XsaveAvxOffset + XsaveAvxSize : XsaveHeaderEnd;

    /// <summary>The same in compacted format: AVX is the only component, so it makes no difference where it lies.</summary>
    public static int XsaveCompactedSize(ulong xcr0) => XsaveSize(xcr0);

    /// <summary>Legacy region and header of an XSAVE area.</summary>
    public const int XsaveHeaderEnd = 576;

    /// <summary>Where the upper halves of YMM lie in an XSAVE area of either format.</summary>
    public const int XsaveAvxOffset = 576;

    public const int XsaveAvxSize = 256;

    /// <summary>
    /// Constant MSRs of the model; writes to them are #GP, but IA32_BIOS_SIGN_ID takes zero. The other registers that
    /// kernels expect are state; the decision record lists them.
    /// </summary>
    public bool TryReadMsr(uint index, out ulong value)
    {
        switch (index)
        {
            case 0x17: // IA32_PLATFORM_ID
            case 0xCE: // MSR_PLATFORM_INFO: no CPUID faulting
            case 0x179: // IA32_MCG_CAP: no banks
                value = 0;
                return true;
            case 0x8B: // IA32_BIOS_SIGN_ID: microcode revision 1
                value = 1UL << 32;
                return true;
            case 0xFE: // IA32_MTRRCAP: eight variable ranges, the fixed ones, write combining
                value = 0x508;
                return true;
            case 0x3A: // IA32_FEATURE_CONTROL: locked
                value = 1;
                return true;
            case 0x10A when Has(CpuFeature.ArchCapabilities):
                value = ArchCapabilities;
                return true;
            default:
                value = 0;
                return false;
        }
    }

    /// <summary>IA32_MISC_ENABLE at power-on: fast strings; no branch trace, no PEBS.</summary>
    public ulong MiscEnable => 0x1801;

    /// <summary>
    /// Whether the encoding does something on this model; otherwise it is #UD. Some always do: without the feature
    /// TZCNT, LZCNT and WBNOINVD are BSF, BSR and WBINVD, and ENDBR, RDSSP, BNDxx, CLDEMOTE and prefetches are NOPs,
    /// which is for the engine to do.
    /// </summary>
    public bool Supports(in Instruction instruction)
    {
        if (instruction.Mnemonic is Mnemonic.Vmcall or Mnemonic.Vmmcall)
            return Has(CpuFeature.Hypervisor); // of the guest's hypervisor, not of one that the guest could be
        foreach (var feature in instruction.CpuidFeatures)
        {
            if (!Supports(feature) && !IsHint(instruction.Mnemonic))
                return false;
        }

        return true;
    }

    private bool Supports(CpuidFeature feature) => feature switch
    {
        CpuidFeature.INTEL8086 or CpuidFeature.INTEL8086_ONLY or CpuidFeature.INTEL186 or CpuidFeature.INTEL286 or CpuidFeature.INTEL386
            or CpuidFeature.INTEL486 or CpuidFeature.FPU or CpuidFeature.FPU287 or CpuidFeature.FPU387 or CpuidFeature.CPUID
            or CpuidFeature.MULTIBYTENOP or CpuidFeature.PAUSE or CpuidFeature.RDPMC or CpuidFeature.SMM => true,
        CpuidFeature.X64 => Has(CpuFeature.LongMode),
        CpuidFeature.TSC => Has(CpuFeature.Tsc),
        CpuidFeature.MSR => Has(CpuFeature.Msr),
        CpuidFeature.CX8 => Has(CpuFeature.Cx8),
        CpuidFeature.SEP => Has(CpuFeature.Sep),
        CpuidFeature.CMOV => Has(CpuFeature.Cmov),
        CpuidFeature.CLFSH => Has(CpuFeature.ClFlush),
        CpuidFeature.MMX => Has(CpuFeature.Mmx),
        CpuidFeature.FXSR => Has(CpuFeature.Fxsr),
        CpuidFeature.SSE => Has(CpuFeature.Sse),
        CpuidFeature.SSE2 => Has(CpuFeature.Sse2),
        CpuidFeature.SYSCALL => Has(CpuFeature.Syscall),
        CpuidFeature.CMPXCHG16B => Has(CpuFeature.Cmpxchg16B),
        CpuidFeature.MOVBE => Has(CpuFeature.Movbe),
        CpuidFeature.XSAVE => Has(CpuFeature.Xsave),
        CpuidFeature.XSAVEOPT => Has(CpuFeature.XsaveOpt),
        CpuidFeature.XSAVEC => Has(CpuFeature.Xsavec),
        CpuidFeature.RDRAND => Has(CpuFeature.Rdrand),
        CpuidFeature.RDSEED => Has(CpuFeature.Rdseed),
        CpuidFeature.RDTSCP => Has(CpuFeature.Rdtscp),
        CpuidFeature.RDPID => Has(CpuFeature.Rdpid),
        CpuidFeature.FSGSBASE => Has(CpuFeature.FsGsBase),
        CpuidFeature.INVPCID => Has(CpuFeature.Invpcid),
        CpuidFeature.SMAP => Has(CpuFeature.Smap),
        CpuidFeature.CLFLUSHOPT => Has(CpuFeature.ClFlushOpt),
        CpuidFeature.CLWB => Has(CpuFeature.Clwb),
        _ => SupportsNative(feature),
    };

    private bool SupportsNative(CpuidFeature feature)
    {
        foreach (var info in FeatureCatalog.All)
        {
            if (info.Native == feature)
                return Has(info.Feature);
        }

        return false;
    }

    /// <summary>Encodings that processors without the feature execute as a NOP, or as the instruction without its prefix.</summary>
    private static bool IsHint(Mnemonic mnemonic) => mnemonic is Mnemonic.Endbr32 or Mnemonic.Endbr64 or Mnemonic.Rdsspd or Mnemonic.Rdsspq
        or Mnemonic.Cldemote or Mnemonic.Prefetchw or Mnemonic.Prefetch or Mnemonic.Prefetchwt1 or Mnemonic.Prefetchit0
        or Mnemonic.Prefetchit1 or Mnemonic.Bndmov or Mnemonic.Bndmk or Mnemonic.Bndcl or Mnemonic.Bndcu or Mnemonic.Bndcn or Mnemonic.Bndldx
        or Mnemonic.Bndstx or Mnemonic.Wbnoinvd or Mnemonic.Tzcnt or Mnemonic.Lzcnt;

    private static ulong Bit(int index) => 1UL << index;
}
