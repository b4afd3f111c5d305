using static Sharpvisor.Devices.Vga.VgaRegisters;

namespace Sharpvisor.Devices.Vga;

/// <summary>
/// The CRT controller's walk over the screen, line by line from the top: which address in video memory a line starts at,
/// and which line of its row of characters or pixels it is. Addresses are in units of four bytes.
/// </summary>
internal struct ScanLines
{
    private readonly int _lines, _lineCompare, _rowStep, _lastOfRow;
    private readonly bool _isDoubleScan, _resetsPanning;
    private readonly int _bytePanning;

    public ScanLines(VgaRegisters registers, BochsDisplay display)
    {
        _lines = display.IsEnabled ? display.Height : registers.DisplayedLines;
        _lineCompare = registers.LineCompareLine;
        _rowStep = display.IsEnabled ? display.Pitch / 4 : registers.Crtc[Offset] * 2;
        _lastOfRow = registers.LinesPerRow - 1;
        _isDoubleScan = registers.IsDoubleScan;
        _resetsPanning = (registers.Attribute[AttributeMode] & 0x20) != 0;
        _bytePanning = (registers.Crtc[PresetRowScan] >> 5) & 3;
        RowAddress = display.IsEnabled ? (int)(display.Start / 4) : registers.StartAddress;
        RowScan = registers.Crtc[PresetRowScan] & 0x1F;
        IsPanned = true;
        Line = -1;
    }

    /// <summary>From 0 at the top of the screen.</summary>
    public int Line { get; private set; }

    /// <summary>Which line of its row this is, from 0.</summary>
    public int RowScan { get; private set; }

    /// <summary>This line is the one before once more (double scan).</summary>
    public bool IsRepeated { get; private set; }

    /// <summary>Pixel panning applies: below a split it can be off.</summary>
    public bool IsPanned { get; private set; }

    /// <summary>The address of the row's first character or group of eight pixels.</summary>
    public readonly int Address => RowAddress + (IsPanned ? _bytePanning : 0);

    private int RowAddress { get; set; }

    /// <summary>Goes to the next line; false behind the last one.</summary>
    public bool Next()
    {
        if (Line >= 0)
            Advance();
        return ++Line < _lines;
    }

    private void Advance()
    {
        if (Line == _lineCompare)
        {
            RowAddress = RowScan = 0;
            IsRepeated = false;
            if (_resetsPanning)
                IsPanned = false;
            return;
        }

        if (_isDoubleScan && !IsRepeated)
        {
            IsRepeated = true;
            return;
        }

        IsRepeated = false;
        if (RowScan == _lastOfRow)
        {
            RowScan = 0;
            RowAddress += _rowStep;
        }
        else
        {
            RowScan = (RowScan + 1) & 0x1F;
        }
    }
}
