// A monitor or QMP server over whatever -monitor, -qmp and -mon name: which endpoint serves which protocol.
using System.Net;
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Char;
using Sharpvisor.Core.Char;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Servers.Endpoints;
using Sharpvisor.Servers.Monitor;
using Sharpvisor.Servers.Qmp;

namespace Sharpvisor.Servers.Control;

/// <summary>What talks over a character device of -monitor, -qmp or -mon.</summary>
public enum ControlProtocol
{
    Monitor,
    Qmp,

    /// <summary>QMP with lines and indents.</summary>
    QmpPretty,
}

/// <summary>A monitor or a QMP server at one place.</summary>
public sealed class ControlServer : IAsyncDisposable
{
    private readonly ClientServer _clients;
    private readonly bool _waits;

    private ControlServer(ServerEndpoint endpoint, string what, ServeAsync serve, ILogger logger, bool waits = false) =>
        (_clients, _waits) = (new ClientServer(endpoint, what, serve, logger), waits);

    /// <summary>The TCP port that it listens on, or 0.</summary>
    public int Port => _clients.Port;

    /// <summary>Completes when a client is there, for one that the machine is to wait for.</summary>
    public Task Ready => _waits ? _clients.FirstClient : Task.CompletedTask;

    /// <summary>Begins to serve.</summary>
    /// <param name="what">The flag, for messages.</param>
    /// <param name="quit">Ctrl-A x on a terminal.</param>
    /// <returns>Null: it leads nowhere.</returns>
    /// <exception cref="ConfigurationException">It can't be opened.</exception>
    public static ControlServer? Start(string what, CharSpec where, ControlProtocol protocol, HumanMonitor monitor, QmpServer qmp, ILogger logger, Action quit)
    {
        var (endpoint, isTerminal) = Open(what, where, protocol, logger, quit);
        ServeAsync serve = protocol == ControlProtocol.Monitor
            ? (client, cancellation) => monitor.ServeAsync(client.Stream, isTerminal, cancellation)
            : (client, cancellation) => qmp.ServeAsync(client.Stream, protocol == ControlProtocol.QmpPretty, cancellation);
        var waits = where is CharSpec.Tcp { Server: true, Wait: true } or CharSpec.Unix { Server: true, Wait: true };
        return endpoint is null ? null : new ControlServer(endpoint, what, serve, logger, waits);
    }

    /// <summary>Serves a monitor on a line that belongs to somebody else: the terminal of a serial port.</summary>
    /// <param name="monitor">Asked for when somebody comes.</param>
    public static ControlServer StartOn(ICharBackend line, Func<HumanMonitor> monitor, ILogger logger) =>
        new(
            new LineEndpoint(line, LineClient.WithFocus, isOwner: false),
            "monitor",
            (client, cancellation) => monitor().ServeAsync(client.Stream, isTerminal: true, cancellation),
            logger);

    /// <summary>Makes the machine known to this user's other processes, by its QMP socket.</summary>
    /// <param name="qmp">Asked for when the first of them comes.</param>
    /// <returns>Null: the host does not let us, which was logged.</returns>
    public static ControlServer? Publish(string name, Func<QmpServer> qmp, ILogger logger) => MachineDirectory.Publish(name, logger) is { } endpoint
        ? new ControlServer(endpoint, "control socket", (client, cancellation) => qmp().ServeAsync(client.Stream, isPretty: false, cancellation), logger)
        : null;

    public ValueTask DisposeAsync() => _clients.DisposeAsync();

    private static (ServerEndpoint? Endpoint, bool IsTerminal) Open(string what, CharSpec where, ControlProtocol protocol, ILogger logger, Action quit)
    {
        switch (where)
        {
            case CharSpec.NoDevice or CharSpec.Null:
                return (null, false);
            case CharSpec.Tcp { Server: true } tcp:
                return (ServerEndpoint.Open(new ServerAddress.Tcp(what, tcp.Host, tcp.Port), what, logger, quit), true);
            case CharSpec.Unix { Server: true } unix:
                return (ServerEndpoint.Open(new ServerAddress.Unix(what, unix.Path), what, logger, quit), true);
            case CharSpec.Tcp tcp:
                return (ConnectedEndpoint.Open(what, new DnsEndPoint(tcp.Host.Length == 0 ? "localhost" : tcp.Host, tcp.Port)), true);
            case CharSpec.Unix unix:
                return (ConnectedEndpoint.Open(what, UnixSocketPath.Parse(what, unix.Path)), true);
            default:
                var backend = where.Open(logger, quit);
                if (backend is PtyCharBackend pty)
                    logger.LogInformation("char device redirected to {Path} (label {Label})", pty.Path, protocol == ControlProtocol.Monitor ? "compat_monitor0" : "qmp");
                return (new LineEndpoint(backend, LineClient.AtOnce), backend is not StdioCharBackend { IsTerminal: false });
        }
    }
}
