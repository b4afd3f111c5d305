using System.Buffers.Binary;
using System.Numerics;
using System.Text;
using Sharpvisor.Core.Time;

namespace Sharpvisor.Cpu.Cpuid;

/// <summary>What CPUID tells beyond the model: about this processor and what it is doing.</summary>
public readonly record struct CpuidContext
{
    /// <summary>The (x2)APIC ID. Processors have 0, 1, 2, ….</summary>
    public required uint ApicId { get; init; }

    /// <summary>Processors of the machine: cores of one socket, one thread each.</summary>
    public required int ProcessorCount { get; init; }

    /// <summary>CR4.OSXSAVE.</summary>
    public bool OsXsave { get; init; }

    public ulong Xcr0 { get; init; }

    /// <summary>IA32_APIC_BASE.EN: a switched-off local APIC is not reported.</summary>
    public bool ApicEnabled { get; init; }
}

/// <content>The leaves of CPUID.</content>
public sealed partial class CpuModel
{
    private const uint MaximumBasic = 0x1F, MaximumHypervisor = 0x4000_0010, MaximumExtended = 0x8000_0008;

    /// <summary>Family 6, model 36h, stepping 9.</summary>
    private const uint Signature = 0x0003_0669;

    private const uint ApicBit = 1 << 9, HttBit = 1 << 28, OsXsaveBit = 1 << 27;

    /// <summary>KVM_FEATURE_CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, CLOCKSOURCE_STABLE_BIT.</summary>
    private const uint KvmFeatures = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 24;

    private const uint TscKhz = (uint)(Clock.TscHz / 1000);

    /// <summary>What CPUID returns. Leaves that do not exist are zero.</summary>
    public CpuidLeaf Query(uint leaf, uint subleaf, in CpuidContext context) => leaf switch
    {
        0x0 => Words(MaximumBasic, "Genu", "ntel", "ineI"),
        0x1 => Version(context),
        0x2 => new(0x00FE_FF01, 0, 0, 0), // caches by leaf 4, TLBs by leaf 18h
        0x4 => Cache(subleaf, context),
        0x6 => new(_features[FeatureWord.Leaf6Eax], 0, 0, 0),
        0x7 when subleaf == 0 => new(0, _features[FeatureWord.Leaf7Ebx], _features[FeatureWord.Leaf7Ecx], _features[FeatureWord.Leaf7Edx]),
        0xB or 0x1F => Topology(subleaf, context),
        0xD => Xsave(subleaf, context),
        0x15 => new(1, 1, (uint)Clock.TscHz, 0), // TSC = crystal = 1 GHz
        0x16 => new(TscKhz / 1000, TscKhz / 1000, TscKhz / 1000, 0),
        0x4000_0000 when Has(CpuFeature.Hypervisor) => Words(MaximumHypervisor, "KVMK", "VMKV", "M\0\0\0"),
        0x4000_0001 when Has(CpuFeature.Hypervisor) => new(KvmFeatures, 0, 0, 0),
        0x4000_0010 when Has(CpuFeature.Hypervisor) => new(TscKhz, TscKhz, 0, 0), // of the TSC and of the APIC's timer
        0x8000_0000 => new(MaximumExtended, 0, 0, 0),
        0x8000_0001 => new(0, 0, _features[FeatureWord.Extended1Ecx], _features[FeatureWord.Extended1Edx]),
        >= 0x8000_0002 and <= 0x8000_0004 => Brand((int)(leaf - 0x8000_0002)),
        0x8000_0006 => new(0, 0, 512 << 16 | 6 << 12 | 64, 0), // L2: 512 KiB, 8 ways, lines of 64 bytes
        0x8000_0007 => new(0, 0, 0, _features[FeatureWord.Extended7Edx]),
        0x8000_0008 => new((uint)(LinearAddressBits << 8 | PhysicalAddressBits), 0, 0, 0),
        _ => default,
    };

