using System.Text;
using Iced.Intel;
using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu.Cpuid;

namespace Sharpvisor.Cpu.Tests.Cpuid;

public class CpuModelTests
{
    private static readonly CpuidContext s_one = new() { ApicId = 0, ProcessorCount = 1, ApicEnabled = true, Xcr0 = 1 };

    [Fact]
    public void The_default_is_a_64_bit_intel_with_a_name()
    {
        var model = CpuModel.Parse("sharp64");
        var leaf = model.Query(0, 0, s_one);
        Assert.Equal("GenuineIntel", Text(leaf.Ebx, leaf.Edx, leaf.Ecx));
        Assert.Equal(0x1Fu, leaf.Eax);
        Assert.Equal(0x30669u, model.Query(1, 0, s_one).Eax);
        var brand = string.Concat(Enumerable.Range(0, 3).Select(i => model.Query(0x80000002 + (uint)i, 0, s_one))
            .Select(l => Text(l.Eax, l.Ebx, l.Ecx, l.Edx))).TrimEnd('\0');
        Assert.Equal("Sharpvisor sharp64 virtual processor", brand);
        Assert.Equal(0x3028u, model.Query(0x80000008, 0, s_one).Eax);
        Assert.Equal((40, 48), (model.PhysicalAddressBits, model.LinearAddressBits));
    }

    [Theory]
    [InlineData(CpuFeature.Fpu, 1u, 3, 0)]
    [InlineData(CpuFeature.Sse42, 1u, 2, 20)]
    [InlineData(CpuFeature.Hypervisor, 1u, 2, 31)]
    [InlineData(CpuFeature.FsGsBase, 7u, 1, 0)]
    [InlineData(CpuFeature.Umip, 7u, 2, 2)]
    [InlineData(CpuFeature.ArchCapabilities, 7u, 3, 29)]
    [InlineData(CpuFeature.Nx, 0x80000001u, 3, 20)]
    [InlineData(CpuFeature.Lahf64, 0x80000001u, 2, 0)]
    [InlineData(CpuFeature.Xsavec, 0xDu, 0, 1)]
    [InlineData(CpuFeature.InvariantTsc, 0x80000007u, 3, 8)]
    [InlineData(CpuFeature.Arat, 6u, 0, 2)]
    public void A_feature_is_where_the_manual_has_it(CpuFeature feature, uint leaf, int register, int bit)
    {
        var model = CpuModel.Parse("sharp64");
        var name = FeatureCatalog.All.First(f => f.Feature == feature).Names[0];
        var without = CpuModel.Parse("sharp64,-" + name);
        Assert.True(model.Has(feature));
        Assert.False(without.Has(feature));
        var subleaf = leaf == 0xD ? 1u : 0;
        Assert.Equal(1u, Register(model.Query(leaf, subleaf, s_one), register) >> bit & 1);
        Assert.Equal(0u, Register(without.Query(leaf, subleaf, s_one), register) >> bit & 1);
    }

    [Theory]
    [InlineData("qemu64", CpuFeature.Sse3, CpuFeature.Ssse3)]
    [InlineData("x86-64-v2", CpuFeature.Sse42, CpuFeature.Xsave)]
    [InlineData("x86-64-v2,+xsave", CpuFeature.Xsave, CpuFeature.Avx)]
    [InlineData("sharp64,-sse4.1", CpuFeature.Ssse3, CpuFeature.Sse42)]
    [InlineData("sharp64,-avx", CpuFeature.Sse42, CpuFeature.Fma)]
    [InlineData("sharp64,avx2=off", CpuFeature.Avx, CpuFeature.Avx2)]
    [InlineData("qemu64,ssse3", CpuFeature.Ssse3, CpuFeature.Sse41)]
    [InlineData("host,-xsave", CpuFeature.Bmi2, CpuFeature.Avx2)]
    public void Models_and_features_follow_their_dependencies(string text, CpuFeature has, CpuFeature hasNot)
    {
        var model = CpuModel.Parse(text);
        Assert.True(model.Has(has));
        Assert.False(model.Has(hasNot));
        Assert.Equal(text.Split(',')[0], model.Name);
    }

