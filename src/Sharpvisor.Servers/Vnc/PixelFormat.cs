// Pixels as a client wants them: RFC 6143, 7.4.
using System.Buffers.Binary;

namespace Sharpvisor.Servers.Vnc;

/// <summary>The 16 bytes of PIXEL_FORMAT.</summary>
internal sealed record PixelFormat(
    int BitsPerPixel, int Depth, bool BigEndian, bool TrueColour, int RedMax, int GreenMax, int BlueMax, int RedShift, int GreenShift, int BlueShift)
{
    public const int Size = 16;

    /// <summary>That of <see cref="Core.Display.Framebuffer"/> on a little-endian host.</summary>
    public static readonly PixelFormat Native = new(32, 24, false, true, 255, 255, 255, 16, 8, 0);

    public int BytesPerPixel => BitsPerPixel / 8;

    /// <exception cref="ProtocolException">Not a format that pixels can have.</exception>
    public static PixelFormat Read(ReadOnlySpan<byte> data)
    {
        var format = new PixelFormat(
            data[0], data[1], data[2] != 0, data[3] != 0,
            BinaryPrimitives.ReadUInt16BigEndian(data[4..]), BinaryPrimitives.ReadUInt16BigEndian(data[6..]), BinaryPrimitives.ReadUInt16BigEndian(data[8..]),
            data[10], data[11], data[12]);
        if (format.BitsPerPixel is not (8 or 16 or 32))
            throw new ProtocolException($"a pixel of {format.BitsPerPixel} bits");
        if (format.TrueColour && !(format.Fits(format.RedMax, format.RedShift) && format.Fits(format.GreenMax, format.GreenShift) && format.Fits(format.BlueMax, format.BlueShift)))
            throw new ProtocolException("a pixel format with colours outside of the pixel");
        return format;
    }

    public void Write(RfbWriter writer)
    {
        writer.U8(BitsPerPixel);
        writer.U8(Depth);
        writer.U8(BigEndian ? 1 : 0);
        writer.U8(TrueColour ? 1 : 0);
        writer.U16(RedMax);
        writer.U16(GreenMax);
        writer.U16(BlueMax);
        writer.U8(RedShift);
        writer.U8(GreenShift);
        writer.U8(BlueShift);
        writer.Take(3).Clear();
    }

    /// <summary>Any maximum is taken, as clients exist that ask for ones that are not all ones in binary.</summary>
    private bool Fits(int maximum, int shift) => maximum > 0 && shift < BitsPerPixel && (ulong)maximum << shift < 1UL << BitsPerPixel;
}
