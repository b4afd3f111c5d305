using System.Buffers.Binary;
using System.IO.Compression;
using Sharpvisor.Servers.Vnc;

namespace Sharpvisor.Servers.Tests.Vnc;

/// <summary>The decoders of a client: RFC 6143, 7.7, and rfbproto for Zlib and Tight.</summary>
internal sealed class RectangleDecoder
{
    private readonly Inflater[] _tight = [new(), new(), new(), new()];
    private readonly Inflater _zlib = new();
    private readonly Inflater _zrle = new();

    private delegate Task<byte[]> Reader(int count);

    /// <returns>Bytes read.</returns>
    public async Task<int> DecodeAsync(int encoding, int width, int height, PixelFormat format, uint[] target, Func<int, Task<byte[]>> read)
    {
        var total = 0;
        async Task<byte[]> Count(int count)
        {
            total += count;
            return await read(count);
        }

        switch (encoding)
        {
            case 0:
                Plain(await Count(target.Length * format.BytesPerPixel), format, target);
                break;
            case 5:
                await HextileAsync(width, height, format, target, Count);
                break;
            case 6:
                _zlib.Feed(await Count((int)BinaryPrimitives.ReadUInt32BigEndian(await Count(4))));
                Plain(_zlib.Read(target.Length * format.BytesPerPixel), format, target);
                break;
            case 7:
                await TightAsync(width, height, format, target, Count);
                break;
            case 16:
                _zrle.Feed(await Count((int)BinaryPrimitives.ReadUInt32BigEndian(await Count(4))));
                Zrle(width, height, format, target);
                break;
            default:
                Assert.Fail($"encoding {encoding} was not asked for");
                break;
        }

        return total;
    }

    private static uint Pixel(ReadOnlySpan<byte> data, PixelFormat format)
    {
        uint value = 0;
        for (var i = 0; i < format.BytesPerPixel; i++)
            value |= (uint)data[format.BigEndian ? format.BytesPerPixel - 1 - i : i] << (8 * i);
        return value;
    }

    private static void Plain(byte[] data, PixelFormat format, uint[] target)
    {
        for (var i = 0; i < target.Length; i++)
            target[i] = Pixel(data.AsSpan(i * format.BytesPerPixel), format);
    }

    private static async Task HextileAsync(int width, int height, PixelFormat format, uint[] target, Reader read)
    {
        uint background = 0, foreground = 0;
        for (var y0 = 0; y0 < height; y0 += 16)
        {
            for (var x0 = 0; x0 < width; x0 += 16)
            {
                int w = Math.Min(16, width - x0), h = Math.Min(16, height - y0);
                void Fill(int x, int y, int fillWidth, int fillHeight, uint value)
                {
                    Assert.True(x + fillWidth <= w && y + fillHeight <= h);
                    for (var row = y; row < y + fillHeight; row++)
                        target.AsSpan(((y0 + row) * width) + x0 + x, fillWidth).Fill(value);
                }

                async Task<uint> One() => Pixel(await read(format.BytesPerPixel), format);
                var mask = (await read(1))[0];
                if ((mask & 1) != 0)
                {
                    for (var i = 0; i < w * h; i++)
                        Fill(i % w, i / w, 1, 1, await One());
                    continue;
                }

                if ((mask & 2) != 0)
                    background = await One();
                if ((mask & 4) != 0)
                    foreground = await One();
                Fill(0, 0, w, h, background);
                for (var count = (mask & 8) != 0 ? (await read(1))[0] : 0; count > 0; count--)
                {
                    var colour = (mask & 16) != 0 ? await One() : foreground;
                    var place = await read(2);
                    Fill(place[0] >> 4, place[0] & 15, (place[1] >> 4) + 1, (place[1] & 15) + 1, colour);
                }
            }
        }
    }

