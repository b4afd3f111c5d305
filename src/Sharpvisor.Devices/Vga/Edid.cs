using System.Buffers.Binary;

namespace Sharpvisor.Devices.Vga;

/// <summary>
/// What a monitor says of itself: VESA Enhanced EDID 1.4, one base block. Its preferred mode has the reduced blanking of
/// VESA CVT: 160 dots and enough lines for 460 microseconds.
/// </summary>
internal static class Edid
{
    public const int Size = 128;

    private const int HorizontalBlanking = 160, VerticalBlanking = 35, FramesPerSecond = 60;

    /// <summary>A digital monitor that likes <paramref name="width"/> by <paramref name="height"/> best.</summary>
    public static byte[] Create(int width, int height)
    {
        var block = new byte[Size];
        block.AsSpan(1, 6).Fill(0xFF);
        BinaryPrimitives.WriteUInt16BigEndian(block.AsSpan(8), ManufacturerId("SHV"));
        BinaryPrimitives.WriteUInt16LittleEndian(block.AsSpan(10), 1); // product
        block[16] = 1; // week
        block[17] = 2026 - 1990; // year
        (block[18], block[19]) = (1, 4); // version
        block[20] = 0xA5; // digital, 8 bits a colour, DisplayPort
        (block[21], block[22]) = ((byte)Math.Min(255, width * 254 / 10_000), (byte)Math.Min(255, height * 254 / 10_000)); // cm at 100 dpi
        block[23] = 120; // gamma 2.2
        block[24] = 0x06; // sRGB, the first timing is the native one
        ReadOnlySpan<byte> srgb = [0xEE, 0x91, 0xA3, 0x54, 0x4C, 0x99, 0x26, 0x0F, 0x50, 0x54];
        srgb.CopyTo(block.AsSpan(25));
        block[35] = 0x21; // 640x480 and 800x600 at 60 Hz
        block[36] = 0x08; // 1024x768 at 60 Hz
        PutStandardTimings(block.AsSpan(38, 16));
        PutDetailedTiming(block.AsSpan(54, 18), width, height);
        PutRange(block.AsSpan(72, 18));
        PutText(block.AsSpan(90, 18), 0xFC, "Sharpvisor");
        block[108 + 3] = 0x10; // an unused descriptor
        block[127] = (byte)-block.AsSpan(0, 127).ToArray().Sum(b => b);
        return block;
    }

    private static ushort ManufacturerId(string letters) =>
        (ushort)(((letters[0] - '@') << 10) | ((letters[1] - '@') << 5) | (letters[2] - '@'));

    private static void PutStandardTimings(Span<byte> target)
    {
        target.Fill(0x01); // unused
        // Width, aspect ratio (0: 16:10, 1: 4:3, 2: 5:4, 3: 16:9), at 60 Hz.
        ReadOnlySpan<(int Width, int Aspect)> modes = [(1280, 0), (1280, 2), (1440, 0), (1600, 1), (1680, 0), (1920, 3), (1920, 0)];
        for (var i = 0; i < modes.Length; i++)
        {
            target[2 * i] = (byte)((modes[i].Width / 8) - 31);
            target[(2 * i) + 1] = (byte)(modes[i].Aspect << 6);
        }
    }

    private static void PutDetailedTiming(Span<byte> target, int width, int height)
    {
        const int front = 48, sync = 32, verticalFront = 3, verticalSync = 6;
        var clock = (width + HorizontalBlanking) * (height + VerticalBlanking) * FramesPerSecond / 10_000;
        BinaryPrimitives.WriteUInt16LittleEndian(target, (ushort)Math.Min(clock, ushort.MaxValue));
        target[2] = (byte)width;
        target[3] = HorizontalBlanking;
        target[4] = (byte)((width >> 8) << 4);
        target[5] = (byte)height;
        target[6] = VerticalBlanking;
        target[7] = (byte)((height >> 8) << 4);
        target[8] = front;
        target[9] = sync;
        target[10] = (verticalFront << 4) | verticalSync;
        var (mmWidth, mmHeight) = (width * 254 / 1000, height * 254 / 1000);
        target[12] = (byte)mmWidth;
        target[13] = (byte)mmHeight;
        target[14] = (byte)(((mmWidth >> 8) << 4) | (mmHeight >> 8));
        target[17] = 0x1A; // digital separate sync, horizontal positive
    }

    private static void PutRange(Span<byte> target)
    {
        target[3] = 0xFD;
        ReadOnlySpan<byte> limits = [50, 125, 30, 160, 60, 0x01, 0x0A]; // Hz, kHz, 10 MHz, no formula
        limits.CopyTo(target[5..]);
        target[12..].Fill(0x20);
    }

    private static void PutText(Span<byte> target, byte tag, string text)
    {
        target[3] = tag;
        target[5..].Fill(0x20);
        for (var i = 0; i < text.Length; i++)
            target[5 + i] = (byte)text[i];
        target[5 + text.Length] = 0x0A;
    }
}
