using Sharpvisor.Core.Display;

namespace Sharpvisor.Devices.Tests.Vga;

/// <summary>Text modes dot by dot, with glyphs of the test's own.</summary>
public sealed class TextModeTests : IDisposable
{
    private const uint Text = 0xB8000;
    private readonly VgaBench _vga = new();

    public TextModeTests()
    {
        _vga.SetTextMode();
        _vga.SetNumberedColors();
        _vga.Crtc(0x0A, 0x20); // no cursor
        _vga.Glyph(0, (byte)'A', 0b1000_0001, 0b0110_0000);
        _vga.Glyph(0, 0xC4, 0xFF); // a line
        _vga.Glyph(0, 0xDB, 0xFF); // a block, of the line characters too
        _vga.Glyph(0, 0xE0, 0xFF); // not a line
    }

    public void Dispose() => _vga.Dispose();

    [Fact]
    public void A_character_has_its_dots_and_colors()
    {
        _vga.Poke(Text + 4, (byte)'A', 0x1E);
        _vga.Render();
        Assert.Equal((720, 400), (_vga.Picture.Width, _vga.Picture.Height));
        Assert.Equal("E111111E10", Dots(18, 0, 10)); // the tenth is the next cell's, black
        Assert.Equal("1EE111111", Dots(18, 1, 9));
        Assert.Equal("111111111", Dots(18, 2, 9));
        Assert.Equal("111111111", Dots(18, 15, 9));
        Assert.Equal("000000000", Dots(18, 16, 9));
    }

    [Fact]
    public void The_ninth_dot_goes_on_for_line_characters_only()
    {
        _vga.Poke(Text, 0xC4, 0x07, 0xDB, 0x07, 0xE0, 0x07);
        _vga.Render();
        Assert.Equal("777777777777777777777777770", Dots(0, 0, 27));
        _vga.Attribute(0x10, 0x08); // line graphics off
        _vga.Render();
        Assert.Equal("777777770777777770777777770", Dots(0, 0, 27));
        _vga.Sequencer(1, 0x01); // 8 dots
        _vga.Render();
        Assert.Equal(640, _vga.Picture.Width);
        Assert.Equal("7777777777777777777777770", Dots(0, 0, 25));
    }

    [Fact]
    public void Forty_columns_have_dots_of_twice_the_width()
    {
        _vga.Sequencer(1, 0x08);
        _vga.Crtc(0x11, 0);
        _vga.Crtc(0x01, 39);
        _vga.Crtc(0x13, 20);
        _vga.Poke(Text, (byte)'A', 0x07);
        _vga.Render();
        Assert.Equal(720, _vga.Picture.Width);
        Assert.Equal("770000000000007700", Dots(0, 0, 18));
    }

    [Fact]
    public void Attribute_bit_3_chooses_between_two_fonts()
    {
        _vga.Glyph(5, (byte)'A', 0b0101_0101);
        _vga.Poke(Text, (byte)'A', 0x07, (byte)'A', 0x0F);
        _vga.Sequencer(3, 0b0010_0100); // map A (bit 3 set): font 5, map B: font 0
        _vga.Render();
        Assert.Equal("700000070" + "0F0F0F0F0", Dots(0, 0, 18));
        _vga.Sequencer(3, 0b0001_0001); // the other way round
        _vga.Render();
        Assert.Equal("070707070" + "F000000F0", Dots(0, 0, 18));
    }

    [Fact]
    public void Attribute_bit_7_blinks_or_brightens()
    {
        _vga.Poke(Text, 0xDB, 0x97);
        _vga.Render();
        Assert.Equal("777777777", Dots(0, 0, 9));
        Assert.Equal("111111111", Dots(0, 1, 9));
        _vga.Clock.Advance(16 * FrameNs);
        _vga.Render();
        Assert.Equal("111111111", Dots(0, 0, 9));
        _vga.Clock.Advance(16 * FrameNs);
        _vga.Render();
        Assert.Equal("777777777", Dots(0, 0, 9));
        _vga.Attribute(0x10, 0x04); // no blinking
        _vga.Render();
        Assert.Equal("999999999", Dots(0, 1, 9));
    }

    [Fact]
    public void The_cursor_has_a_shape_and_blinks()
    {
        _vga.Poke(Text + 2, (byte)' ', 0x2C);
        _vga.Crtc(0x0F, 1);
        _vga.Crtc(0x0A, 13);
        _vga.Crtc(0x0B, 14);
        _vga.Render();
        Assert.Equal("0222222222", Dots(8, 12, 10));
        Assert.Equal("0CCCCCCCCC", Dots(8, 13, 10));
        Assert.Equal("0CCCCCCCCC", Dots(8, 14, 10));
        Assert.Equal("0222222222", Dots(8, 15, 10));
        Assert.Equal((1, 0), Cursor());
        _vga.Clock.Advance(8 * FrameNs);
        _vga.Render();
        Assert.Equal("0222222222", Dots(8, 13, 10));
        Assert.Equal((1, 0), Cursor()); // where it is does not blink
        _vga.Crtc(0x0A, 0x2D);
        Assert.Equal((-1, -1), Cursor());
        _vga.Crtc(0x0A, 15); // begins below its end
        Assert.Equal((-1, -1), Cursor());
    }

