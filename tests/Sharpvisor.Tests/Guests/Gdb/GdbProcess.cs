using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;

namespace Sharpvisor.Tests.Guests.Gdb;

/// <summary>The host's gdb, told line by line what to do, as a person would.</summary>
internal sealed partial class GdbProcess : IAsyncDisposable
{
    private const string Prompt = "(gdb) ";
    private const int Interrupt = 2; // SIGINT

    private readonly Process _process;
    private readonly StringBuilder _transcript = new();
    private readonly CancellationToken _cancellation;

    private GdbProcess(Process process, CancellationToken cancellation)
    {
        _process = process;
        _cancellation = cancellation;
    }

    /// <summary>Starts gdb and attaches it.</summary>
    public static async Task<GdbProcess> AttachAsync(string where, CancellationToken cancellation)
    {
        var start = new ProcessStartInfo("gdb", ["-nx", "-q"]) { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        var process = Process.Start(start) ?? throw new InvalidOperationException("no gdb on this host: install it");
        var gdb = new GdbProcess(process, cancellation);
        _ = gdb.CopyErrorsAsync();
        await gdb.ReadToPromptAsync();
        foreach (var setting in new[] { "confirm off", "pagination off", "width 0", "remotetimeout 60" })
            await gdb.RunAsync("set " + setting);
        await gdb.RunAsync("target remote " + where);
        return gdb;
    }

    /// <summary>All that was said so far, for the message of a test that fails.</summary>
    public string Transcript
    {
        get
        {
            lock (_transcript)
                return _transcript.ToString();
        }
    }

    /// <summary>Runs a command to its end: one that lets the machine go on, to the next stop.</summary>
    /// <returns>What gdb said.</returns>
    public async Task<string> RunAsync(string command)
    {
        await BeginAsync(command);
        return await ReadToPromptAsync();
    }

    /// <summary>Several commands, one after the other.</summary>
    /// <returns>What gdb said to the last one.</returns>
    public async Task<string> RunAsync(params string[] commands)
    {
        var answer = "";
        foreach (var command in commands)
            answer = await RunAsync(command);
        return answer;
    }

    /// <summary>Begins a command that <see cref="EndAsync"/> waits for.</summary>
    public async Task BeginAsync(string command)
    {
        Note(command + "\n");
        await _process.StandardInput.WriteLineAsync(command.AsMemory(), _cancellation);
        await _process.StandardInput.FlushAsync(_cancellation);
    }

    public Task<string> EndAsync() => ReadToPromptAsync();

    /// <summary>Ctrl-C, once the machine runs.</summary>
    public async Task<string> InterruptAsync(Machine machine)
    {
        while (machine.IsPaused)
            await Task.Delay(10, _cancellation);
        Assert.Equal(0, Kill(_process.Id, Interrupt));
        return await ReadToPromptAsync();
    }

    /// <summary>A number by an expression of gdb's.</summary>
    public async Task<ulong> EvaluateAsync(string expression)
    {
        var answer = await RunAsync($"printf \"=%lx=\\n\", (unsigned long)({expression})");
        var parts = answer.Split('=');
        Assert.True(parts.Length == 3, answer);
        return ulong.Parse(parts[1], NumberStyles.HexNumber, CultureInfo.InvariantCulture);
    }

    public async ValueTask DisposeAsync()
    {
        if (!_process.HasExited)
            _process.Kill();
        await _process.WaitForExitAsync(CancellationToken.None);
        _process.Dispose();
    }

    private async Task<string> ReadToPromptAsync()
    {
        var text = new StringBuilder();
        var buffer = new char[4096];
        while (!text.ToString().EndsWith(Prompt, StringComparison.Ordinal))
        {
            int count;
            try
            {
                count = await _process.StandardOutput.ReadAsync(buffer, _cancellation);
            }
            catch (OperationCanceledException e)
            {
                throw new TimeoutException($"gdb has not answered:\n{Transcript}", e);
            }

            Assert.True(count > 0, $"gdb has ended:\n{Transcript}");
            text.Append(buffer, 0, count);
            Note(new string(buffer, 0, count));
        }

        return text.ToString(0, text.Length - Prompt.Length);
    }

    private async Task CopyErrorsAsync()
    {
        var buffer = new char[4096];
        int count;
        while ((count = await _process.StandardError.ReadAsync(buffer)) > 0)
            Note(new string(buffer, 0, count));
    }

    private void Note(string text)
    {
        lock (_transcript)
            _transcript.Append(text);
    }

    [LibraryImport("libc", EntryPoint = "kill")]
    private static partial int Kill(int process, int signal);
}
