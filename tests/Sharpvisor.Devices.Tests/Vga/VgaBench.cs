using Sharpvisor.Core.Display;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Vga;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Vga;

/// <summary>A VGA without a machine, driven as a program drives it. Modes are set by IBM's table of register values.</summary>
internal sealed class VgaBench : IDisposable
{
    private static readonly byte[] StandardPalette = [0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F];
    private static readonly byte[] IdentityPalette = [.. Enumerable.Range(0, 16).Select(i => (byte)i)];

    private readonly GuestMemory _memory = new(1 << 20);

    public VgaBench() => Adapter = new StandardVga(_memory, Clock, []);

    public StandardVga Adapter { get; }

    public ManualClock Clock { get; } = new();

    public GuestMemory Memory => _memory;

    public Framebuffer Picture { get; } = new();

    public void Dispose() => _memory.Dispose();

    public void Out(int port, byte value) => Adapter.Ports.Write((uint)(port - StandardVga.PortBase), 1, value);

    public byte In(int port) => (byte)Adapter.Ports.Read((uint)(port - StandardVga.PortBase), 1);

    public void Sequencer(int index, byte value) => OutPair(0x3C4, index, value);

    public void Crtc(int index, byte value) => OutPair(0x3D4, index, value);

    public void Graphics(int index, byte value) => OutPair(0x3CE, index, value);

    public void Attribute(int index, byte value)
    {
        In(0x3DA);
        Out(0x3C0, (byte)index);
        Out(0x3C0, value);
        Out(0x3C0, 0x20);
    }

    public void Color(int index, byte red, byte green, byte blue)
    {
        Out(0x3C8, (byte)index);
        Out(0x3C9, red);
        Out(0x3C9, green);
        Out(0x3C9, blue);
    }

    /// <summary>Writes through the window as a processor does: by the device, or to memory where it is mapped.</summary>
    public void Poke(uint address, params ReadOnlySpan<byte> bytes)
    {
        foreach (var value in bytes)
        {
            if (!_memory.TryWrite(address, value))
                Adapter.Window.Write(address - (uint)StandardVga.WindowBase, 1, value);
            address++;
        }
    }

    public byte Peek(uint address) =>
        _memory.TryRead<byte>(address, out var value) ? value : (byte)Adapter.Window.Read(address - (uint)StandardVga.WindowBase, 1);

    public uint Pixel(int x, int y) => Picture.Row(y)[x];

    public void Render() => Adapter.Render(Picture);

    /// <summary>The VBE registers: words at 1CEh and 1CFh.</summary>
    public void Display(int index, ushort value)
    {
        Adapter.DisplayPorts.Write(0, 2, (ulong)index);
        Adapter.DisplayPorts.Write(1, 2, value);
    }

    public ushort Display(int index)
    {
        Adapter.DisplayPorts.Write(0, 2, (ulong)index);
        return (ushort)Adapter.DisplayPorts.Read(1, 2);
    }

    /// <summary>80 by 25 characters of 9 by 16 dots.</summary>
    public void SetTextMode() => SetMode(
        0x67, [0x03, 0x00, 0x03, 0x00, 0x02],
        [0x5F, 0x4F, 0x50, 0x82, 0x55, 0x81, 0xBF, 0x1F, 0x00, 0x4F, 0x0D, 0x0E, 0, 0, 0, 0, 0x9C, 0x8E, 0x8F, 0x28, 0x1F, 0x96, 0xB9, 0xA3, 0xFF],
        [0, 0, 0, 0, 0, 0x10, 0x0E, 0x00, 0xFF], [.. IdentityPalette, 0x0C, 0x00, 0x0F, 0x08, 0x00]);

    /// <summary>640 by 480 in 16 colours.</summary>
    public void SetMode12() => SetMode(
        0xE3, [0x03, 0x01, 0x0F, 0x00, 0x06],
        [0x5F, 0x4F, 0x50, 0x82, 0x54, 0x80, 0x0B, 0x3E, 0x00, 0x40, 0, 0, 0, 0, 0, 0, 0xEA, 0x8C, 0xDF, 0x28, 0x00, 0xE7, 0x04, 0xE3, 0xFF],
        [0, 0, 0, 0, 0, 0x00, 0x05, 0x0F, 0xFF], [.. IdentityPalette, 0x01, 0x00, 0x0F, 0x00, 0x00]);

