// A serial line over one connection, by TCP (raw bytes without telnet's) or by a socket of the file system. As a server it
// takes one client at a time and the next one when that has gone; output while nobody is connected is dropped, as on an
// unplugged cable.
using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Char;

public sealed class SocketCharBackend : ThreadedCharBackend, IConnectableCharBackend
{
    private readonly Socket? _listener;
    private readonly bool _wait;
    private readonly TaskCompletionSource _firstPeer = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private volatile Socket? _peer;

    private SocketCharBackend(string name, bool wait, ILogger logger, Socket? listener, Socket? peer) : base(name, logger)
    {
        _wait = listener is not null && wait;
        _listener = listener;
        _peer = peer;
        if (peer is not null)
            _firstPeer.SetResult();
        LocalPort = (listener?.LocalEndPoint as IPEndPoint)?.Port ?? 0;
    }

    /// <param name="server">Listen rather than connect.</param>
    /// <param name="wait">A server's machine starts when the first client is there.</param>
    /// <exception cref="ConfigurationException">No such host, nobody listens, or the port is taken.</exception>
    public static SocketCharBackend Tcp(string host, int port, bool server, bool wait, ILogger logger)
    {
        var name = $"tcp:{host}:{port}";
        try
        {
            if (!server)
            {
                var peer = new Socket(SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
                peer.Connect(host.Length == 0 ? "localhost" : host, port);
                return new SocketCharBackend(name, wait, logger, null, peer);
            }

            var address = host.Length == 0 ? IPAddress.Any : Resolve(host);
            var listener = new Socket(address.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
            // Not ReuseAddress: in .NET it is SO_REUSEPORT, too, and two machines would share a port.
            listener.Bind(new IPEndPoint(address, port));
            listener.Listen(1);
            return new SocketCharBackend(name, wait, logger, listener, null);
        }
        catch (SocketException e)
        {
            var advice = e.SocketErrorCode switch
            {
                SocketError.ConnectionRefused => "start the listener first, or add ,server=on",
                SocketError.AddressAlreadyInUse => "give another port",
                SocketError.HostNotFound or SocketError.TryAgain or SocketError.NoData => "check the host name",
                SocketError.AccessDenied => "give a port from 1024 on",
                _ => "check host and port",
            };
            throw new ConfigurationException($"{name}: {e.Message}; {advice}", e);
        }
    }

    /// <inheritdoc cref="Tcp"/>
    public static SocketCharBackend Unix(string path, bool server, bool wait, ILogger logger)
    {
        var name = $"unix:{path}";
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            var end = new UnixDomainSocketEndPoint(path);
            if (!server)
            {
                socket.Connect(end);
                return new SocketCharBackend(name, wait, logger, null, socket);
            }

            socket.Bind(end);
            socket.Listen(1);
            return new SocketCharBackend(name, wait, logger, socket, null) { Path = path };
        }
        catch (Exception e) when (e is SocketException or ArgumentException)
        {
            socket.Dispose();
            var advice = e is SocketException { SocketErrorCode: SocketError.AddressAlreadyInUse } ? "remove what is there, or give another path"
                : e is SocketException { SocketErrorCode: SocketError.ConnectionRefused } ? "start the listener first, or add ,server=on"
                : "check the path";
            throw new ConfigurationException($"{name}: {e.Message}; {advice}", e);
        }
    }

    /// <summary>The port that a server listens on.</summary>
    public int LocalPort { get; }

    /// <summary>Of a server's socket in the file system; removed at the end.</summary>
    private string? Path { get; init; }

    public Task WaitForPeerAsync(CancellationToken cancellation)
    {
        if (!_wait)
            return Task.CompletedTask;
        Logger.LogInformation("{Backend}: waiting for a connection", Name);
        return _firstPeer.Task.WaitAsync(cancellation);
    }

    protected override void ReadLoop()
    {
        var buffer = new byte[4096];
        while (!Stopping)
        {
            if (_peer is null && !Accept())
                return;
            var count = Receive(buffer);
            if (count > 0)
            {
                if (!Deliver(buffer.AsSpan(0, count)))
                    return;
                continue;
            }

            var gone = Interlocked.Exchange(ref _peer, null);
            gone?.Dispose();
            if (_listener is null)
            {
                if (!Stopping)
                    Logger.LogWarning("{Backend}: the other side closed the connection", Name);
                return;
            }
        }
    }

    protected override void WriteToHost(ReadOnlySpan<byte> data)
    {
        var peer = _peer;
        try
        {
            while (peer is not null && data.Length > 0)
                data = data[peer.Send(data)..];
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // The reader sees the end of the connection as well and takes care of it.
        }
    }

    protected override void StopHost()
    {
        // Closing ends a blocked accept, receive or send; what is in the socket's own buffer still goes out.
        _listener?.Dispose();
        var peer = _peer;
        try
        {
            peer?.Shutdown(SocketShutdown.Both);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // Closed by the other side already.
        }
    }

    protected override void CloseHost()
    {
        _peer?.Dispose();
        if (Path is not null)
            File.Delete(Path);
    }

    private static IPAddress Resolve(string host) =>
        IPAddress.TryParse(host, out var address) ? address : Dns.GetHostAddresses(host).OrderBy(a => a.AddressFamily).First();

    private bool Accept()
    {
        try
        {
            var peer = _listener!.Accept();
            if (peer.ProtocolType == ProtocolType.Tcp)
                peer.NoDelay = true;
            _peer = peer;
            _firstPeer.TrySetResult();
            return true;
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            return false;
        }
    }

    private int Receive(byte[] buffer)
    {
        try
        {
            return _peer?.Receive(buffer) ?? 0;
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            return 0;
        }
    }
}
