using System.Text;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Servers.Control;
using Sharpvisor.Servers.Qmp;

namespace Sharpvisor.Cli.Commands;

/// <summary>sharpvisor xenstore: the store of a machine that runs, with the words and the output of Xen's xenstore-ls and its like.</summary>
internal static class XenStoreCommand
{
    /// <summary>What Xen's tools end with when a node is not there.</summary>
    private const int Failure = 1;

    public static async Task<int> RunAsync(string[] args, TextWriter output, TextWriter errors)
    {
        var request = XenStoreRequest.Parse(args, namesMachine: true);
        var machine = Find(request.Machine);
        var client = await QmpClient.ConnectAsync(machine).ConfigureAwait(false);
        await using (client.ConfigureAwait(false))
        {
            try
            {
                if (request.Verb == "watch")
                {
                    await WatchAsync(client, request, output).ConfigureAwait(false);
                    return 0;
                }

                using var answer = await client.ExecuteAsync("x-xenstore", w =>
                {
                    w.WriteStartArray("arguments");
                    foreach (var word in request.ToWords())
                        w.WriteStringValue(word);
                    w.WriteEndArray();
                    if (Width() is { } width)
                        w.WriteNumber("width", width);
                }).ConfigureAwait(false);
                var text = answer.RootElement.GetString() ?? "";
                if (request.Has('R') && request.Verb == "read")
                    await WriteBytesAsync(output, text).ConfigureAwait(false);
                else
                    await output.WriteAsync(text.ReplaceLineEndings()).ConfigureAwait(false);
                return 0;
            }
            catch (ConfigurationException e)
            {
                await errors.WriteLineAsync($"sharpvisor: {e.Message}").ConfigureAwait(false);
                return Failure;
            }
            catch (IOException e)
            {
                await errors.WriteLineAsync($"sharpvisor: {machine.Name}: {e.Message}").ConfigureAwait(false);
                return Failure;
            }
        }
    }

    private static MachineEntry Find(string? name)
    {
        if (name is not null)
            return MachineDirectory.Find(name);
        return MachineDirectory.List() switch
        {
            [var one] => one,
            [] => throw new ConfigurationException("xenstore: this user runs no machine; start one with sharpvisor run -machine xenfv"),
            var all => throw new ConfigurationException($"xenstore: {all.Count} machines run; name one before the path: {string.Join(", ", all.Select(m => $"{m.Name} ({m.ProcessId})"))}"),
        };
    }

    /// <summary>Prints paths until there are enough, Ctrl-C, or the end of the machine.</summary>
    private static async Task WatchAsync(QmpClient client, XenStoreRequest request, TextWriter output)
    {
        foreach (var path in request.Operands)
        {
            using (await client.ExecuteAsync("x-xenstore-watch", w => w.WriteString("path", path)).ConfigureAwait(false))
            {
                // The answer says nothing; events do.
            }
        }

        for (var count = 0; request.Count is null || count < request.Count; count++)
        {
            using var happened = await client.WaitForAsync("XENSTORE_WATCH").ConfigureAwait(false);
            await output.WriteLineAsync(happened.RootElement.GetProperty("data").GetProperty("path").GetString()).ConfigureAwait(false);
            await output.FlushAsync().ConfigureAwait(false);
        }
    }

    /// <summary>Of the terminal; null: the output is none.</summary>
    private static int? Width()
    {
        const int standardOutput = 1, least = 20;
        return Terminal.IsTerminal(standardOutput) && Console.WindowWidth >= least ? Console.WindowWidth : null;
    }

    /// <summary>A value as it is, whatever bytes it has.</summary>
    private static async Task WriteBytesAsync(TextWriter output, string text)
    {
        await output.FlushAsync().ConfigureAwait(false);
        using var raw = Console.OpenStandardOutput();
        await raw.WriteAsync(Encoding.Latin1.GetBytes(text)).ConfigureAwait(false);
    }
}
