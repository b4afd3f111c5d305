using System.Diagnostics;
using System.Globalization;
using System.Text;
using Iced.Intel;

namespace Sharpvisor.Cpu.Translator;

/// <summary>Counters of a translator, since its start.</summary>
internal sealed class TranslatorStatistics
{
    public long Translations { get; set; }

    /// <summary>Guest instructions and bytes in all translations.</summary>
    public long Instructions { get; set; }

    public long GuestBytes { get; set; }

    /// <summary>Time spent on translations, in ticks of <see cref="Stopwatch"/>.</summary>
    public long Ticks { get; set; }

    public long Dropped { get; set; }

    /// <summary>Dropped ones that were as good as before when they were needed again, perhaps after new immediates.</summary>
    public long Revived { get; set; }

    /// <summary>Stores that changed immediates only, or nothing.</summary>
    public long Updated { get; set; }

    /// <summary>Dropped to be made again in another way.</summary>
    public long Replaced { get; set; }

    /// <summary>How often everything went because the cache was full.</summary>
    public int Clears { get; set; }

    /// <summary>Accesses that ran over the end of a page, or whose group did.</summary>
    public long Crossings { get; set; }

    /// <summary>Accesses that may not have a fast path: devices, code, watched and clean pages.</summary>
    public long Refused { get; set; }

    /// <summary>Blocks that the interpreter executed because they are not worth a translation yet.</summary>
    public long Interpreted { get; set; }

    /// <summary>By <see cref="Mnemonic"/>: instructions that the interpreter executed for a translation.</summary>
    public long[] Calls { get; } = new long[Enum.GetValues<Mnemonic>().Length];

    /// <summary>By <see cref="ExitKind"/>.</summary>
    public long[] Exits { get; } = new long[Enum.GetValues<ExitKind>().Length];

    public void Describe(StringBuilder text, int processor)
    {
        var microseconds = Stopwatch.GetElapsedTime(0, Ticks).TotalMicroseconds;
        Line($"translator of processor {processor}");
        Line($"translations    {Translations} of {Instructions} instructions and {GuestBytes} bytes in {microseconds / 1000:f1} ms, {microseconds * 1000 / Math.Max(1, Instructions):f0} ns each; {Dropped} dropped, {Replaced} of them to be made in another way, {Revived} revived; {Updated} updated in place; cache cleared {Clears} times");
        Line($"exits           {string.Join(", ", Exits.Select((n, i) => string.Create(CultureInfo.InvariantCulture, $"{(ExitKind)i} {n}")))}");
        Line($"accesses        {Crossings} over the end of a page, {Refused} without a fast path");
        Line($"by interpreter  {string.Join(", ", Calls.Select((n, i) => (Count: n, Name: (Mnemonic)i)).Where(c => c.Count > 0).OrderByDescending(c => c.Count).Take(24).Select(c => string.Create(CultureInfo.InvariantCulture, $"{c.Name} {c.Count}")))}");

        void Line(FormattableString line) => text.AppendLine(FormattableString.Invariant(line));
    }
}
