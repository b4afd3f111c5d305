using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Control;
using Sharpvisor.Servers.Qmp;

namespace Sharpvisor.Cli.Commands;

/// <summary>Verbs that find a machine which runs and talk with it.</summary>
internal static class ControlCommands
{
    /// <summary>sharpvisor list: a line for each machine of this user.</summary>
    public static async Task<int> ListAsync(string[] args, TextWriter output)
    {
        if (args.Length > 0)
            throw new ConfigurationException($"list takes no argument: leave {args[0]} out");
        foreach (var machine in MachineDirectory.List())
        {
            var status = "?";
            try
            {
                using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(2));
                await using var client = await QmpClient.ConnectAsync(machine, limit.Token).ConfigureAwait(false);
                using var answer = await client.ExecuteAsync("query-status", null, limit.Token).ConfigureAwait(false);
                status = answer.RootElement.GetProperty("status").GetString();
            }
            catch (Exception e) when (e is ConfigurationException or IOException or OperationCanceledException)
            {
                // It ends, or does not answer: that is what the question mark says.
            }

            await output.WriteLineAsync($"{machine.ProcessId,-8} {status,-15} {machine.Name}").ConfigureAwait(false);
        }

        return 0;
    }

    /// <summary>sharpvisor monitor NAME COMMAND…: what a monitor would print.</summary>
    public static async Task<int> MonitorAsync(string[] args, TextWriter output)
    {
        if (args.Length < 2)
            throw new ConfigurationException("monitor needs a machine and a command: sharpvisor monitor NAME 'info registers'; sharpvisor list shows the machines");
        await using var client = await QmpClient.ConnectAsync(MachineDirectory.Find(args[0])).ConfigureAwait(false);
        try
        {
            var text = await client.MonitorAsync(string.Join(' ', args[1..])).ConfigureAwait(false);
            await output.WriteAsync(text.ReplaceLineEndings()).ConfigureAwait(false);
            return text.StartsWith("Error: ", StringComparison.Ordinal) || text.StartsWith("unknown command", StringComparison.Ordinal) ? 1 : 0;
        }
        catch (IOException e)
        {
            throw new ConfigurationException($"{args[0]}: {e.Message}", e);
        }
    }
}
