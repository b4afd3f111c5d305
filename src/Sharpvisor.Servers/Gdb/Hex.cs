using System.Buffers.Text;

namespace Sharpvisor.Servers.Gdb;

/// <summary>Hexadecimal numbers in packets: big-endian numbers without leading zeros, and bytes of two digits each.</summary>
internal static class Hex
{
    private const int NoDigit = 1 << 8;

    /// <summary>0 to 15; otherwise more than any byte, also when another digit is added.</summary>
    public static int Digit(byte value) => value switch
    {
        >= (byte)'0' and <= (byte)'9' => value - '0',
        >= (byte)'a' and <= (byte)'f' => value - 'a' + 10,
        >= (byte)'A' and <= (byte)'F' => value - 'A' + 10,
        _ => NoDigit,
    };

    /// <summary>A whole text as a number of up to 64 bits.</summary>
    public static bool TryNumber(ReadOnlySpan<byte> text, out ulong value) =>
        Utf8Parser.TryParse(text, out value, out var used, 'x') && used == text.Length;

    /// <summary>Takes a number off the front of a text, and one byte behind it.</summary>
    /// <param name="end">That byte, which must follow; 0: the number ends the text.</param>
    public static bool TryTakeNumber(ref ReadOnlySpan<byte> text, char end, out ulong value)
    {
        var length = end == 0 ? text.Length : text.IndexOf((byte)end);
        if (length < 0 || !TryNumber(text[..length], out value))
        {
            value = 0;
            return false;
        }

        text = end == 0 ? [] : text[(length + 1)..];
        return true;
    }

    /// <summary>Bytes of two digits each.</summary>
    /// <param name="destination">As long as there are bytes.</param>
    public static bool TryBytes(ReadOnlySpan<byte> text, Span<byte> destination)
    {
        if (text.Length != destination.Length * 2)
            return false;
        for (var i = 0; i < destination.Length; i++)
        {
            var value = (Digit(text[2 * i]) << 4) | Digit(text[(2 * i) + 1]);
            if (value > byte.MaxValue)
                return false;
            destination[i] = (byte)value;
        }

        return true;
    }
}
