// Range requests.
// Follows: RFC 9110, 14.1.2.
// Leaves out: several ranges in one request, which count as none.

using System.Globalization;

namespace Sharpvisor.Backends.Net.User.Services.Http;

/// <summary>A part of a file that a client asks for (RFC 9110, 14.1.2): from a byte, to a byte, or the last so many.</summary>
/// <param name="First">Null: the last <paramref name="Last"/> bytes.</param>
/// <param name="Last">Null: to the end.</param>
internal readonly record struct ByteRange(long? First, long? Last)
{
    /// <summary>Null: malformed, another unit, or several ranges; all of which count as if nothing had been said.</summary>
    public static ByteRange? TryParse(string value)
    {
        const string unit = "bytes=";
        if (!value.StartsWith(unit, StringComparison.OrdinalIgnoreCase))
            return null;
        var text = value.AsSpan(unit.Length).Trim();
        var dash = text.IndexOf('-');
        if (dash < 0 || !TryNumber(text[..dash], out var first) || !TryNumber(text[(dash + 1)..], out var last) || (first ?? last) is null || first > last)
            return null;
        return new ByteRange(first, last);
    }

    /// <summary>Which bytes of a file that is so long.</summary>
    /// <returns>False: none.</returns>
    public bool TryResolve(long length, out long start, out long end)
    {
        start = First ?? Math.Max(0, length - Last!.Value);
        end = First is null || Last is null ? length : Math.Min(length, Last.Value == long.MaxValue ? long.MaxValue : Last.Value + 1);
        return start < end;
    }

    private static bool TryNumber(ReadOnlySpan<char> text, out long? number)
    {
        number = null;
        if (text.IsEmpty)
            return true;
        if (!long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var value))
            return false;
        number = value;
        return true;
    }
}
