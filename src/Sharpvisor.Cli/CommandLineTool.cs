using System.Reflection;
using Sharpvisor.Cli.Commands;
using Sharpvisor.Cli.Output;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli;

/// <summary>The verbs, and the exit codes of everything that goes wrong.</summary>
internal static class CommandLineTool
{
    /// <summary>The exit code of a mistake of the user.</summary>
    public const int ConfigurationError = MachineExit.ConfigurationCode;

    public static string Version =>
        typeof(CommandLineTool).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion.Split('+')[0] ?? "unknown";

    public static async Task<int> RunAsync(string[] args, TextWriter output, TextWriter errors)
    {
        try
        {
            return await DispatchAsync(args, output, errors).ConfigureAwait(false);
        }
        catch (ConfigurationException e)
        {
            await errors.WriteLineAsync($"sharpvisor: {e.Message.ReplaceLineEndings(" ")}").ConfigureAwait(false);
            return ConfigurationError;
        }
        catch (Exception e)
        {
            await errors.WriteLineAsync($"sharpvisor: internal error, please report it: {e}").ConfigureAwait(false);
            return MachineExit.InternalErrorCode;
        }
    }

    private static async Task<int> DispatchAsync(string[] args, TextWriter output, TextWriter errors)
    {
        var verb = args.Length > 0 && !args[0].StartsWith('-') ? args[0] : "";
        var rest = verb.Length > 0 ? args[1..] : args;
        var isHelp = rest is ["--help" or "-help" or "-h" or "-?"];
        switch (verb)
        {
            case "" when args.Length == 0 || isHelp:
            case "help":
                await output.WriteLineAsync(HelpText.Overview).ConfigureAwait(false);
                return 0;
            case "" when rest is ["--version" or "-version"]:
                await output.WriteLineAsync($"sharpvisor {Version}").ConfigureAwait(false);
                return 0;
            case "" or "run":
                if (isHelp)
                    return await PrintAsync(output, HelpText.Run).ConfigureAwait(false);
                return await RunCommand.RunAsync(Parsing.RunFlags.Parse(rest), output, errors).ConfigureAwait(false);
            case "demo":
                if (isHelp)
                    return await PrintAsync(output, HelpText.Demo).ConfigureAwait(false);
                return await DemoCommand.RunAsync(rest, output, errors).ConfigureAwait(false);
            case "doctor":
                if (isHelp)
                    return await PrintAsync(output, HelpText.Doctor).ConfigureAwait(false);
                return await DoctorCommand.RunAsync(rest, output).ConfigureAwait(false);
            case "list":
                if (isHelp)
                    return await PrintAsync(output, HelpText.Control).ConfigureAwait(false);
                return await ControlCommands.ListAsync(rest, output).ConfigureAwait(false);
            case "monitor":
                if (isHelp)
                    return await PrintAsync(output, HelpText.Control).ConfigureAwait(false);
                return await ControlCommands.MonitorAsync(rest, output).ConfigureAwait(false);
            case "ctx":
                if (isHelp)
                    return await PrintAsync(output, HelpText.Context).ConfigureAwait(false);
                return await ContextCommand.RunAsync(rest, output).ConfigureAwait(false);
            case "xenstore":
                if (isHelp)
                    return await PrintAsync(output, HelpText.XenStore).ConfigureAwait(false);
                return await XenStoreCommand.RunAsync(rest, output, errors).ConfigureAwait(false);
            case "profile":
                if (isHelp)
                    return await PrintAsync(output, HelpText.Profile).ConfigureAwait(false);
                return await ProfileCommand.RunAsync(rest, output, errors).ConfigureAwait(false);
            case "image":
                if (isHelp)
                    return await PrintAsync(output, HelpText.Image).ConfigureAwait(false);
                return await Commands.Images.ImageCommand.RunAsync(rest, output, errors).ConfigureAwait(false);
            default:
                // As with QEMU the name of a disk image is enough.
                if (File.Exists(verb))
                    return await RunCommand.RunAsync(Parsing.RunFlags.Parse(args), output, errors).ConfigureAwait(false);
                throw new ConfigurationException(
                    $"unknown command \"{verb}\"; the nearest is {Parsing.Nearest.Of(verb, ["run", "demo", "image", "list", "monitor", "ctx", "profile", "xenstore", "doctor", "help"])}; see sharpvisor --help");
        }
    }

    private static async Task<int> PrintAsync(TextWriter output, string text)
    {
        await output.WriteLineAsync(text).ConfigureAwait(false);
        return 0;
    }
}