    private CpuidLeaf Version(in CpuidContext context)
    {
        var edx = _features[FeatureWord.Leaf1Edx];
        if (!context.ApicEnabled)
            edx &= ~ApicBit;
        if (context.ProcessorCount > 1)
            edx |= HttBit;
        var ecx = _features[FeatureWord.Leaf1Ecx] | (context.OsXsave ? OsXsaveBit : 0);
        var logical = Math.Min(context.ProcessorCount, 255);
        var ebx = (context.ApicId & 0xFF) << 24 | (uint)logical << 16 | 64 / 8 << 8;
        return new(Signature, ebx, ecx, edx);
    }

    /// <summary>Leaf 4: L1 data and code and L2 for each core, one L3.</summary>
    private static CpuidLeaf Cache(uint subleaf, in CpuidContext context)
    {
        var cores = (uint)Math.Min(BitOperations.RoundUpToPowerOf2((uint)context.ProcessorCount), 64);
        var sharing = BitOperations.RoundUpToPowerOf2((uint)context.ProcessorCount);
        return subleaf switch
        {
            0 => Level(type: 1, level: 1, kibibytes: 32, ways: 8, shared: 1),
            1 => Level(type: 2, level: 1, kibibytes: 32, ways: 8, shared: 1),
            2 => Level(type: 3, level: 2, kibibytes: 512, ways: 8, shared: 1),
            3 => Level(type: 3, level: 3, kibibytes: 16384, ways: 16, shared: sharing),
            _ => default,
        };

        CpuidLeaf Level(uint type, uint level, uint kibibytes, uint ways, uint shared)
        {
            const uint line = 64, selfInitializing = 1 << 8;
            var sets = kibibytes * 1024 / (line * ways);
            return new(type | level << 5 | selfInitializing | (shared - 1) << 14 | (cores - 1) << 26, (ways - 1) << 22 | (line - 1), sets - 1, 0);
        }
    }

    /// <summary>Leaves Bh and 1Fh: threads of a core, cores of the socket.</summary>
    private static CpuidLeaf Topology(uint subleaf, in CpuidContext context)
    {
        var count = (uint)context.ProcessorCount;
        return subleaf switch
        {
            0 => new(0, 1, 1 << 8, context.ApicId),
            1 => new((uint)BitOperations.Log2(BitOperations.RoundUpToPowerOf2(count)), count, 2 << 8 | 1, context.ApicId),
            _ => new(0, 0, subleaf & 0xFF, context.ApicId),
        };
    }

    private CpuidLeaf Xsave(uint subleaf, in CpuidContext context)
    {
        if (!Has(CpuFeature.Xsave))
            return default;
        return subleaf switch
        {
            0 => new((uint)Xcr0Mask, (uint)XsaveSize(context.Xcr0), (uint)XsaveSize(Xcr0Mask), 0),
            1 => new(_features[FeatureWord.LeafD1Eax], (uint)XsaveCompactedSize(context.Xcr0), 0, 0),
            2 when Has(CpuFeature.Avx) => new(XsaveAvxSize, XsaveAvxOffset, 0, 0),
            _ => default,
        };
    }

    private CpuidLeaf Brand(int part)
    {
        Span<byte> text = stackalloc byte[48];
        text.Clear();
        Encoding.ASCII.GetBytes(_brand.AsSpan(0, Math.Min(_brand.Length, 47)), text);
        var words = text[(16 * part)..];
        return new(Word(words), Word(words[4..]), Word(words[8..]), Word(words[12..]));
    }

    private static CpuidLeaf Words(uint eax, string ebx, string ecx, string edx) =>
        new(eax, Word(Encoding.ASCII.GetBytes(ebx)), Word(Encoding.ASCII.GetBytes(ecx)), Word(Encoding.ASCII.GetBytes(edx)));

    private static uint Word(ReadOnlySpan<byte> text) => BinaryPrimitives.ReadUInt32LittleEndian(text);
}
