using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Sharpvisor.Core.Display;

namespace Sharpvisor.Devices.Vga;

/// <summary>Bochs' linear modes: a pixel is an index into the palette or a colour in 15, 16, 24 or 32 bits.</summary>
internal static class LinearRenderer
{
    /// <summary>Draws the whole screen, which has the size of the mode already.</summary>
    public static void Render(BochsDisplay display, VgaDac dac, ReadOnlySpan<byte> memory, Framebuffer target)
    {
        var bytes = (display.BitsPerPixel + 7) / 8;
        var start = display.Start;
        for (var y = 0; y < target.Height; y++)
        {
            var row = target.Row(y);
            var source = memory.Slice((int)start, row.Length * bytes);
            start += display.Pitch;
            switch (display.BitsPerPixel)
            {
                case 8:
                    for (var x = 0; x < row.Length; x++)
                        row[x] = dac[source[x]];
                    break;
                case 15:
                    var pixels15 = MemoryMarshal.Cast<byte, ushort>(source);
                    for (var x = 0; x < row.Length; x++)
                        row[x] = (Five(pixels15[x] >> 10) << 16) | (Five(pixels15[x] >> 5) << 8) | Five(pixels15[x]);
                    break;
                case 16:
                    var pixels16 = MemoryMarshal.Cast<byte, ushort>(source);
                    for (var x = 0; x < row.Length; x++)
                        row[x] = (Five(pixels16[x] >> 11) << 16) | (Six(pixels16[x] >> 5) << 8) | Five(pixels16[x]);
                    break;
                case 24:
                    for (var x = 0; x < row.Length; x++)
                        row[x] = source[3 * x] | ((uint)source[(3 * x) + 1] << 8) | ((uint)source[(3 * x) + 2] << 16);
                    break;
                default:
                    for (var x = 0; x < row.Length; x++)
                        row[x] = BinaryPrimitives.ReadUInt32LittleEndian(source[(4 * x)..]) & 0xFFFFFF;
                    break;
            }
        }
    }

    private static uint Five(int value) => (uint)(((value & 0x1F) << 3) | ((value & 0x1F) >> 2));

    private static uint Six(int value) => (uint)(((value & 0x3F) << 2) | ((value & 0x3F) >> 4));
}
