// Where the machines of a user are found: a directory with a QMP socket for each, NAME-PID.qmp, which ends with the
// machine. $XDG_RUNTIME_DIR/sharpvisor, or /tmp/sharpvisor-USER where there is none; nobody else may look into it.
using System.Globalization;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Endpoints;

namespace Sharpvisor.Servers.Control;

/// <summary>A machine that runs, or is preserved, on this host.</summary>
/// <param name="Path">Of its QMP socket.</param>
public sealed record MachineEntry(string Name, int ProcessId, string Path);

/// <summary>Finds the machines of this user.</summary>
public static class MachineDirectory
{
    private const string Extension = ".qmp";

    /// <summary>A socket's path has room for 107 bytes.</summary>
    private const int MaximumPath = 107, MaximumName = 40;

    public static string Path
    {
        get
        {
            var runtime = Environment.GetEnvironmentVariable("XDG_RUNTIME_DIR");
            return string.IsNullOrEmpty(runtime) || !Directory.Exists(runtime)
                ? System.IO.Path.Combine(System.IO.Path.GetTempPath(), $"sharpvisor-{Environment.UserName}")
                : System.IO.Path.Combine(runtime, "sharpvisor");
        }
    }

    /// <summary>All machines, by name; sockets that nobody listens on any more are removed.</summary>
    public static IReadOnlyList<MachineEntry> List()
    {
        List<MachineEntry> entries = [];
        try
        {
            if (!Directory.Exists(Path))
                return [];
            const UnixFileMode others = (UnixFileMode)0b111_111;
            if (!OperatingSystem.IsWindows() && (File.GetUnixFileMode(Path) & others) != 0)
                throw new ConfigurationException($"{Path}: others than this user may look into it, so that its machines may be anybody's; remove it");
            foreach (var path in Directory.EnumerateFiles(Path, "*" + Extension))
            {
                if (Parse(path) is not { } entry)
                    continue;
                if (UnixListener.IsAlive(path))
                    entries.Add(entry);
                else
                    File.Delete(path);
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ConfigurationException($"{Path}: {e.Message.TrimEnd('.')}; check who owns it", e);
        }

        return [.. entries.OrderBy(e => e.Name, StringComparer.Ordinal).ThenBy(e => e.ProcessId)];
    }

    /// <summary>The machine of a name or a process id.</summary>
    /// <exception cref="ConfigurationException">There is none, or there are several.</exception>
    public static MachineEntry Find(string nameOrId)
    {
        var all = List();
        var known = string.Join(", ", all.Select(e => $"{e.Name} ({e.ProcessId})"));
        MachineEntry[] found = [.. all.Where(e => e.Name == nameOrId || e.ProcessId.ToString(CultureInfo.InvariantCulture) == nameOrId)];
        return found switch
        {
            [var one] => one,
            [] when all.Count == 0 => throw new ConfigurationException($"no machine {nameOrId}: this user runs none; start one with sharpvisor run -name {nameOrId}"),
            [] => throw new ConfigurationException($"no machine {nameOrId}: there are {known}"),
            _ => throw new ConfigurationException($"{found.Length} machines are called {nameOrId}: give the process id of one of {known}"),
        };
    }

    /// <summary>Makes the socket of this process's machine known. A host that does not let us is logged and nothing more.</summary>
    internal static ServerEndpoint? Publish(string name, ILogger logger)
    {
        try
        {
            var directory = Directory.CreateDirectory(Path);
            if (!OperatingSystem.IsWindows())
                directory.UnixFileMode = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute; // throws when it is not ours
            List(); // removes what a killed machine left
            var letters = string.Concat(name.Select(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '_' or '-' ? c : '_').Take(MaximumName));
            var path = System.IO.Path.Combine(Path, $"{letters}-{Environment.ProcessId}{Extension}");
            if (path.Length > MaximumPath)
                path = System.IO.Path.Combine(Path, $"-{Environment.ProcessId}{Extension}");
            return SocketEndpoint.OpenUnix("control socket", path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ConfigurationException)
        {
            logger.LogDebug("no control socket for this machine: {Reason}", e.Message);
            return null;
        }
    }

    private static MachineEntry? Parse(string path)
    {
        var text = System.IO.Path.GetFileNameWithoutExtension(path);
        var dash = text.LastIndexOf('-');
        return dash >= 0 && int.TryParse(text.AsSpan(dash + 1), NumberStyles.None, CultureInfo.InvariantCulture, out var id)
            ? new MachineEntry(text[..dash], id, path)
            : null;
    }
}
