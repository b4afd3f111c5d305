using System.Globalization;
using Conformance.Fuzzing;
using Sharpvisor.Cpu.Cpuid;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Translator;
using Xunit.Abstractions;

namespace Conformance;

/// <summary>
/// Random user-mode instructions on each engine and on the host's processor: registers, flags, memory and faults must
/// be the same. SHARPVISOR_FUZZ_ENGINE takes one engine, SHARPVISOR_FUZZ_MODE one of 64, 32, 32s (with segments) and 16;
/// SHARPVISOR_FUZZ_SECONDS and SHARPVISOR_FUZZ_COUNT make it longer, SHARPVISOR_FUZZ_SEED starts elsewhere,
/// SHARPVISOR_FUZZ_REPORT names a file that gets one example for each instruction that differs.
/// </summary>
[Collection("native code")]
[Trait("Category", "Conformance")]
public sealed class FuzzTests(ITestOutputHelper output)
{
    private const int ShownExamples = 5;

    [Theory]
    [InlineData("interpreter", 64, false, 25)]
    [InlineData("interpreter", 32, false, 15)]
    [InlineData("interpreter", 32, true, 10)]
    [InlineData("interpreter", 16, true, 10)]
    [InlineData("translator", 64, false, 25)]
    [InlineData("translator", 32, false, 15)]
    [InlineData("translator", 32, true, 10)]
    [InlineData("translator", 16, true, 10)]
    public void The_guest_does_what_the_host_does(string engine, int bitness, bool segmented, int seconds)
    {
        var mode = bitness == 32 && segmented ? "32s" : $"{bitness}";
        if (Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_MODE") is { Length: > 0 } onlyMode && onlyMode != mode)
            return;
        if (Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_ENGINE") is { Length: > 0 } only && only != engine)
            return;

        var seed = Setting("SEED", 1);
        var count = Setting("COUNT", long.MaxValue);
        var time = TimeSpan.FromSeconds(Setting("SECONDS", count == long.MaxValue ? seconds : long.MaxValue / TimeSpan.TicksPerSecond));
        var report = Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_REPORT");

        Dictionary<string, (Finding First, int Count)> groups = [];
        using var fuzzer = new Fuzzer(engine == "translator" ? new TranslatorEngine { Threshold = 0 } : new InterpreterEngine(), CpuModel.Parse("sharp64"), bitness, segmented: segmented);
        foreach (var finding in fuzzer.Run(seed, time, count))
        {
            var (first, before) = groups.GetValueOrDefault(finding.Group, (finding, 0));
            var shorter = finding.Test.Code.Length < first.Test.Code.Length ? finding : first;
            groups[finding.Group] = (shorter, before + 1);
            if (report is null && groups.Count >= ShownExamples)
                break;
        }

        var summary = $"{engine}, {bitness} bits{(segmented ? ", segmented" : "")}: {fuzzer.Count} sequences, {fuzzer.Instructions} instructions from seed {seed}, {groups.Count} kinds of difference";
        output.WriteLine(summary);
        Save($"conformance-{engine}-{mode}.txt", summary);
        var examples = string.Join("\n", groups.OrderByDescending(g => g.Value.Count).Select(g => $"{g.Value.Count} x {g.Value.First}"));
        if (report is not null)
            File.WriteAllText($"{report}.{engine}.{mode}", summary + "\n\n" + examples);
        Assert.True(groups.Count == 0, summary + "\n" + examples);
    }

    private static long Setting(string name, long otherwise) =>
        long.TryParse(Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_" + name), CultureInfo.InvariantCulture, out var value) ? value : otherwise;

    /// <summary>For ./test, which shows it: a test that passes has no other voice.</summary>
    private static void Save(string name, string line)
    {
        if (Environment.GetEnvironmentVariable("SHARPVISOR_HOME") is { } home && Directory.Exists(Path.Combine(home, ".cache", "test-results")))
            File.WriteAllText(Path.Combine(home, ".cache", "test-results", name), line + "\n");
    }
}
