using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Block;
using Sharpvisor.Cli.Output;
using Sharpvisor.Cli.Parsing;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Commands.Images;

/// <summary>sharpvisor image: makes, copies, checks and describes disk images, with qemu-img's arguments.</summary>
internal static class ImageCommand
{
    private static readonly string[] Verbs = ["info", "create", "convert", "check", "map", "resize"];

    public static async Task<int> RunAsync(string[] args, TextWriter output, TextWriter errors)
    {
        if (args.Length == 0)
            throw new ConfigurationException($"image: what shall be done? There are {string.Join(", ", Verbs)}; see sharpvisor image --help");
        var rest = args[1..];
        var logger = new StandardErrorLogger(errors);
        switch (args[0])
        {
            case "info":
                return await InfoAction.RunAsync(rest, output, logger).ConfigureAwait(false);
            case "create":
                return await CreateAction.RunAsync(rest, output, logger).ConfigureAwait(false);
            case "convert":
                return await ConvertAction.RunAsync(rest, errors, logger).ConfigureAwait(false);
            case "check":
                return await CheckAction.RunAsync(rest, output).ConfigureAwait(false);
            case "map":
                return await MapAction.RunAsync(rest, output, logger).ConfigureAwait(false);
            case "resize":
                return await ResizeAsync(rest, output, logger).ConfigureAwait(false);
            default:
                throw new ConfigurationException($"image {args[0]}: there is no such thing; the nearest is {Nearest.Of(args[0], Verbs)} of {string.Join(", ", Verbs)}");
        }
    }

    private static async Task<int> ResizeAsync(string[] args, TextWriter output, ILogger logger)
    {
        var arguments = new ImageArguments("resize", args, ["f=", "shrink", "q"], ["FILE", "[+|-]SIZE"]);
        var path = arguments.Name(0);
        var text = arguments.Name(1);
        var amount = arguments.Size(text.TrimStart('+', '-'));
        var image = ImageFormat.Open(path, new DriveOptions { Format = arguments["f"] }, logger);
        await using var _ = image.ConfigureAwait(false);
        var size = text[0] switch
        {
            '+' => image.Length + amount,
            '-' => image.Length - amount,
            _ => amount,
        };
        if (size <= 0)
            throw arguments.Error($"{path} would have {size} bytes; a disk has one sector at least");
        if (size < image.Length && !arguments.Has("shrink"))
            throw arguments.Error($"{path} would lose its last {image.Length - size} bytes; give --shrink if the guest uses less");
        try
        {
            await image.ResizeAsync(size).ConfigureAwait(false);
            await image.FlushAsync().ConfigureAwait(false);
        }
        catch (BlockException e)
        {
            throw new ConfigurationException($"{path}: {e.Message}", e);
        }

        if (!arguments.Has("q"))
            await output.WriteLineAsync($"{path}: {ImageText.Size(image.Length)} ({image.Length} bytes)").ConfigureAwait(false);
        return 0;
    }
}
