using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Char;
using Sharpvisor.Cli.Output;
using Sharpvisor.Cli.Parsing;
using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Control;
using Sharpvisor.Servers.Gdb;
using Sharpvisor.Servers.Monitor;
using Sharpvisor.Servers.Qmp;
using Sharpvisor.Servers.Vnc;

namespace Sharpvisor.Cli.Commands;

/// <summary>The monitors and QMP servers of a machine: those of its flags, and the socket by which other processes find it.</summary>
internal sealed class ControlServers : IAsyncDisposable
{
    private readonly List<ControlServer> _servers = [];
    private readonly Task<ControlServer?> _published;
    private readonly Lazy<HumanMonitor> _monitor;
    private readonly Lazy<QmpServer> _qmp;
    private int _disposed;

    private ControlServers(ControlContext context)
    {
        Context = context;
        // Made when somebody wants them: most machines start without.
        _monitor = new Lazy<HumanMonitor>(() => new HumanMonitor(context));
        _qmp = new Lazy<QmpServer>(() => new QmpServer(context, Monitor.ExecuteAsync));
        // In the meantime the guest starts.
        _published = Task.Run(() => ControlServer.Publish(context.Machine.Name, () => Qmp, context.Logger));
    }

    public ControlContext Context { get; }

    public HumanMonitor Monitor => _monitor.Value;

    public QmpServer Qmp => _qmp.Value;

    /// <exception cref="ConfigurationException">One can't be opened.</exception>
    public static async Task<ControlServers> StartAsync(RunSettings settings, Machine machine, VncServer? vnc, IEnumerable<IAsyncDisposable> ends, ILogger logger, DebugLog log, Action quit)
    {
        var context = new ControlContext(machine, logger)
        {
            Version = CommandLineTool.Version,
            Vnc = vnc,
            SetLog = items => SetLog(machine, items, log),
            TraceLine = log.WriteLine,
        };
        var servers = new ControlServers(context);
        try
        {
            foreach (var terminal in ends.OfType<StdioCharBackend>())
            {
                if (terminal.Monitor is { } line)
                    servers.Add("compat_monitor0", "mux:stdio", ControlServer.StartOn(line, () => servers.Monitor, logger));
            }

            foreach (var spec in settings.Monitors)
            {
                if (ControlServer.Start(spec.What, spec.Where, spec.Protocol, servers.Monitor, servers.Qmp, logger, quit) is { } server)
                    servers.Add($"{(spec.Protocol == ControlProtocol.Monitor ? "compat_monitor" : "qmp")}{servers._servers.Count}", spec.What.Split(' ', 2)[^1], server);
            }

            var gdb = new GdbService(machine, logger, servers.AnswerDebuggerAsync);
            context.StartGdb = gdb.CommandAsync;
            await gdb.ListenAsync(settings.Gdb).ConfigureAwait(false);
            return servers;
        }
        catch
        {
            await servers.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>Waits for the first client of each server that the machine is to wait for.</summary>
    public async Task WaitForClientsAsync(CancellationToken cancellation)
    {
        foreach (var server in _servers)
        {
            if (!server.Ready.IsCompleted)
                Context.Logger.LogInformation("a monitor or QMP server waits for a connection; the machine starts then (wait=off: at once)");
            await server.Ready.WaitAsync(cancellation).ConfigureAwait(false);
        }
    }

    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        foreach (var server in _servers)
            await server.DisposeAsync().ConfigureAwait(false);
        if (await _published.ConfigureAwait(false) is { } published)
            await published.DisposeAsync().ConfigureAwait(false);
    }

    /// <summary>gdb's monitor commands.</summary>
    private async Task<string> AnswerDebuggerAsync(string line)
    {
        // Its session would wait for its own end.
        if (line.TrimStart().StartsWith("gdbserver", StringComparison.Ordinal))
            return "Error: gdbserver is for other monitors: this one is gdb's\n";
        return (await Monitor.ExecuteAsync(line).ConfigureAwait(false)).ReplaceLineEndings("\n");
    }

    private void Add(string label, string name, ControlServer server)
    {
        _servers.Add(server);
        Context.Chars.Add(new ControlChar(label, name));
    }

    /// <summary>Items of -d instead of those of before. Events are traced besides what is: trace-event ends that.</summary>
    private static void SetLog(Machine machine, string text, DebugLog log)
    {
        var items = new LogItems();
        foreach (var item in text.Split(',').Where(i => i != "none"))
            items.Add(item, "log");
        machine.LoggedKinds = items.Kinds;
        machine.Errors.Trace = items.HasGuestErrors ? log.WriteLine : null;
        if (items.Events.Count > 0)
            machine.TracePoints.Set([.. machine.TracePoints.Filters, .. items.Events], log.WriteLine);
    }
}
