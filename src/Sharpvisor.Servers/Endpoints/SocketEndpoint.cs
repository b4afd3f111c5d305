// TCP (loopback when no host is given) and Unix sockets that clients connect to.
using System.Net;
using System.Net.Sockets;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Servers.Endpoints;

/// <summary>A listening TCP or Unix socket. Who may use a server of this kind has the machine, so that a Unix socket is its user's only.</summary>
internal sealed class SocketEndpoint : ServerEndpoint
{
    private const int Backlog = 16;

    private readonly Socket _socket;
    private readonly string? _path;

    private SocketEndpoint(Socket socket, string? path)
    {
        _socket = socket;
        _path = path;
        Name = path ?? socket.LocalEndPoint!.ToString()!;
    }

    public override string Name { get; }

    public override int Port => _path is null ? ((IPEndPoint)_socket.LocalEndPoint!).Port : 0;

    public override bool TakesSeveral => true;

    public static SocketEndpoint OpenTcp(ServerAddress.Tcp address)
    {
        Socket? socket = null;
        try
        {
            var at = Resolve(address.Host);
            socket = new Socket(at.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
            // Not ReuseAddress: in .NET it is SO_REUSEPORT, too, and two machines would share a port.
            socket.Bind(new IPEndPoint(at, address.Port));
            socket.Listen(Backlog);
            return new SocketEndpoint(socket, null);
        }
        catch (SocketException e)
        {
            socket?.Dispose();
            throw new ConfigurationException($"{address.Text}: " + e.SocketErrorCode switch
            {
                SocketError.AddressAlreadyInUse => $"port {address.Port} is in use; give another with tcp::PORT, or 0 for any that is free",
                SocketError.AccessDenied => $"port {address.Port} is not allowed; give one from 1024 on",
                SocketError.AddressNotAvailable => $"{address.Host} is no address of this host; give another, or none for loopback",
                _ => $"{e.Message}; check the address",
            }, e);
        }
    }

    /// <param name="text">What asked for it, for messages.</param>
    /// <exception cref="ConfigurationException">Somebody listens there, something else lies there, or it can't be made.</exception>
    public static SocketEndpoint OpenUnix(string text, string path) => new(UnixListener.Open(text, path, Backlog, isPrivate: true), path);

    public override async Task<ServerClient?> AcceptAsync(CancellationToken cancellation)
    {
        try
        {
            return Connection(await _socket.AcceptAsync(cancellation).ConfigureAwait(false));
        }
        catch (ObjectDisposedException)
        {
            return null;
        }
        catch (SocketException e)
        {
            throw new IOException(e.Message, e);
        }
    }

    public override ValueTask DisposeAsync()
    {
        _socket.Dispose();
        if (_path is not null)
            UnixListener.Remove(_path);
        return ValueTask.CompletedTask;
    }

    /// <summary>Somebody at the other end of a socket.</summary>
    /// <exception cref="SocketException">It has gone.</exception>
    internal static ServerClient Connection(Socket socket)
    {
        var name = "local";
        if (socket.ProtocolType == ProtocolType.Tcp)
        {
            socket.NoDelay = true;
            socket.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.KeepAlive, true);
            name = socket.RemoteEndPoint?.ToString() ?? name;
        }

        return new ServerClient(new NetworkStream(socket, ownsSocket: true), name);
    }

    private static IPAddress Resolve(string host)
    {
        if (host.Length == 0)
            return IPAddress.Loopback;
        return IPAddress.TryParse(host, out var address) ? address : Dns.GetHostAddresses(host).OrderBy(a => a.AddressFamily).First();
    }
}
