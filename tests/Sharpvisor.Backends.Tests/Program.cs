namespace Sharpvisor.Backends.Tests;

/// <summary>The process that <see cref="Block.KillTests"/> starts, and kills.</summary>
public static class Program
{
    public static async Task<int> Main(string[] args)
    {
        if (args is not ["write", var path, var format, var seed])
            return 2;
        await Block.ScriptedWriter.RunAsync(path, format, int.Parse(seed, System.Globalization.CultureInfo.InvariantCulture), Console.Out);
        return 0;
    }
}
