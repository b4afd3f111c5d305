namespace Sharpvisor.Cli.Parsing;

/// <summary>What someone may have meant.</summary>
internal static class Nearest
{
    /// <summary>The candidate with the fewest letters added, removed, changed or swapped; the first of several.</summary>
    public static string Of(string typed, IEnumerable<string> candidates) =>
        candidates.MinBy(c => (Distance(typed.ToLowerInvariant(), c.TrimStart('-').ToLowerInvariant()) * 4) - (5 * CommonPrefix(typed, c.TrimStart('-'))))!;

    private static int CommonPrefix(string a, string b)
    {
        var length = 0;
        while (length < a.Length && length < b.Length && char.ToLowerInvariant(a[length]) == char.ToLowerInvariant(b[length]))
            length++;
        return Math.Min(length, 3);
    }

    private static int Distance(string a, string b)
    {
        var d = new int[a.Length + 1, b.Length + 1];
        for (var i = 0; i <= a.Length; i++)
            d[i, 0] = i;
        for (var j = 0; j <= b.Length; j++)
            d[0, j] = j;
        for (var i = 1; i <= a.Length; i++)
        {
            for (var j = 1; j <= b.Length; j++)
            {
                var cost = a[i - 1] == b[j - 1] ? 0 : 1;
                d[i, j] = Math.Min(Math.Min(d[i - 1, j] + 1, d[i, j - 1] + 1), d[i - 1, j - 1] + cost);
                if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                    d[i, j] = Math.Min(d[i, j], d[i - 2, j - 2] + 1);
            }
        }

        return d[a.Length, b.Length];
    }
}
