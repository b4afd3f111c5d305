// A server of GDB's remote serial protocol (GDB manual, appendix E) for one machine: its processors are the threads of
// one process. One client at a time. Left out: non-stop mode, multiprocess, tracepoints, host I/O, reverse execution.
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Endpoints;

namespace Sharpvisor.Servers.Gdb;

/// <summary>Lets gdb attach to a machine, over TCP, a Unix socket, a pseudo terminal, or standard input and output.</summary>
public sealed class GdbServer : IAsyncDisposable
{
    private readonly IGdbTarget _target;
    private readonly Func<string, Task<string>>? _monitor;
    private readonly GdbLimits _limits;
    private readonly ILogger _logger;
    private readonly ServerEndpoint _endpoint;
    private readonly CancellationTokenSource _end = new();
    private readonly Task _accepting;
    private Task _session = Task.CompletedTask;
    private int _disposed;

    internal GdbServer(IGdbTarget target, ServerAddress address, Func<string, Task<string>>? monitor, GdbLimits limits, ILogger logger)
    {
        _target = target;
        _monitor = monitor;
        _limits = limits;
        _logger = logger;
        _endpoint = ServerEndpoint.Open(address, "gdb", logger);
        _accepting = Task.Run(AcceptAsync);
    }

    /// <summary>Where it listens, as gdb's <c>target remote</c> takes it.</summary>
    public string Name => _endpoint.Name;

    /// <summary>The TCP port, or 0.</summary>
    public int Port => _endpoint.Port;

    /// <summary>Whether a debugger is attached.</summary>
    public bool IsAttached => !Volatile.Read(ref _session).IsCompleted;

    /// <summary>
    /// Begins to listen. Whoever attaches stops the machine; nothing is different before that. A machine that is disposed
    /// disposes the server first.
    /// </summary>
    /// <param name="monitor">Answers <c>monitor</c> commands; null: only the few that the server knows itself.</param>
    /// <exception cref="ConfigurationException">The port or path is taken, or there is no such address.</exception>
    public static GdbServer Start(Machine machine, ServerAddress address, ILogger logger, Func<string, Task<string>>? monitor = null)
    {
        var server = new GdbServer(new MachineGdbTarget(machine), address, monitor, GdbLimits.Default, logger);
        machine.AddCompanion(server);
        return server;
    }

    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        // A session that is about to say that the machine has ended may finish its sentence.
        if (_target.Exit.IsCompleted)
            await Task.WhenAny(Volatile.Read(ref _session), Task.Delay(_limits.Farewell)).ConfigureAwait(false);
        await _end.CancelAsync().ConfigureAwait(false);
        await _accepting.ConfigureAwait(false);
        _endpoint.Dispose();
        await _session.ConfigureAwait(false);
        _end.Dispose();
    }

    private async Task AcceptAsync()
    {
        while (!_end.IsCancellationRequested)
        {
            try
            {
                if (!_endpoint.TakesSeveral)
                    await _session.ConfigureAwait(false);
                if (await _endpoint.AcceptAsync(_end.Token).ConfigureAwait(false) is not { } client)
                    return;
                if (!_session.IsCompleted)
                    await Task.WhenAny(_session, Task.Delay(_limits.Takeover, _end.Token)).ConfigureAwait(false);
                if (_session.IsCompleted)
                    Volatile.Write(ref _session, Task.Run(() => ServeAsync(client)));
                else
                    await RefuseAsync(client).ConfigureAwait(false);
            }
            catch (OperationCanceledException)
            {
                return;
            }
            catch (IOException e)
            {
                // The client gave up before, or this process has no descriptor left: later perhaps.
                _logger.LogInformation("gdb: {Problem}", e.Message);
                await Task.Delay(100, CancellationToken.None).ConfigureAwait(false);
            }
        }
    }

    private async Task ServeAsync(ServerClient client)
    {
        try
        {
            await using (client.Stream.ConfigureAwait(false))
            {
                var session = new GdbSession(client.Stream, _target, _monitor, _limits);
                try
                {
                    await session.RunAsync(_end.Token).ConfigureAwait(false);
                }
                finally
                {
                    if (await session.LeaveAsync().ConfigureAwait(false))
                        _logger.LogInformation("gdb: {Client} has left, and the machine stands still: attach again, or let it go on by SIGCONT", client.Name);
                }
            }
        }
        catch (Exception e) when (e is OperationCanceledException or IOException or SocketException or ObjectDisposedException)
        {
            // It has gone, or was sent away.
        }
        catch (TimeoutException)
        {
            _logger.LogInformation("gdb: {Client} takes nothing; disconnected", client.Name);
        }
        catch (Exception e)
        {
            _logger.LogError(e, "gdb: an internal error ended the connection of {Client}", client.Name);
        }
    }

    /// <summary>gdb shows this answer to its first request.</summary>
    private async Task RefuseAsync(ServerClient client)
    {
        _logger.LogInformation("gdb: {Client} was sent away: another debugger is attached", client.Name);
        await using (client.Stream.ConfigureAwait(false))
        {
            try
            {
                var writer = new PacketWriter(256).Begin(acknowledges: true).Text("E.another debugger is attached to this machine"u8);
                writer.End();
                await client.Stream.WriteAsync(writer.Complete, _end.Token).AsTask().WaitAsync(_limits.Farewell, _end.Token).ConfigureAwait(false);
            }
            catch (Exception e) when (e is IOException or SocketException or ObjectDisposedException or TimeoutException)
            {
                // It did not want to hear it.
            }
        }
    }
}
