namespace Sharpvisor.Cpu.Cpuid;

/// <summary>A leaf of CPUID.</summary>
public readonly record struct CpuidLeaf(uint Eax, uint Ebx, uint Ecx, uint Edx);

/// <summary>A named processor model: what CPUID tells a guest.</summary>
public sealed partial class CpuModel
{
    private CpuModel(string name)
    {
        Name = name;
    }

    public string Name { get; }
}
