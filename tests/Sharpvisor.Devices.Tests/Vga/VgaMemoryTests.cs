namespace Sharpvisor.Devices.Tests.Vga;

/// <summary>The window through the graphics controller: each write mode against its definition, one address of four planes at a time.</summary>
public sealed class VgaMemoryTests : IDisposable
{
    private const uint Window = 0xA0000;
    private readonly VgaBench _vga = new();

    public VgaMemoryTests() => _vga.SetMode12();

    public void Dispose() => _vga.Dispose();

    [Fact]
    public void The_map_mask_chooses_the_planes()
    {
        SetPlanes(0, 1, 2, 3, 4);
        _vga.Sequencer(2, 0b0101);
        _vga.Poke(Window, 0xAA);
        Assert.Equal([0xAA, 2, 0xAA, 4], Planes(0));
    }

    [Theory]
    [InlineData(0x00, new byte[] { 0x5A, 0x5A, 0x5A, 0x5A })]
    [InlineData(0x08, new byte[] { 0x50, 0x08, 0x12, 0x42 })] // and
    [InlineData(0x10, new byte[] { 0xFA, 0x5E, 0x7F, 0x5B })] // or
    [InlineData(0x18, new byte[] { 0xAA, 0x56, 0x6D, 0x19 })] // xor
    public void Write_mode_0_combines_with_the_latches(byte function, byte[] expected)
    {
        SetPlanes(0, 0xF0, 0x0C, 0x37, 0x43);
        _vga.Peek(Window);
        _vga.Graphics(3, function);
        _vga.Poke(Window + 1, 0x5A);
        Assert.Equal(expected, Planes(1));
    }

    [Fact]
    public void Write_mode_0_rotates_and_masks_bits()
    {
        SetPlanes(0, 0xFF, 0x00, 0xFF, 0x00);
        _vga.Peek(Window);
        _vga.Graphics(3, 3);
        _vga.Graphics(8, 0x3C);
        _vga.Poke(Window, 0b1000_0101); // rotated right by 3: 1011_0000
        Assert.Equal([0b1111_0011, 0b0011_0000, 0b1111_0011, 0b0011_0000], Planes(0));
    }

    [Fact]
    public void Write_mode_0_takes_set_reset_for_enabled_planes()
    {
        _vga.Graphics(0, 0b0110);
        _vga.Graphics(1, 0b0011);
        _vga.Poke(Window, 0x81);
        Assert.Equal([0x00, 0xFF, 0x81, 0x81], Planes(0));
    }

    [Fact]
    public void Write_mode_1_copies_the_latches()
    {
        SetPlanes(7, 0x11, 0x22, 0x33, 0x44);
        _vga.Graphics(8, 0x0F); // the bit mask doesn't matter
        _vga.Graphics(5, 1);
        _vga.Peek(Window + 7);
        _vga.Poke(Window + 9, 0xFF);
        _vga.Graphics(5, 0);
        Assert.Equal([0x11, 0x22, 0x33, 0x44], Planes(9));
    }

    [Fact]
    public void Write_mode_2_writes_a_color_where_the_bit_mask_is_set()
    {
        SetPlanes(0, 0xFF, 0x00, 0xAA, 0x55);
        _vga.Peek(Window);
        _vga.Graphics(5, 2);
        _vga.Graphics(8, 0xF0);
        _vga.Poke(Window, 0b1010);
        Assert.Equal([0x0F, 0xF0, 0x0A, 0xF5], Planes(0));
    }

    [Fact]
    public void Write_mode_3_takes_the_data_for_a_mask()
    {
        SetPlanes(0, 0x00, 0xFF, 0x0F, 0xF0);
        _vga.Peek(Window);
        _vga.Graphics(5, 3);
        _vga.Graphics(0, 0b0101);
        _vga.Graphics(3, 1);
        _vga.Graphics(8, 0x7E);
        _vga.Poke(Window, 0b0011_1001); // rotated right by 1: 1001_1100, masked: 0001_1100
        Assert.Equal([0x1C, 0xE3, 0x1F, 0xE0], Planes(0));
    }

