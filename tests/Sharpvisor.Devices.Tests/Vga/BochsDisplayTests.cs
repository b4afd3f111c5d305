using System.Buffers.Binary;
using System.Diagnostics;
using Sharpvisor.Core.Buses;

namespace Sharpvisor.Devices.Tests.Vga;

public sealed class BochsDisplayTests : IDisposable
{
    private const int Id = 0, XRes = 1, YRes = 2, Bpp = 3, Enable = 4, Bank = 5, VirtualWidth = 6, VirtualHeight = 7, XOffset = 8, YOffset = 9, Memory64K = 10;
    private const ushort On = 0x41, KeepMemory = 0x80;

    private readonly VgaBench _vga = new();

    public void Dispose() => _vga.Dispose();

    private IBusDevice FrameBuffer => _vga.Adapter.Bars.Single(b => b.Offset == 0x10).Device;

    private IBusDevice Registers => _vga.Adapter.Bars.Single(b => b.Offset == 0x18).Device;

    [Fact]
    public void It_says_what_it_is_and_can()
    {
        Assert.Equal(0xB0C5, _vga.Display(Id));
        Assert.Equal(256, _vga.Display(Memory64K));
        _vga.Display(Id, 0xB0C3);
        Assert.Equal(0xB0C3, _vga.Display(Id));
        _vga.Display(Id, 0x1234);
        Assert.Equal(0xB0C3, _vga.Display(Id));
        _vga.Display(Enable, 0x02);
        Assert.Equal((16_000, 12_000, 32), (_vga.Display(XRes), _vga.Display(YRes), _vga.Display(Bpp)));
        Assert.Equal([16UL << 20, 0x1000], _vga.Adapter.Bars.Select(b => b.Size));
    }

    [Theory]
    [InlineData(15, 0x7C1Fu, 0xFF00FFu)]
    [InlineData(16, 0x07E0u, 0x00FF00u)]
    [InlineData(16, 0x8410u, 0x848284u)]
    [InlineData(24, 0x123456u, 0x123456u)]
    [InlineData(32, 0xFF123456u, 0x123456u)]
    [InlineData(8, 0x15u, 0x005500u)]
    public void Pixels_of_every_depth(int depth, uint value, uint expected)
    {
        SetMode(104, 50, depth);
        _vga.Color(0x15, 0, 0x15, 0);
        var bytes = (depth + 7) / 8;
        FrameBuffer.Write((uint)(((104 * 3) + 5) * bytes), bytes == 3 ? 4 : bytes, value);
        _vga.Render();
        Assert.Equal((104, 50), (_vga.Picture.Width, _vga.Picture.Height));
        Assert.Equal(expected, _vga.Pixel(5, 3));
        Assert.Equal(0u, _vga.Pixel(4, 3));
        Assert.Null(_vga.Adapter.ReadText());
    }

    [Fact]
    public void Four_bits_are_planar()
    {
        _vga.SetMode12();
        _vga.SetNumberedColors();
        SetMode(800, 600, 4);
        _vga.Sequencer(4, 0x06);
        _vga.Poke(0xA0000 + 100, 0x40);
        _vga.Render();
        Assert.Equal((800, 600), (_vga.Picture.Width, _vga.Picture.Height));
        Assert.Equal(VgaBench.Numbered(15), _vga.Pixel(1, 1));
        _vga.Display(YOffset, 1);
        _vga.Display(XOffset, 0);
        _vga.Render();
        Assert.Equal(VgaBench.Numbered(15), _vga.Pixel(1, 0));
    }

    [Fact]
    public void A_larger_virtual_screen_is_panned()
    {
        SetMode(640, 480, 32);
        _vga.Display(VirtualWidth, 800);
        Assert.Equal((16 << 20) / (800 * 4), _vga.Display(VirtualHeight));
        FrameBuffer.Write((((800 * 20) + 10) * 4), 4, 0xABCDEF);
        _vga.Display(XOffset, 10);
        _vga.Display(YOffset, 20);
        _vga.Render();
        Assert.Equal(0xABCDEFu, _vga.Pixel(0, 0));
    }

