namespace Sharpvisor.Devices.Vga;

/// <summary>
/// What the ports 3B0h to 3DFh reach, by the names of IBM's manual: sequencer, CRT controller, graphics controller,
/// attribute controller, and the palette DAC. Everything else derives from these values when it is asked.
/// </summary>
internal sealed class VgaRegisters
{
    /// <summary>Indices of the sequencer.</summary>
    public const int SeqReset = 0, ClockingMode = 1, MapMask = 2, CharacterMapSelect = 3, MemoryMode = 4;

    /// <summary>Indices of the CRT controller.</summary>
    public const int HorizontalTotal = 0x00, HorizontalDisplayEnd = 0x01, VerticalTotal = 0x06, Overflow = 0x07, PresetRowScan = 0x08,
        MaximumScanLine = 0x09, CursorStart = 0x0A, CursorEnd = 0x0B, StartAddressHigh = 0x0C, StartAddressLow = 0x0D,
        CursorLocationHigh = 0x0E, CursorLocationLow = 0x0F, VerticalRetraceStart = 0x10, VerticalRetraceEnd = 0x11,
        VerticalDisplayEnd = 0x12, Offset = 0x13, UnderlineLocation = 0x14, CrtcMode = 0x17, LineCompare = 0x18;

    /// <summary>Indices of the graphics controller.</summary>
    public const int SetReset = 0, EnableSetReset = 1, ColorCompare = 2, DataRotate = 3, ReadMapSelect = 4, GraphicsMode = 5,
        Miscellaneous = 6, ColorDontCare = 7, BitMask = 8;

    /// <summary>Indices of the attribute controller behind its 16 palette registers.</summary>
    public const int AttributeMode = 0x10, Overscan = 0x11, ColorPlaneEnable = 0x12, HorizontalPanning = 0x13, ColorSelect = 0x14;

    private const byte PaletteAddressSource = 0x20;

    public readonly byte[] Sequencer = new byte[8];
    public readonly byte[] Crtc = new byte[0x19];
    public readonly byte[] Graphics = new byte[9];
    public readonly byte[] Attribute = new byte[0x15];

    public byte MiscOutput { get; set; }

    public byte FeatureControl { get; set; }

    /// <summary>The attribute controller's index with bit 5, by which the processor takes the palette away from the screen.</summary>
    public byte AttributeIndex { get; set; }

    public VgaDac Dac { get; } = new();

    /// <summary>Graphics rather than characters (graphics controller, miscellaneous, bit 0).</summary>
    public bool IsGraphics => (Graphics[Miscellaneous] & 1) != 0;

    /// <summary>There is a picture: the CRT controller runs, the sequencer too, and the palette belongs to the screen.</summary>
    public bool IsDisplaying => HasSync && (Sequencer[SeqReset] & 3) == 3 && (Sequencer[ClockingMode] & 0x20) == 0
        && (AttributeIndex & PaletteAddressSource) != 0;

    /// <summary>The CRT controller's synchronisation signals are on: somebody has set a mode since power-on.</summary>
    public bool HasSync => (Crtc[CrtcMode] & 0x80) != 0;

    /// <summary>Dots of a character cell: 9, or 8.</summary>
    public int DotsPerCharacter => (Sequencer[ClockingMode] & 1) != 0 ? 8 : 9;

    /// <summary>Each dot is two of the dot clock: modes with 320 pixels or 40 characters.</summary>
    public bool IsDotClockHalved => (Sequencer[ClockingMode] & 8) != 0;

    /// <summary>Character clocks that are displayed in a line.</summary>
    public int DisplayedCharacters => Crtc[HorizontalDisplayEnd] + 1;

    /// <summary>Scan lines that are displayed.</summary>
    public int DisplayedLines => (Crtc[VerticalDisplayEnd] | ((Crtc[Overflow] & 0x02) << 7) | ((Crtc[Overflow] & 0x40) << 3)) + 1;

    public int TotalLines => (Crtc[VerticalTotal] | ((Crtc[Overflow] & 0x01) << 8) | ((Crtc[Overflow] & 0x20) << 4)) + 2;

    public int RetraceStartLine => Crtc[VerticalRetraceStart] | ((Crtc[Overflow] & 0x04) << 6) | ((Crtc[Overflow] & 0x80) << 2);

    /// <summary>The scan line behind which the screen starts again at address 0.</summary>
    public int LineCompareLine => Crtc[LineCompare] | ((Crtc[Overflow] & 0x10) << 4) | ((Crtc[MaximumScanLine] & 0x40) << 3);

    /// <summary>Scan lines of a character, or how often a line of pixels is repeated.</summary>
    public int LinesPerRow => (Crtc[MaximumScanLine] & 0x1F) + 1;

    public bool IsDoubleScan => (Crtc[MaximumScanLine] & 0x80) != 0;

    /// <summary>The first address that is displayed, in units of four bytes.</summary>
    public int StartAddress => (Crtc[StartAddressHigh] << 8) | Crtc[StartAddressLow];

    public int CursorLocation => (Crtc[CursorLocationHigh] << 8) | Crtc[CursorLocationLow];

    public void Reset()
    {
        Array.Clear(Sequencer);
        Array.Clear(Crtc);
        Array.Clear(Graphics);
        Array.Clear(Attribute);
        MiscOutput = FeatureControl = AttributeIndex = 0;
        Dac.Reset();
    }

    /// <summary>The DAC's input for each of the 16 colours of a mode that goes through the attribute controller's palette.</summary>
    public void GetColors(Span<uint> colors)
    {
        for (var i = 0; i < 16; i++)
        {
            var color = Attribute[i & Attribute[ColorPlaneEnable] & 0x0F] & 0x3F;
            if ((Attribute[AttributeMode] & 0x80) != 0)
                color = (color & 0x0F) | ((Attribute[ColorSelect] & 0x03) << 4);
            colors[i] = Dac[color | ((Attribute[ColorSelect] & 0x0C) << 4)];
        }
    }
}
