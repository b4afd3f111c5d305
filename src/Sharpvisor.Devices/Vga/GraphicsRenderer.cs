using System.Buffers.Binary;
using Sharpvisor.Core.Display;
using static Sharpvisor.Devices.Vga.VgaRegisters;

namespace Sharpvisor.Devices.Vga;

/// <summary>
/// The VGA's graphics modes. A character clock takes the four bytes of one address: eight pixels of 16 colours, one bit
/// in each plane; eight of four colours, two bits side by side (CGA); or four of 256, each two dots wide.
/// </summary>
internal static class GraphicsRenderer
{
    private const int DotsPerClock = 8;

    /// <summary>Draws the whole screen, which has the size of the mode already.</summary>
    /// <param name="sizeMask">What an address in bytes wraps at, less one.</param>
    public static void Render(VgaRegisters registers, BochsDisplay display, ReadOnlySpan<byte> memory, int sizeMask, Framebuffer target)
    {
        Span<uint> colors = stackalloc uint[16];
        registers.GetColors(colors);
        var is256 = (registers.Graphics[GraphicsMode] & 0x40) != 0;
        var isCga = (registers.Graphics[GraphicsMode] & 0x20) != 0;
        var scale = registers.IsDotClockHalved ? 2 : 1;
        var panning = registers.Attribute[HorizontalPanning] & 7;
        var clocks = ((target.Width / scale) + DotsPerClock - 1) / DotsPerClock;
        var mode = registers.Crtc[CrtcMode];
        // In byte mode one more address bit comes from the counter: the substituted ones lie one higher.
        var substituted = 12 + ((mode >> 6) & 1);
        var line = new uint[(clocks + 1) * DotsPerClock];

        var scan = new ScanLines(registers, display);
        while (scan.Next())
        {
            var pixels = target.Row(scan.Line);
            if (scan.IsRepeated && scan.Line > 0)
            {
                target.Row(scan.Line - 1).CopyTo(pixels);
                continue;
            }

            var start = scan.Address;
            // Lines of a row lie 8 KiB apart where the row scan counter stands in for address bits, as on CGA and Hercules.
            if ((mode & 1) == 0)
                start = (start & ~(1 << substituted)) | ((scan.RowScan & 1) << substituted);
            if ((mode & 2) == 0)
                start = (start & ~(2 << substituted)) | ((scan.RowScan & 2) << substituted);
            for (var clock = 0; clock <= clocks; clock++)
            {
                var planes = BinaryPrimitives.ReadUInt32LittleEndian(memory[(((start + clock) * 4) & sizeMask)..]);
                var dots = line.AsSpan(clock * DotsPerClock, DotsPerClock);
                if (is256)
                    Put256(planes, dots, registers.Dac);
                else if (isCga)
                    PutPairs(planes, dots, colors);
                else
                    PutPlanes(planes, dots, colors);
            }

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

    private static void Put256(uint planes, Span<uint> dots, VgaDac dac)
    {
        for (var i = 0; i < DotsPerClock; i += 2)
        {
            dots[i] = dots[i + 1] = dac[(byte)planes];
            planes >>= 8;
        }
    }

    private static void PutPlanes(uint planes, Span<uint> dots, ReadOnlySpan<uint> colors)
    {
        for (var i = DotsPerClock - 1; i >= 0; i--)
        {
            dots[i] = colors[(int)((planes & 1) | ((planes >> 7) & 2) | ((planes >> 14) & 4) | ((planes >> 21) & 8))];
            planes = (planes >> 1) & 0x7F7F_7F7F;
        }
    }

    /// <summary>Planes 0 and 1 one after the other give the low two bits, planes 2 and 3 the high ones.</summary>
    private static void PutPairs(uint planes, Span<uint> dots, ReadOnlySpan<uint> colors)
    {
        for (var i = 0; i < DotsPerClock; i++)
        {
            var shift = ((i & 4) << 1) + 6 - ((i & 3) * 2);
            dots[i] = colors[(int)(((planes >> shift) & 3) | (((planes >> (shift + 16)) & 3) << 2))];
        }
    }
}
