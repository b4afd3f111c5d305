using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Sharpvisor.Servers.Vnc;

/// <summary>
/// Turns 0x00RRGGBB into a client's pixels. One table a colour gives the bits that it contributes, in the client's byte
/// order already, so that a pixel is three look-ups and its bytes are the low ones first.
/// </summary>
internal sealed class PixelConverter
{
    private readonly uint[] _red;
    private readonly uint[] _green;
    private readonly uint[] _blue;
    private readonly bool _isNative;

    public PixelConverter(PixelFormat format)
    {
        // Without true colour the pixel is an index into the map that WriteColourMap sends: three bits red and green, two blue.
        var channels = format.TrueColour ? format : format with { RedMax = 7, RedShift = 5, GreenMax = 7, GreenShift = 2, BlueMax = 3, BlueShift = 0 };
        Format = format;
        BytesPerPixel = format.BytesPerPixel;
        _red = Table(channels, channels.RedMax, channels.RedShift);
        _green = Table(channels, channels.GreenMax, channels.GreenShift);
        _blue = Table(channels, channels.BlueMax, channels.BlueShift);
        _isNative = BitConverter.IsLittleEndian && format with { Depth = PixelFormat.Native.Depth } == PixelFormat.Native;

        var used = (ulong)channels.RedMax << channels.RedShift | (ulong)channels.GreenMax << channels.GreenShift | (ulong)channels.BlueMax << channels.BlueShift;
        var compressible = format is { TrueColour: true, BitsPerPixel: 32, Depth: <= 24 };
        if (compressible && used <= 0xFF_FFFF)
            (CompactSize, CompactOffset) = (3, format.BigEndian ? 1 : 0);
        else if (compressible && (used & 0xFF) == 0)
            (CompactSize, CompactOffset) = (3, format.BigEndian ? 0 : 1);
        else
            (CompactSize, CompactOffset) = (BytesPerPixel, 0);
        IsTightCompact = format is { TrueColour: true, BitsPerPixel: 32, Depth: 24, RedMax: 255, GreenMax: 255, BlueMax: 255 };
    }

    public PixelFormat Format { get; }

    public int BytesPerPixel { get; }

    /// <summary>Bytes of a CPIXEL (7.7.6): three when nothing lies in the fourth.</summary>
    public int CompactSize { get; }

    /// <summary>Where in a pixel's bytes the CPIXEL begins.</summary>
    public int CompactOffset { get; }

    /// <summary>Whether the Tight encoding sends red, green and blue in a byte each.</summary>
    public bool IsTightCompact { get; }

    /// <summary>The client's pixel; its first byte is the low one.</summary>
    public uint Convert(uint pixel) => _red[(pixel >> 16) & 0xFF] | _green[(pixel >> 8) & 0xFF] | _blue[pixel & 0xFF];

    /// <summary>Writes pixels of <see cref="BytesPerPixel"/> each.</summary>
    public void Convert(ReadOnlySpan<uint> source, Span<byte> target)
    {
        if (_isNative)
        {
            MemoryMarshal.AsBytes(source).CopyTo(target);
            return;
        }

        switch (BytesPerPixel)
        {
            case 1:
                for (var i = 0; i < source.Length; i++)
                    target[i] = (byte)Convert(source[i]);
                break;
            case 2:
                for (var i = 0; i < source.Length; i++)
                    BinaryPrimitives.WriteUInt16LittleEndian(target[(i * 2)..], (ushort)Convert(source[i]));
                break;
            default:
                for (var i = 0; i < source.Length; i++)
                    BinaryPrimitives.WriteUInt32LittleEndian(target[(i * 4)..], Convert(source[i]));
                break;
        }
    }

    /// <summary>The values of <see cref="Convert(uint)"/>.</summary>
    public void Convert(ReadOnlySpan<uint> source, Span<uint> target)
    {
        if (_isNative)
        {
            source.CopyTo(target);
            return;
        }

        for (var i = 0; i < source.Length; i++)
            target[i] = Convert(source[i]);
    }

    /// <summary>Writes a value of <see cref="Convert(uint)"/> as it is on the wire.</summary>
    /// <returns>How many bytes that took.</returns>
    public int Put(Span<byte> target, uint value) => Put(target, value, BytesPerPixel);

    /// <summary>Writes such a value as a CPIXEL.</summary>
    /// <returns>How many bytes that took.</returns>
    public int PutCompact(Span<byte> target, uint value) => Put(target, value >> (8 * CompactOffset), CompactSize);

    /// <summary>SetColourMapEntries (7.6.2), for a client without true colour.</summary>
    public static void WriteColourMap(RfbWriter writer)
    {
        writer.U8((byte)ServerMessage.SetColourMapEntries);
        writer.U8(0);
        writer.U16(0);
        writer.U16(256);
        for (var i = 0; i < 256; i++)
        {
            writer.U16((i >> 5) * 0xFFFF / 7);
            writer.U16(((i >> 2) & 7) * 0xFFFF / 7);
            writer.U16((i & 3) * 0xFFFF / 3);
        }
    }

    private static int Put(Span<byte> target, uint value, int count)
    {
        for (var i = 0; i < count; i++)
            target[i] = (byte)(value >> (8 * i));
        return count;
    }

    private static uint[] Table(PixelFormat format, int maximum, int shift)
    {
        var table = new uint[256];
        for (var i = 0; i < table.Length; i++)
        {
            var bits = (uint)(((i * (long)maximum) + 127) / 255) << shift;
            table[i] = !format.BigEndian ? bits : format.BitsPerPixel switch
            {
                8 => bits,
                16 => BinaryPrimitives.ReverseEndianness((ushort)bits),
                _ => BinaryPrimitives.ReverseEndianness(bits),
            };
        }

        return table;
    }
}
