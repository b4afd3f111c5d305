// What all servers with sessions have in common: an endpoint, a session for each client that comes, and an end in which
// they have a moment for their last words. No client can do more to it than use up its own place.
using System.Net.Sockets;
using Microsoft.Extensions.Logging;

namespace Sharpvisor.Servers.Endpoints;

/// <summary>Talks with one client until either side ends it.</summary>
/// <param name="client">Its stream is closed by the caller.</param>
internal delegate Task ServeAsync(ServerClient client, CancellationToken cancellation);

/// <summary>Serves all who come to an endpoint.</summary>
internal sealed class ClientServer : IAsyncDisposable
{
    private const int MaximumClients = 32;
    private static readonly TimeSpan EndLimit = TimeSpan.FromSeconds(2);

    private readonly ServerEndpoint _endpoint;
    private readonly string _what;
    private readonly ServeAsync _serve;
    private readonly ILogger _logger;
    private readonly CancellationTokenSource _end = new();
    private readonly HashSet<ServerClient> _clients = new(ReferenceEqualityComparer.Instance);
    private readonly HashSet<Task> _tasks = [];
    private readonly TaskCompletionSource _firstClient = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private int _disposed;

    /// <param name="endpoint">Belongs to this from now on.</param>
    /// <param name="what">For messages: gdb, or a flag with its value.</param>
    public ClientServer(ServerEndpoint endpoint, string what, ServeAsync serve, ILogger logger)
    {
        (_endpoint, _what, _serve, _logger) = (endpoint, what, serve, logger);
        Track(Task.Run(AcceptAsync));
    }

    public string Name => _endpoint.Name;

    /// <summary>Of TCP; 0 otherwise.</summary>
    public int Port => _endpoint.Port;

    /// <summary>Completes when somebody has come.</summary>
    public Task FirstClient => _firstClient.Task;

    /// <summary>Gives the sessions a moment to say their last, then closes.</summary>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        await _end.CancelAsync().ConfigureAwait(false);
        if (_endpoint.TakesSeveral)
            await _endpoint.DisposeAsync().ConfigureAwait(false); // a line is what its client speaks over
        Task[] tasks;
        lock (_tasks)
            tasks = [.. _tasks];
        await Task.WhenAny(Task.WhenAll(tasks), Task.Delay(EndLimit)).ConfigureAwait(false);
        await _endpoint.DisposeAsync().ConfigureAwait(false);
        lock (_tasks)
        {
            foreach (var client in _clients)
                client.Stream.Dispose();
        }

        await Task.WhenAll(tasks).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        _end.Dispose();
    }

    private async Task AcceptAsync()
    {
        while (!_end.IsCancellationRequested)
        {
            try
            {
                if (await _endpoint.AcceptAsync(_end.Token).ConfigureAwait(false) is not { } client)
                    return;
                var session = Begin(client);
                if (!_endpoint.TakesSeveral)
                    await session.ConfigureAwait(false);
            }
            catch (Exception e) when (e is OperationCanceledException or ObjectDisposedException)
            {
                return;
            }
            catch (IOException e)
            {
                // The client gave up before, or this process has no descriptor left: later perhaps.
                _logger.LogInformation("{What}: {Problem}", _what, e.Message);
                await Task.Delay(100, CancellationToken.None).ConfigureAwait(false);
            }
        }
    }

    private Task Begin(ServerClient client)
    {
        lock (_tasks)
        {
            if (_clients.Count >= MaximumClients || _end.IsCancellationRequested)
            {
                client.Stream.Dispose();
                return Task.CompletedTask;
            }

            _clients.Add(client);
        }

        _firstClient.TrySetResult();
        var session = Task.Run(() => RunAsync(client));
        Track(session);
        return session;
    }

    private async Task RunAsync(ServerClient client)
    {
        try
        {
            await _serve(client, _end.Token).ConfigureAwait(false);
        }
        catch (Exception e) when (e is OperationCanceledException or IOException or SocketException or ObjectDisposedException)
        {
            // It has gone, or was sent away.
        }
        catch (Exception e)
        {
            _logger.LogError(e, "{What}: an internal error ended the connection of {Client}", _what, client.Name);
        }
        finally
        {
            lock (_tasks)
                _clients.Remove(client);
            await client.Stream.DisposeAsync().ConfigureAwait(false);
        }
    }

    private void Track(Task task)
    {
        lock (_tasks)
            _tasks.Add(task);
        _ = task.ContinueWith(
            done =>
            {
                lock (_tasks)
                    _tasks.Remove(done);
            },
            CancellationToken.None,
            TaskContinuationOptions.ExecuteSynchronously,
            TaskScheduler.Default);
    }
}
