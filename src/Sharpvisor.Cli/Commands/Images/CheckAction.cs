using System.Text.Json;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Commands.Images;

/// <summary>image check, with qemu-img's exit codes: 0 clean, 2 damaged, 3 leaks only, 63 a format without checks.</summary>
internal static class CheckAction
{
    private const int Damaged = 2, Leaking = 3, NotSupported = 63;

    public static async Task<int> RunAsync(string[] args, TextWriter output)
    {
        var arguments = new ImageArguments("check", args, ["f=", "r=", "U", "force-share", "json", "output=", "q"], ["FILE"]);
        var path = arguments.Name(0);
        var repair = arguments["r"] switch
        {
            null => ImageRepair.None,
            "leaks" => ImageRepair.Leaks,
            "all" => ImageRepair.All,
            var other => throw arguments.Error($"-r {other}: give leaks or all"),
        };
        ImageCheckResult result;
        try
        {
            result = ImageCheck.Run(path, arguments["f"], repair, arguments.Has("U") || arguments.Has("force-share"));
        }
        catch (ConfigurationException e) when (e.Message.Contains("nothing that could be checked", StringComparison.Ordinal))
        {
            await output.WriteLineAsync(e.Message).ConfigureAwait(false);
            return NotSupported;
        }

        if (arguments.IsJson)
            await output.WriteLineAsync(Json(path, result)).ConfigureAwait(false);
        else if (!arguments.Has("q"))
            await PrintAsync(result, output).ConfigureAwait(false);
        return result.Corruptions > result.FixedCorruptions ? Damaged : result.Leaks > result.FixedLeaks ? Leaking : 0;
    }

    private static string Json(string path, ImageCheckResult result) => JsonSerializer.Serialize(
        new Dictionary<string, object>
        {
            ["filename"] = path,
            ["check-errors"] = 0,
            ["corruptions"] = result.Corruptions - result.FixedCorruptions,
            ["corruptions-fixed"] = result.FixedCorruptions,
            ["leaks"] = result.Leaks - result.FixedLeaks,
            ["leaks-fixed"] = result.FixedLeaks,
            ["total-clusters"] = result.TotalClusters,
            ["allocated-clusters"] = result.AllocatedClusters,
            ["compressed-clusters"] = result.CompressedClusters,
            ["image-end-offset"] = result.ImageEnd,
            ["messages"] = result.Messages,
        },
        ImageText.Json);

    private static async Task PrintAsync(ImageCheckResult result, TextWriter output)
    {
        foreach (var message in result.Messages)
            await output.WriteLineAsync(message).ConfigureAwait(false);
        if (result.FixedCorruptions + result.FixedLeaks > 0)
            await output.WriteLineAsync($"Repaired: {result.FixedCorruptions} errors, {result.FixedLeaks} leaks.").ConfigureAwait(false);
        if (result.IsClean)
            await output.WriteLineAsync("No errors were found on the image.").ConfigureAwait(false);
        if (result.Corruptions > result.FixedCorruptions)
            await output.WriteLineAsync($"{result.Corruptions - result.FixedCorruptions} errors were found on the image; data may be lost when it is written to.").ConfigureAwait(false);
        if (result.Leaks > result.FixedLeaks)
            await output.WriteLineAsync($"{result.Leaks - result.FixedLeaks} leaked clusters were found on the image: wasted room, no harm; -r leaks gives it back.").ConfigureAwait(false);
        if (result.TotalClusters > 0)
            await output.WriteLineAsync($"{result.AllocatedClusters}/{result.TotalClusters} allocated, {result.CompressedClusters} compressed; the image ends at byte {result.ImageEnd}.").ConfigureAwait(false);
    }
}
