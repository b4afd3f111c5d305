// The Zlib encoding of the rfbproto registry, 7.7.9: raw pixels, deflated.
using System.Buffers;

namespace Sharpvisor.Servers.Vnc.Encodings;

internal sealed class ZlibEncoder(int level) : IRectangleEncoder
{
    private readonly ZlibOutput _output = new(level);

    public Encoding Encoding => Encoding.Zlib;

    public void Encode(ClientFrame frame, Area area, PixelConverter converter, RfbWriter writer)
    {
        var rowSize = area.Width * converter.BytesPerPixel;
        var pixels = ArrayPool<byte>.Shared.Rent(rowSize * area.Height);
        for (var y = 0; y < area.Height; y++)
            converter.Convert(frame.Row(area.Y + y, area.X, area.Width), pixels.AsSpan(y * rowSize, rowSize));
        var compressed = _output.Compress(pixels.AsSpan(0, rowSize * area.Height));
        writer.U32((uint)compressed.Length);
        writer.Bytes(compressed);
        ArrayPool<byte>.Shared.Return(pixels);
    }

    public void Dispose() => _output.Dispose();
}
