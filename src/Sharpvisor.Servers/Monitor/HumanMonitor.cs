// The monitor: commands of one line for a person or a script, with the names and the output of QEMU's (qemu(1), "QEMU
// Monitor"). Left out: what concerns devices, migration and snapshots that are not here.
using System.Globalization;
using System.Text;
using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Monitor;

/// <summary>The commands of a machine's monitors. Any thread may use it.</summary>
public sealed class HumanMonitor
{
    private readonly ControlContext _context;
    private readonly Dictionary<string, MonitorCommand> _byName = new(StringComparer.Ordinal);

    public HumanMonitor(ControlContext context)
    {
        _context = context;
        var xen = new XenCommands(context);
        Info = [.. new InfoCommands(context).All.Concat(xen.Info).OrderBy(c => c.Name, StringComparer.Ordinal)];
        Commands =
        [
            .. new MachineCommands(context).All,
            .. new MemoryCommands(context).All,
            .. new MediaCommands(context).All,
            .. new InputCommands(context).All,
            .. new ContextCommands(context).All,
            .. xen.All,
            new(["info"], "[subcommand]", "show various information about the machine", RunInfoAsync) { Complete = i => i == 0 ? Info.Select(c => c.Name) : [] },
            new(["help", "?"], "[cmd]", "show the help", call => Task.FromResult(Help(call))) { Complete = i => i == 0 ? _byName.Keys : Info.Select(c => c.Name) },
        ];
        foreach (var command in Commands)
        {
            foreach (var name in command.Names)
                _byName.Add(name, command);
        }
    }

    /// <summary>What a session greets with.</summary>
    internal string Banner => $"Sharpvisor {_context.Version} monitor - type 'help' for more information\n";

    internal IReadOnlyList<MonitorCommand> Commands { get; }

    internal IReadOnlyList<MonitorCommand> Info { get; }

    /// <summary>Does one command and gives what it prints: lines that end with CR LF.</summary>
    /// <param name="processor">The processor that registers and memory are of; null: the first.</param>
    public Task<string> ExecuteAsync(string line, int? processor = null, CancellationToken cancellation = default) =>
        ExecuteAsync(line, new MonitorState { Processor = processor ?? 0 }, cancellation);

    /// <summary>A session with prompts.</summary>
    /// <param name="isTerminal">What is typed is echoed and can be edited.</param>
    internal Task ServeAsync(Stream stream, bool isTerminal, CancellationToken cancellation) =>
        new MonitorSession(this, stream, isTerminal).RunAsync(cancellation);

    internal async Task<string> ExecuteAsync(string line, MonitorState state, CancellationToken cancellation)
    {
        string text;
        try
        {
            text = Parse(line, state, cancellation) is var (command, call) ? await command.Run(call).ConfigureAwait(false) : "";
        }
        catch (ControlException e) when (e.Class == ErrorClass.CommandNotFound)
        {
            text = e.Message;
        }
        catch (Exception e) when (e is ControlException or ConfigurationException or InvalidOperationException or ArgumentException)
        {
            text = $"Error: {e.Message}";
        }

        if (text.Length == 0)
            return "";
        return text.TrimEnd('\n').ReplaceLineEndings("\r\n") + "\r\n";
    }

    /// <summary>The words that what is typed last may become.</summary>
    internal IReadOnlyList<string> Complete(string line)
    {
        var words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        var last = line.EndsWith(' ') || words.Length == 0 ? "" : words[^1];
        var index = words.Length - (last.Length > 0 ? 1 : 0);
        IEnumerable<string>? known = index == 0 ? _byName.Keys.Where(n => n.All(char.IsAsciiLetterOrDigit) || n.Contains('_', StringComparison.Ordinal) || n.Contains('-', StringComparison.Ordinal))
            : _byName.TryGetValue(words[0].Split('/')[0], out var command) ? command.Complete(index - 1) : [];
        return [.. (known ?? Files(last)).Where(n => n.StartsWith(last, StringComparison.Ordinal)).Order(StringComparer.Ordinal).Take(200)];
    }

    private static IEnumerable<string> Files(string typed)
    {
        var slash = typed.LastIndexOf('/');
        var folder = slash < 0 ? "" : typed[..(slash + 1)];
        try
        {
            return [.. new DirectoryInfo(folder.Length == 0 ? "." : folder).EnumerateFileSystemInfos().Select(f => folder + f.Name + (f is DirectoryInfo ? "/" : "")).Take(1000)];
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            return [];
        }
    }

    private (MonitorCommand Command, MonitorCall Call)? Parse(string line, MonitorState state, CancellationToken cancellation)
    {
        line = line.Trim();
        if (line.Length == 0 || line.StartsWith('#'))
            return null;
        if (line.StartsWith('?'))
            line = "help " + line[1..];
        var end = line.IndexOfAny([' ', '\t', '/']);
        var name = end < 0 ? line : line[..end];
        var rest = end < 0 ? "" : line[end..];
        if (!_byName.TryGetValue(name, out var command))
            throw Unknown(name);
        var format = "";
        if (command.Parameters.StartsWith(MonitorCommand.Format, StringComparison.Ordinal))
            rest = rest.TrimStart(); // x /4xg is x/4xg
        if (rest.StartsWith('/'))
        {
            var space = rest.IndexOfAny([' ', '\t']);
            format = space < 0 ? rest[1..] : rest[1..space];
            rest = space < 0 ? "" : rest[space..];
        }

        return (command, new MonitorCall(command.Name, format, rest.Trim(), state, cancellation));
    }

    private Task<string> RunInfoAsync(MonitorCall call)
    {
        if (call.OptionalWord(0) is not { } what)
            return Task.FromResult(List("info ", Info));
        var command = Info.FirstOrDefault(c => c.Names.Contains(what)) ?? throw Unknown($"info {what}");
        return command.Run(call with { Name = $"info {command.Name}", Rest = string.Join(' ', call.Words.Skip(1)) });
    }

    private string Help(MonitorCall call)
    {
        if (call.OptionalWord(0) is not { } name)
            return List("", Commands);
        if (name == "info")
            return List("info ", call.OptionalWord(1) is { } what ? Info.Where(c => c.Name == what) : Info);
        return _byName.TryGetValue(name, out var command) ? List("", [command]) : throw Unknown(name);
    }

    /// <summary>Scripts know QEMU's words; who looks for a state of the machine to keep is told what there is.</summary>
    private static ControlException Unknown(string name) => new(ErrorClass.CommandNotFound, $"unknown command: '{name}'" + (name switch
    {
        "savevm" or "loadvm" or "delvm" or "info snapshots" => " (states of machines are not saved; dump-guest-memory keeps one to look at)",
        "migrate" or "info migrate" => " (machines do not move between hosts)",
        "info lapic" or "info ioapic" => " (info pic has the I/O APIC, info registers -a each processor's task priority in CR8)",
        _ => "",
    }));

    private static string List(string prefix, IEnumerable<MonitorCommand> commands)
    {
        var text = new StringBuilder();
        foreach (var command in commands)
            text.Append(CultureInfo.InvariantCulture, $"{prefix}{string.Join('|', command.Names)} {command.Parameters} -- {command.Help}\n");
        return text.ToString();
    }
}
