// -blockdev, in its plain forms: a format over a file, in one piece or in two nodes of which one names the other, written
// as key=value or as JSON.
// Follows: qemu(1), "-blockdev".
// Leaves out: protocols other than file and host_device, and filters.
using System.Text.Json;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Parsing;

internal static class BlockdevValues
{
    private static readonly string[] Keys =
    [
        "driver", "node-name", "file", "filename", "read-only", "auto-read-only", "discard", "detect-zeroes", "cache.direct", "cache.no-flush", "locking", "aio",
        "file.driver", "file.filename", "file.node-name", "file.read-only", "file.auto-read-only", "file.discard", "file.cache.direct", "file.cache.no-flush", "file.locking", "file.aio",
    ];

    public static void Blockdev(RunSettings settings, string value)
    {
        var text = value.StartsWith('{') ? FromJson(value) : value;
        var keys = new KeyValues("-blockdev", text, implied: "driver", Keys);
        var driver = keys["driver"] ?? throw keys.Error("driver= is missing; give raw, qcow2, vpc or file");
        var name = keys["node-name"] ?? throw keys.Error("node-name= is missing: a -device names the node by it");
        if (settings.Nodes.Exists(n => n.Name == name))
            throw keys.Error($"there is a node \"{name}\" already; give each its own");
        if (driver is "file" or "host_device")
        {
            settings.Nodes.Add(new BlockNode(name, keys, FileName(keys, ""), null));
            return;
        }

        if (!ImageFormat.Names.Contains(driver))
            throw keys.Error($"driver={driver} is not in this version; there is file, {string.Join(", ", ImageFormat.Names)}");
        var below = keys["file"] is { } named
            ? settings.Nodes.Find(n => n.Name == named) ?? throw keys.Error($"there is no node \"{named}\" before it; give -blockdev driver=file,node-name={named},filename=FILE")
            : null;
        if (below is not null)
            below.IsUsed = true;
        else if (keys["file.driver"] is not (null or "file" or "host_device"))
            throw keys.Error($"file.driver={keys["file.driver"]} is not in this version; there is file");
        settings.Nodes.Add(new BlockNode(name, keys, below?.File ?? FileName(keys, "file."), driver) { Below = below });
    }

    /// <summary>Nodes that no other is over are drives, which a -device names.</summary>
    public static IEnumerable<DriveSpec> Drives(RunSettings settings) => settings.Nodes.Where(n => !n.IsUsed).Select(n => new DriveSpec($"-blockdev node-name={n.Name}")
    {
        File = n.File,
        Id = n.Name,
        Interface = DriveInterface.None,
        Options = new DriveOptions
        {
            // A file without a driver over it is raw, because it was said so.
            Format = n.Driver ?? ImageFormat.Raw,
            IsReadOnly = n.IsOn("read-only"),
            Discard = n.Keys.Word("discard", ("unmap", true), ("on", true), ("ignore", false), ("off", false)) ?? false,
            DetectZeroes = DriveValues.DetectZeroes(n.Keys),
            Cache = n.IsOn("cache.no-flush") ? CacheMode.Unsafe : n.IsOn("cache.direct") ? CacheMode.None : CacheMode.Writeback,
        },
    });

    private static string FileName(KeyValues keys, string prefix) =>
        keys[prefix + "filename"] ?? throw keys.Error($"{prefix}filename= is missing; give the path of the image");

    /// <summary>{"driver": "qcow2", "file": {"filename": …}} is driver=qcow2,file.filename=….</summary>
    private static string FromJson(string text)
    {
        try
        {
            using var json = JsonDocument.Parse(text);
            return string.Join(',', Flatten(json.RootElement, "").Select(p => $"{p.Key}={p.Value.Replace(",", ",,", StringComparison.Ordinal)}"));
        }
        catch (JsonException e)
        {
            throw new ConfigurationException($"-blockdev {text}: is not JSON: {e.Message}", e);
        }
    }

    private static IEnumerable<(string Key, string Value)> Flatten(JsonElement element, string prefix)
    {
        foreach (var property in element.EnumerateObject())
        {
            var key = prefix + property.Name;
            if (property.Value.ValueKind == JsonValueKind.Object)
            {
                foreach (var inner in Flatten(property.Value, key + "."))
                    yield return inner;
                continue;
            }

            yield return (key, property.Value.ValueKind switch
            {
                JsonValueKind.True => "on",
                JsonValueKind.False => "off",
                JsonValueKind.String => property.Value.GetString()!,
                _ => property.Value.GetRawText(),
            });
        }
    }
}

/// <summary>What one -blockdev says.</summary>
/// <param name="Driver">The format; null: a file.</param>
internal sealed record BlockNode(string Name, KeyValues Keys, string File, string? Driver)
{
    public BlockNode? Below { get; init; }

    /// <summary>Another one is over it.</summary>
    public bool IsUsed { get; set; }

    /// <summary>An option, of this node or of the one below it.</summary>
    public bool IsOn(string key) => Keys.OnOff(key, false) || Keys.OnOff("file." + key, false) || Below?.IsOn(key) == true;
}
