// A socket that several clients may come to, each with a session of its own: TCP or a socket of the file system. Who may
// use one controls the machine, so that TCP listens on loopback unless an address is given, and says so then.
using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Servers.Control;

/// <summary>Talks with one client until either side ends it.</summary>
/// <param name="stream">Closed by the caller.</param>
internal delegate Task ServeAsync(Stream stream, CancellationToken cancellation);

internal sealed class SocketServer : IAsyncDisposable
{
    private const int Backlog = 16, MaximumClients = 32;
    private static readonly TimeSpan EndLimit = TimeSpan.FromSeconds(2);

    private readonly string _what;
    private readonly ServeAsync _serve;
    private readonly ILogger _logger;
    private readonly Socket? _listener;
    private readonly string? _path;
    private readonly CancellationTokenSource _end = new();
    private readonly HashSet<Task> _tasks = [];
    private readonly HashSet<Socket> _clients = [];
    private readonly TaskCompletionSource _firstClient = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private int _disposed;

    private SocketServer(string what, Socket socket, bool isListener, string? path, ServeAsync serve, ILogger logger)
    {
        (_what, _serve, _logger, _path) = (what, serve, logger, path);
        if (isListener)
        {
            _listener = socket;
            Track(AcceptAsync(socket));
        }
        else
        {
            Begin(socket);
        }
    }

    /// <summary>Of TCP; 0 otherwise.</summary>
    public int Port => _listener?.LocalEndPoint is IPEndPoint end ? end.Port : 0;

    /// <summary>Completes when somebody has connected.</summary>
    public Task FirstClient => _firstClient.Task;

    /// <param name="what">The flag, for messages.</param>
    /// <param name="host">Empty: loopback.</param>
    /// <exception cref="ConfigurationException">The port is taken, or there is no such address.</exception>
    public static SocketServer ListenTcp(string what, string host, int port, ServeAsync serve, ILogger logger)
    {
        var address = host.Length == 0 ? IPAddress.Loopback : Resolve(what, host);
        var socket = new Socket(address.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            socket.Bind(new IPEndPoint(address, port));
            socket.Listen(Backlog);
        }
        catch (SocketException e)
        {
            socket.Dispose();
            throw Error(what, e);
        }

        if (!IPAddress.IsLoopback(address))
            logger.LogWarning("{What}: whoever reaches {End} controls this machine and can read files of this user; give 127.0.0.1 to keep it to this host", what, socket.LocalEndPoint);
        return new SocketServer(what, socket, isListener: true, null, serve, logger);
    }

