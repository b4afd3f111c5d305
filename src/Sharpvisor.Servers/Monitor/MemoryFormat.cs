// The /FMT of x, xp, print, i and o: a count, a letter for the form (o x d u c i) and one for the size (b h w g), and the
// values in that form, as QEMU's monitor prints them.
using System.Globalization;
using System.Text;
using Iced.Intel;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Monitor;

/// <param name="Count">Of values or instructions.</param>
/// <param name="Form">o, x, d, u, c or i.</param>
/// <param name="Size">Of a value, in bytes.</param>
internal sealed record MemoryFormat(int Count, char Form, int Size)
{
    /// <summary>Of what one command prints.</summary>
    public const int MaximumCount = 1 << 16;

    /// <summary>Nothing of the text needs to be there; what is not is as before.</summary>
    /// <exception cref="ControlException">It is no format.</exception>
    public static MemoryFormat Parse(string text, MemoryFormat before)
    {
        var digits = text.TakeWhile(char.IsAsciiDigit).Count();
        var count = 1;
        if (digits > 0 && (!int.TryParse(text.AsSpan(0, digits), NumberStyles.None, CultureInfo.InvariantCulture, out count) || count > MaximumCount))
            throw new ControlException($"'/{text}': give a count up to {MaximumCount}");
        char? form = null;
        int? size = null;
        foreach (var letter in text.AsSpan(digits))
        {
            switch (letter)
            {
                case 'o' or 'x' or 'd' or 'u' or 'c' or 'i':
                    form = letter;
                    break;
                case 'b' or 'h' or 'w' or 'g' or 'L':
                    size = letter switch { 'b' => 1, 'h' => 2, 'w' => 4, _ => 8 };
                    break;
                default:
                    throw new ControlException($"invalid char in format: '{letter}'");
            }
        }

        form ??= before.Form;
        return new MemoryFormat(count, form.Value, form == 'c' ? 1 : size ?? (form == 'i' ? before.Size : before.Size));
    }

    /// <summary>One value, without padding.</summary>
    public static string Value(char form, ulong value) => form switch
    {
        'o' => value == 0 ? "0" : "0" + Octal(value),
        'x' => $"0x{value:x}",
        'u' => value.ToString(CultureInfo.InvariantCulture),
        'c' => Character(value),
        _ => ((long)value).ToString(CultureInfo.InvariantCulture),
    };

    /// <summary>What was read, in lines with addresses.</summary>
    /// <param name="isMissing">There was no more to be read.</param>
    public string Describe(ulong address, ReadOnlySpan<byte> bytes, bool isMissing)
    {
        var text = new StringBuilder();
        var lineSize = Size == 1 ? 8 : 16;
        for (var at = 0; at < bytes.Length; at += lineSize)
        {
            text.Append(CultureInfo.InvariantCulture, $"{address + (ulong)at:x16}:");
            var line = bytes.Slice(at, Math.Min(lineSize, bytes.Length - at));
            for (var i = 0; i + Size <= line.Length; i += Size)
                text.Append(' ').Append(Padded(Little(line.Slice(i, Size))));
            text.Append('\n');
        }

        if (isMissing)
            text.Append(CultureInfo.InvariantCulture, $"{address + (ulong)bytes.Length:x16}: Cannot access memory\n");
        return text.ToString();
    }

    /// <param name="bitness">16, 32 or 64.</param>
    public string Disassemble(ulong address, ReadOnlySpan<byte> bytes, int bitness)
    {
        var text = new StringBuilder();
        var formatter = new GasFormatter(new FormatterOptions { UppercaseHex = false, HexPrefix = "0x", SpaceAfterOperandSeparator = false });
        var output = new StringOutput();
        var code = bytes.ToArray();
        var decoder = Iced.Intel.Decoder.Create(bitness, code);
        decoder.IP = address;
        for (var i = 0; i < Count; i++)
        {
            var start = (int)(decoder.IP - address);
            if (start >= code.Length)
            {
                text.Append(CultureInfo.InvariantCulture, $"0x{decoder.IP:x16}: Cannot access memory\n");
                break;
            }

            decoder.Decode(out var instruction);
            var length = instruction.IsInvalid && instruction.Length == 0 ? 1 : instruction.Length;
            formatter.Format(instruction, output);
            var hex = string.Join(' ', code.AsSpan(start, Math.Min(length, code.Length - start)).ToArray().Select(b => b.ToString("x2", CultureInfo.InvariantCulture)));
            text.Append(CultureInfo.InvariantCulture, $"0x{address + (ulong)start:x16}:  {hex,-24} {output.ToStringAndReset()}\n");
        }

        return text.ToString();
    }

    private static ulong Little(ReadOnlySpan<byte> bytes)
    {
        ulong value = 0;
        for (var i = bytes.Length - 1; i >= 0; i--)
            value = (value << 8) | bytes[i];
        return value;
    }

    private string Padded(ulong value)
    {
        var bits = 8 * Size;
        switch (Form)
        {
            case 'o':
                return ("0" + (value == 0 ? "" : Octal(value))).PadLeft((bits + 2) / 3);
            case 'u':
                return value.ToString(CultureInfo.InvariantCulture).PadLeft(((bits * 10) + 32) / 33);
            case 'd':
                var signed = (long)(value << (64 - bits)) >> (64 - bits);
                return signed.ToString(CultureInfo.InvariantCulture).PadLeft(((bits * 10) + 32) / 33);
            case 'c':
                return Character(value);
            default:
                return "0x" + value.ToString($"x{2 * Size}", CultureInfo.InvariantCulture);
        }
    }

    private static string Octal(ulong value)
    {
        var digits = new StringBuilder();
        for (; value != 0; value >>= 3)
            digits.Insert(0, (char)('0' + (value & 7)));
        return digits.ToString();
    }

    private static string Character(ulong value) => (char)(byte)value switch
    {
        '\'' => "'\\''",
        '\\' => "'\\\\'",
        '\n' => "'\\n'",
        '\r' => "'\\r'",
        >= ' ' and <= '~' and var printable => $"'{printable}'",
        var other => $"'\\x{(int)other:x2}'",
    };
}
