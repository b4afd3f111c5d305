using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Cli.Parsing;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Commands;

/// <summary>Boots the cached Debian kernel to a shell, with a disk that keeps the home directory.</summary>
internal static class DemoCommand
{
    private const string CommandLine = "console=ttyS0 quiet";

    public static async Task<int> RunAsync(string[] args, TextWriter output, TextWriter errors)
    {
        var settings = RunFlags.Parse(args);
        if (settings.Kernel is null)
        {
            if (settings is { PlacedDrives.Count: 0, VirtioDevices.Count: 0, NoDefaults: false } && await IsDiskFreeAsync(errors).ConfigureAwait(false))
                settings = RunFlags.Parse([.. args, "-drive", $"file={GuestCache.DemoDisk.Replace(",", ",,", StringComparison.Ordinal)},format=raw,if=virtio"]);
            settings.Kernel = Cached(GuestCache.DemoKernel, "kernel", "-kernel VMLINUZ -initrd INITRD");
            settings.Initrd ??= Cached(GuestCache.DemoInitrd, "RAM disk", "-initrd INITRD");
        }

        settings.Append ??= CommandLine;
        if (settings.Serial.Any(s => s.IsStdio) && Core.Host.Terminal.IsTerminal(0))
            await errors.WriteLineAsync("sharpvisor: Ctrl-A x ends the machine, Ctrl-A h shows the other keys").ConfigureAwait(false);
        return await RunCommand.RunAsync(settings, output, errors).ConfigureAwait(false);
    }

    /// <summary>Whether there is the disk with the home directory, and no other demo has it.</summary>
    private static async Task<bool> IsDiskFreeAsync(TextWriter errors)
    {
        if (!File.Exists(GuestCache.DemoDisk))
            return false;
        try
        {
            await using var image = ImageFormat.Open(GuestCache.DemoDisk, new DriveOptions { Format = ImageFormat.Raw }, NullLogger.Instance, out _);
            return true;
        }
        catch (ConfigurationException e)
        {
            await errors.WriteLineAsync($"sharpvisor: no disk for the home directory: {e.Message}").ConfigureAwait(false);
            return false;
        }
    }

    private static string Cached(string path, string what, string flags) => File.Exists(path)
        ? path
        : throw new ConfigurationException($"the demo's {what} is not in the guest cache ({path}): run ./sharpvisor demo on Debian to fetch it, or give your own with {flags}");
}
