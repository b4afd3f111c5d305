using System.Net;
using System.Net.Sockets;

namespace Sharpvisor.Core.Host;

/// <summary>select by .NET, for hosts without epoll. A datagram to itself wakes it.</summary>
internal sealed class SelectPoller : SocketPoller
{
    private readonly Dictionary<int, Registration> _registrations = [];
    private readonly Dictionary<Socket, Registration> _bySocket = [];
    private readonly List<Socket> _read = [], _write = [], _error = [];
    private readonly Socket _wake = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp) { Blocking = false };
    private int _next;

    public SelectPoller()
    {
        _wake.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        _wake.Connect(_wake.LocalEndPoint!);
    }

    public override int Add(Socket socket, ISocketHandler handler)
    {
        var registration = new Registration(socket, handler) { Awaited = SocketEvents.Readable | SocketEvents.Writable };
        _registrations.Add(++_next, registration);
        _bySocket.Add(socket, registration);
        return _next;
    }

    public override void Remove(int registration)
    {
        if (_registrations.Remove(registration, out var removed))
            _bySocket.Remove(removed.Socket);
    }

    public override void Await(int registration, SocketEvents events) => _registrations[registration].Awaited |= events;

    protected override int Poll(int milliseconds)
    {
        _read.Clear();
        _write.Clear();
        _error.Clear();
        _read.Add(_wake);
        foreach (var registration in _registrations.Values)
        {
            if ((registration.Awaited & SocketEvents.Readable) != 0)
                _read.Add(registration.Socket);
            if ((registration.Awaited & SocketEvents.Writable) != 0)
                _write.Add(registration.Socket);
            if (registration.Awaited != SocketEvents.None)
                _error.Add(registration.Socket);
        }

        Socket.Select(_read, _write, _error, milliseconds < 0 ? -1 : (int)Math.Min(int.MaxValue, milliseconds * 1000L));
        Note(_read, SocketEvents.Readable);
        Note(_write, SocketEvents.Writable);
        Note(_error, SocketEvents.Failed);
        var count = 0;
        foreach (var list in (ReadOnlySpan<List<Socket>>)[_read, _write, _error])
        {
            foreach (var socket in list)
            {
                // A handler may have removed this one, or have been told already.
                if (!_bySocket.TryGetValue(socket, out var registration) || registration.Ready == SocketEvents.None)
                    continue;
                var events = registration.Ready;
                registration.Ready = SocketEvents.None;
                registration.Awaited &= ~events;
                count++;
                registration.Handler.OnSocketEvent(events);
            }
        }

        return count;
    }

    protected override void Signal() => _ = _wake.Send([1], SocketFlags.None, out _);

    protected override void Dispose(bool disposing) => _wake.Dispose();

    private void Note(List<Socket> sockets, SocketEvents events)
    {
        foreach (var socket in sockets)
        {
            if (socket == _wake)
                _ = _wake.Receive(new byte[64], SocketFlags.None, out _);
            else if (_bySocket.TryGetValue(socket, out var registration))
                registration.Ready |= events;
        }
    }

    private sealed class Registration(Socket socket, ISocketHandler handler)
    {
        public Socket Socket { get; } = socket;

        public ISocketHandler Handler { get; } = handler;

        /// <summary>What the handler waits for.</summary>
        public SocketEvents Awaited { get; set; }

        /// <summary>What it is to be told.</summary>
        public SocketEvents Ready { get; set; }
    }
}
