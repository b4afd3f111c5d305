using System.Diagnostics;
using System.Text;
using Conformance.Guests;
using Conformance.Native;
using Iced.Intel;
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.Cpuid;

namespace Conformance.Fuzzing;

/// <summary>A sequence that the host and the guest disagree about, as short as it could be made.</summary>
public sealed record Finding(TestCase Test, string Difference)
{
    /// <summary>The instruction that is to blame, as far as one can tell: the last one that was not left out.</summary>
    public string Group => Test.Items.Count == 0 ? "none" : Test.Items[^1].Steps[^1].Instruction.Mnemonic.ToString();

    public override string ToString()
    {
        var text = new StringBuilder();
        text.AppendLine($"{Group}: SHARPVISOR_FUZZ_SEED={Test.Seed} SHARPVISOR_FUZZ_COUNT=1 ({Test.Bitness} bits{(Test.Segments is null ? "" : $", segments {Test.Segments.Number}")})");
        foreach (var line in Test.Disassemble())
            text.AppendLine("  " + line);
        text.Append(Difference);
        text.AppendLine($"  start: flags {Test.Initial.Rflags:x} mxcsr {Test.Initial.Mxcsr:x}");
        for (var i = 0; i < (Test.Bitness == 64 ? 16 : 8); i++)
            text.Append($"{(i % 4 == 0 ? "    " : " ")}{Register.RAX + i,-3} {Test.Initial.Gpr[i]:x16}{(i % 4 == 3 ? "\n" : "")}");
        return text.ToString();
    }
}

/// <summary>Runs sequences on both processors and shortens those that differ.</summary>
public sealed class Fuzzer : IDisposable
{
    private const int Batch = 64;

    private readonly Arena _arena = new();
    private readonly NativeRunner _native;
    private readonly GuestRunner _guest;
    private readonly InstructionGenerator _generator;
    private readonly Outcome[] _hosts = [.. Enumerable.Range(0, Batch).Select(_ => new Outcome())];
    private readonly Outcome _outcome = new();

    /// <param name="segmented">See <see cref="InstructionGenerator"/>.</param>
    public Fuzzer(ICpuEngine engine, CpuModel model, int bitness, IEnumerable<Mnemonic>? skipped = null, bool segmented = false)
    {
        _native = new NativeRunner(_arena);
        _guest = new GuestRunner(_arena, engine, model);
        _generator = new InstructionGenerator(_arena, bitness, skipped, segmented);
    }

    /// <summary>Sequences executed so far.</summary>
    public long Count { get; private set; }

    public long Instructions { get; private set; }

    /// <summary>Executes sequences from consecutive seeds until time or number is used up, and gives what differs.</summary>
    public IEnumerable<Finding> Run(long seed, TimeSpan time, long count)
    {
        var start = Stopwatch.GetTimestamp();
        var cases = new TestCase[Batch];
        while (Count < count && (Count == 0 || Stopwatch.GetElapsedTime(start) < time))
        {
            var size = (int)Math.Min(Batch, count - Count);
            for (var i = 0; i < size; i++)
                cases[i] = _generator.Generate(seed + Count + i);
            _native.Run(cases.AsSpan(0, size), _hosts.AsSpan(0, size));
            Count += size;
            for (var i = 0; i < size; i++)
            {
                Instructions += cases[i].Instructions.Count;
                _guest.Run(cases[i], _outcome);
                if (Comparison.Difference(cases[i], _hosts[i], _outcome) is { } difference)
                    yield return Shorten(new Finding(cases[i], difference));
            }
        }
    }

    public void Dispose()
    {
        _guest.Dispose();
        _arena.Dispose();
    }

    /// <summary>Leaves out one instruction after the other as long as the rest still differs.</summary>
    private Finding Shorten(Finding finding)
    {
        for (var i = 0; i < finding.Test.Items.Count;)
        {
            Item[] fewer = [.. finding.Test.Items.Where((_, n) => n != i)];
            if (TryAgain(finding.Test, Retarget(fewer, i)) is { } shorter)
                finding = shorter;
            else
                i++;
        }

        return finding;
    }

    private Finding? TryAgain(TestCase original, IReadOnlyList<Item> items)
    {
        if (original.With(items) is not { } test)
            return null;
        _native.Run([test], _hosts);
        _guest.Run(test, _outcome);
        return Comparison.Difference(test, _hosts[0], _outcome) is { } difference ? new Finding(test, difference) : null;
    }

    /// <summary>Branches count items: those behind the one left out move up.</summary>
    private static Item[] Retarget(Item[] items, int removed) =>
        [.. items.Select(item => new Item([.. item.Steps.Select(s => s.Target > removed ? s with { Target = s.Target - 1 } : s)]))];
}
