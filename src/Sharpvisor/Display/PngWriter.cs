// Writes PNG (ISO/IEC 15948): 8-bit RGB, every line filtered by "up", which suits screens.
using System.Buffers.Binary;
using System.IO.Compression;
using Sharpvisor.Core.Display;

namespace Sharpvisor.Display;

/// <summary>Turns a picture into a PNG file.</summary>
public static class PngWriter
{
    private const byte FilterUp = 2;

    private static readonly uint[] CrcTable = MakeCrcTable();

    public static void Write(Stream target, Framebuffer picture)
    {
        ReadOnlySpan<byte> signature = [0x89, (byte)'P', (byte)'N', (byte)'G', 0x0D, 0x0A, 0x1A, 0x0A];
        target.Write(signature);
        var header = new byte[13];
        BinaryPrimitives.WriteInt32BigEndian(header, picture.Width);
        BinaryPrimitives.WriteInt32BigEndian(header.AsSpan(4), picture.Height);
        (header[8], header[9]) = (8, 2); // bits a sample, RGB
        WriteChunk(target, "IHDR"u8, header);
        WriteChunk(target, "IDAT"u8, Compress(picture));
        WriteChunk(target, "IEND"u8, []);
    }

    private static byte[] Compress(Framebuffer picture)
    {
        using var compressed = new MemoryStream();
        using (var zlib = new ZLibStream(compressed, CompressionLevel.Fastest))
        {
            var line = new byte[1 + (3 * picture.Width)];
            var above = new byte[3 * picture.Width];
            line[0] = FilterUp;
            for (var y = 0; y < picture.Height; y++)
            {
                var row = picture.Row(y);
                for (var x = 0; x < row.Length; x++)
                {
                    for (var channel = 0; channel < 3; channel++)
                    {
                        var value = (byte)(row[x] >> (16 - (8 * channel)));
                        var at = (3 * x) + channel;
                        line[1 + at] = (byte)(value - above[at]);
                        above[at] = value;
                    }
                }

                zlib.Write(line);
            }
        }

        return compressed.ToArray();
    }

    private static void WriteChunk(Stream target, ReadOnlySpan<byte> type, ReadOnlySpan<byte> data)
    {
        Span<byte> word = stackalloc byte[4];
        BinaryPrimitives.WriteInt32BigEndian(word, data.Length);
        target.Write(word);
        target.Write(type);
        target.Write(data);
        BinaryPrimitives.WriteUInt32BigEndian(word, ~Crc(Crc(uint.MaxValue, type), data));
        target.Write(word);
    }

    private static uint Crc(uint crc, ReadOnlySpan<byte> data)
    {
        foreach (var value in data)
            crc = CrcTable[(byte)(crc ^ value)] ^ (crc >> 8);
        return crc;
    }

    private static uint[] MakeCrcTable()
    {
        var table = new uint[256];
        for (var i = 0u; i < table.Length; i++)
        {
            var crc = i;
            for (var bit = 0; bit < 8; bit++)
                crc = (crc & 1) != 0 ? 0xEDB8_8320 ^ (crc >> 1) : crc >> 1;
            table[i] = crc;
        }

        return table;
    }
}