    [Theory]
    [InlineData("core2", "sharp64, host, max, qemu64, x86-64-v2")]
    [InlineData("", "sharp64")]
    [InlineData("sharp64,+avx3", "did you mean \"avx\"")]
    [InlineData("sharp64,-lahf_lmm", "did you mean \"lahf_lm\"")]
    [InlineData("sharp64,avx=maybe", "neither on nor off")]
    [InlineData("sharp64,", "no feature")]
    public void Mistakes_are_named(string text, string hint)
    {
        var error = Assert.Throws<ConfigurationException>(() => CpuModel.Parse(text));
        Assert.Contains(hint, error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', error.Message);
    }

    [Fact]
    public void Every_name_of_a_feature_is_its_own()
    {
        var names = FeatureCatalog.All.SelectMany(f => f.Names).ToList();
        Assert.Equal(names.Count, names.Distinct().Count());
        Assert.Equal(Enum.GetValues<CpuFeature>().Order(), FeatureCatalog.All.Select(f => f.Feature).Order());
        foreach (var name in CpuModel.FeatureNames)
            Assert.False(CpuModel.Parse("sharp64,-" + name).Has(FeatureCatalog.Find(name)!.Feature));
    }

    [Fact]
    public void The_state_of_the_processor_shows()
    {
        var model = CpuModel.Parse("sharp64");
        var leaf = model.Query(1, 0, s_one);
        Assert.Equal((0u, 1u, 0u), (leaf.Ecx >> 27 & 1, leaf.Edx >> 9 & 1, leaf.Edx >> 28 & 1));
        leaf = model.Query(1, 0, new CpuidContext { ApicId = 5, ProcessorCount = 8, OsXsave = true });
        Assert.Equal((1u, 0u, 1u), (leaf.Ecx >> 27 & 1, leaf.Edx >> 9 & 1, leaf.Edx >> 28 & 1));
        Assert.Equal(0x0508_0800u, leaf.Ebx);
    }

    [Theory]
    [InlineData(1, 0u)]
    [InlineData(2, 1u)]
    [InlineData(6, 3u)]
    [InlineData(8, 3u)]
    public void Processors_are_cores_of_one_socket(int count, uint shift)
    {
        var model = CpuModel.Parse("sharp64");
        var context = new CpuidContext { ApicId = 0, ProcessorCount = count, ApicEnabled = true } with { ApicId = (uint)count - 1 };
        foreach (var leaf in (uint[])[0xB, 0x1F])
        {
            Assert.Equal(new CpuidLeaf(0, 1, 0x100, (uint)count - 1), model.Query(leaf, 0, context));
            Assert.Equal(new CpuidLeaf(shift, (uint)count, 0x201, (uint)count - 1), model.Query(leaf, 1, context));
            Assert.Equal(new CpuidLeaf(0, 0, 2, (uint)count - 1), model.Query(leaf, 2, context));
        }

        Assert.Equal((1u << (int)shift) - 1, model.Query(4, 3, context).Eax >> 14 & 0xFFF);
        Assert.Equal((1u << (int)shift) - 1, model.Query(4, 0, context).Eax >> 26);
    }

    [Fact]
    public void Caches_have_their_size()
    {
        var model = CpuModel.Parse("sharp64");
        int[] expected = [32, 32, 512, 16384];
        for (uint i = 0; i < 4; i++)
        {
            var leaf = model.Query(4, i, s_one);
            var bytes = ((leaf.Ebx >> 22) + 1) * ((leaf.Ebx & 0xFFF) + 1) * (leaf.Ecx + 1);
            Assert.Equal(expected[i] * 1024, (int)bytes);
        }

        Assert.Equal(default, model.Query(4, 4, s_one));
    }

    [Fact]
    public void The_extended_state_has_its_sizes()
    {
        var model = CpuModel.Parse("sharp64");
        Assert.Equal(7ul, model.Xcr0Mask);
        Assert.Equal(new CpuidLeaf(7, 576, 832, 0), model.Query(0xD, 0, s_one));
        Assert.Equal(new CpuidLeaf(7, 832, 832, 0), model.Query(0xD, 0, s_one with { Xcr0 = 7 }));
        Assert.Equal(new CpuidLeaf(7, 832, 0, 0), model.Query(0xD, 1, s_one with { Xcr0 = 7 }));
        Assert.Equal(new CpuidLeaf(256, 576, 0, 0), model.Query(0xD, 2, s_one));
        Assert.Equal(default, model.Query(0xD, 3, s_one));
        var noAvx = CpuModel.Parse("sharp64,-avx");
        Assert.Equal((3ul, new CpuidLeaf(3, 576, 576, 0)), (noAvx.Xcr0Mask, noAvx.Query(0xD, 0, s_one)));
        Assert.Equal(default, noAvx.Query(0xD, 2, s_one));
        var none = CpuModel.Parse("qemu64");
        Assert.Equal((0ul, default), (none.Xcr0Mask, none.Query(0xD, 0, s_one)));
    }

    [Fact]
    public void Kvm_tells_the_time()
    {
        var model = CpuModel.Parse("sharp64");
        var leaf = model.Query(0x40000000, 0, s_one);
        Assert.Equal((0x40000010u, "KVMKVMKVM\0\0\0"), (leaf.Eax, Text(leaf.Ebx, leaf.Ecx, leaf.Edx)));
        Assert.Equal(0x0100000Bu, model.Query(0x40000001, 0, s_one).Eax);
        Assert.Equal(new CpuidLeaf(1_000_000, 1_000_000, 0, 0), model.Query(0x40000010, 0, s_one));
        Assert.Equal(new CpuidLeaf(1, 1, 1_000_000_000, 0), model.Query(0x15, 0, s_one));
        Assert.Equal(default, CpuModel.Parse("sharp64,-hypervisor").Query(0x40000000, 0, s_one));
    }

    [Theory]
    [InlineData(0x3u), InlineData(0x5u), InlineData(0xAu), InlineData(0x12u), InlineData(0x14u), InlineData(0x20u)]
    [InlineData(0x40000011u), InlineData(0x80000009u), InlineData(0xC0000000u), InlineData(0xFFFFFFFFu)]
    public void What_is_not_there_is_zero(uint leaf) => Assert.Equal(default, CpuModel.Parse("sharp64").Query(leaf, 0, s_one));

    [Theory]
    [InlineData("0F58C1", true, true)] // addps
    [InlineData("660F3800C1", true, false)] // pshufb
    [InlineData("C5F458C1", true, false)] // vaddps
    [InlineData("C4E275DCC1", false, false)] // vaesenc ymm: VAES
    [InlineData("C4E271DCC1", true, false)] // vaesenc xmm: AES and AVX
    [InlineData("F30FB8C1", true, false)] // popcnt
    [InlineData("F30FBCC1", true, true)] // tzcnt, at least as bsf
    [InlineData("F30F1EFA", true, true)] // endbr64, at least as a nop
    [InlineData("0F1AC1", true, true)] // bndldx
    [InlineData("0F01C8", false, false)] // monitor
    [InlineData("0F01C1", true, true)] // vmcall: of the hypervisor that CPUID names
    [InlineData("C7F800000000", false, false)] // xbegin
    [InlineData("660F38F8 01", false, false)] // movdir64b
    [InlineData("0F0FC19E", false, false)] // pfadd
    [InlineData("0FA2", true, true)] // cpuid
    [InlineData("0FC7F0", true, false)] // rdrand
    public void Instructions_exist_by_their_features(string code, bool onSharp64, bool onQemu64)
    {
        var bytes = Convert.FromHexString(code.Replace(" ", "", StringComparison.Ordinal));
        var instruction = Iced.Intel.Decoder.Create(64, new ByteArrayCodeReader(bytes), DecoderOptions.MPX).Decode();
        Assert.False(instruction.IsInvalid);
        Assert.Equal((onSharp64, onQemu64), (CpuModel.Parse("sharp64").Supports(instruction), CpuModel.Parse("qemu64").Supports(instruction)));
    }

    [Fact]
    public void Nothing_speculates()
    {
        var model = CpuModel.Parse("sharp64");
        Assert.True(model.TryReadMsr(0x10A, out var capabilities));
        Assert.Equal(0x4000_0000_0D10_E179ul, capabilities);
        Assert.False(CpuModel.Parse("sharp64,-arch-capabilities").TryReadMsr(0x10A, out _));
        Assert.True(model.TryReadMsr(0x8B, out var revision));
        Assert.Equal(1ul << 32, revision);
        Assert.False(model.TryReadMsr(0x140, out _));
    }

    private static uint Register(CpuidLeaf leaf, int index) => index switch { 0 => leaf.Eax, 1 => leaf.Ebx, 2 => leaf.Ecx, _ => leaf.Edx };

    private static string Text(params ReadOnlySpan<uint> words)
    {
        var bytes = new byte[4 * words.Length];
        for (var i = 0; i < words.Length; i++)
            BitConverter.TryWriteBytes(bytes.AsSpan(4 * i), words[i]);
        return Encoding.ASCII.GetString(bytes);
    }
}
