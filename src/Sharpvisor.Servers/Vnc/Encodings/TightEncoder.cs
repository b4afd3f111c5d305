// The Tight encoding of the rfbproto registry, 7.7.8: one colour, a palette, or full colour, each deflated in a stream of
// its own. Left out: the gradient filter (text and windows do not gain by it) and PNG.
namespace Sharpvisor.Servers.Vnc.Encodings;

internal sealed class TightEncoder(int level) : IRectangleEncoder
{
    private const int FillCompression = 0x80;
    private const int ExplicitFilter = 0x40;
    private const int PaletteFilter = 1;
    private const int MinimumCompressed = 12; // less is sent as it is
    private const int FullColourStream = 0, TwoColourStream = 1, PaletteStream = 2;

    private readonly ZlibOutput?[] _streams = new ZlibOutput?[3];
    private readonly Palette _palette = new();
    private uint[] _pixels = [];
    private byte[] _bytes = [];

    public Encoding Encoding => Encoding.Tight;

    public void Encode(ClientFrame frame, Area area, PixelConverter converter, RfbWriter writer)
    {
        var count = area.Width * area.Height;
        if (_pixels.Length < count)
        {
            _pixels = new uint[count];
            _bytes = new byte[count * 4];
        }

        for (var y = 0; y < area.Height; y++)
        {
            var source = frame.Row(area.Y + y, area.X, area.Width);
            var target = _pixels.AsSpan(y * area.Width, area.Width);
            if (converter.IsTightCompact)
                source.CopyTo(target);
            else
                converter.Convert(source, target);
        }

        var pixels = _pixels.AsSpan(0, count);
        var size = converter.IsTightCompact ? 3 : converter.BytesPerPixel;
        if (!_palette.TryFill(pixels, size == 1 ? 2 : Palette.Capacity))
            EncodeFullColour(pixels, converter, writer);
        else if (_palette.Count == 1)
        {
            writer.U8(FillCompression);
            PutPixel(writer.Take(size), pixels[0], converter);
        }
        else if (_palette.Count == 2)
            EncodeTwoColours(area, size, converter, writer);
        else
            EncodePalette(pixels, size, converter, writer);
    }

    public void Dispose()
    {
        foreach (var stream in _streams)
            stream?.Dispose();
    }

    /// <summary>A TPIXEL: red, green and blue in a byte each if the client's pixels have them, else its pixel.</summary>
    private static int PutPixel(Span<byte> target, uint value, PixelConverter converter)
    {
        if (!converter.IsTightCompact)
            return converter.Put(target, value);
        target[0] = (byte)(value >> 16);
        target[1] = (byte)(value >> 8);
        target[2] = (byte)value;
        return 3;
    }

    private void EncodeFullColour(ReadOnlySpan<uint> pixels, PixelConverter converter, RfbWriter writer)
    {
        writer.U8(FullColourStream << 4);
        var length = 0;
        foreach (var pixel in pixels)
            length += PutPixel(_bytes.AsSpan(length), pixel, converter);
        PutData(FullColourStream, length, writer);
    }

    private void EncodeTwoColours(Area area, int size, PixelConverter converter, RfbWriter writer)
    {
        WritePalette(TwoColourStream, size, converter, writer);
        var first = _palette.Values[0];
        var length = 0;
        for (var y = 0; y < area.Height; y++)
        {
            var row = _pixels.AsSpan(y * area.Width, area.Width);
            for (var x = 0; x < row.Length; x += 8)
            {
                var bits = 0;
                for (var i = 0; i < 8; i++)
                    bits = (bits << 1) | (x + i < row.Length && row[x + i] != first ? 1 : 0);
                _bytes[length++] = (byte)bits;
            }
        }

        PutData(TwoColourStream, length, writer);
    }

    private void EncodePalette(ReadOnlySpan<uint> pixels, int size, PixelConverter converter, RfbWriter writer)
    {
        WritePalette(PaletteStream, size, converter, writer);
        uint last = pixels[0];
        var index = (byte)_palette.IndexOf(last);
        for (var i = 0; i < pixels.Length; i++)
        {
            if (pixels[i] != last)
            {
                last = pixels[i];
                index = (byte)_palette.IndexOf(last);
            }

            _bytes[i] = index;
        }

        PutData(PaletteStream, pixels.Length, writer);
    }

    private void WritePalette(int stream, int size, PixelConverter converter, RfbWriter writer)
    {
        writer.U8((stream << 4) | ExplicitFilter);
        writer.U8(PaletteFilter);
        writer.U8(_palette.Count - 1);
        foreach (var value in _palette.Values)
            PutPixel(writer.Take(size), value, converter);
    }

    private void PutData(int stream, int length, RfbWriter writer)
    {
        var data = _bytes.AsSpan(0, length);
        if (length < MinimumCompressed)
        {
            writer.Bytes(data);
            return;
        }

        var compressed = (_streams[stream] ??= new ZlibOutput(level)).Compress(data);
        WriteLength(writer, compressed.Length);
        writer.Bytes(compressed);
    }

    /// <summary>Seven bits a byte, the low ones first; the third byte has eight.</summary>
    private static void WriteLength(RfbWriter writer, int length)
    {
        writer.U8((length & 0x7F) | (length > 0x7F ? 0x80 : 0));
        if (length <= 0x7F)
            return;
        writer.U8(((length >> 7) & 0x7F) | (length > 0x3FFF ? 0x80 : 0));
        if (length > 0x3FFF)
            writer.U8(length >> 14);
    }
}
