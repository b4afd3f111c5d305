using static Sharpvisor.Devices.Vga.VgaRegisters;

namespace Sharpvisor.Devices.Vga;

/// <summary>Where the beam is: it moves with the machine's clock, so that what waits for a retrace waits as long as on hardware.</summary>
internal readonly record struct VgaTiming
{
    // The frequencies that bits 3:2 of the miscellaneous output register choose; the last two lead to nothing on most boards.
    private static readonly int[] DotClocks = [25_175_000, 28_322_000, 25_175_000, 25_175_000];

    private const long NsPerSecond = 1_000_000_000;
    private const int BlinkFrames = 16;

    public required long LineNs { get; init; }

    /// <summary>The part of a line, from its start, in which dots are displayed.</summary>
    public required long DisplayedNs { get; init; }

    public required int Lines { get; init; }

    public required int DisplayedLines { get; init; }

    public required int RetraceStart { get; init; }

    public required int RetraceEnd { get; init; }

    public long FrameNs => LineNs * Lines;

    /// <summary>What the CRT controller's registers say.</summary>
    public static VgaTiming Of(VgaRegisters registers)
    {
        long dots = registers.DotsPerCharacter * (registers.IsDotClockHalved ? 2 : 1);
        var total = registers.Crtc[HorizontalTotal] + 5;
        var displayed = Math.Min(registers.DisplayedCharacters, total - 1);
        var clock = DotClocks[(registers.MiscOutput >> 2) & 3];
        var lines = registers.TotalLines;
        var start = registers.RetraceStartLine;
        // A retrace that the registers put out of the frame never comes on hardware; a guest that waits for it would hang.
        if (start >= lines)
            start = lines - 1;
        // Of its end the register has the low four bits.
        var length = (registers.Crtc[VerticalRetraceEnd] - start) & 15;
        return new VgaTiming
        {
            LineNs = total * dots * NsPerSecond / clock,
            DisplayedNs = displayed * dots * NsPerSecond / clock,
            Lines = lines,
            DisplayedLines = Math.Min(registers.DisplayedLines, lines),
            RetraceStart = start,
            RetraceEnd = Math.Min(start + Math.Max(length, 1), lines),
        };
    }

    /// <summary>60 frames a second of a mode whose timing no register describes.</summary>
    public static VgaTiming Of(int height)
    {
        var lines = height + Math.Max(8, height / 20);
        var line = Math.Max(5, NsPerSecond / 60 / lines);
        return new VgaTiming
        {
            LineNs = line,
            DisplayedNs = line * 4 / 5,
            Lines = lines,
            DisplayedLines = height,
            RetraceStart = height + 3,
            RetraceEnd = height + 6,
        };
    }

    /// <summary>Bits 3 (vertical retrace) and 0 (nothing is displayed just now) of input status 1.</summary>
    public byte Status(long nowNs)
    {
        var inFrame = nowNs % FrameNs;
        var line = (int)(inFrame / LineNs);
        var isRetrace = line >= RetraceStart && line < RetraceEnd;
        var isDisplayed = line < DisplayedLines && inFrame % LineNs < DisplayedNs;
        return (byte)((isRetrace ? 8 : 0) | (isDisplayed ? 0 : 1));
    }

    /// <summary>The cursor blinks with a period of 16 frames.</summary>
    public bool IsCursorOn(long nowNs) => nowNs / FrameNs % BlinkFrames < BlinkFrames / 2;

    /// <summary>Blinking characters do at half of that rate.</summary>
    public bool IsBlinkOn(long nowNs) => nowNs / FrameNs % (2 * BlinkFrames) < BlinkFrames;
}
