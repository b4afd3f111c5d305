namespace Sharpvisor.Cpu.Cpuid;

/// <summary>
/// What a processor can offer, named as in Intel's SDM (vol. 2, CPUID). The value tells the place: 32 × word + bit,
/// with the words of <see cref="FeatureWord"/>.
/// </summary>
public enum CpuFeature
{
    Fpu = 0, De = 2, Pse = 3, Tsc = 4, Msr = 5, Pae = 6, Mce = 7, Cx8 = 8, Apic = 9, Sep = 11, Mtrr = 12, Pge = 13, Mca = 14,
    Cmov = 15, Pat = 16, Pse36 = 17, ClFlush = 19, Mmx = 23, Fxsr = 24, Sse = 25, Sse2 = 26,

    Sse3 = 32 + 0, PclmulQdq = 32 + 1, Ssse3 = 32 + 9, Fma = 32 + 12, Cmpxchg16B = 32 + 13, Pcid = 32 + 17, Sse41 = 32 + 19,
    Sse42 = 32 + 20, X2Apic = 32 + 21, Movbe = 32 + 22, Popcnt = 32 + 23, TscDeadline = 32 + 24, Aes = 32 + 25, Xsave = 32 + 26,
    Avx = 32 + 28, F16C = 32 + 29, Rdrand = 32 + 30, Hypervisor = 32 + 31,

    FsGsBase = 64 + 0, Bmi1 = 64 + 3, Avx2 = 64 + 5, Smep = 64 + 7, Bmi2 = 64 + 8, Erms = 64 + 9, Invpcid = 64 + 10,
    Rdseed = 64 + 18, Adx = 64 + 19, Smap = 64 + 20, ClFlushOpt = 64 + 23, Clwb = 64 + 24, Sha = 64 + 29,

    Umip = 96 + 2, Gfni = 96 + 8, Vaes = 96 + 9, VpclmulQdq = 96 + 10, Rdpid = 96 + 22,

    ArchCapabilities = 128 + 29,

    Syscall = 160 + 11, Nx = 160 + 20, Page1G = 160 + 26, Rdtscp = 160 + 27, LongMode = 160 + 29,

    Lahf64 = 192 + 0, Lzcnt = 192 + 5, Sse4A = 192 + 6, PrefetchW = 192 + 8,

    XsaveOpt = 224 + 0, Xsavec = 224 + 1, Xgetbv1 = 224 + 2,

    InvariantTsc = 256 + 8,

    Arat = 288 + 2,
}

/// <summary>The registers of CPUID that hold feature bits.</summary>
internal enum FeatureWord
{
    Leaf1Edx, Leaf1Ecx, Leaf7Ebx, Leaf7Ecx, Leaf7Edx, Extended1Edx, Extended1Ecx, LeafD1Eax, Extended7Edx, Leaf6Eax, Count,
}
