using System.Runtime.InteropServices;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;

namespace Sharpvisor.Cli.Commands.Images;

/// <summary>image convert: a disk into another file, in another format.</summary>
internal static class ConvertAction
{
    public static async Task<int> RunAsync(string[] args, TextWriter errors, ILogger logger)
    {
        var arguments = new ImageArguments("convert", args, ["f=", "O=", "o=", "b=", "F=", "l=", "c", "p", "q", "U", "force-share"], ["SOURCE", "TARGET"]);
        var format = arguments["O"] ?? ImageFormat.Raw;
        var options = CreateAction.Options(arguments, format);
        var snapshot = arguments["l"]?.Replace("snapshot.name=", "", StringComparison.Ordinal).Replace("snapshot.id=", "", StringComparison.Ordinal);
        var source = ImageFormat.Open(
            arguments.Name(0), new DriveOptions { Format = arguments["f"], IsReadOnly = true, Snapshot = snapshot, IsShared = arguments.Has("U") || arguments.Has("force-share") }, logger);
        await using var _ = source.ConfigureAwait(false);
        var path = arguments.Name(1);
        ImageCreate.Run(path, format, options with { Size = source.Length }, logger);
        var target = ImageFormat.Open(path, new DriveOptions { Format = format, Discard = true, Cache = CacheMode.Unsafe }, NullLogger.Instance);
        await using var __ = target.ConfigureAwait(false);
        using var stop = new CancellationTokenSource();
        using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, c =>
        {
            c.Cancel = true;
            stop.Cancel();
        });
        using var progress = new ProgressBar(errors, $"{Path.GetFileName(path)}", source.Length, arguments.Has("q") ? false : arguments.Has("p") ? true : null);
        try
        {
            await ImageConvert.RunAsync(source, target, arguments.Has("c"), progress.Report, stop.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            await errors.WriteLineAsync($"sharpvisor: {path}: interrupted, it has a part of the disk only").ConfigureAwait(false);
            return 130;
        }

        return 0;
    }
}
