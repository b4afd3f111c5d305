// Writes PPM (netpbm's ppm(5)), raw: what QEMU's screendump writes when nothing else is said.
using System.Text;
using Sharpvisor.Core.Display;

namespace Sharpvisor.Display;

/// <summary>Turns a picture into a PPM file.</summary>
public static class PpmWriter
{
    public static void Write(Stream target, Framebuffer picture)
    {
        target.Write(Encoding.ASCII.GetBytes($"P6\n{picture.Width} {picture.Height}\n255\n"));
        var line = new byte[3 * picture.Width];
        for (var y = 0; y < picture.Height; y++)
        {
            var row = picture.Row(y);
            for (var x = 0; x < row.Length; x++)
                (line[3 * x], line[(3 * x) + 1], line[(3 * x) + 2]) = ((byte)(row[x] >> 16), (byte)(row[x] >> 8), (byte)row[x]);
            target.Write(line);
        }
    }
}
