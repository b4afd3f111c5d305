namespace Sharpvisor.Devices.Tests.Vga;

/// <summary>Graphics modes pixel by pixel.</summary>
public sealed class GraphicsModeTests : IDisposable
{
    private const uint Window = 0xA0000;
    private readonly VgaBench _vga = new();

    public GraphicsModeTests() => _vga.SetNumberedColors(64);

    public void Dispose() => _vga.Dispose();

    [Fact]
    public void Mode_12_has_a_bit_in_each_plane()
    {
        _vga.SetMode12();
        _vga.Graphics(5, 2);
        for (var bit = 0; bit < 8; bit++)
        {
            _vga.Graphics(8, (byte)(0x80 >> bit));
            _vga.Peek(Window + (80 * 3) + 1);
            _vga.Poke(Window + (80 * 3) + 1, (byte)(bit + 7));
        }

        _vga.Render();
        Assert.Equal((640, 480), (_vga.Picture.Width, _vga.Picture.Height));
        for (var bit = 0; bit < 8; bit++)
            Assert.Equal(VgaBench.Numbered(bit + 7), _vga.Pixel(8 + bit, 3));
        Assert.Equal(0u, _vga.Pixel(7, 3));
        Assert.Equal(0u, _vga.Pixel(8, 2));
    }

    [Fact]
    public void Colors_go_through_palette_plane_enable_and_color_select()
    {
        _vga.SetMode12();
        _vga.Poke(Window, 0xFF); // colour 15
        _vga.Attribute(15, 0x2A);
        Assert.Equal(VgaBench.Numbered(0x2A), First());
        _vga.Attribute(0x12, 0x07); // plane 3 is not shown: colour 7
        Assert.Equal(VgaBench.Numbered(7), First());
        _vga.Attribute(0x12, 0x0F);
        _vga.Attribute(0x10, 0x81); // bits 5:4 from the colour select register
        _vga.Attribute(0x14, 0x01);
        Assert.Equal(VgaBench.Numbered(0x1A), First());
        _vga.Attribute(0x10, 0x01);
        _vga.Attribute(0x14, 0x04); // bit 6
        _vga.Color(0x6A, 1, 2, 3);
        Assert.Equal(0x04080Cu, First());
        _vga.Out(0x3C6, 0x0F); // the DAC's mask
        Assert.Equal(VgaBench.Numbered(0x0A), First());

        uint First()
        {
            _vga.Render();
            return _vga.Pixel(0, 0);
        }
    }

    [Fact]
    public void Mode_13_has_a_byte_a_pixel_of_two_by_two_dots()
    {
        _vga.SetMode13();
        _vga.Poke(Window + 320 + 5, 0x21, 0x22);
        _vga.Render();
        Assert.Equal((640, 400), (_vga.Picture.Width, _vga.Picture.Height));
        Assert.Equal([0, VgaBench.Numbered(0x21), VgaBench.Numbered(0x21), VgaBench.Numbered(0x22), VgaBench.Numbered(0x22), 0], _vga.Picture.Row(2).Slice(9, 6).ToArray());
        Assert.Equal(_vga.Picture.Row(2).ToArray(), _vga.Picture.Row(3).ToArray());
        Assert.Equal(0u, _vga.Pixel(10, 4));
        _vga.Attribute(0x13, 2); // panning by a pixel
        _vga.Render();
        Assert.Equal(VgaBench.Numbered(0x21), _vga.Pixel(8, 2));
    }

    [Fact]
    public void Mode_X_flips_pages()
    {
        _vga.SetMode13();
        _vga.Sequencer(4, 0x06);
        _vga.Sequencer(2, 0x04); // plane 2: every fourth pixel from 2 on
        _vga.Poke(Window + 0x4000 + 1, 0x15);
        _vga.Sequencer(2, 0x0F);
        _vga.Crtc(0x0C, 0x40);
        _vga.Render();
        Assert.Equal(VgaBench.Numbered(0x15), _vga.Pixel(12, 0));
        Assert.Equal(0u, _vga.Pixel(10, 0));
        // A page that begins near the end goes on at the start of the 64 Ki addresses.
        _vga.Crtc(0x0C, 0xFF);
        _vga.Crtc(0x0D, 0xFF);
        _vga.Poke(Window, 0x16);
        _vga.Render();
        Assert.Equal(VgaBench.Numbered(0x16), _vga.Pixel(8, 0));
    }

    [Fact]
    public void Mode_4_has_pairs_of_bits_and_odd_lines_8_KiB_on()
    {
        _vga.SetMode4();
        _vga.Poke(0xB8000, 0b00_01_10_11, 0b11_00_00_01);
        _vga.Poke(0xBA000, 0b10_00_00_00);
        _vga.Poke(0xB8050, 0b01_00_00_00);
        _vga.Render();
        Assert.Equal((640, 400), (_vga.Picture.Width, _vga.Picture.Height));
        int[] expected = [0, 1, 2, 3, 3, 0, 0, 1];
        for (var i = 0; i < 16; i++)
            Assert.Equal(VgaBench.Numbered(expected[i / 2]), _vga.Pixel(i, 0));
        Assert.Equal(VgaBench.Numbered(2), _vga.Pixel(0, 2));
        Assert.Equal(VgaBench.Numbered(2), _vga.Pixel(1, 3));
        Assert.Equal(VgaBench.Numbered(1), _vga.Pixel(0, 4));
    }

    [Fact]
    public void Mode_6_has_a_bit_a_pixel()
    {
        _vga.SetMode6();
        _vga.Poke(0xB8000, 0b1010_0000);
        _vga.Poke(0xBA000 + 79, 0b0000_0001);
        _vga.Poke(0xB8050, 0b1000_0000);
        _vga.Render();
        Assert.Equal((640, 400), (_vga.Picture.Width, _vga.Picture.Height));
        Assert.Equal([VgaBench.Numbered(1), 0, VgaBench.Numbered(1), 0], _vga.Picture.Row(0)[..4].ToArray());
        Assert.Equal(VgaBench.Numbered(1), _vga.Pixel(639, 2));
        Assert.Equal(VgaBench.Numbered(1), _vga.Pixel(0, 4));
        Assert.Equal(0u, _vga.Pixel(0, 2));
    }

    [Fact]
    public void Mode_D_doubles_dots_and_lines()
    {
        _vga.SetModeD();
        _vga.Poke(Window + 40, 0b0100_0000);
        _vga.Render();
        Assert.Equal((640, 400), (_vga.Picture.Width, _vga.Picture.Height));
        Assert.Equal([0, 0, VgaBench.Numbered(0x3F), VgaBench.Numbered(0x3F), 0], _vga.Picture.Row(2)[..5].ToArray());
        Assert.Equal(VgaBench.Numbered(0x3F), _vga.Pixel(3, 3));
        Assert.Equal(0u, _vga.Pixel(3, 4));
    }

    [Fact]
    public void A_split_shows_the_start_of_memory_below()
    {
        _vga.SetMode12();
        _vga.Crtc(0x0C, 0x10);
        _vga.Poke(Window, 0x80);
        _vga.Crtc(0x18, 199);
        _vga.Crtc(0x07, 0x2E);
        _vga.Crtc(0x09, 0x00);
        _vga.Render();
        Assert.Equal(0u, _vga.Pixel(0, 0));
        Assert.Equal(0u, _vga.Pixel(0, 199));
        Assert.Equal(VgaBench.Numbered(15), _vga.Pixel(0, 200));
    }
}