    [Fact]
    public void Values_that_do_not_fit_are_changed()
    {
        SetMode(1023, 65_535, 7);
        Assert.Equal((1016, 8), (_vga.Display(XRes), _vga.Display(Bpp)));
        Assert.Equal(12_000, _vga.Display(YRes)); // 16,512 lines would fit in memory
        _vga.Display(Bpp, 32);
        Assert.Equal((16 << 20) / (1016 * 4), _vga.Display(YRes));
        _vga.Display(XRes, 0);
        _vga.Display(VirtualWidth, 65_535);
        Assert.Equal((8, 16_000), (_vga.Display(XRes), _vga.Display(VirtualWidth)));
        _vga.Display(YOffset, 65_535);
        Assert.Equal(0, _vga.Display(YOffset));
        _vga.Render();
    }

    [Fact]
    public void Enabling_clears_memory_unless_told_not_to()
    {
        FrameBuffer.Write(1000, 4, 0x11223344);
        SetMode(640, 480, 32, On | KeepMemory);
        Assert.Equal(0x11223344u, (uint)FrameBuffer.Read(1000, 4));
        _vga.Display(Enable, 0);
        SetMode(640, 480, 32);
        Assert.Equal(0u, (uint)FrameBuffer.Read(1000, 4));
    }

    [Fact]
    public void The_window_shows_banks_of_memory()
    {
        SetMode(1024, 768, 8);
        _vga.Display(Bank, 3);
        _vga.Poke(0xA0000 + 17, 0x99);
        Assert.Equal(0x99, (byte)FrameBuffer.Read(0x30000 + 17, 1));
        Assert.True(_vga.Memory.TryRead<byte>(0xA0000 + 17, out var mapped)); // at the speed of memory
        Assert.Equal(0x99, mapped);
        _vga.Display(Bank, 0xFFFF);
        _vga.Poke(0xAFFFF, 0x77);
        Assert.Equal(0x77, (byte)FrameBuffer.Read((16 << 20) - 1, 1));
    }

    [Fact]
    public void Eight_bits_a_color()
    {
        SetMode(640, 480, 8, On | 0x20);
        _vga.Color(0, 0x81, 0x02, 0xFF);
        _vga.Render();
        Assert.Equal(0x8102FFu, _vga.Pixel(0, 0));
        _vga.Out(0x3C7, 0);
        Assert.Equal(0x81, _vga.In(0x3C9));
    }

    [Fact]
    public void Registers_lie_in_memory_as_well()
    {
        Assert.Equal(0xB0C5u, Registers.Read(0x500, 2));
        Registers.Write(0x502, 2, 640);
        Registers.Write(0x504, 4, 0x0020_01E0); // 480 lines, 32 bits
        Registers.Write(0x508, 2, On);
        Assert.Equal((640, 480, 32), (_vga.Display(XRes), _vga.Display(YRes), _vga.Display(Bpp)));
        Assert.Equal(8u, Registers.Read(0x600, 4));
        Assert.Equal(0x1E1E1E1Eu, Registers.Read(0x604, 4));
        Registers.Write(0x400 + 0x0E, 2, 0x3308); // 3CEh
        Assert.Equal(0x33, _vga.In(0x3CF));
    }

    [Fact]
    public void The_EDID_is_sound()
    {
        var edid = Enumerable.Range(0, 128).Select(i => (byte)Registers.Read((uint)i, 1)).ToArray();
        Assert.Equal(0x00FFFFFFFFFFFF00UL, BinaryPrimitives.ReadUInt64LittleEndian(edid));
        Assert.Equal(0, edid.Sum(b => b) & 0xFF);
        Assert.Equal(1280, edid[56] | ((edid[58] >> 4) << 8));
        Assert.Equal(800, edid[59] | ((edid[61] >> 4) << 8));
        var pixels = (1280 + edid[57]) * (800 + edid[60]);
        Assert.InRange(BinaryPrimitives.ReadUInt16LittleEndian(edid.AsSpan(54)) * 10_000.0 / pixels, 59.5, 60.5);
    }

    [Fact]
    public void Thirty_frames_a_second_are_no_effort()
    {
        SetMode(1024, 768, 32);
        _vga.Render();
        var fastest = long.MaxValue;
        for (var i = 0; i < 10; i++)
        {
            var start = Stopwatch.GetTimestamp();
            _vga.Render();
            fastest = Math.Min(fastest, (long)Stopwatch.GetElapsedTime(start).TotalMilliseconds);
        }

        Assert.InRange(fastest, 0, 33);
    }

    private void SetMode(int width, int height, int depth, int enable = On)
    {
        _vga.Display(XRes, (ushort)width);
        _vga.Display(YRes, (ushort)height);
        _vga.Display(Bpp, (ushort)depth);
        _vga.Display(Enable, (ushort)enable);
    }
}
