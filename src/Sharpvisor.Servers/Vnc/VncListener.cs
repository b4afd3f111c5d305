using System.Net;
using System.Net.Sockets;
using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Endpoints;

namespace Sharpvisor.Servers.Vnc;

/// <summary>The sockets that a <see cref="VncSpec"/> asks for.</summary>
internal sealed class VncListener : IDisposable
{
    private const int Backlog = 64;

    private readonly string? _path;

    private VncListener(List<Socket> sockets, List<Socket> webSockets, string? path)
    {
        Sockets = sockets;
        WebSockets = webSockets;
        _path = path;
    }

    public IReadOnlyList<Socket> Sockets { get; }

    public IReadOnlyList<Socket> WebSockets { get; }

    /// <exception cref="ConfigurationException">A port or path is taken, or there is no such address.</exception>
    public static VncListener Open(VncSpec spec)
    {
        if (spec.UnixPath is { } path)
            return new VncListener([UnixListener.Open($"-vnc {spec.Text}", path, Backlog, isPrivate: false)], [], path);
        var addresses = Resolve(spec);
        for (var port = spec.Port; ; port++)
        {
            List<Socket> sockets = [], webSockets = [];
            try
            {
                Bind(sockets, addresses, port);
                if (spec.WebSocketPort is { } webPort)
                    Bind(webSockets, addresses, webPort + (spec.WebSocketFollows ? port - spec.Port : 0));
                return new VncListener(sockets, webSockets, null);
            }
            catch (SocketException e)
            {
                var isWeb = sockets.Count > 0;
                foreach (var socket in sockets.Concat(webSockets))
                    socket.Dispose();
                var mayTryNext = !isWeb || spec.WebSocketFollows;
                if (e.SocketErrorCode == SocketError.AddressAlreadyInUse && port < spec.LastPort && mayTryNext)
                    continue;
                throw new ConfigurationException($"-vnc {spec.Text}: {Describe(spec, isWeb, port, e)}", e);
            }
        }
    }

    public void Dispose()
    {
        foreach (var socket in Sockets.Concat(WebSockets))
            socket.Dispose();
        if (_path is not null)
            UnixListener.Remove(_path);
    }

    private static string Describe(VncSpec spec, bool isWeb, int port, SocketException error)
    {
        var what = isWeb ? "the port of the WebSocket" : $"port {port}";
        return error.SocketErrorCode switch
        {
            SocketError.AddressAlreadyInUse when isWeb => $"{what} is in use; give websocket=PORT",
            SocketError.AddressAlreadyInUse when spec.LastPort > spec.Port => $"the ports {spec.Port} to {port} are in use; give another display or a larger to=",
            SocketError.AddressAlreadyInUse => $"{what} is in use; give another display, or to=DISPLAY to take the next that is free",
            SocketError.AccessDenied => $"{what} is not allowed; give one from 1024 on",
            SocketError.AddressNotAvailable => $"{spec.Host} is no address of this host; give another, or none for all",
            _ => $"cannot listen on {what}: {error.Message}; check the address",
        };
    }

    private static IPAddress[] Resolve(VncSpec spec)
    {
        var isDual = spec.IPv6 && Socket.OSSupportsIPv6;
        if (spec.Host.Length == 0)
            return [isDual ? IPAddress.IPv6Any : IPAddress.Any];
        try
        {
            var found = IPAddress.TryParse(spec.Host, out var address) ? [address] : Dns.GetHostAddresses(spec.Host);
            var usable = found.Where(a => a.AddressFamily == AddressFamily.InterNetwork ? spec.IPv4 : isDual).Distinct().ToArray();
            return usable.Length > 0 ? usable : throw new ConfigurationException($"-vnc {spec.Text}: {spec.Host} has no address of the kind that is allowed; leave ipv4= and ipv6= out");
        }
        catch (SocketException e)
        {
            throw new ConfigurationException($"-vnc {spec.Text}: {spec.Host}: {e.Message}; check the host name", e);
        }
    }

    /// <summary>The same port on each address; of several that a name has, one must do.</summary>
    private static void Bind(List<Socket> sockets, IPAddress[] addresses, int port)
    {
        SocketException? failure = null;
        foreach (var address in addresses)
        {
            var socket = new Socket(address.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
            try
            {
                if (address.AddressFamily == AddressFamily.InterNetworkV6)
                    socket.DualMode = address.Equals(IPAddress.IPv6Any);
                socket.Bind(new IPEndPoint(address, port));
                socket.Listen(Backlog);
                sockets.Add(socket);
                port = ((IPEndPoint)socket.LocalEndPoint!).Port;
            }
            catch (SocketException e)
            {
                socket.Dispose();
                failure = e;
                if (e.SocketErrorCode == SocketError.AddressAlreadyInUse)
                    break;
            }
        }

        if (failure is not null && (sockets.Count == 0 || failure.SocketErrorCode == SocketError.AddressAlreadyInUse))
        {
            foreach (var socket in sockets)
                socket.Dispose();
            sockets.Clear();
            throw failure;
        }
    }
}
