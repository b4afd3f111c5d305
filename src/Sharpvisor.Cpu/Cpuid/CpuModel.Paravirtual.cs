namespace Sharpvisor.Cpu.Cpuid;

/// <content>What a processor in paravirtual mode does not have.</content>
public sealed partial class CpuModel
{
    /// <summary>A leaf as a kernel in ring 3 may see it: without large and global pages and what else takes ring 0.</summary>
    public static CpuidLeaf ForParavirtual(uint leaf, uint subleaf, in CpuidLeaf found)
    {
        const uint vme = 1 << 1, pse = 1 << 3, mce = 1 << 7, apic = 1 << 9, mtrr = 1 << 12, pge = 1 << 13, mca = 1 << 14, pse36 = 1 << 17, htt = 1 << 28;
        const uint monitor = 1 << 3, pcid = 1 << 17, x2Apic = 1 << 21, deadline = 1 << 24;
        const uint smep = 1 << 7, invpcid = 1 << 10, smap = 1 << 20, umip = 1 << 2, protectionKeys = 1 << 3 | 1 << 4, la57 = 1 << 16;
        const uint gigabytePages = 1 << 26;
        return leaf switch
        {
            1 => found with
            {
                Ecx = found.Ecx & ~(monitor | pcid | x2Apic | deadline),
                Edx = found.Edx & ~(vme | pse | mce | apic | mtrr | pge | mca | pse36 | htt),
            },
            7 when subleaf == 0 => found with { Ebx = found.Ebx & ~(smep | invpcid | smap), Ecx = found.Ecx & ~(umip | protectionKeys | la57) },
            0xB or 0x1F => default,
            0x8000_0001 => found with { Edx = found.Edx & ~(gigabytePages | vme | pse | mce | apic | mtrr | pge | mca | pse36) },
            _ => found,
        };
    }
}
