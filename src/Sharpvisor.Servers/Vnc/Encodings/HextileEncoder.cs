// RFC 6143, 7.7.4: tiles of 16 by 16 as a background and smaller rectangles. Needs no compression library at either side.
namespace Sharpvisor.Servers.Vnc.Encodings;

internal sealed class HextileEncoder : IRectangleEncoder
{
    private const int TileSize = 16;
    private const int RawTile = 1, BackgroundSpecified = 2, ForegroundSpecified = 4, AnySubrects = 8, SubrectsColoured = 16;

    private readonly Palette _palette = new();
    private readonly uint[] _pixels = new uint[TileSize * TileSize];
    private readonly bool[] _done = new bool[TileSize * TileSize];
    private uint? _background;
    private uint? _foreground;

    public Encoding Encoding => Encoding.Hextile;

    public void Encode(ClientFrame frame, Area area, PixelConverter converter, RfbWriter writer)
    {
        _background = _foreground = null;
        for (var y = area.Y; y < area.Bottom; y += TileSize)
        {
            for (var x = area.X; x < area.Right; x += TileSize)
            {
                var tile = new Area(x, y, Math.Min(TileSize, area.Right - x), Math.Min(TileSize, area.Bottom - y));
                for (var row = 0; row < tile.Height; row++)
                    converter.Convert(frame.Row(y + row, x, tile.Width), _pixels.AsSpan(row * tile.Width, tile.Width));
                var start = writer.Length;
                if (TryEncodeTile(tile.Width, tile.Height, converter, writer))
                    continue;
                writer.Truncate(start);
                writer.U8(RawTile);
                foreach (var pixel in _pixels.AsSpan(0, tile.Width * tile.Height))
                    converter.Put(writer.Take(converter.BytesPerPixel), pixel);
                _background = _foreground = null; // not carried over a raw tile
            }
        }
    }

    public void Dispose()
    {
    }

    /// <returns>False when raw pixels are smaller.</returns>
    private bool TryEncodeTile(int width, int height, PixelConverter converter, RfbWriter writer)
    {
        var pixels = _pixels.AsSpan(0, width * height);
        if (!_palette.TryFill(pixels, Palette.Capacity))
            return false;
        var most = 0;
        for (var i = 1; i < _palette.Count; i++)
        {
            if (_palette.CountOf(i) > _palette.CountOf(most))
                most = i;
        }

        var background = _palette.Values[most];
        var start = writer.Length;
        var mask = 0;
        writer.U8(0); // becomes the mask
        if (background != _background)
        {
            mask |= BackgroundSpecified;
            converter.Put(writer.Take(converter.BytesPerPixel), background);
            _background = background;
        }

        if (_palette.Count > 1)
        {
            mask |= AnySubrects;
            if (_palette.Count > 2)
            {
                mask |= SubrectsColoured;
                _foreground = null;
            }
            else if (_palette.Values[1 - most] is var foreground && foreground != _foreground)
            {
                mask |= ForegroundSpecified;
                converter.Put(writer.Take(converter.BytesPerPixel), foreground);
                _foreground = foreground;
            }

            if (!TryWriteSubrects(width, height, background, _palette.Count > 2, converter, writer, start))
                return false;
        }

        writer.Written(start, 1)[0] = (byte)mask;
        return true;
    }

    private bool TryWriteSubrects(int width, int height, uint background, bool coloured, PixelConverter converter, RfbWriter writer, int start)
    {
        var limit = start + 1 + (width * height * converter.BytesPerPixel);
        var countOffset = writer.Length;
        var count = 0;
        writer.U8(0);
        _done.AsSpan().Clear();
        for (var y = 0; y < height; y++)
        {
            for (var x = 0; x < width; x++)
            {
                var value = _pixels[(y * width) + x];
                if (value == background || _done[(y * width) + x])
                    continue;
                var right = x + 1;
                while (right < width && _pixels[(y * width) + right] == value && !_done[(y * width) + right])
                    right++;
                var bottom = y + 1;
                while (bottom < height && !_pixels.AsSpan((bottom * width) + x, right - x).ContainsAnyExcept(value) && !_done.AsSpan((bottom * width) + x, right - x).Contains(true))
                    bottom++;
                for (var row = y; row < bottom; row++)
                    _done.AsSpan((row * width) + x, right - x).Fill(true);
                if (++count > 255)
                    return false;
                if (coloured)
                    converter.Put(writer.Take(converter.BytesPerPixel), value);
                writer.U8((x << 4) | y);
                writer.U8(((right - x - 1) << 4) | (bottom - y - 1));
                if (writer.Length >= limit)
                    return false;
            }
        }

        writer.Written(countOffset, 1)[0] = (byte)count;
        return true;
    }
}
