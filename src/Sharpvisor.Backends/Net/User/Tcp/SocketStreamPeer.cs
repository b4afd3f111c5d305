// The host's socket behind a connection: half-close and reset go through as shutdown(2) and SO_LINGER have them.
using System.Net.Sockets;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User.Tcp;

/// <summary>A TCP socket of the host as the other side of a guest's connection.</summary>
internal sealed class SocketStreamPeer : IStreamPeer, ISocketHandler
{
    private const int Broken = -1, EndOfData = -1, BrokenRead = -2;

    private readonly TcpLayer _layer;
    private readonly SocketPoller _poller;
    private readonly TcpConnection _owner;
    private readonly Socket _socket;
    private readonly int _registration;
    private bool _isConnecting;
    private bool _isDisposed;

    /// <param name="socket">Connected.</param>
    public SocketStreamPeer(TcpLayer layer, TcpConnection owner, Socket socket)
    {
        _layer = layer;
        _poller = layer.Loop.Poller;
        _owner = owner;
        _socket = socket;
        socket.Blocking = false;
        socket.NoDelay = true; // the guest decides about delays
        socket.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.KeepAlive, true);
        _registration = _poller.Add(socket, this);
        layer.SocketCount++;
    }

    /// <summary>Begins to connect.</summary>
    /// <param name="error">Success: connected. WouldBlock: the owner is told how it went.</param>
    /// <exception cref="SocketException">The host has no socket left.</exception>
    public static SocketStreamPeer Connect(TcpLayer layer, TcpConnection owner, IPv4EndPoint target, out SocketError error)
    {
        var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { Blocking = false };
        try
        {
            // First the connect: a socket that is not connected yet hangs up.
            error = IPv4Socket.Connect(socket, target);
            return new SocketStreamPeer(layer, owner, socket) { _isConnecting = error == SocketError.WouldBlock };
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    public int Write(ReadOnlySpan<byte> data)
    {
        var count = _socket.Send(data, SocketFlags.None, out var error);
        if (error is not (SocketError.Success or SocketError.WouldBlock or SocketError.NoBufferSpaceAvailable))
            return Broken;
        if (error != SocketError.Success)
            count = 0;
        if (count < data.Length)
            _poller.Await(_registration, SocketEvents.Writable);
        return count;
    }

    public void EndOfInput()
    {
        try
        {
            _socket.Shutdown(SocketShutdown.Send);
        }
        catch (SocketException)
        {
            // The other side has broken the connection: the next read tells.
        }
    }

    public int Read(Span<byte> buffer)
    {
        var count = _socket.Receive(buffer, SocketFlags.None, out var error);
        switch (error)
        {
            case SocketError.Success:
                return count > 0 ? count : EndOfData;
            case SocketError.WouldBlock:
                _poller.Await(_registration, SocketEvents.Readable);
                return 0;
            default:
                return BrokenRead;
        }
    }

    public void Reset()
    {
        try
        {
            _socket.LingerState = new LingerOption(true, 0);
        }
        catch (SocketException)
        {
            // Then it is closed in the ordinary way.
        }
    }

    public void OnSocketEvent(SocketEvents events)
    {
        if (_isConnecting)
        {
            if ((events & (SocketEvents.Writable | SocketEvents.Failed)) == 0)
                return;
            _isConnecting = false;
            var error = IPv4Socket.ConnectResult(_socket);
            if (error == SocketError.Success && (events & SocketEvents.Writable) != 0)
                _owner.OnConnected();
            else
                _owner.OnConnectFailed(error);
            if (_isDisposed)
                return;
        }

        if ((events & (SocketEvents.Readable | SocketEvents.Failed)) != 0)
            _owner.OnReadable();
        if ((events & (SocketEvents.Writable | SocketEvents.Failed)) != 0)
            _owner.OnWritable();
    }

    public void Dispose()
    {
        if (_isDisposed)
            return;
        _isDisposed = true;
        _layer.SocketCount--;
        _poller.Remove(_registration);
        _socket.Dispose();
    }
}
