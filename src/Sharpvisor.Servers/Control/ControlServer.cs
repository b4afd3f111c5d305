using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Char;
using Sharpvisor.Core.Char;
using Sharpvisor.Core.Guests;
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
    private readonly SocketServer? _sockets;
    private readonly CharStream? _stream;
    private readonly ICharBackend? _backend;
    private readonly CancellationTokenSource _end = new();
    private readonly Task _serving = Task.CompletedTask;
    private readonly bool _waits;
    private int _disposed;

    private ControlServer(SocketServer? sockets, bool waits) => (_sockets, _waits) = (sockets, waits);

    private ControlServer(ICharBackend backend, ServeAsync serve, ILogger logger)
    {
        _backend = backend;
        _stream = new CharStream(backend);
        _serving = ServeAsync(serve, logger);
    }

    /// <summary>The TCP port that it listens on, or 0.</summary>
    public int Port => _sockets?.Port ?? 0;

    /// <summary>Completes when a client is there, for one that the machine is to wait for.</summary>
    public Task Ready => _waits ? _sockets!.FirstClient : Task.CompletedTask;

    /// <summary>Begins to serve.</summary>
    /// <param name="what">The flag, for messages.</param>
    /// <param name="quit">Ctrl-A x on a terminal.</param>
    /// <returns>Null: it leads nowhere.</returns>
    /// <exception cref="ConfigurationException">It can't be opened.</exception>
    public static ControlServer? Start(string what, CharSpec where, ControlProtocol protocol, HumanMonitor monitor, QmpServer qmp, ILogger logger, Action quit)
    {
        ServeAsync Serve(bool isTerminal) => protocol == ControlProtocol.Monitor
            ? (stream, cancellation) => monitor.ServeAsync(stream, isTerminal, cancellation)
            : (stream, cancellation) => qmp.ServeAsync(stream, protocol == ControlProtocol.QmpPretty, cancellation);
        switch (where)
        {
            case CharSpec.NoDevice or CharSpec.Null:
                return null;
            case CharSpec.Tcp { Server: true } tcp:
                return new ControlServer(SocketServer.ListenTcp(what, tcp.Host, tcp.Port, Serve(isTerminal: true), logger), tcp.Wait);
            case CharSpec.Unix { Server: true } unix:
                return new ControlServer(SocketServer.ListenUnix(what, unix.Path, Serve(isTerminal: true), logger), unix.Wait);
            case CharSpec.Tcp tcp:
                return new ControlServer(SocketServer.Connect(what, new DnsEndPoint(tcp.Host.Length == 0 ? "localhost" : tcp.Host, tcp.Port), Serve(isTerminal: true), logger), waits: false);
            case CharSpec.Unix unix:
                return new ControlServer(SocketServer.Connect(what, new UnixDomainSocketEndPoint(unix.Path), Serve(isTerminal: true), logger), waits: false);
            default:
                var backend = where.Open(logger, quit);
                if (backend is PtyCharBackend pty)
                    logger.LogInformation("char device redirected to {Path} (label {Label})", pty.Path, protocol == ControlProtocol.Monitor ? "compat_monitor0" : "qmp");
                return new ControlServer(backend, Serve(isTerminal: backend is not StdioCharBackend { IsTerminal: false }), logger);
        }
    }

    /// <summary>Serves a monitor on a line that belongs to somebody else: the terminal of a serial port.</summary>
    public static ControlServer StartOn(ICharBackend line, HumanMonitor monitor, ILogger logger) =>
        new(
            new BorrowedLine(line),
            async (stream, cancellation) =>
            {
                await ((CharStream)stream).FirstFocus.WaitAsync(cancellation).ConfigureAwait(false);
                await monitor.ServeAsync(stream, isTerminal: true, cancellation).ConfigureAwait(false);
            },
            logger);

    /// <summary>Makes the machine known to this user's other processes, by its QMP socket.</summary>
    public static ControlServer Publish(string name, QmpServer qmp, ILogger logger) =>
        new(MachineDirectory.Publish(name, (stream, cancellation) => qmp.ServeAsync(stream, isPretty: false, cancellation), logger), waits: false);

    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        if (_sockets is not null)
            await _sockets.DisposeAsync().ConfigureAwait(false);
        await _end.CancelAsync().ConfigureAwait(false);
        await _serving.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        if (_backend is not null)
            await _backend.DisposeAsync().ConfigureAwait(false);
        if (_stream is not null)
            await _stream.DisposeAsync().ConfigureAwait(false);
        _end.Dispose();
    }

    private async Task ServeAsync(ServeAsync serve, ILogger logger)
    {
        await Task.Yield();
        try
        {
            await serve(_stream!, _end.Token).ConfigureAwait(false);
        }
        catch (Exception e) when (e is OperationCanceledException or IOException or ObjectDisposedException)
        {
            // The end.
        }
        catch (Exception e)
        {
            logger.LogError(e, "{Backend}: an internal error ended a monitor", _backend!.Name);
        }
    }

    /// <summary>Leaves the line open at the end.</summary>
    private sealed class BorrowedLine(ICharBackend line) : ICharBackend
    {
        public string Name => line.Name;

        public void Attach(ICharFrontend frontend, Core.MachineGate gate) => line.Attach(frontend, gate);

        public int Write(ReadOnlySpan<byte> data) => line.Write(data);

        public void OnReceiveReady() => line.OnReceiveReady();

        public ValueTask DisposeAsync() => ValueTask.CompletedTask;
    }
}
