using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Tests.Block;

/// <summary>Writes to an image what a seed says, so that another process knows what must be in it, and what may.</summary>
internal static class ScriptedWriter
{
    private const int Sector = 512;
    private const int LongestWrite = 1024;

    internal enum Kind
    {
        Write,
        Zero,
        Discard,
        Flush,
    }

    /// <summary>Writes until it is killed, and says after each flush which step that was.</summary>
    public static async Task RunAsync(string path, string format, int seed, TextWriter output)
    {
        await using var image = ImageFormat.Open(path, new DriveOptions { Format = format, Discard = true }, NullLogger.Instance);
        await output.WriteLineAsync("ready");
        await output.FlushAsync();
        foreach (var step in Steps(seed, image.Length / Sector))
        {
            await PerformAsync(image, step);
            if (step.Kind != Kind.Flush)
                continue;
            await output.WriteLineAsync($"{step.Number}");
            await output.FlushAsync();
        }
    }

    internal static ValueTask PerformAsync(IBlockImage image, Step step) => step.Kind switch
    {
        Kind.Write => image.WriteAsync(step.First * Sector, new BlockBuffers(Content(step))),
        Kind.Zero => image.WriteZeroesAsync(step.First * Sector, step.Count * Sector, mayDiscard: step.Number % 2 == 0),
        Kind.Discard => image.DiscardAsync(step.First * Sector, step.Count * Sector),
        _ => image.FlushAsync(),
    };

    /// <summary>What in an image can't be there when it was safe up to a step; empty when all is right.</summary>
    /// <param name="before">What each sector had before the first step: 0 for zeroes.</param>
    public static Task<List<string>> VerifyAsync(IBlockImage image, int seed, long safe, long last, Func<long, ulong> before) =>
        VerifyAsync(image, Steps(seed, image.Length / Sector).TakeWhile(s => s.Number <= last), safe, before);

    /// <inheritdoc cref="VerifyAsync(IBlockImage, int, long, long, Func{long, ulong})"/>
    public static async Task<List<string>> VerifyAsync(IBlockImage image, IEnumerable<Step> steps, long safe, Func<long, ulong> before)
    {
        var allowed = new Dictionary<long, HashSet<ulong>>();
        foreach (var step in steps)
        {
            for (var s = step.First; s < step.First + step.Count; s++)
            {
                if (!allowed.TryGetValue(s, out var values))
                    allowed[s] = values = [before(s)];
                if (step.Kind is Kind.Write or Kind.Zero && step.Number <= safe)
                    values.Clear();
                if (step.Kind != Kind.Flush)
                    values.Add(step.Kind == Kind.Write ? Stamp(step, s) : 0);
            }
        }

        List<string> wrong = [];
        var data = new byte[1 << 20];
        for (long at = 0; at < image.Length; at += data.Length)
        {
            var count = (int)Math.Min(data.Length, image.Length - at);
            await image.ReadAsync(at, new BlockBuffers(data.AsMemory(0, count)));
            for (var i = 0; i < count; i += Sector)
            {
                var sector = (at + i) / Sector;
                var numbers = System.Runtime.InteropServices.MemoryMarshal.Cast<byte, ulong>(data.AsSpan(i, Sector));
                var isKnown = allowed.TryGetValue(sector, out var values) ? values.Contains(numbers[0]) : numbers[0] == before(sector);
                if ((!isKnown || numbers.ContainsAnyExcept(numbers[0])) && wrong.Count < 10)
                    wrong.Add($"sector {sector} has {numbers[0]:x}, not one of {string.Join(" ", (values ?? [before(sector)]).Select(v => $"{v:x}"))}");
            }
        }

        return wrong;
    }

    internal static IEnumerable<Step> Steps(int seed, long sectors, int longest = LongestWrite)
    {
        var random = new Random(seed);
        long next = 0;
        for (long number = 1; ; number++)
        {
            var count = random.Next(4) == 0 ? random.Next(1, longest) : random.Next(1, 17);
            var first = random.Next(3) == 0 ? next : random.NextInt64(sectors);
            count = (int)Math.Min(count, sectors - first);
            next = (first + count) % sectors;
            var kind = random.Next(30) switch
            {
                0 => Kind.Flush,
                1 => Kind.Zero,
                2 => Kind.Discard,
                _ => Kind.Write,
            };
            yield return kind == Kind.Flush ? new Step(number, kind, 0, 0) : new Step(number, kind, first, count);
        }
    }

    internal static byte[] Content(Step step)
    {
        var data = new byte[step.Count * Sector];
        for (var s = 0; s < step.Count; s++)
            System.Runtime.InteropServices.MemoryMarshal.Cast<byte, ulong>(data.AsSpan(s * Sector, Sector)).Fill(Stamp(step, step.First + s));
        return data;
    }

    private static ulong Stamp(Step step, long sector) => ((ulong)step.Number << 32) | ((ulong)sector + 1);

    internal readonly record struct Step(long Number, Kind Kind, long First, int Count);
}
