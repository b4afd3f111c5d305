using System.Buffers.Binary;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Vga;

/// <summary>
/// What a VGA BIOS does at its start, for a boot without firmware: mode 3, 80 by 25 characters of 9 by 16 dots, with the
/// register values of IBM's mode table. The font is the one that the option ROM has for that purpose.
/// </summary>
internal static class TextModeSetup
{
    private const int FontHeight = 16, FontSize = 256 * FontHeight, GlyphSpace = 32;
    private const byte ColorPorts400Lines = 0x67, PaletteOn = 0x20;
    private const ushort Blank = 0x0720; // a space, light grey on black

    private static readonly byte[] Sequencer = [0x03, 0x00, 0x03, 0x00, 0x02];

    private static readonly byte[] Crtc =
    [
        0x5F, 0x4F, 0x50, 0x82, 0x55, 0x81, 0xBF, 0x1F, 0x00, 0x4F, 0x0D, 0x0E, 0x00, 0x00, 0x00, 0x00,
        0x9C, 0x8E, 0x8F, 0x28, 0x1F, 0x96, 0xB9, 0xA3, 0xFF,
    ];

    private static readonly byte[] Graphics = [0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0E, 0x00, 0xFF];

    private static readonly byte[] Attribute =
    [
        0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F,
        0x0C, 0x00, 0x0F, 0x08, 0x00,
    ];

    /// <summary>The first characters of every PC font of this height: nothing, and a face with its mouth.</summary>
    private static ReadOnlySpan<byte> FontStart =>
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0x00, 0x00, 0x7E, 0x81, 0xA5, 0x81, 0x81, 0xBD, 0x99, 0x81, 0x81, 0x7E, 0x00, 0x00, 0x00, 0x00,
    ];

    public static void Apply(VgaRegisters registers, MemoryRegion memory, ReadOnlySpan<byte> rom)
    {
        registers.MiscOutput = ColorPorts400Lines;
        Sequencer.CopyTo(registers.Sequencer, 0);
        Crtc.CopyTo(registers.Crtc, 0);
        Graphics.CopyTo(registers.Graphics, 0);
        Attribute.CopyTo(registers.Attribute, 0);
        registers.AttributeIndex = PaletteOn;
        SetColors(registers.Dac);
        for (var i = 0; i < 0x4000; i++)
            BinaryPrimitives.WriteUInt16LittleEndian(memory.Bytes((ulong)i * 4, 2), Blank);
        LoadFont(memory, rom);
    }

    /// <summary>The 64 colours of an EGA: two bits of each primary, the second of a third of the brightness.</summary>
    private static void SetColors(VgaDac dac)
    {
        dac.WriteIndex = 0;
        for (var i = 0; i < 64; i++)
        {
            dac.WriteData(Level(i, 0x04, 0x20));
            dac.WriteData(Level(i, 0x02, 0x10));
            dac.WriteData(Level(i, 0x01, 0x08));
        }

        static byte Level(int color, int strong, int weak) => (byte)(((color & strong) != 0 ? 0x2A : 0) + ((color & weak) != 0 ? 0x15 : 0));
    }

    private static void LoadFont(MemoryRegion memory, ReadOnlySpan<byte> rom)
    {
        var start = rom.IndexOf(FontStart);
        if (start < 0 || start + FontSize > rom.Length)
            return;
        for (var i = 0; i < FontSize; i++)
            memory.Bytes((ulong)((((i / FontHeight) * GlyphSpace) + (i % FontHeight)) * 4) + 2, 1)[0] = rom[start + i];
    }
}