    private void Zrle(int width, int height, PixelFormat format, uint[] target)
    {
        var all = (ulong)format.RedMax << format.RedShift | (ulong)format.GreenMax << format.GreenShift | (ulong)format.BlueMax << format.BlueShift;
        var isShort = format is { TrueColour: true, BitsPerPixel: 32, Depth: <= 24 };
        var low = isShort && all >> 24 == 0;
        var high = isShort && !low && (all & 0xFF) == 0;
        uint One()
        {
            if (!low && !high)
                return Pixel(_zrle.Read(format.BytesPerPixel), format);
            var three = _zrle.Read(3);
            if (format.BigEndian)
                Array.Reverse(three);
            var value = (uint)(three[0] | three[1] << 8 | three[2] << 16);
            return high ? value << 8 : value;
        }

        int Length()
        {
            var length = 1;
            byte part;
            do
            {
                part = _zrle.Read(1)[0];
                length += part;
            }
            while (part == 255);
            return length;
        }

        for (var y0 = 0; y0 < height; y0 += 64)
        {
            for (var x0 = 0; x0 < width; x0 += 64)
            {
                int w = Math.Min(64, width - x0), h = Math.Min(64, height - y0);
                var tile = new uint[w * h];
                var kind = _zrle.Read(1)[0];
                var palette = new uint[kind is >= 1 and <= 16 ? kind : kind >= 130 ? kind - 128 : 0];
                for (var i = 0; i < palette.Length; i++)
                    palette[i] = One();
                switch (kind)
                {
                    case 0:
                        for (var i = 0; i < tile.Length; i++)
                            tile[i] = One();
                        break;
                    case 1:
                        Array.Fill(tile, palette[0]);
                        break;
                    case <= 16:
                        var bits = kind == 2 ? 1 : kind <= 4 ? 2 : 4;
                        for (var y = 0; y < h; y++)
                        {
                            var row = _zrle.Read(((w * bits) + 7) / 8);
                            for (var x = 0; x < w; x++)
                                tile[(y * w) + x] = palette[(row[x * bits / 8] >> (8 - bits - (x * bits % 8))) & ((1 << bits) - 1)];
                        }

                        break;
                    default:
                        Assert.True(kind is 128 or >= 130);
                        for (var i = 0; i < tile.Length;)
                        {
                            var index = kind == 128 ? 0 : _zrle.Read(1)[0];
                            var value = kind == 128 ? One() : palette[index & 127];
                            var run = kind == 128 || index >= 128 ? Length() : 1;
                            tile.AsSpan(i, run).Fill(value);
                            i += run;
                        }

                        break;
                }

                for (var y = 0; y < h; y++)
                    tile.AsSpan(y * w, w).CopyTo(target.AsSpan(((y0 + y) * width) + x0));
            }
        }
    }

    private async Task TightAsync(int width, int height, PixelFormat format, uint[] target, Reader read)
    {
        var isCompact = format is { TrueColour: true, BitsPerPixel: 32, Depth: 24, RedMax: 255, GreenMax: 255, BlueMax: 255 };
        var size = isCompact ? 3 : format.BytesPerPixel;
        uint One(ReadOnlySpan<byte> data) => isCompact
            ? (uint)data[0] << format.RedShift | (uint)data[1] << format.GreenShift | (uint)data[2] << format.BlueShift
            : Pixel(data, format);
        var control = (await read(1))[0];
        Assert.Equal(0, control & 15);
        if (control >> 4 == 8)
        {
            Array.Fill(target, One(await read(size)));
            return;
        }

        Assert.True(control >> 4 < 8);
        uint[] palette = [];
        if ((control & 0x40) != 0 && (await read(1))[0] is var filter && filter != 0)
        {
            Assert.Equal(1, filter);
            palette = new uint[(await read(1))[0] + 1];
            for (var i = 0; i < palette.Length; i++)
                palette[i] = One(await read(size));
        }

        var rowSize = palette.Length == 0 ? width * size : palette.Length == 2 ? (width + 7) / 8 : width;
        var length = rowSize * height;
        byte[] data;
        if (length < 12)
        {
            data = await read(length);
        }
        else
        {
            int compressed = 0, part, shift = 0;
            do
            {
                part = (await read(1))[0];
                compressed |= (shift == 14 ? part : part & 0x7F) << shift;
                shift += 7;
            }
            while (part >= 128 && shift < 21);
            var stream = _tight[(control >> 4) & 3];
            stream.Feed(await read(compressed));
            data = stream.Read(length);
        }

        for (var i = 0; i < target.Length; i++)
        {
            int x = i % width, y = i / width;
            target[i] = palette.Length switch
            {
                0 => One(data.AsSpan(i * size)),
                2 => palette[(data[(y * rowSize) + (x / 8)] >> (7 - (x % 8))) & 1],
                _ => palette[data[i]],
            };
        }
    }

    /// <summary>A zlib stream that comes in pieces.</summary>
    private sealed class Inflater
    {
        private readonly MemoryStream _input = new();
        private readonly ZLibStream _stream;

        public Inflater() => _stream = new ZLibStream(_input, CompressionMode.Decompress);

        public void Feed(byte[] data)
        {
            var rest = _input.ToArray().AsSpan((int)_input.Position);
            _input.SetLength(0);
            _input.Write(rest);
            _input.Write(data);
            _input.Position = 0;
        }

        public byte[] Read(int count)
        {
            var data = new byte[count];
            _stream.ReadExactly(data);
            return data;
        }
    }
}
