// A server of the remote framebuffer protocol 3.8 (RFC 6143) for one screen: listens, decides who may be connected, and
// survives whatever comes in. Left out: TLS and SASL, the clipboard, file transfer, audio.
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Servers.Vnc;

/// <summary>Shows a machine's screen to VNC clients, over TCP, a Unix socket, or WebSockets, and takes what they type.</summary>
public sealed class VncServer : IAsyncDisposable
{
    /// <summary>Connections that have not got through the handshake; one more ends the oldest.</summary>
    private const int MaximumPending = 32;

    private static readonly TimeSpan ComplaintInterval = TimeSpan.FromSeconds(1);

    private readonly VncSpec _spec;
    private readonly ILogger _logger;
    private readonly VncListener _listener;
    private readonly SessionContext _context;
    private readonly CancellationTokenSource _end = new();
    private readonly Lock _lock = new();
    private readonly List<Client> _clients = [];
    private readonly HashSet<Task> _tasks = [];
    private volatile VncPassword? _password;
    private long _lastComplaint;
    private int _disposed;

    internal VncServer(VncSpec spec, VncConsole console, VncLimits limits, ReadOnlySpan<byte> password, ILogger logger)
    {
        _spec = spec;
        _logger = logger;
        if (spec.KeyDelay is { } delay)
            limits = limits with { Key = delay };
        if (spec.PasswordSecret is not null && password.IsEmpty)
            throw new ConfigurationException($"-vnc {spec.Text}: the secret \"{spec.PasswordSecret}\" is empty; give a password of up to {VncPassword.MaximumLength} characters");
        SetPassword(password);
        var time = TimeProvider.System;
        var screen = new ScreenSource(console.Gate, console.Screen, limits.Frame, time);
        _context = new SessionContext(console, screen, limits, time, spec.PasswordRequired, () => _password, Admit);
        _listener = VncListener.Open(spec);
        foreach (var socket in _listener.Sockets)
            Track(AcceptAsync(socket, isWebSocket: false));
        foreach (var socket in _listener.WebSockets)
            Track(AcceptAsync(socket, isWebSocket: true));
    }

    /// <summary>The TCP port that it listens on; 0 for a Unix socket.</summary>
    public int Port => _listener.Sockets[0].LocalEndPoint is System.Net.IPEndPoint end ? end.Port : 0;

    /// <summary>The WebSocket's port, or 0.</summary>
    public int WebSocketPort => _listener.WebSockets is [var socket, ..] ? ((System.Net.IPEndPoint)socket.LocalEndPoint!).Port : 0;

    /// <summary>Clients have to know a password.</summary>
    public bool HasPassword => _spec.PasswordRequired;

    /// <summary>How many clients see the screen.</summary>
    public int ClientCount
    {
        get
        {
            lock (_lock)
                return _clients.Count(c => c.IsAdmitted);
        }
    }

    /// <summary>Connections of any state.</summary>
    internal int ConnectionCount
    {
        get
        {
            lock (_lock)
                return _clients.Count;
        }
    }

    /// <summary>Begins to listen.</summary>
    /// <param name="password">That of the specification's secret; empty when it names none.</param>
    /// <exception cref="ConfigurationException">The port is taken, or the address is none of this host.</exception>
    public static VncServer Start(VncSpec spec, VncConsole console, ReadOnlySpan<byte> password, ILogger logger) =>
        new(spec, console, VncLimits.Default, password, logger);

