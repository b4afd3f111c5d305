// QEMU's server=off: we connect, and serve whoever listens there.
using System.Net;
using System.Net.Sockets;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Servers.Endpoints;

/// <summary>A connection to somebody who listens (server=off): the one client, and none behind it.</summary>
internal sealed class ConnectedEndpoint : ServerEndpoint
{
    private readonly Socket _socket;
    private bool _isTaken;

    private ConnectedEndpoint(Socket socket, string name) => (_socket, Name) = (socket, name);

    public override string Name { get; }

    public override bool TakesSeveral => false;

    /// <param name="text">What asked for it, for messages.</param>
    /// <exception cref="ConfigurationException">Nobody listens there.</exception>
    public static ConnectedEndpoint Open(string text, EndPoint end)
    {
        var isUnix = end is UnixDomainSocketEndPoint;
        var socket = isUnix ? new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) : new Socket(SocketType.Stream, ProtocolType.Tcp);
        try
        {
            socket.Connect(end);
            return new ConnectedEndpoint(socket, end.ToString()!);
        }
        catch (SocketException e)
        {
            socket.Dispose();
            var advice = e.SocketErrorCode == SocketError.ConnectionRefused ? "start the listener first, or add server=on" : "check the address";
            throw new ConfigurationException($"{text}: {e.Message}; {advice}", e);
        }
    }

    public override Task<ServerClient?> AcceptAsync(CancellationToken cancellation)
    {
        if (_isTaken)
            return Task.FromResult<ServerClient?>(null);
        _isTaken = true;
        try
        {
            return Task.FromResult<ServerClient?>(SocketEndpoint.Connection(_socket));
        }
        catch (SocketException)
        {
            return Task.FromResult<ServerClient?>(null);
        }
    }

    public override ValueTask DisposeAsync()
    {
        _socket.Dispose();
        return ValueTask.CompletedTask;
    }
}
