using System.Net;
using System.Net.Sockets;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Backends.Net.User.Services;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.User.Services;

/// <summary>
/// Lets real clients on the host's loopback use a service, in place of a guest: a thread of its own is the network's
/// thread, and a port of the host stands for each port of the service.
/// </summary>
internal sealed class HostBridge : IUdpSender, IDisposable
{
    private readonly IPAddress _address = IPAddress.Parse("10.0.2.2");
    private readonly IUdpService? _udp;
    private readonly IStreamService? _tcp;
    private readonly Socket? _listener;
    private readonly Dictionary<int, Socket> _sockets = []; // by the service's port
    private readonly List<Connection> _connections = [];
    private readonly Thread _thread;
    private volatile bool _stopping;

    /// <param name="servicePort">Of the service's first datagrams.</param>
    public HostBridge(IUdpService service, int servicePort)
    {
        _udp = service;
        Port = ((IPEndPoint)Open(servicePort).LocalEndPoint!).Port;
        _thread = new Thread(Run);
        _thread.Start();
    }

    public HostBridge(IStreamService service)
    {
        _tcp = service;
        _listener = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        _listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        _listener.Listen(100);
        Port = ((IPEndPoint)_listener.LocalEndPoint!).Port;
        _thread = new Thread(Run);
        _thread.Start();
    }

    /// <summary>Of the host, for clients.</summary>
    public int Port { get; }

    public void Send(IPEndPoint from, IPEndPoint to, ReadOnlySpan<byte> data, MacAddress? toAddress = null) =>
        (_sockets.TryGetValue(from.Port, out var socket) ? socket : Open(from.Port)).SendTo(data, to);

    public void Dispose()
    {
        _stopping = true;
        _thread.Join();
        _listener?.Dispose();
        foreach (var socket in _sockets.Values)
            socket.Dispose();
        foreach (var connection in _connections)
            connection.Dispose();
    }

    private Socket Open(int servicePort)
    {
        var socket = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        socket.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        return _sockets[servicePort] = socket;
    }

    private void Run()
    {
        var buffer = new byte[65536];
        while (!_stopping)
        {
            List<Socket> readable = [.. _sockets.Values, .. _connections.Where(c => c.WantsInput).Select(c => c.Socket)];
            if (_listener is not null)
                readable.Add(_listener);
            List<Socket> writable = [.. _connections.Where(c => c.WantsOutput).Select(c => c.Socket)];
            Socket.Select(readable, writable, null, 10_000);
            foreach (var (port, socket) in _sockets.ToArray())
            {
                if (!readable.Contains(socket))
                    continue;
                EndPoint from = new IPEndPoint(IPAddress.Any, 0);
                var count = socket.ReceiveFrom(buffer, ref from);
                _udp!.OnDatagram((IPEndPoint)from, new IPEndPoint(_address, port), buffer.AsSpan(0, count), this);
            }

            if (_listener is not null && readable.Contains(_listener))
                _connections.Add(new Connection(_listener.Accept(), _tcp!));
            foreach (var connection in _connections.ToArray())
            {
                if (connection.Run(readable.Contains(connection.Socket)))
                    continue;
                connection.Dispose();
                _connections.Remove(connection);
            }

            if (_udp is not null && _udp.NextDeadlineMs <= Environment.TickCount64)
                _udp.OnTime(Environment.TickCount64, this);
        }
    }

    private sealed class Connection : IStreamOwner, IDisposable
    {
        private readonly IStreamPeer _peer;
        private readonly byte[] _input = new byte[20_000], _output = new byte[20_000];
        private int _inputLength, _outputStart, _outputEnd;
        private bool _canRead = true, _isEnd;

        public Connection(Socket socket, IStreamService service)
        {
            Socket = socket;
            Socket.Blocking = false;
            _peer = service.Accept((IPEndPoint)socket.RemoteEndPoint!, this)!;
        }

        public Socket Socket { get; }

        public bool WantsInput => !_isEnd && _inputLength == 0;

        public bool WantsOutput => _outputStart < _outputEnd;

        public void OnReadable() => _canRead = true;

        public void OnWritable()
        {
            // What is left over is offered again each time round.
        }

        /// <returns>False: it has ended.</returns>
        public bool Run(bool isReadable)
        {
            if (isReadable)
            {
                _inputLength = Socket.Receive(_input, SocketFlags.None, out var error);
                if (error != SocketError.Success && error != SocketError.WouldBlock)
                    return false;
                if (_inputLength == 0 && error == SocketError.Success)
                {
                    _isEnd = true;
                    _peer.EndOfInput();
                }
            }

            if (_inputLength > 0)
            {
                var count = _peer.Write(_input.AsSpan(0, _inputLength));
                if (count < 0)
                    return false;
                _input.AsSpan(count, _inputLength - count).CopyTo(_input);
                _inputLength -= count;
            }

            while (true)
            {
                if (_outputStart == _outputEnd && _canRead)
                {
                    var count = _peer.Read(_output);
                    if (count < 0)
                        return false;
                    (_outputStart, _outputEnd, _canRead) = (0, count, count > 0);
                }

                if (_outputStart == _outputEnd)
                    return true;
                var sent = Socket.Send(_output.AsSpan(_outputStart, _outputEnd - _outputStart), SocketFlags.None, out var error);
                if (error != SocketError.Success)
                    return error == SocketError.WouldBlock;
                _outputStart += sent;
            }
        }

        public void Dispose()
        {
            _peer.Dispose();
            Socket.Dispose();
        }
    }
}
