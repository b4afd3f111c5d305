// RFC 6143, 7.7.1: pixels row by row.
namespace Sharpvisor.Servers.Vnc.Encodings;

internal sealed class RawEncoder : IRectangleEncoder
{
    public Encoding Encoding => Encoding.Raw;

    public void Encode(ClientFrame frame, Area area, PixelConverter converter, RfbWriter writer)
    {
        for (var y = area.Y; y < area.Bottom; y++)
            converter.Convert(frame.Row(y, area.X, area.Width), writer.Take(area.Width * converter.BytesPerPixel));
    }

    public void Dispose()
    {
    }
}
