// For CopyRect (RFC 6143, 7.7.2): rows that a client has at another height already.
using System.Runtime.InteropServices;
using Sharpvisor.Core.Display;

namespace Sharpvisor.Servers.Vnc;

/// <summary>A band of whole rows that moved up or down.</summary>
internal readonly record struct RowMove(int From, int To, int Count);

internal static class ScrollDetector
{
    /// <summary>Fewer rows are not worth the search; more than a line of text or two.</summary>
    private const int MinimumRows = 40;

    /// <summary>The largest band of rows that is on the screen at another height than in a client's picture.</summary>
    /// <returns>Null when there is none that saves anything.</returns>
    public static RowMove? Find(ClientFrame known, Framebuffer screen)
    {
        var height = screen.Height;
        if (known.Width != screen.Width || known.Height != height)
            return null;
        var changed = new bool[height];
        var changes = 0;
        for (var y = 0; y < height; y++)
        {
            changed[y] = !screen.Row(y).SequenceEqual(known.Row(y));
            changes += changed[y] ? 1 : 0;
        }

        if (changes < MinimumRows || VoteForShift(known, screen, changed) is not { } shift)
            return null;

        // The votes were for hashes: compare, and keep the band that saves most.
        RowMove best = default;
        int bestSaved = 0, start = -1, saved = 0;
        for (var y = 0; y <= height; y++)
        {
            if (y < height && y + shift >= 0 && y + shift < height && screen.Row(y).SequenceEqual(known.Row(y + shift)))
            {
                if (start < 0)
                    (start, saved) = (y, 0);
                saved += changed[y] ? 1 : 0;
                if (saved > bestSaved)
                    (best, bestSaved) = (new RowMove(start + shift, start, y - start + 1), saved);
            }
            else
            {
                start = -1;
            }
        }

        return bestSaved >= MinimumRows ? best : null;
    }

    /// <summary>By how many rows most of what changed seems to have come from below.</summary>
    private static int? VoteForShift(ClientFrame known, Framebuffer screen, bool[] changed)
    {
        var rows = new Dictionary<ulong, int>(); // -1: more than one row is like it
        for (var y = 0; y < known.Height; y++)
        {
            var row = known.Row(y);
            if (!row.ContainsAnyExcept(row[0]))
                continue; // of one colour: could have come from anywhere
            ref var entry = ref CollectionsMarshal.GetValueRefOrAddDefault(rows, Hash(row), out var exists);
            entry = exists ? -1 : y;
        }

        var votes = new Dictionary<int, int>();
        for (var y = 0; y < changed.Length; y++)
        {
            if (changed[y] && rows.TryGetValue(Hash(screen.Row(y)), out var from) && from >= 0)
                CollectionsMarshal.GetValueRefOrAddDefault(votes, from - y, out _)++;
        }

        return votes.Count == 0 ? null : votes.MaxBy(v => v.Value).Key;
    }

    private static ulong Hash(ReadOnlySpan<uint> row)
    {
        var hash = 14695981039346656037UL;
        foreach (var pixel in row)
            hash = (hash ^ pixel) * 1099511628211UL;
        return hash;
    }
}
