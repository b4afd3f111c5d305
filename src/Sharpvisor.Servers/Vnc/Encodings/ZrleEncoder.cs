// RFC 6143, 7.7.6: tiles of 64 by 64, each as it is smallest (one colour, a packed palette, runs, runs of a palette, raw),
// and all of a connection in one zlib stream.
namespace Sharpvisor.Servers.Vnc.Encodings;

internal sealed class ZrleEncoder(int level) : IRectangleEncoder
{
    private const int TileSize = 64;
    private const int MaximumPacked = 16, MaximumPalette = 127;
    private const int PlainRuns = 128;

    private readonly ZlibOutput _output = new(level);
    private readonly Palette _palette = new();
    private readonly uint[] _pixels = new uint[TileSize * TileSize];
    private byte[] _plain = new byte[16 * 1024];
    private int _length;

    public Encoding Encoding => Encoding.Zrle;

    public void Encode(ClientFrame frame, Area area, PixelConverter converter, RfbWriter writer)
    {
        _length = 0;
        for (var y = area.Y; y < area.Bottom; y += TileSize)
        {
            for (var x = area.X; x < area.Right; x += TileSize)
            {
                var width = Math.Min(TileSize, area.Right - x);
                var height = Math.Min(TileSize, area.Bottom - y);
                for (var row = 0; row < height; row++)
                    converter.Convert(frame.Row(y + row, x, width), _pixels.AsSpan(row * width, width));
                EncodeTile(width, height, converter);
            }
        }

        var compressed = _output.Compress(_plain.AsSpan(0, _length));
        writer.U32((uint)compressed.Length);
        writer.Bytes(compressed);
    }

    public void Dispose() => _output.Dispose();

    private void EncodeTile(int width, int height, PixelConverter converter)
    {
        var pixels = _pixels.AsSpan(0, width * height);
        var pixelSize = converter.CompactSize;
        // Room for the worst that is chosen: never more than raw.
        var needed = _length + 1 + (pixels.Length * pixelSize) + (MaximumPalette * pixelSize);
        if (_plain.Length < needed)
            Array.Resize(ref _plain, Math.Max(needed, _plain.Length * 2));

        var hasPalette = _palette.TryFill(pixels, MaximumPalette);
        if (hasPalette && _palette.Count == 1)
        {
            _plain[_length++] = 1;
            PutPixel(converter, pixels[0]);
            return;
        }

        var (runs, singles, lengthBytes) = CountRuns(pixels);
        var raw = pixels.Length * pixelSize;
        var plainRuns = (runs * pixelSize) + lengthBytes + singles;
        var bits = _palette.Count <= 2 ? 1 : _palette.Count <= 4 ? 2 : 4;
        var palette = _palette.Count * pixelSize;
        var packed = hasPalette && _palette.Count <= MaximumPacked ? palette + (height * (((width * bits) + 7) / 8)) : int.MaxValue;
        var paletteRuns = hasPalette ? palette + runs + lengthBytes : int.MaxValue;

        var best = Math.Min(Math.Min(raw, plainRuns), Math.Min(packed, paletteRuns));
        if (best == packed)
        {
            PutPalette(converter, _palette.Count);
            PutPacked(width, height, bits);
        }
        else if (best == paletteRuns)
        {
            PutPalette(converter, _palette.Count | PlainRuns);
            PutRuns(pixels, null);
        }
        else if (best == raw)
        {
            _plain[_length++] = 0;
            foreach (var pixel in pixels)
                PutPixel(converter, pixel);
        }
        else
        {
            _plain[_length++] = PlainRuns;
            PutRuns(pixels, converter);
        }
    }

    /// <summary>Runs, those of one pixel, and the bytes of the lengths of the others.</summary>
    private static (int Runs, int Singles, int LengthBytes) CountRuns(ReadOnlySpan<uint> pixels)
    {
        int runs = 0, singles = 0, lengthBytes = 0;
        for (var i = 0; i < pixels.Length;)
        {
            var run = RunLength(pixels[i..]);
            runs++;
            if (run == 1)
                singles++;
            else
                lengthBytes += ((run - 1) / 255) + 1;
            i += run;
        }

        return (runs, singles, lengthBytes);
    }

    private static int RunLength(ReadOnlySpan<uint> pixels) =>
        pixels.IndexOfAnyExcept(pixels[0]) is var end && end < 0 ? pixels.Length : end;

    private void PutPixel(PixelConverter converter, uint value) => _length += converter.PutCompact(_plain.AsSpan(_length), value);

    private void PutPalette(PixelConverter converter, int subencoding)
    {
        _plain[_length++] = (byte)subencoding;
        foreach (var value in _palette.Values)
            PutPixel(converter, value);
    }

    /// <summary>Indices of a few bits, the leftmost in the highest; each row ends at a byte.</summary>
    private void PutPacked(int width, int height, int bits)
    {
        for (var y = 0; y < height; y++)
        {
            int collected = 0, count = 0;
            for (var x = 0; x < width; x++)
            {
                collected = (collected << bits) | _palette.IndexOf(_pixels[(y * width) + x]);
                count += bits;
                if (count < 8)
                    continue;
                _plain[_length++] = (byte)collected;
                collected = count = 0;
            }

            if (count > 0)
                _plain[_length++] = (byte)(collected << (8 - count));
        }
    }

    /// <summary>Runs of pixels, or without a converter of indices, where one of length one has no length.</summary>
    private void PutRuns(ReadOnlySpan<uint> pixels, PixelConverter? converter)
    {
        for (var i = 0; i < pixels.Length;)
        {
            var run = RunLength(pixels[i..]);
            if (converter is not null)
                PutPixel(converter, pixels[i]);
            else
                _plain[_length++] = (byte)(_palette.IndexOf(pixels[i]) | (run > 1 ? 128 : 0));
            if (run > 1 || converter is not null)
            {
                var rest = run - 1;
                for (; rest >= 255; rest -= 255)
                    _plain[_length++] = 255;
                _plain[_length++] = (byte)rest;
            }

            i += run;
        }
    }
}