    /// <exception cref="ConfigurationException">Somebody listens there, or it can't be made.</exception>
    public static SocketServer ListenUnix(string what, string path, ServeAsync serve, ILogger logger)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            RemoveStale(what, path);
            socket.Bind(new UnixDomainSocketEndPoint(path));
            if (!OperatingSystem.IsWindows())
                File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite);
            socket.Listen(Backlog);
            return new SocketServer(what, socket, isListener: true, path, serve, logger);
        }
        catch (Exception e) when (e is SocketException or ArgumentException or IOException or UnauthorizedAccessException)
        {
            socket.Dispose();
            throw new ConfigurationException($"{what}: cannot listen on {path}: {e.Message.TrimEnd('.')}; check the path", e);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    /// <summary>Goes to a listener instead of being one.</summary>
    /// <exception cref="ConfigurationException">Nobody listens there.</exception>
    public static SocketServer Connect(string what, EndPoint end, ServeAsync serve, ILogger logger)
    {
        var isUnix = end is UnixDomainSocketEndPoint;
        var socket = isUnix ? new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) : new Socket(SocketType.Stream, ProtocolType.Tcp);
        try
        {
            socket.Connect(end);
            return new SocketServer(what, socket, isListener: false, null, serve, logger);
        }
        catch (SocketException e)
        {
            socket.Dispose();
            throw Error(what, e);
        }
    }

    /// <summary>Gives the sessions a moment to say their last, then closes.</summary>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        _listener?.Dispose();
        Delete(_path);
        await _end.CancelAsync().ConfigureAwait(false);
        Task[] tasks;
        lock (_tasks)
            tasks = [.. _tasks];
        await Task.WhenAny(Task.WhenAll(tasks), Task.Delay(EndLimit)).ConfigureAwait(false);
        lock (_tasks)
        {
            foreach (var client in _clients)
                client.Dispose();
        }

        await Task.WhenAll(tasks).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        _end.Dispose();
    }

    private static IPAddress Resolve(string what, string host)
    {
        try
        {
            return IPAddress.TryParse(host, out var address) ? address : Dns.GetHostAddresses(host).OrderBy(a => a.AddressFamily).First();
        }
        catch (Exception e) when (e is SocketException or InvalidOperationException)
        {
            throw new ConfigurationException($"{what}: {host}: {e.Message}; check the host name", e);
        }
    }

    private static ConfigurationException Error(string what, SocketException e)
    {
        var advice = e.SocketErrorCode switch
        {
            SocketError.ConnectionRefused => "start the listener first, or add server=on",
            SocketError.AddressAlreadyInUse => "give another port",
            SocketError.AccessDenied => "give a port from 1024 on",
            _ => "check the address",
        };
        return new ConfigurationException($"{what}: {e.Message}; {advice}", e);
    }

    /// <summary>A socket that nobody listens on any more goes; anything else stays, and is an error.</summary>
    private static void RemoveStale(string what, string path)
    {
        if (!File.Exists(path))
            return;
        if (IsAlive(path))
            throw new ConfigurationException($"{what}: {path} is in use; give another path");
        if (new FileInfo(path) is { Length: 0, LinkTarget: null })
            File.Delete(path);
    }

    /// <summary>Somebody listens on a socket of the file system.</summary>
    public static bool IsAlive(string path)
    {
        using var probe = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            probe.Connect(new UnixDomainSocketEndPoint(path));
            return true;
        }
        catch (SocketException e)
        {
            return e.SocketErrorCode is not (SocketError.ConnectionRefused or SocketError.AddressNotAvailable);
        }
    }

    private static void Delete(string? path)
    {
        try
        {
            if (path is not null)
                File.Delete(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Its folder is gone or closed to us: nothing that a next start would stumble over.
        }
    }

    private async Task AcceptAsync(Socket listener)
    {
        while (!_end.IsCancellationRequested)
        {
            try
            {
                Begin(await listener.AcceptAsync(_end.Token).ConfigureAwait(false));
            }
            catch (Exception e) when (e is OperationCanceledException or ObjectDisposedException)
            {
                return;
            }
            catch (SocketException)
            {
                // The client gave up before, or this process has no descriptor left: later perhaps.
                await Task.Delay(100, CancellationToken.None).ConfigureAwait(false);
            }
        }
    }

    private void Begin(Socket client)
    {
        lock (_tasks)
        {
            if (_clients.Count >= MaximumClients)
            {
                client.Dispose();
                return;
            }

            _clients.Add(client);
        }

        _firstClient.TrySetResult();
        Track(RunAsync(client));
    }

    private async Task RunAsync(Socket client)
    {
        await Task.Yield();
        try
        {
            if (client.ProtocolType == ProtocolType.Tcp)
                client.NoDelay = true;
            using var stream = new NetworkStream(client, ownsSocket: false);
            await _serve(stream, _end.Token).ConfigureAwait(false);
        }
        catch (Exception e) when (e is OperationCanceledException or IOException or SocketException or ObjectDisposedException)
        {
            // It has gone, or was sent away.
        }
        catch (Exception e)
        {
            _logger.LogError(e, "{What}: an internal error ended a connection", _what);
        }
        finally
        {
            lock (_tasks)
                _clients.Remove(client);
            client.Dispose();
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
