using System.Diagnostics;
using System.Text;

namespace Sharpvisor.Cli.Tests;

/// <summary>The tool as a process of its own, and what tests do with processes. What takes too long is killed.</summary>
internal static class ToolProcess
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    /// <summary>The tool as an argument of dotnet.</summary>
    public static string Assembly => typeof(CommandLineTool).Assembly.Location;

    public static Process Start(params string[] args) => StartProgram("dotnet", [Assembly, .. args]);

    public static Process StartProgram(string program, params string[] args)
    {
        var start = new ProcessStartInfo(program) { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        foreach (var arg in args)
            start.ArgumentList.Add(arg);
        var process = new OwnProcess { StartInfo = start };
        process.Start();
        return process;
    }

    /// <summary>The tool from start to end.</summary>
    public static Task<(int Code, string Output, string Errors)> RunAsync(params string[] args) => RunAsync(Limit, args);

    public static async Task<(int Code, string Output, string Errors)> RunAsync(TimeSpan limit, params string[] args)
    {
        using var tool = Start(args);
        var errors = tool.StandardError.ReadToEndAsync();
        var output = tool.StandardOutput.ReadToEndAsync();
        return (await ExitCodeAsync(tool, limit), await output, await errors);
    }

    public static async Task<int> ExitCodeAsync(Process process, TimeSpan? limit = null)
    {
        try
        {
            await process.WaitForExitAsync().WaitAsync(limit ?? Limit);
        }
        catch (TimeoutException)
        {
            process.Kill(entireProcessTree: true);
            throw;
        }

        return process.ExitCode;
    }

    /// <summary>What comes up to a text, with it.</summary>
    public static async Task<string> ReadUntilAsync(StreamReader reader, string text)
    {
        var read = new StringBuilder();
        var buffer = new char[1];
        while (!read.ToString().EndsWith(text, StringComparison.Ordinal))
        {
            try
            {
                Assert.True(await reader.ReadAsync(buffer).AsTask().WaitAsync(Limit) > 0, $"ended without \"{text}\": {read}");
            }
            catch (TimeoutException)
            {
                throw new TimeoutException($"no \"{text}\" in: {read}");
            }

            read.Append(buffer[0]);
        }

        return read.ToString();
    }

    /// <summary>The same of what a process says; one that does not is killed.</summary>
    public static async Task<string> ReadUntilAsync(Process process, string text)
    {
        await process.StandardInput.FlushAsync();
        try
        {
            return await ReadUntilAsync(process.StandardOutput, text);
        }
        catch (TimeoutException)
        {
            process.Kill(entireProcessTree: true);
            throw;
        }
    }

    /// <summary>Ends with its test, whatever that came to.</summary>
    private sealed class OwnProcess : Process
    {
        protected override void Dispose(bool disposing)
        {
            if (disposing && !HasExited)
                Kill(entireProcessTree: true);
            base.Dispose(disposing);
        }
    }

    /// <param name="signal">Its name: TERM.</param>
    public static async Task SignalAsync(int pid, string signal)
    {
        using var kill = Process.Start("kill", [$"-{signal}", $"{pid}"]);
        await kill.WaitForExitAsync().WaitAsync(Limit);
    }
}
