using System.Buffers.Binary;
using System.IO.Compression;
using Sharpvisor.Core.Display;
using Sharpvisor.Display;

namespace Sharpvisor.Tests.Display;

public sealed class PngWriterTests
{
    [Fact]
    public void A_picture_can_be_read_back()
    {
        var picture = new Framebuffer();
        picture.Resize(7, 5);
        var random = new Random(1);
        for (var i = 0; i < picture.Pixels.Length; i++)
            picture.Pixels[i] = (uint)random.Next(1 << 24);
        using var file = new MemoryStream();
        PngWriter.Write(file, picture);

        var bytes = file.ToArray();
        Assert.Equal([0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A], bytes[..8]);
        var chunks = Chunks(bytes).ToDictionary(c => c.Type, c => c.Data);
        Assert.Equal(["IHDR", "IDAT", "IEND"], chunks.Keys);
        Assert.Equal([0, 0, 0, 7, 0, 0, 0, 5, 8, 2, 0, 0, 0], chunks["IHDR"]);
        using var lines = new MemoryStream();
        using (var zlib = new ZLibStream(new MemoryStream(chunks["IDAT"]), CompressionMode.Decompress))
            zlib.CopyTo(lines);
        var raw = lines.ToArray();
        Assert.Equal(5 * 22, raw.Length);
        for (var y = 0; y < 5; y++)
        {
            Assert.Equal(2, raw[y * 22]); // the filter "up"
            for (var x = 0; x < 21 && y > 0; x++)
                raw[(y * 22) + 1 + x] += raw[((y - 1) * 22) + 1 + x];
            for (var x = 0; x < 7; x++)
            {
                var at = (y * 22) + 1 + (3 * x);
                Assert.Equal(picture.Row(y)[x], (uint)((raw[at] << 16) | (raw[at + 1] << 8) | raw[at + 2]));
            }
        }
    }

    [Fact]
    public void The_last_chunk_has_the_check_sum_that_all_have()
    {
        var picture = new Framebuffer();
        picture.Resize(1, 1);
        using var file = new MemoryStream();
        PngWriter.Write(file, picture);
        Assert.Equal([0xAE, 0x42, 0x60, 0x82], file.ToArray()[^4..]);
    }

    private static IEnumerable<(string Type, byte[] Data)> Chunks(byte[] file)
    {
        for (var at = 8; at < file.Length;)
        {
            var length = BinaryPrimitives.ReadInt32BigEndian(file.AsSpan(at));
            yield return (System.Text.Encoding.ASCII.GetString(file, at + 4, 4), file[(at + 8)..(at + 8 + length)]);
            at += length + 12;
        }
    }
}