    /// <summary>Another password from the next client on. Without one nobody gets in where one is required.</summary>
    /// <param name="password">Only its first 8 bytes count.</param>
    public void SetPassword(ReadOnlySpan<byte> password)
    {
        if (password.Length > VncPassword.MaximumLength)
            _logger.LogWarning("-vnc {Spec}: only the first {Count} characters of the password count", _spec.Text, VncPassword.MaximumLength);
        _password = password.IsEmpty ? null : new VncPassword(password);
    }

    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        await _end.CancelAsync().ConfigureAwait(false);
        _listener.Dispose();
        Task[] tasks;
        lock (_lock)
            tasks = [.. _tasks];
        await Task.WhenAll(tasks).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        _end.Dispose();
    }

    private async Task AcceptAsync(Socket listener, bool isWebSocket)
    {
        while (!_end.IsCancellationRequested)
        {
            try
            {
                var socket = await listener.AcceptAsync(_end.Token).ConfigureAwait(false);
                Track(ServeAsync(socket, isWebSocket));
            }
            catch (OperationCanceledException)
            {
                return;
            }
            catch (ObjectDisposedException)
            {
                return;
            }
            catch (SocketException e)
            {
                // The client gave up before, or this process has no descriptor left: later perhaps.
                Complain("-", e.Message);
                await Task.Delay(100, CancellationToken.None).ConfigureAwait(false);
            }
        }
    }

    private async Task ServeAsync(Socket socket, bool isWebSocket)
    {
        var client = new Client(socket);
        Add(client);
        try
        {
            if (socket.ProtocolType == ProtocolType.Tcp)
            {
                socket.NoDelay = true;
                socket.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.KeepAlive, true);
            }

            Stream stream = new NetworkStream(socket, ownsSocket: true);
            await using (stream.ConfigureAwait(false))
            {
                if (isWebSocket)
                    stream = await WebSocketUpgrade.AcceptAsync(stream, _context.Limits.Handshake, _end.Token).ConfigureAwait(false);
                using var session = new RfbSession(stream, _context, _end.Token);
                lock (_lock)
                    client.Session = session;
                var typing = session.TypeAsync(_end.Token);
                try
                {
                    await session.RunAsync().ConfigureAwait(false);
                }
                finally
                {
                    Remove(client);
                    session.Dispose();
                    await typing.ConfigureAwait(false);
                }
            }
        }
        catch (Exception e) when (e is OperationCanceledException or EndOfStreamException or IOException or SocketException or ObjectDisposedException or System.Net.WebSockets.WebSocketException)
        {
            // It has gone, or was sent away.
        }
        catch (Exception e) when (e is ProtocolException or TimeoutException)
        {
            Complain(client.Name, e.Message);
        }
        catch (Exception e)
        {
            _logger.LogError(e, "vnc: an internal error ended the connection of {Client}", client.Name);
        }
        finally
        {
            Remove(client);
            socket.Dispose();
        }
    }

    /// <summary>Whoever does not get through the handshake must not keep out those who would.</summary>
    private void Add(Client client)
    {
        lock (_lock)
        {
            _clients.Add(client);
            if (_clients.Count(c => !c.IsAdmitted) > MaximumPending)
                Drop(_clients.First(c => !c.IsAdmitted));
        }
    }

    private void Remove(Client client)
    {
        lock (_lock)
        {
            client.Session = null;
            _clients.Remove(client);
        }
    }

    /// <summary>Sends a client away; it counts no longer. Under the lock.</summary>
    private void Drop(Client client)
    {
        client.Close();
        _clients.Remove(client);
    }

    private bool Admit(RfbSession session, bool shared)
    {
        lock (_lock)
        {
            var client = _clients.FirstOrDefault(c => c.Session == session);
            if (client is null || (_spec.Share == VncShare.ForceShared && !shared))
                return false;
            client.IsExclusive = _spec.Share == VncShare.AllowExclusive && !shared;
            var others = _clients.Where(c => c.IsAdmitted).ToList();
            if (client.IsExclusive)
            {
                foreach (var other in others)
                    Drop(other);
            }
            else if (others.Count >= _spec.Connections || others.Any(o => o.IsExclusive))
            {
                return false;
            }

            client.IsAdmitted = true;
            return true;
        }
    }

    private void Track(Task task)
    {
        lock (_lock)
            _tasks.Add(task);
        _ = task.ContinueWith(
            t =>
            {
                lock (_lock)
                    _tasks.Remove(t);
            },
            CancellationToken.None,
            TaskContinuationOptions.ExecuteSynchronously,
            TaskScheduler.Default);
    }

    /// <summary>A line for the host's user, but not one for each of a flood.</summary>
    private void Complain(string client, string problem)
    {
        var now = Environment.TickCount64;
        var last = Interlocked.Read(ref _lastComplaint);
        if ((last == 0 || now - last >= (long)ComplaintInterval.TotalMilliseconds) && Interlocked.CompareExchange(ref _lastComplaint, now, last) == last)
            _logger.LogInformation("vnc: {Client}: {Problem}; disconnected", client, problem);
    }

    private sealed class Client(Socket socket)
    {
        public string Name { get; } = Describe(socket);

        public RfbSession? Session { get; set; }

        public bool IsAdmitted { get; set; }

        public bool IsExclusive { get; set; }

        public void Close()
        {
            // A WebSocket that is still to be has no session.
            if (Session is { } session)
                session.Close();
            else
                socket.Dispose();
        }

        private static string Describe(Socket socket)
        {
            try
            {
                return socket.RemoteEndPoint?.ToString() is { Length: > 0 } name ? name : "local";
            }
            catch (SocketException)
            {
                return "gone already";
            }
        }
    }
}
