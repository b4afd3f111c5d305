using System.Globalization;
using System.Text;
using System.Text.Json;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Block.Qcow2;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Commands.Images;

/// <summary>image info: what an image says about itself, and those below it with --backing-chain.</summary>
internal static class InfoAction
{
    public static async Task<int> RunAsync(string[] args, TextWriter output, ILogger logger)
    {
        var arguments = new ImageArguments("info", args, ["f=", "U", "force-share", "json", "output=", "backing-chain"], ["FILE"]);
        List<Dictionary<string, object>> chain = [];
        HashSet<string> seen = [];
        for (var (path, format) = ((string?)arguments.Name(0), arguments["f"]); path is not null;)
        {
            if (!seen.Add(Path.GetFullPath(path)))
                throw new ConfigurationException($"{path}: is its own backing image, directly or over others; give one of them another with qemu-img rebase -u -b");
            var options = new DriveOptions { Format = format, IsReadOnly = true, IsAlone = true, IsShared = arguments.Has("U") || arguments.Has("force-share") };
            var image = ImageFormat.Open(path, options, chain.Count == 0 && format is null ? logger : NullLogger.Instance);
            await using var _ = image.ConfigureAwait(false);
            try
            {
                chain.Add(Describe(image));
            }
            catch (BlockException e)
            {
                throw new ConfigurationException($"{path}: {e.Message}", e);
            }

            (path, format) = arguments.Has("backing-chain") && chain[^1].TryGetValue("full-backing-filename", out var below) ? ((string)below, image.BackingFormat) : (null, null);
        }

        var text = arguments.IsJson
            ? JsonSerializer.Serialize(arguments.Has("backing-chain") ? chain : (object)chain[0], ImageText.Json)
            : string.Join(Environment.NewLine, chain.Select(Text)).TrimEnd();
        await output.WriteLineAsync(text).ConfigureAwait(false);
        return 0;
    }

    /// <summary>With qemu-img's keys.</summary>
    private static Dictionary<string, object> Describe(DiskImage image)
    {
        var about = new Dictionary<string, object>
        {
            ["filename"] = image.Name,
            ["format"] = image.Format,
            ["virtual-size"] = image.Length,
            ["actual-size"] = image.AllocatedBytes,
        };
        if (image.Granularity > 0)
            about["cluster-size"] = image.Granularity;
        if (image.BackingName is { } backing)
        {
            about["backing-filename"] = backing;
            about["full-backing-filename"] = Path.IsPathRooted(backing) ? backing : Path.Combine(Path.GetDirectoryName(image.Name) ?? "", backing);
            if (image.BackingFormat is { } format)
                about["backing-filename-format"] = format;
        }

        if (image is Qcow2Image { Snapshots: { Count: > 0 } snapshots })
        {
            about["snapshots"] = snapshots.Select(s => new Dictionary<string, object>
            {
                ["id"] = s.Id,
                ["name"] = s.Name,
                ["vm-state-size"] = s.StateSize,
                ["date-sec"] = s.Date.ToUnixTimeSeconds(),
                ["vm-clock-sec"] = (long)s.GuestTime.TotalSeconds,
                ["vm-clock-nsec"] = s.GuestTime.Ticks % TimeSpan.TicksPerSecond * 100,
            }).ToList();
        }

        if (image.Details.Count > 0)
        {
            var data = image.Details.ToDictionary(d => d.Name.Replace(' ', '-'), d => d.Value);
            about["format-specific"] = new Dictionary<string, object> { ["type"] = image.Format, ["data"] = data };
            if (data.Remove("dirty", out var dirty))
                about["dirty-flag"] = dirty;
        }

        return about;
    }

    private static string Text(Dictionary<string, object> about)
    {
        var text = new StringBuilder();
        text.AppendLine($"image: {about["filename"]}")
            .AppendLine($"file format: {about["format"]}")
            .AppendLine($"virtual size: {ImageText.Size((long)about["virtual-size"])} ({about["virtual-size"]} bytes)")
            .AppendLine($"disk size: {ImageText.Size((long)about["actual-size"])}");
        if (about.TryGetValue("cluster-size", out var cluster))
            text.AppendLine($"cluster_size: {cluster}");
        if (about.TryGetValue("backing-filename", out var backing))
            text.AppendLine($"backing file: {backing}{(about["full-backing-filename"].Equals(backing) ? "" : $" (actual path: {about["full-backing-filename"]})")}");
        if (about.TryGetValue("backing-filename-format", out var format))
            text.AppendLine($"backing file format: {format}");
        if (about.TryGetValue("dirty-flag", out var dirty) && dirty is true)
            text.AppendLine("cleanly shut down: no");
        if (about.TryGetValue("snapshots", out var snapshots))
        {
            text.AppendLine("Snapshot list:").AppendLine($"{"ID",-10}{"TAG",-20}{"VM SIZE",10}{"DATE",22}{"VM CLOCK",16}");
            foreach (var s in (List<Dictionary<string, object>>)snapshots)
            {
                var date = DateTimeOffset.FromUnixTimeSeconds((long)s["date-sec"]).ToLocalTime().ToString("yyyy-MM-dd HH:mm:ss", CultureInfo.InvariantCulture);
                var clock = TimeSpan.FromSeconds((long)s["vm-clock-sec"]) + TimeSpan.FromTicks((long)s["vm-clock-nsec"] / 100);
                text.AppendLine($"{s["id"],-10}{s["name"],-20}{ImageText.Size((long)(ulong)s["vm-state-size"]),10}{date,22}{clock.ToString(@"hh\:mm\:ss\.fff", CultureInfo.InvariantCulture),16}");
            }
        }

        if (about.TryGetValue("format-specific", out var specific))
        {
            text.AppendLine("Format specific information:");
            foreach (var (name, value) in (Dictionary<string, object>)((Dictionary<string, object>)specific)["data"])
                text.AppendLine($"    {name.Replace('-', ' ')}: {(value is bool flag ? flag ? "true" : "false" : value)}");
        }

        return text.ToString();
    }
}
