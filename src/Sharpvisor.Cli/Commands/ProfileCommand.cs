using System.Globalization;
using System.Runtime.InteropServices;
using Sharpvisor.Cli.Parsing;
using Sharpvisor.Core.Guests;
using Sharpvisor.Debugging.Profiling;
using Sharpvisor.Servers.Control;
using Sharpvisor.Servers.Qmp;

namespace Sharpvisor.Cli.Commands;

/// <summary>sharpvisor profile: where the processors of a machine spend their time, as folded stacks.</summary>
internal static class ProfileCommand
{
    private const string Usage = "sharpvisor profile [-F HZ] [-t SECONDS] [-o FILE] NAME|PID, or sharpvisor profile [-F HZ] [-o FILE] -- FLAGS of run";

    public static async Task<int> RunAsync(string[] args, TextWriter output, TextWriter errors)
    {
        var (frequency, seconds, file, machine) = (Profiler.DefaultFrequency, 10.0, (string?)null, (string?)null);
        for (var i = 0; i < args.Length; i++)
        {
            switch (args[i])
            {
                case "--":
                    if (machine is not null)
                        throw new ConfigurationException($"profile: give a machine ({machine}) or flags behind --, not both: {Usage}");
                    var settings = RunFlags.Parse(args[(i + 1)..]);
                    settings.ProfileFrequency = frequency;
                    settings.ProfileFile = file ?? "profile.folded";
                    return await RunCommand.RunAsync(settings, output, errors).ConfigureAwait(false);
                case "-F" or "-t" or "-o" when i + 1 == args.Length:
                    throw new ConfigurationException($"profile {args[i]}: an argument is missing: {Usage}");
                case "-F":
                    frequency = (int)Number("-F", args[++i], Profiler.MaximumFrequency);
                    break;
                case "-t":
                    seconds = Number("-t", args[++i], 86_400);
                    break;
                case "-o":
                    file = args[++i];
                    break;
                default:
                    if (machine is not null || args[i].StartsWith('-'))
                        throw new ConfigurationException($"profile: unknown argument {args[i]}: {Usage}");
                    machine = args[i];
                    break;
            }
        }

        if (machine is null)
            throw new ConfigurationException($"profile needs a machine: {Usage}; sharpvisor list shows the machines");
        var text = await SampleAsync(machine, frequency, TimeSpan.FromSeconds(seconds)).ConfigureAwait(false);
        if (file is null)
            await output.WriteAsync(text).ConfigureAwait(false);
        else
            Write(file, text);
        return 0;
    }

    /// <exception cref="ConfigurationException">It can't be written.</exception>
    public static void Write(string path, string text)
    {
        try
        {
            File.WriteAllText(path, text);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new ConfigurationException($"{path}: the profile cannot be written: {e.Message.TrimEnd('.')}", e);
        }
    }

    /// <summary>Ctrl-C ends it early.</summary>
    private static async Task<string> SampleAsync(string machine, int frequency, TimeSpan length)
    {
        using var end = new CancellationTokenSource();
        using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, signal =>
        {
            signal.Cancel = true;
            end.Cancel();
        });
        var client = await QmpClient.ConnectAsync(MachineDirectory.Find(machine)).ConfigureAwait(false);
        await using (client.ConfigureAwait(false))
        {
            await ContextCommand.AskAsync(client, machine, $"profile start {frequency}").ConfigureAwait(false);
            await Task.Delay(length, end.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            return await ContextCommand.AskAsync(client, machine, "profile stop").ConfigureAwait(false);
        }
    }

    private static double Number(string flag, string text, double maximum) =>
        double.TryParse(text, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out var number) && number > 0 && number <= maximum
            ? number
            : throw new ConfigurationException($"profile {flag}: \"{text}\" is not a number from 1 to {maximum}");
}