    [Theory]
    [InlineData(0b0101, 0b1111, 0b1000_1000)]
    [InlineData(0b0101, 0b0001, 0b1010_1010)]
    [InlineData(0b0101, 0b0000, 0b1111_1111)]
    public void Read_mode_1_compares_colors(byte color, byte care, byte expected)
    {
        SetPlanes(0, 0b1010_1010, 0b0011_0011, 0b1100_1100, 0);
        _vga.Graphics(5, 8);
        _vga.Graphics(2, color);
        _vga.Graphics(7, care);
        Assert.Equal(expected, _vga.Peek(Window));
    }

    [Fact]
    public void Chain_4_leads_to_bytes_side_by_side()
    {
        _vga.SetMode13();
        _vga.Poke(Window + 5, 0x12);
        Assert.True(_vga.Memory.TryRead<byte>(Window + 5, out var direct)); // mapped as memory
        Assert.Equal(0x12, direct);
        _vga.Sequencer(2, 0x0E); // no longer a plain mapping
        Assert.False(_vga.Memory.TryRead<byte>(Window + 5, out _));
        _vga.Poke(Window + 4, 0x77, 0x88);
        Assert.Equal(0, _vga.Peek(Window + 4));
        Assert.Equal(0x88, _vga.Peek(Window + 5));
        // The same memory unchained (mode X): pixel 5 is address 1 of plane 1.
        _vga.Sequencer(4, 0x06);
        Assert.Equal([0x00, 0x88, 0x00, 0x00], Planes(1));
    }

    [Fact]
    public void Odd_even_puts_characters_and_attributes_in_two_planes()
    {
        _vga.SetTextMode();
        _vga.Poke(0xB8000, (byte)'A', 0x1F, (byte)'B', 0x2E);
        Assert.Equal([(byte)'A', 0x1F], [_vga.Peek(0xB8000), _vga.Peek(0xB8001)]);
        _vga.SetMode12();
        Assert.Equal([(byte)'A', 0x1F, 0x00, 0x00], Planes(0));
        Assert.Equal([(byte)'B', 0x2E, 0x00, 0x00], Planes(1));
    }

    [Theory]
    [InlineData(0, 0xA0000u, 0x20000u)]
    [InlineData(1, 0xA0000u, 0x10000u)]
    [InlineData(2, 0xB0000u, 0x08000u)]
    [InlineData(3, 0xB8000u, 0x08000u)]
    public void The_window_has_four_places(byte mode, uint start, uint length)
    {
        _vga.Graphics(6, (byte)((mode << 2) | 1));
        foreach (var address in new[] { 0xA0000u, 0xAFFFFu, 0xB0000u, 0xB7FFFu, 0xB8000u, 0xBFFFFu })
        {
            _vga.Poke(address, 0x5A);
            var isInside = address - start < length;
            Assert.Equal(isInside ? 0x5A : 0xFF, _vga.Peek(address));
        }
    }

    [Fact]
    public void Wide_accesses_are_bytes_in_order()
    {
        _vga.Adapter.Window.Write(0, 8, 0x0807_0605_0403_0201);
        Assert.Equal(0x0504_0302u, _vga.Adapter.Window.Read(1, 4));
        Assert.Equal([8, 8, 8, 8], Planes(7));
    }

    private void SetPlanes(uint offset, params byte[] values)
    {
        for (var plane = 0; plane < 4; plane++)
        {
            _vga.Sequencer(2, (byte)(1 << plane));
            _vga.Poke(Window + offset, values[plane]);
        }

        _vga.Sequencer(2, 0x0F);
    }

    private byte[] Planes(uint offset)
    {
        _vga.Graphics(5, 0);
        var values = new byte[4];
        for (var plane = 0; plane < 4; plane++)
        {
            _vga.Graphics(4, (byte)plane);
            values[plane] = _vga.Peek(Window + offset);
        }

        _vga.Graphics(4, 0);
        return values;
    }
}
