namespace Sharpvisor.Backends.Tests;

/// <summary>Processes that tests start: a writer to be killed, and a reader that may crash.</summary>
public static class Program
{
    public static async Task<int> Main(string[] args)
    {
        switch (args)
        {
            case ["write", var path, var format, var seed]:
                await Block.ScriptedWriter.RunAsync(path, format, int.Parse(seed, System.Globalization.CultureInfo.InvariantCulture), Console.Out);
                return 0;
            case ["read", var format, .. var paths]:
                await Block.OtherReader.CopyAsync(format, paths, Console.OpenStandardOutput());
                return 0;
            default:
                return 2;
        }
    }
}
