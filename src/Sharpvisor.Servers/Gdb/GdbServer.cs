// A server of GDB's remote serial protocol (GDB manual, appendix E) for one machine: its processors are the threads of
// one process. One client at a time. Left out: non-stop mode, multiprocess, tracepoints, host I/O, reverse execution.
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
    private readonly ClientServer _clients;

    /// <summary>Taken by the one who is attached.</summary>
    private readonly SemaphoreSlim _turn = new(1);
    private int _disposed;

    internal GdbServer(IGdbTarget target, ServerAddress address, Func<string, Task<string>>? monitor, GdbLimits limits, ILogger logger)
    {
        _target = target;
        _monitor = monitor;
        _limits = limits;
        _logger = logger;
        _clients = new ClientServer(ServerEndpoint.Open(address, "gdb", logger, target.Kill), "gdb", ServeAsync, logger);
    }

    /// <summary>Where it listens, as gdb's <c>target remote</c> takes it.</summary>
    public string Name => _clients.Name;

    /// <summary>The TCP port, or 0.</summary>
    public int Port => _clients.Port;

    /// <summary>Whether a debugger is attached.</summary>
    public bool IsAttached => _turn.CurrentCount == 0;

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
        if (_target.Exit.IsCompleted && await _turn.WaitAsync(_limits.Farewell).ConfigureAwait(false))
            _turn.Release();
        await _clients.DisposeAsync().ConfigureAwait(false);
        _turn.Dispose();
    }

    private async Task ServeAsync(ServerClient client, CancellationToken cancellation)
    {
        if (!await _turn.WaitAsync(_limits.Takeover, cancellation).ConfigureAwait(false))
        {
            await RefuseAsync(client, cancellation).ConfigureAwait(false);
            return;
        }

        try
        {
            var session = new GdbSession(client.Stream, _target, _monitor, _limits);
            try
            {
                await session.RunAsync(cancellation).ConfigureAwait(false);
            }
            finally
            {
                if (await session.LeaveAsync().ConfigureAwait(false))
                    _logger.LogInformation("gdb: {Client} has left, and the machine stands still: attach again, or let it go on by SIGCONT", client.Name);
            }
        }
        catch (TimeoutException)
        {
            _logger.LogInformation("gdb: {Client} takes nothing; disconnected", client.Name);
        }
        finally
        {
            await client.Stream.DisposeAsync().ConfigureAwait(false); // before the next one has its turn
            _turn.Release();
        }
    }

    /// <summary>gdb shows this answer to its first request.</summary>
    private async Task RefuseAsync(ServerClient client, CancellationToken cancellation)
    {
        _logger.LogInformation("gdb: {Client} was sent away: another debugger is attached", client.Name);
        try
        {
            var writer = new PacketWriter(256).Begin(acknowledges: true).Text("E.another debugger is attached to this machine"u8);
            writer.End();
            await client.Stream.WriteAsync(writer.Complete, cancellation).AsTask().WaitAsync(_limits.Farewell, cancellation).ConfigureAwait(false);
        }
        catch (TimeoutException)
        {
            // It does not want to hear it.
        }
    }
}
