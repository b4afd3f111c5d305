using Sharpvisor.Core.Display;
using static Sharpvisor.Devices.Vga.VgaRegisters;

namespace Sharpvisor.Devices.Vga;

/// <summary>
/// Text modes: a cell is a character in plane 0 and its attribute in plane 1; the font lies in plane 2, 32 bytes a
/// character, eight fonts of 8 KiB of which attribute bit 3 chooses between two.
/// </summary>
internal static class TextRenderer
{
    private const int AddressMask = 0xFFFF;
    private const int FontPlane = 2, BytesPerGlyph = 32;
    private const byte Blink = 0x08, LineGraphics = 0x04;

    /// <summary>Draws the whole screen, which has the size of the mode already.</summary>
    public static void Render(VgaRegisters registers, BochsDisplay display, ReadOnlySpan<byte> memory, Framebuffer target, bool isCursorOn, bool isBlinkOn)
    {
        Span<uint> colors = stackalloc uint[16];
        registers.GetColors(colors);
        var dots = registers.DotsPerCharacter;
        var scale = registers.IsDotClockHalved ? 2 : 1;
        var columns = registers.DisplayedCharacters;
        var canBlink = (registers.Attribute[AttributeMode] & Blink) != 0;
        var hasLineGraphics = (registers.Attribute[AttributeMode] & LineGraphics) != 0;
        var underline = registers.Crtc[UnderlineLocation] & 0x1F;
        var (fontA, fontB) = Fonts(registers.Sequencer[CharacterMapSelect]);
        var cursor = Cursor.Of(registers);
        // One more character, of which panning shows a part. Where a character has 9 dots, 8 is none and 0 is one dot.
        var panning = registers.Attribute[HorizontalPanning] & 0x0F;
        panning = panning >= 8 ? 0 : panning + (dots - 8);
        var line = new uint[(columns + 1) * dots];

        var scan = new ScanLines(registers, display);
        while (scan.Next())
        {
            var row = scan.RowScan;
            for (var column = 0; column <= columns; column++)
            {
                var address = (scan.Address + column) & AddressMask;
                var character = memory[address * 4];
                var attribute = memory[(address * 4) + 1];
                var foreground = colors[attribute & 0x0F];
                var background = colors[canBlink ? (attribute >> 4) & 7 : attribute >> 4];
                uint pattern = memory[((attribute & 8) != 0 ? fontA : fontB) + (((character * BytesPerGlyph) + row) * 4) + FontPlane];
                pattern <<= 1;
                // The ninth dot is background, but for the characters that draw lines.
                if (hasLineGraphics && (character & 0xE0) == 0xC0)
                    pattern |= (pattern >> 1) & 1;
                if (row == underline && (attribute & 0x77) == 1)
                    pattern = 0x1FF;
                if (canBlink && !isBlinkOn && (attribute & 0x80) != 0)
                    pattern = 0;
                if (isCursorOn && cursor.Covers(address, row))
                    pattern = 0x1FF;
                var start = column * dots;
                for (var dot = 0; dot < dots; dot++)
                    line[start + dot] = (pattern & (0x100u >> dot)) != 0 ? foreground : background;
            }

            var pixels = target.Row(scan.Line);
            var source = line.AsSpan(scan.IsPanned ? panning : 0);
            if (scale == 1)
            {
                source[..pixels.Length].CopyTo(pixels);
                continue;
            }

            for (var x = 0; x < pixels.Length; x++)
                pixels[x] = source[x / 2];
        }
    }

    /// <summary>The cells on the screen, and the cursor whatever its blinking.</summary>
    public static TextScreen Read(VgaRegisters registers, BochsDisplay display, ReadOnlySpan<byte> memory)
    {
        var columns = registers.DisplayedCharacters;
        var cells = new List<ushort>(columns * 25);
        var cursor = Cursor.Of(registers);
        var (cursorColumn, cursorRow) = (-1, -1);
        var rows = 0;
        var scan = new ScanLines(registers, display);
        var previous = -1;
        while (scan.Next())
        {
            // Each time that the walk comes to a row, however few of its lines are seen.
            var isNew = scan.Address != previous || (scan.RowScan == 0 && !scan.IsRepeated);
            previous = scan.Address;
            if (!isNew)
                continue;
            for (var column = 0; column < columns; column++)
            {
                var address = (scan.Address + column) & AddressMask;
                cells.Add((ushort)(memory[address * 4] | (memory[(address * 4) + 1] << 8)));
                if (cursor.IsVisible && cursor.Address == address)
                    (cursorColumn, cursorRow) = (column, rows);
            }

            rows++;
        }

        return new TextScreen(columns, rows, [.. cells], cursorColumn, cursorRow);
    }

    /// <summary>The offsets of the fonts that attribute bit 3 chooses: A when it is set, B when not.</summary>
    private static (int A, int B) Fonts(byte select)
    {
        return (Offset(((select >> 2) & 3) | ((select >> 3) & 4)), Offset((select & 3) | ((select >> 2) & 4)));

        // The third bit chooses the odd ones of the eight fonts of 8 KiB.
        static int Offset(int map) => (((map & 3) << 14) | ((map & 4) << 11)) * 4;
    }

    private readonly record struct Cursor(bool IsVisible, int Address, int FirstLine, int LastLine)
    {
        public static Cursor Of(VgaRegisters registers)
        {
            var start = registers.Crtc[CursorStart];
            var end = registers.Crtc[CursorEnd];
            var (first, last) = (start & 0x1F, end & 0x1F);
            var isVisible = (start & 0x20) == 0 && first <= last && first < registers.LinesPerRow;
            return new Cursor(isVisible, (registers.CursorLocation + ((end >> 5) & 3)) & AddressMask, first, last);
        }

        public bool Covers(int address, int row) => IsVisible && address == Address && row >= FirstLine && row <= LastLine;
    }
}
