namespace Sharpvisor.Cpu.Translator;

/// <summary>Counters of a translator.</summary>
internal sealed class JitStatistics
{
    public long Translations { get; set; }

    public long Instructions { get; set; }

    public long Dropped { get; set; }

    public int Clears { get; set; }

    /// <summary>Accesses that ran over the end of a page, or whose group did.</summary>
    public long Crossings { get; set; }

    /// <summary>Accesses that may not have a fast path: devices, code, watched and clean pages.</summary>
    public long Refused { get; set; }

    /// <summary>By <see cref="ExitKind"/>.</summary>
    public long[] Exits { get; } = new long[16];
}
