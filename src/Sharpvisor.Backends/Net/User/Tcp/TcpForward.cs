// hostfwd=tcp: a port of the host that leads to one of the guest.
using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User.Tcp;

internal sealed class TcpForward : NetworkTask, ISocketHandler, IDisposable
{
    private const int Backlog = 1024, AtOnce = 64;
    private const long RetryMs = 500;

    private readonly TcpLayer _layer;
    private readonly IPv4EndPoint _guest;
    private readonly ILogger _logger;
    private readonly Socket _listener;
    private readonly int _registration;
    private bool _isClosed;

    /// <exception cref="Core.Guests.ConfigurationException">The port is taken.</exception>
    public TcpForward(TcpLayer layer, IPEndPoint host, IPv4EndPoint guest, ILogger logger)
    {
        _layer = layer;
        _guest = guest;
        _logger = logger;
        _listener = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { Blocking = false };
        try
        {
            // Not ReuseAddress: in .NET it is SO_REUSEPORT, too, and two machines would share a port. What is left of
            // connections of an earlier run does not hold one: Bind sees to that.
            _listener.Bind(host);
            _listener.Listen(Backlog);
        }
        catch (SocketException e)
        {
            _listener.Dispose();
            throw HostPortError.Make($"hostfwd=tcp:{host}", e);
        }

        Port = ((IPEndPoint)_listener.LocalEndPoint!).Port;
        _registration = layer.Loop.Poller.Add(_listener, this);
    }

    public int Port { get; }

    public void OnSocketEvent(SocketEvents events) => _layer.Loop.Schedule(this);

    public override void Work()
    {
        for (var i = 0; i < AtOnce; i++)
        {
            if (_isClosed)
                return;
            try
            {
                // Accept throws where nobody waits.
                if (!_listener.Poll(0, SelectMode.SelectRead))
                {
                    _layer.Loop.Poller.Await(_registration, SocketEvents.Readable);
                    return;
                }

                var client = _listener.Accept();
                if (!_layer.Open(_guest, IPv4EndPoint.From((IPEndPoint)client.RemoteEndPoint!), client))
                {
                    client.LingerState = new LingerOption(true, 0);
                    client.Dispose();
                    _layer.SayLimit("there are too many");
                }
            }
            catch (SocketException e) when (e.SocketErrorCode is SocketError.TooManyOpenSockets)
            {
                _layer.SayLimit(e.Message);
                _layer.Loop.SetTimer(this, _layer.Loop.NowMs + RetryMs);
                return;
            }
            catch (SocketException e)
            {
                // A client that is gone again.
                if (_logger.IsEnabled(LogLevel.Debug))
                    _logger.LogDebug("user network: port {Port}: {Reason}", Port, e.Message);
            }
        }

        _layer.Loop.Schedule(this);
    }

    public override void OnTime(long nowMs) => _layer.Loop.Schedule(this);

    public void Dispose()
    {
        _isClosed = true;
        _layer.Loop.CancelTimer(this);
        _layer.Loop.Poller.Remove(_registration);
        _listener.Dispose();
    }
}
