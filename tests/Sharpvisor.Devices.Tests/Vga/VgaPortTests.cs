using Sharpvisor.Devices.Vga;

namespace Sharpvisor.Devices.Tests.Vga;

/// <summary>Registers as programs read them back.</summary>
public sealed class VgaPortTests : IDisposable
{
    private readonly VgaBench _vga = new();

    public VgaPortTests() => _vga.SetTextMode();

    public void Dispose() => _vga.Dispose();

    [Fact]
    public void The_attribute_flip_flop_starts_anew_with_a_read_of_the_status()
    {
        _vga.In(0x3DA);
        _vga.Out(0x3C0, 0x01);
        Assert.Equal(0x01, _vga.In(0x3C1));
        _vga.In(0x3DA);
        _vga.Out(0x3C0, 0x02); // an index again
        _vga.Out(0x3C0, 0x2B);
        _vga.Out(0x3C0, 0x22); // an index
        Assert.Equal(0x2B, _vga.In(0x3C1));
        _vga.In(0x3DA);
        Assert.Equal(0x22, _vga.In(0x3C0));
    }

    [Fact]
    public void The_DAC_is_written_and_read_color_by_color()
    {
        _vga.Out(0x3C8, 7);
        foreach (var value in new byte[] { 1, 2, 0xFF, 4, 5 })
            _vga.Out(0x3C9, value);
        Assert.Equal(8, _vga.In(0x3C8));
        Assert.Equal(0, _vga.In(0x3C7));
        _vga.Out(0x3C7, 7);
        Assert.Equal(3, _vga.In(0x3C7));
        Assert.Equal([1, 2, 0x3F, 0, 0], new[] { _vga.In(0x3C9), _vga.In(0x3C9), _vga.In(0x3C9), _vga.In(0x3C9), _vga.In(0x3C9) });
    }

    [Fact]
    public void The_retrace_end_register_protects_the_timing()
    {
        _vga.Crtc(0x11, 0x8E);
        _vga.Crtc(0x00, 0x11);
        _vga.Crtc(0x07, 0x00);
        Assert.Equal(0x5F, Read(0x00));
        Assert.Equal(0x0F, Read(0x07)); // but for line compare
        _vga.Crtc(0x0E, 0x12);
        Assert.Equal(0x12, Read(0x0E));
        _vga.Crtc(0x11, 0x0E);
        _vga.Crtc(0x00, 0x11);
        Assert.Equal(0x11, Read(0x00));

        byte Read(byte index)
        {
            _vga.Out(0x3D4, index);
            return _vga.In(0x3D5);
        }
    }

    [Fact]
    public void A_word_sets_index_and_register()
    {
        _vga.Adapter.Ports.Write(0x3CE - StandardVga.PortBase, 2, 0xA508);
        Assert.Equal(0xA508u, _vga.Adapter.Ports.Read(0x3CE - StandardVga.PortBase, 2));
    }

    [Fact]
    public void Monochrome_addresses_answer_instead_of_the_color_ones()
    {
        _vga.Out(0x3D4, 0x0F);
        Assert.Equal(0x0F, _vga.In(0x3D4));
        Assert.Equal(0xFF, _vga.In(0x3B4));
        _vga.Out(0x3C2, 0x66);
        Assert.Equal(0x66, _vga.In(0x3CC));
        Assert.Equal(0xFF, _vga.In(0x3D4));
        Assert.Equal(0x0F, _vga.In(0x3B4));
        Assert.NotEqual(0xFF, _vga.In(0x3BA));
    }

    [Fact]
    public void Reserved_bits_read_zero()
    {
        _vga.Sequencer(3, 0xFF);
        Assert.Equal(0x3F, _vga.In(0x3C5));
        _vga.Graphics(5, 0xFF);
        Assert.Equal(0x7B, _vga.In(0x3CF));
        _vga.Out(0x3CE, 0x0C);
        Assert.Equal(0, _vga.In(0x3CF));
    }

    [Fact]
    public void The_beam_moves_with_the_clock()
    {
        // Mode 3: 100 characters of 9 dots a line, 80 of them displayed; 449 lines, 400 displayed, retrace at 412 and 413.
        const long lineNs = 900L * 1_000_000_000 / 28_322_000;
        Assert.Equal(0x00, Status(0, 0));
        Assert.Equal(0x01, Status(0, lineNs * 9 / 10));
        Assert.Equal(0x00, Status(399, 0));
        Assert.Equal(0x01, Status(400, 0));
        Assert.Equal(0x01, Status(411, 0));
        Assert.Equal(0x09, Status(412, 0));
        Assert.Equal(0x09, Status(413, lineNs - 1));
        Assert.Equal(0x01, Status(414, 0));
        Assert.Equal(0x00, Status(449, 0));

        byte Status(long line, long ns)
        {
            _vga.Clock.Advance((line * lineNs) + ns - _vga.Clock.NowNs);
            return _vga.In(0x3DA);
        }
    }

    [Fact]
    public void A_retrace_comes_whatever_the_registers_say()
    {
        for (var index = 0; index < 0x19; index++)
            _vga.Crtc(index, 0);
        AssertRetraceComes();
        _vga.Crtc(0x10, 0xFF);
        _vga.Crtc(0x07, 0x84);
        AssertRetraceComes();
        _vga.Display(1, 800);
        _vga.Display(2, 600);
        _vga.Display(3, 32);
        _vga.Display(4, 0x41);
        AssertRetraceComes();
    }

    private void AssertRetraceComes()
    {
        var values = new HashSet<int>();
        for (var i = 0; i < 20_000; i++)
        {
            _vga.Clock.Advance(1_000);
            values.Add(_vga.In(0x3DA) & 8);
        }

        Assert.Equal(2, values.Count);
    }
}
