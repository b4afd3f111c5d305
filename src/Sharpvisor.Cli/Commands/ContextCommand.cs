using Sharpvisor.Core.Guests;
using Sharpvisor.Debugging;
using Sharpvisor.Debugging.Cores;
using Sharpvisor.Debugging.Symbols;
using Sharpvisor.Servers.Control;
using Sharpvisor.Servers.Qmp;

namespace Sharpvisor.Cli.Commands;

/// <summary>sharpvisor ctx: what the processors of a machine, or of a core file, are doing.</summary>
internal static class ContextCommand
{
    public static async Task<int> RunAsync(string[] args, TextWriter output)
    {
        if (args.Length == 0 || args[0].StartsWith('-'))
            throw new ConfigurationException("ctx needs a machine or a core file: sharpvisor ctx NAME|PID|FILE [-k System.map]; sharpvisor list shows the machines");
        var options = ContextOptions.Parse(args[1..]);
        if (File.Exists(args[0]) || args[0].Contains('/', StringComparison.Ordinal))
        {
            using var core = GuestCore.Open(args[0]);
            var kernel = options.SymbolFile is { } file ? LinuxKernel.Find(core, file) : LinuxKernel.Find(core);
            await output.WriteAsync(ContextDump.Write(core, kernel, options)).ConfigureAwait(false);
            return 0;
        }

        var client = await QmpClient.ConnectAsync(MachineDirectory.Find(args[0])).ConfigureAwait(false);
        await using (client.ConfigureAwait(false))
        {
            var words = options.ToWords().Select(w => $"\"{w.Replace("\\", "\\\\", StringComparison.Ordinal).Replace("\"", "\\\"", StringComparison.Ordinal)}\"");
            await output.WriteAsync(await AskAsync(client, args[0], $"ctx {string.Join(' ', words)}").ConfigureAwait(false)).ConfigureAwait(false);
        }

        return 0;
    }

    /// <summary>Gives a command to a machine's monitor.</summary>
    /// <exception cref="ConfigurationException">It does not do it, or has ended.</exception>
    internal static async Task<string> AskAsync(QmpClient client, string machine, string command)
    {
        const string Error = "Error: ";
        try
        {
            var text = (await client.MonitorAsync(command).ConfigureAwait(false)).ReplaceLineEndings("\n");
            return text.StartsWith(Error, StringComparison.Ordinal) ? throw new ConfigurationException(text[Error.Length..].Trim()) : text;
        }
        catch (IOException e)
        {
            throw new ConfigurationException($"{machine}: {e.Message}", e);
        }
    }
}
