using System.Text.Json;
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Commands.Images;

/// <summary>image map: which parts of a disk lie where, in which file of a chain.</summary>
internal static class MapAction
{
    public static async Task<int> RunAsync(string[] args, TextWriter output, ILogger logger)
    {
        var arguments = new ImageArguments("map", args, ["f=", "U", "force-share", "json", "output="], ["FILE"]);
        var image = ImageFormat.Open(
            arguments.Name(0), new DriveOptions { Format = arguments["f"], IsReadOnly = true, IsShared = arguments.Has("U") || arguments.Has("force-share") }, logger);
        await using var _ = image.ConfigureAwait(false);
        if (arguments.IsJson)
        {
            var separator = "[";
            foreach (var (start, extent) in Extents(image))
            {
                await output.WriteAsync($"{separator}{JsonSerializer.Serialize(Describe(start, extent))}").ConfigureAwait(false);
                separator = "," + Environment.NewLine;
            }

            await output.WriteLineAsync("]").ConfigureAwait(false);
            return 0;
        }

        await output.WriteLineAsync($"{"Offset",-16}{"Length",-16}{"Mapped to",-16}File").ConfigureAwait(false);
        foreach (var (start, extent) in Extents(image).Where(e => !e.Extent.IsZero))
        {
            var place = extent.IsCompressed ? "compressed" : $"0x{extent.FileOffset:x}";
            await output.WriteLineAsync($"{$"0x{start:x}",-16}{$"0x{extent.Length:x}",-16}{place,-16}{extent.File}").ConfigureAwait(false);
        }

        return 0;
    }

    /// <summary>Those that go on where another ends are one.</summary>
    private static IEnumerable<(long Start, ImageExtent Extent)> Extents(DiskImage image)
    {
        long start = 0;
        ImageExtent? before = null;
        for (long at = 0; at < image.Length;)
        {
            var extent = Map(image, at);
            if (before is { } last && extent.Continues(last))
            {
                before = last with { Length = last.Length + extent.Length };
            }
            else
            {
                if (before is { } done)
                    yield return (start, done);
                (start, before) = (at, extent);
            }

            at += extent.Length;
        }

        if (before is { } end)
            yield return (start, end);
    }

    private static ImageExtent Map(DiskImage image, long at)
    {
        try
        {
            return image.Map(at, image.Length - at);
        }
        catch (BlockException e)
        {
            throw new ConfigurationException($"{image.Name}: {e.Message}", e);
        }
    }

    private static Dictionary<string, object> Describe(long start, ImageExtent extent)
    {
        var about = new Dictionary<string, object>
        {
            ["start"] = start,
            ["length"] = extent.Length,
            ["depth"] = extent.Depth,
            ["present"] = extent.IsPresent,
            ["zero"] = extent.IsZero,
            ["data"] = !extent.IsZero,
            ["compressed"] = extent.IsCompressed,
        };
        if (extent.FileOffset is { } offset)
            about["offset"] = offset;
        return about;
    }
}