    /// <summary>320 by 200 in 256 colours.</summary>
    public void SetMode13() => SetMode(
        0x63, [0x03, 0x01, 0x0F, 0x00, 0x0E],
        [0x5F, 0x4F, 0x50, 0x82, 0x54, 0x80, 0xBF, 0x1F, 0x00, 0x41, 0, 0, 0, 0, 0, 0, 0x9C, 0x8E, 0x8F, 0x28, 0x40, 0x96, 0xB9, 0xA3, 0xFF],
        [0, 0, 0, 0, 0, 0x40, 0x05, 0x0F, 0xFF], [.. IdentityPalette, 0x41, 0x00, 0x0F, 0x00, 0x00]);

    /// <summary>320 by 200 in CGA's four colours.</summary>
    public void SetMode4() => SetMode(
        0x63, [0x03, 0x09, 0x03, 0x00, 0x02],
        [0x2D, 0x27, 0x28, 0x90, 0x2B, 0x80, 0xBF, 0x1F, 0x00, 0xC1, 0, 0, 0, 0, 0, 0, 0x9C, 0x8E, 0x8F, 0x14, 0x00, 0x96, 0xB9, 0xA2, 0xFF],
        [0, 0, 0, 0, 0, 0x30, 0x0F, 0x0F, 0xFF], [.. IdentityPalette, 0x01, 0x00, 0x03, 0x00, 0x00]);

    /// <summary>640 by 200 in two colours.</summary>
    public void SetMode6() => SetMode(
        0x63, [0x03, 0x01, 0x01, 0x00, 0x06],
        [0x5F, 0x4F, 0x50, 0x82, 0x54, 0x80, 0xBF, 0x1F, 0x00, 0xC1, 0, 0, 0, 0, 0, 0, 0x9C, 0x8E, 0x8F, 0x28, 0x00, 0x96, 0xB9, 0xC2, 0xFF],
        [0, 0, 0, 0, 0, 0x00, 0x0D, 0x0F, 0xFF], [.. IdentityPalette, 0x01, 0x00, 0x01, 0x00, 0x00]);

    /// <summary>320 by 200 in 16 colours.</summary>
    public void SetModeD() => SetMode(
        0x63, [0x03, 0x09, 0x0F, 0x00, 0x06],
        [0x2D, 0x27, 0x28, 0x90, 0x2B, 0x80, 0xBF, 0x1F, 0x00, 0xC0, 0, 0, 0, 0, 0, 0, 0x9C, 0x8E, 0x8F, 0x14, 0x00, 0x96, 0xB9, 0xE3, 0xFF],
        [0, 0, 0, 0, 0, 0x00, 0x05, 0x0F, 0xFF], [.. StandardPalette, 0x01, 0x00, 0x0F, 0x00, 0x00]);

    /// <summary>Gives a character in one of the eight fonts a shape, as a BIOS does: plane 2, without odd/even addressing.</summary>
    public void Glyph(int font, byte character, params ReadOnlySpan<byte> rows)
    {
        int[] starts = [0x0000, 0x4000, 0x8000, 0xC000, 0x2000, 0x6000, 0xA000, 0xE000];
        Sequencer(2, 0x04);
        Sequencer(4, 0x07);
        Graphics(5, 0x00);
        Graphics(6, 0x04);
        Poke((uint)(0xA0000 + starts[font] + (character * 32)), rows);
        Sequencer(2, 0x03);
        Sequencer(4, 0x02);
        Graphics(5, 0x10);
        Graphics(6, 0x0E);
    }

    /// <summary>Sets the 16 colours to 0x00nn00 with nn = 4 times the number (6-bit value = number).</summary>
    public void SetNumberedColors(int count = 16)
    {
        for (var i = 0; i < count; i++)
            Color(i, 0, (byte)i, 0);
    }

    /// <summary>The pixel that a colour of <see cref="SetNumberedColors"/> is.</summary>
    public static uint Numbered(int number) => (uint)(((number << 2) | (number >> 4)) << 8);

    private void SetMode(byte misc, byte[] sequencer, byte[] crtc, byte[] graphics, byte[] attribute)
    {
        Out(0x3C2, misc);
        for (var i = 0; i < sequencer.Length; i++)
            Sequencer(i, sequencer[i]);
        Crtc(0x11, 0);
        for (var i = 0; i < crtc.Length; i++)
            Crtc(i, crtc[i]);
        for (var i = 0; i < graphics.Length; i++)
            Graphics(i, graphics[i]);
        In(0x3DA);
        for (var i = 0; i < attribute.Length; i++)
        {
            Out(0x3C0, (byte)i);
            Out(0x3C0, attribute[i]);
        }

        Out(0x3C0, 0x20);
    }

    private void OutPair(int port, int index, byte value)
    {
        Out(port, (byte)index);
        Out(port + 1, value);
    }
}
