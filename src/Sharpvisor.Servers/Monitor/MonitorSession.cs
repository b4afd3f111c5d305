using System.Text;

namespace Sharpvisor.Servers.Monitor;

/// <summary>One person at a monitor: prompts, takes lines, prints. A command is done before the next is looked at.</summary>
internal sealed class MonitorSession(HumanMonitor monitor, Stream stream, bool isTerminal)
{
    private const string Prompt = "(qemu) ";

    private readonly MonitorState _state = new();

    public async Task RunAsync(CancellationToken cancellation)
    {
        var editor = new LineEditor(_state.History, monitor.Complete, Prompt) { IsEchoed = isTerminal };
        await PrintAsync(monitor.Banner.ReplaceLineEndings("\r\n") + Prompt, cancellation).ConfigureAwait(false);
        var buffer = new byte[1024];
        while (true)
        {
            var count = await stream.ReadAsync(buffer, cancellation).ConfigureAwait(false);
            if (count == 0)
                return;
            for (var i = 0; i < count; i++)
            {
                var line = editor.Take(buffer[i], out var echo);
                if (echo.Length > 0 && (isTerminal || line is not null))
                    await PrintAsync(isTerminal ? echo : "", cancellation).ConfigureAwait(false);
                if (line is null)
                    continue;
                var text = await monitor.ExecuteAsync(line, _state, cancellation).ConfigureAwait(false);
                await PrintAsync(text + Prompt, cancellation).ConfigureAwait(false);
            }
        }
    }

    private async Task PrintAsync(string text, CancellationToken cancellation)
    {
        if (text.Length > 0)
            await stream.WriteAsync(Encoding.UTF8.GetBytes(text), cancellation).ConfigureAwait(false);
    }
}