    [Fact]
    public void The_cursor_skew_moves_it_right()
    {
        _vga.Crtc(0x0A, 0);
        _vga.Crtc(0x0B, 0x4F);
        _vga.Crtc(0x0E, 0x01);
        _vga.Crtc(0x0F, 0x3E); // 318: column 78 of row 3
        Assert.Equal((0, 4), Cursor());
    }

    [Fact]
    public void Underlined_are_characters_in_blue_on_the_line_that_is_set()
    {
        _vga.Crtc(0x14, 12);
        _vga.Poke(Text, (byte)' ', 0x01, (byte)' ', 0x09, (byte)' ', 0x02);
        _vga.Render();
        Assert.Equal("111111111999999999000000000", Dots(0, 12, 27));
        Assert.Equal("000000000", Dots(0, 11, 9));
    }

    [Fact]
    public void The_start_address_scrolls_by_cells_and_the_row_scan_by_lines()
    {
        _vga.Poke(Text + (2 * 81), (byte)'A', 0x07);
        _vga.Crtc(0x0D, 80);
        _vga.Render();
        Assert.Equal("700000070", Dots(9, 0, 9));
        _vga.Crtc(0x0D, 0);
        _vga.Crtc(0x08, 5);
        _vga.Render();
        Assert.Equal("700000070", Dots(9, 11, 9));
        _vga.Crtc(0x08, 0x20); // byte panning by a cell
        _vga.Render();
        Assert.Equal("700000070", Dots(0, 16, 9));
    }

    [Theory]
    [InlineData(8, "700000070")]
    [InlineData(0, "000000700")]
    [InlineData(6, "700000000")]
    public void Panning_moves_by_dots(byte value, string expected)
    {
        _vga.Poke(Text, (byte)'A', 0x07);
        _vga.Attribute(0x13, value);
        _vga.Render();
        Assert.Equal(expected, Dots(0, 0, 9));
    }

    [Fact]
    public void Below_the_line_compare_the_screen_starts_at_0_without_panning()
    {
        _vga.Poke(Text, (byte)'A', 0x07);
        _vga.Poke(Text + 160, 0xC4, 0x07);
        _vga.Crtc(0x0D, 80);
        _vga.Attribute(0x13, 0); // by one dot
        _vga.Attribute(0x10, 0x2C); // not below the split
        SetLineCompare(99);
        _vga.Render();
        Assert.Equal("777777770", Dots(0, 0, 9));
        Assert.Equal("700000070", Dots(0, 100, 9));
        var text = _vga.Adapter.ReadText()!;
        Assert.Equal('─', text.Line(0)[0]);
        Assert.Equal('A', text.Line(7)[0]); // 100 lines are six rows and a part of one
    }

    [Fact]
    public void Double_scan_shows_each_line_twice()
    {
        _vga.Crtc(0x09, 0xC7); // eight lines, twice
        _vga.Poke(Text + 160, (byte)'A', 0x07);
        _vga.Render();
        Assert.Equal("700000070", Dots(0, 16, 9));
        Assert.Equal("700000070", Dots(0, 17, 9));
        Assert.Equal("077000000", Dots(0, 18, 9));
        Assert.Equal(25, _vga.Adapter.ReadText()!.Rows);
    }

    [Fact]
    public void Text_is_read_cell_by_cell()
    {
        for (var i = 0; i < 6; i++)
            _vga.Poke((uint)(Text + (24 * 160) + (2 * i)), (byte)"Hello!"[i], 0x1E);
        var text = _vga.Adapter.ReadText()!;
        Assert.Equal((80, 25), (text.Columns, text.Rows));
        Assert.Equal("Hello!", text.Line(24));
        Assert.Equal(0x1E48, text.Cells[24 * 80]);
        _vga.SetMode12();
        Assert.Null(_vga.Adapter.ReadText());
    }

    [Fact]
    public void A_screen_without_a_mode_is_black_and_one_in_a_mode_change_keeps_its_size()
    {
        using var fresh = new VgaBench();
        fresh.Render();
        Assert.Equal((720, 400), (fresh.Picture.Width, fresh.Picture.Height));
        Assert.Null(fresh.Adapter.ReadText());
        _vga.SetMode12();
        _vga.Poke(0xA0000, 0xFF);
        _vga.Render();
        Assert.NotEqual(0u, _vga.Pixel(0, 0));
        _vga.In(0x3DA);
        _vga.Out(0x3C0, 0); // the palette is the processor's
        _vga.Crtc(0x11, 0);
        _vga.Crtc(0x01, 3);
        _vga.Render();
        Assert.Equal((640, 480), (_vga.Picture.Width, _vga.Picture.Height));
        Assert.Equal(0u, _vga.Pixel(0, 0));
    }

    /// <summary>The frame of mode 3: 900 dots by 449 lines at 28.322 MHz.</summary>
    private static long FrameNs => 900L * 1_000_000_000 / 28_322_000 * 449;

    private (int, int) Cursor()
    {
        var text = _vga.Adapter.ReadText()!;
        return (text.CursorColumn, text.CursorRow);
    }

    private void SetLineCompare(int line)
    {
        _vga.Crtc(0x18, (byte)line);
        _vga.Crtc(0x07, 0x0F);
        _vga.Crtc(0x09, 0x0F);
    }

    /// <summary>Dots by the number of their colour, in hexadecimal.</summary>
    private string Dots(int x, int y, int count) =>
        string.Concat(Enumerable.Range(x, count).Select(i => Enumerable.Range(0, 16).First(n => VgaBench.Numbered(n) == _vga.Pixel(i, y)).ToString("X")));
}
