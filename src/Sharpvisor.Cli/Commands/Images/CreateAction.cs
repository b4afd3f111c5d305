using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Block;
using Sharpvisor.Cli.Parsing;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Commands.Images;

/// <summary>image create, and the options of a new image, which convert has, too.</summary>
internal static class CreateAction
{
    private static readonly string[] Known =
        ["size", "backing_file", "backing_fmt", "subformat", "cluster_size", "compat", "lazy_refcounts", "refcount_bits", "compression_type", "preallocation", "batmap"];

    public static async Task<int> RunAsync(string[] args, TextWriter output, ILogger logger)
    {
        var arguments = new ImageArguments("create", args, ["f=", "b=", "F=", "o=", "q"], ["FILE", "SIZE"], optional: 1);
        var path = arguments.Name(0);
        var format = arguments["f"] ?? ImageFormat.Raw;
        var options = Options(arguments, format);
        if (arguments.NameOrNull(1) is { } size)
            options = options with { Size = arguments.Size(size) };
        ImageCreate.Run(path, format, options, logger);
        if (!arguments.Has("q"))
        {
            var made = ImageFormat.Open(path, new DriveOptions { Format = format, IsReadOnly = true, IsAlone = true }, logger);
            await using var _ = made.ConfigureAwait(false);
            await output.WriteLineAsync($"{path}: {made.Format}, {ImageText.Size(made.Length)} ({made.Length} bytes){(made.BackingName is { } backing ? $" over {backing}" : "")}").ConfigureAwait(false);
        }

        return 0;
    }

    public static ImageOptions Options(ImageArguments arguments, string format)
    {
        var keys = arguments.Options(Known);
        string[] others = ImageFormat.Canonical(format) switch
        {
            ImageFormat.Qcow2 => ["subformat", "batmap"],
            ImageFormat.Vhd => ["cluster_size", "compat", "lazy_refcounts", "refcount_bits", "compression_type"],
            _ => ["subformat", "batmap", "cluster_size", "compat", "lazy_refcounts", "refcount_bits", "compression_type"],
        };
        if (Array.Find(others, o => keys[o] is not null) is { } wrong)
            throw keys.Error($"{wrong} says nothing for format {format}; leave it out");
        return new ImageOptions
        {
            Size = keys["size"] is { Length: > 0 } size ? arguments.Size(size) : null,
            BackingFile = arguments["b"] ?? keys["backing_file"],
            BackingFormat = arguments["F"] ?? keys["backing_fmt"],
            IsFixed = keys.Word("subformat", ("dynamic", false), ("fixed", true)) ?? false,
            HasBatmap = keys.OnOff("batmap", false),
            ClusterSize = keys["cluster_size"] is { } cluster ? (int)Math.Min(arguments.Size(cluster), int.MaxValue) : 64 << 10,
            Version = keys.Word("compat", ("0.10", 2), ("v2", 2), ("1.1", 3), ("v3", 3)) ?? 3,
            LazyRefcounts = keys.OnOff("lazy_refcounts", false),
            RefcountBits = keys.Number("refcount_bits", 1, 64) ?? 16,
            UsesZstd = keys.Word("compression_type", ("zlib", false), ("zstd", true)) ?? false,
            Preallocation = keys.Word("preallocation", ("off", Preallocation.Off), ("metadata", Preallocation.Metadata), ("falloc", Preallocation.Falloc), ("full", Preallocation.Full)) ?? Preallocation.Off,
        };
    }
}
