using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cpu.Cpuid;

/// <content>The named models and the text of <c>-cpu</c>.</content>
public sealed partial class CpuModel
{
    public const string DefaultName = "sharp64";

    /// <summary>What QEMU's qemu64 has on top of any x86-64 processor, and what a PC of ours always has.</summary>
    private static readonly CpuFeature[] s_baseline =
    [
        CpuFeature.Fpu, CpuFeature.De, CpuFeature.Pse, CpuFeature.Tsc, CpuFeature.Msr, CpuFeature.Pae, CpuFeature.Mce, CpuFeature.Cx8,
        CpuFeature.Apic, CpuFeature.Sep, CpuFeature.Mtrr, CpuFeature.Pge, CpuFeature.Mca, CpuFeature.Cmov, CpuFeature.Pat,
        CpuFeature.Pse36, CpuFeature.ClFlush, CpuFeature.Mmx, CpuFeature.Fxsr, CpuFeature.Sse, CpuFeature.Sse2, CpuFeature.Sse3,
        CpuFeature.Cmpxchg16B, CpuFeature.X2Apic, CpuFeature.TscDeadline, CpuFeature.Hypervisor, CpuFeature.Syscall, CpuFeature.Nx,
        CpuFeature.LongMode, CpuFeature.Lahf64, CpuFeature.InvariantTsc, CpuFeature.Arat, CpuFeature.ArchCapabilities,
    ];

    private static readonly CpuFeature[] s_v2 = [.. s_baseline, CpuFeature.Ssse3, CpuFeature.Sse41, CpuFeature.Sse42, CpuFeature.Popcnt];

    /// <summary>Offered only when asked for: too few hosts have them for a snapshot to travel.</summary>
    private static readonly CpuFeature[] s_onRequest = [CpuFeature.Sse4A, CpuFeature.Gfni, CpuFeature.Vaes, CpuFeature.VpclmulQdq];

    /// <summary>The models that <see cref="Parse"/> knows, with a description for a list.</summary>
    public static IReadOnlyList<(string Name, string Description)> Models { get; } =
    [
        (DefaultName, "all that the engine implements: x86-64-v3 with AES, SHA and ADX where the host has them"),
        ("host", "the same under the name of the host's processor"),
        ("max", "sharp64 and what is offered on request only: for tests, not for snapshots that travel"),
        ("qemu64", "the baseline of QEMU's qemu64: SSE3 and CX16"),
        ("x86-64-v2", "the second level of the x86-64 psABI: up to SSE4.2 and POPCNT"),
    ];

    /// <summary>Names of the features that may be added and removed.</summary>
    public static IEnumerable<string> FeatureNames => FeatureCatalog.All.Select(f => f.Names[0]);

    /// <summary>Makes a model from <c>name[,+feature][,-feature][,feature=on|off]…</c>, as QEMU's <c>-cpu</c>.</summary>
    /// <exception cref="ConfigurationException">The name or a feature is not known, or the host can't execute it.</exception>
    public static CpuModel Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        var parts = text.Split(',');
        var name = parts[0].Trim();
        var features = new FeatureSet();
        foreach (var feature in FeaturesOf(name))
        {
            if (FeatureCatalog.IsOnHost(FeatureCatalog.All.First(f => f.Feature == feature)))
                features.Add(feature);
        }

        foreach (var part in parts.Skip(1))
            Apply(features, part.Trim(), text);
        return new CpuModel(name, name == "host" ? HostBrand() : $"Sharpvisor {name} virtual processor", features);
    }

    private static IEnumerable<CpuFeature> FeaturesOf(string name) => name switch
    {
        DefaultName or "host" => FeatureCatalog.All.Select(f => f.Feature).Except(s_onRequest),
        "max" => FeatureCatalog.All.Select(f => f.Feature),
        "qemu64" => s_baseline,
        "x86-64-v2" => s_v2,
        _ => throw new ConfigurationException(
            $"-cpu {name}: no such model; there are {string.Join(", ", Models.Select(m => m.Name))}"),
    };

    private static void Apply(FeatureSet features, string part, string text)
    {
        bool on;
        string name;
        if (part.StartsWith('+') || part.StartsWith('-'))
        {
            (on, name) = (part[0] == '+', part[1..]);
        }
        else
        {
            var equals = part.IndexOf('=', StringComparison.Ordinal);
            var value = equals < 0 ? "on" : part[(equals + 1)..];
            if (value is not ("on" or "off"))
                throw new ConfigurationException($"-cpu {text}: \"{part}\" is neither on nor off");
            (on, name) = (value == "on", equals < 0 ? part : part[..equals]);
        }

        var info = FeatureCatalog.Find(name)
            ?? throw new ConfigurationException($"-cpu {text}: no feature \"{name}\"; did you mean \"{Nearest(name)}\"?");
        if (!on)
        {
            features.Remove(info.Feature);
            return;
        }

        if (!FeatureCatalog.IsOnHost(info))
            throw new ConfigurationException($"-cpu {text}: the host's processor has no {info.Names[0]}; leave it out");
        features.Add(info.Feature);
    }

    private static string Nearest(string name) =>
        FeatureCatalog.All.SelectMany(f => f.Names).MinBy(candidate => Distance(name.ToLowerInvariant(), candidate))!;

    /// <summary>How many letters have to be inserted, removed or replaced (Levenshtein).</summary>
    private static int Distance(string one, string other)
    {
        var row = Enumerable.Range(0, other.Length + 1).ToArray();
        for (var i = 1; i <= one.Length; i++)
        {
            var diagonal = row[0];
            row[0] = i;
            for (var j = 1; j <= other.Length; j++)
            {
                var replaced = diagonal + (one[i - 1] == other[j - 1] ? 0 : 1);
                diagonal = row[j];
                row[j] = Math.Min(replaced, Math.Min(row[j], row[j - 1]) + 1);
            }
        }

        return row[^1];
    }

    private static string HostBrand()
    {
        const int brand = unchecked((int)0x80000002);
        if (!X86Base.IsSupported || (uint)X86Base.CpuId(unchecked((int)0x80000000), 0).Eax < 0x80000004)
            return "Sharpvisor host virtual processor";
        Span<int> text = stackalloc int[12];
        for (var i = 0; i < 3; i++)
            (text[4 * i], text[(4 * i) + 1], text[(4 * i) + 2], text[(4 * i) + 3]) = X86Base.CpuId(brand + i, 0);
        return System.Text.Encoding.ASCII.GetString(MemoryMarshal.AsBytes(text)).TrimEnd('\0', ' ').TrimStart();
    }
}
