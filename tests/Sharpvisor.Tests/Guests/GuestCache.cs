using Sharpvisor.Boot;

namespace Sharpvisor.Tests.Guests;

/// <summary>The guests that eng/guests.sh fetches.</summary>
internal static class GuestCache
{
    private static readonly string Root = Path.Combine(FindHome(), ".cache", "guests");

    public static string PathOf(string file) => Path.Combine(Root, file);

    public static BootSource Open(string file) => BootSource.FromFile(PathOf(file));

    private static string FindHome()
    {
        if (Environment.GetEnvironmentVariable("SHARPVISOR_HOME") is { Length: > 0 } home)
            return home;
        var directory = AppContext.BaseDirectory;
        while (directory is not null && !File.Exists(Path.Combine(directory, "Sharpvisor.slnx")))
            directory = Path.GetDirectoryName(directory);
        return directory ?? ".";
    }
}

/// <summary>A test that boots files of the guest cache; skipped where they have not been fetched (eng/guests.sh).</summary>
[AttributeUsage(AttributeTargets.Method)]
internal sealed class GuestTheoryAttribute : TheoryAttribute
{
    public GuestTheoryAttribute(params string[] files)
    {
        var missing = files.Select(GuestCache.PathOf).Where(f => !File.Exists(f)).ToArray();
        if (missing.Length > 0)
            Skip = $"run eng/guests.sh first: no {string.Join(", no ", missing)}";
    }
}
