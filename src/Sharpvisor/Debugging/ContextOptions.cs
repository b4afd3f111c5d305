using System.Globalization;
using Sharpvisor.Core.Guests;
using Sharpvisor.Debugging.Stacks;

namespace Sharpvisor.Debugging;

/// <summary>What a context dump has in it.</summary>
public sealed record ContextOptions
{
    /// <summary>The parameters of <see cref="Parse"/>, for help.</summary>
    public const string Parameters = "[-k file] [--cpu n] [--stack lines] [--frames n]";

    private const int MaximumLines = 4096;

    /// <summary>System.map, vmlinux or bzImage; null: the kernel's own symbols.</summary>
    public string? SymbolFile { get; init; }

    /// <summary>The only processor that is wanted; null: all.</summary>
    public int? Processor { get; init; }

    /// <summary>Lines of stack, of four words each.</summary>
    public int StackLines { get; init; } = 8;

    /// <summary>Frames of the call trace at most.</summary>
    public int Frames { get; init; } = StackWalker.DefaultLimit;

    /// <summary>Reads the arguments of ctx.</summary>
    /// <exception cref="ConfigurationException">One is wrong.</exception>
    public static ContextOptions Parse(IReadOnlyList<string> words)
    {
        var options = new ContextOptions();
        for (var i = 0; i < words.Count; i += 2)
        {
            var value = i + 1 < words.Count ? words[i + 1] : null;
            options = words[i] switch
            {
                "-k" or "--symbols" or "-s" => options with { SymbolFile = value ?? throw new ConfigurationException($"ctx {words[i]}: give a System.map, vmlinux or bzImage") },
                "--cpu" or "-C" => options with { Processor = Number(words[i], value, MachineOptions.MaximumProcessors - 1) },
                "--stack" => options with { StackLines = Number(words[i], value, MaximumLines) },
                "--frames" => options with { Frames = Number(words[i], value, MaximumLines) },
                _ => throw new ConfigurationException($"ctx: unknown argument {words[i]}; there are {Parameters}"),
            };
        }

        return options;
    }

    /// <summary>The arguments again, for another process: files by their full paths.</summary>
    public IEnumerable<string> ToWords()
    {
        List<string> words = [];
        if (SymbolFile is not null)
            words.AddRange(["-k", Path.GetFullPath(SymbolFile)]);
        if (Processor is { } processor)
            words.AddRange(["--cpu", processor.ToString(CultureInfo.InvariantCulture)]);
        words.AddRange(["--stack", StackLines.ToString(CultureInfo.InvariantCulture), "--frames", Frames.ToString(CultureInfo.InvariantCulture)]);
        return words;
    }

    private static int Number(string flag, string? text, int maximum) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number <= maximum
            ? number
            : throw new ConfigurationException($"ctx {flag}: {(text is null ? "give" : $"\"{text}\" is not")} a number from 0 to {maximum}");
}
