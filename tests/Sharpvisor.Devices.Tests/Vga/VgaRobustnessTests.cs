using Sharpvisor.Core.Display;
using Sharpvisor.Devices.Vga;

namespace Sharpvisor.Devices.Tests.Vga;

/// <summary>A guest may program anything: every register, size and mode survives, and so does whoever looks at the screen.</summary>
public sealed class VgaRobustnessTests : IDisposable
{
    private static readonly int[] Sizes = [1, 2, 4, 8];
    private static readonly ushort[] DisplayValues = [0, 1, 4, 7, 8, 15, 16, 24, 32, 0x41, 0xC1, 0x61, 640, 1024, 16_000, 0x7FFF, 0xFFFF];

    private readonly VgaBench _vga = new();

    public void Dispose() => _vga.Dispose();

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void Random_registers_and_pictures(int seed)
    {
        var random = new Random(seed);
        var registers = _vga.Adapter.Bars.Single(b => b.Offset == 0x18).Device;
        var picture = new Framebuffer();
        for (var round = 0; round < 60; round++)
        {
            switch (random.Next(4))
            {
                case 0:
                    _vga.SetTextMode();
                    break;
                case 1:
                    _vga.SetMode13();
                    break;
                case 2:
                    _vga.SetMode4();
                    break;
            }

            for (var i = 0; i < 60; i++)
            {
                var size = Sizes[random.Next(4)];
                var value = random.Next(4) == 0 ? ulong.MaxValue : (ulong)random.NextInt64();
                var port = (uint)random.Next(StandardVga.PortCount);
                _vga.Adapter.Ports.Write(port, size, value);
                _vga.Adapter.Ports.Read((uint)random.Next(StandardVga.PortCount), size);
                _vga.Adapter.Window.Write((uint)random.Next((int)StandardVga.WindowLength), size, value);
                _vga.Adapter.Window.Read((uint)random.Next((int)StandardVga.WindowLength), size);
                registers.Write((uint)random.Next(0x1000), size, value);
                registers.Read((uint)random.Next(0x1000), size);
                _vga.Adapter.DisplayPorts.Read((uint)random.Next(4), size);
            }

            for (var i = random.Next(8); i > 0; i--)
                _vga.Crtc(random.Next(0x19), (byte)random.Next(256));
            // Not too large a picture: drawing millions of pixels is the viewer's time.
            _vga.Display(4, 0);
            if (random.Next(2) == 0)
            {
                for (var i = 0; i < 12; i++)
                    _vga.Display(random.Next(12), DisplayValues[random.Next(DisplayValues.Length)]);
                if (_vga.Display(1) > 2000 || _vga.Display(2) > 2000)
                    _vga.Display(4, 0);
            }

            _vga.Out(0x3C0, 0x20);
            _vga.Adapter.Render(picture);
            var text = _vga.Adapter.ReadText();
            Assert.True(text is null || text.Cells.Length == text.Columns * text.Rows);
            _vga.Clock.Advance(random.Next(100_000_000));
        }

        _vga.Adapter.Reset();
        _vga.Adapter.Render(picture);
    }

    [Fact]
    public void The_largest_picture()
    {
        _vga.Display(1, 16_000);
        _vga.Display(2, 12_000);
        _vga.Display(3, 8);
        _vga.Display(4, 0xC1);
        _vga.Adapter.Render(_vga.Picture);
        Assert.Equal((16_000, (16 << 20) / 16_000), (_vga.Picture.Width, _vga.Picture.Height));
    }

    [Fact]
    public void Every_offset_takes_all_sizes()
    {
        var registers = _vga.Adapter.Bars.Single(b => b.Offset == 0x18).Device;
        foreach (var size in Sizes)
        {
            for (var offset = 0u; offset < 0x1000; offset++)
            {
                registers.Write(offset, size, ulong.MaxValue);
                registers.Read(offset, size);
            }

            for (var offset = 0u; offset < StandardVga.PortCount; offset++)
            {
                _vga.Adapter.Ports.Write(offset, size, ulong.MaxValue);
                _vga.Adapter.Ports.Read(offset, size);
            }

            for (var offset = 0u; offset < StandardVga.DisplayPortCount; offset++)
            {
                _vga.Adapter.DisplayPorts.Write(offset, size, ulong.MaxValue);
                _vga.Adapter.DisplayPorts.Read(offset, size);
            }

            // At the very end an access goes beyond the range: the bus splits it, but a device must not rely on that.
            _vga.Adapter.Window.Write((uint)StandardVga.WindowLength - 1, size, 0);
            _vga.Adapter.Window.Read((uint)StandardVga.WindowLength - 1, size);
        }
    }
}
