// UDP through a socket of the host: RFC 768; one port for all destinations, as RFC 4787, 4.1 wants it.
using System.Net.Sockets;
using Sharpvisor.Backends.Net.User.Ip;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User.Udp;

/// <summary>A UDP port of the guest and its socket on the host: one for all that it talks to, so that they see one port.</summary>
internal sealed class UdpFlow : NetworkTask, ISocketHandler, IDisposable
{
    private const long IdleMs = 120_000;
    private const int AtOnce = 64, MostCallers = 64;

    private readonly UdpLayer _layer;
    private readonly Socket _socket;
    private readonly int _registration;
    private readonly Queue<IPv4EndPoint> _callers = new();
    private bool _isClosed;

    public UdpFlow(UdpLayer layer, IPv4EndPoint guest, Socket socket, bool isForward)
    {
        _layer = layer;
        Guest = guest;
        _socket = socket;
        IsForward = isForward;
        _registration = layer.Loop.Poller.Add(socket, this);
        Touch();
    }

    public IPv4EndPoint Guest { get; }

    /// <summary>A hostfwd, which stays.</summary>
    public bool IsForward { get; }

    public long LastUsedMs { get; private set; }

    /// <summary>Whether this one was the first to send, by hostfwd.</summary>
    public bool WasCaller(IPv4EndPoint other) => _callers.Contains(other);

    public SocketError Send(ReadOnlySpan<byte> data, IPv4EndPoint to)
    {
        Touch();
        if (IPv4Socket.SendTo(_socket, data, to, out var error) >= 0)
            return SocketError.Success;
        // What the host tells may be about an earlier datagram.
        if (ReadErrors() && IPv4Socket.SendTo(_socket, data, to, out error) >= 0)
            return SocketError.Success;
        return error;
    }

    public void OnSocketEvent(SocketEvents events)
    {
        if ((events & SocketEvents.Failed) != 0)
            ReadErrors();
        if ((events & SocketEvents.Readable) != 0)
            _layer.Loop.Schedule(this);
    }

    public override void Work()
    {
        for (var i = 0; i < AtOnce && !_isClosed; i++)
        {
            if (!_layer.Link.HasRoom)
            {
                _layer.Loop.ScheduleWhenGuestHasRoom(this);
                return;
            }

            var count = IPv4Socket.ReceiveFrom(_socket, _layer.Buffer, out var sender, out var error);
            if (count < 0)
            {
                if (error != SocketError.WouldBlock)
                {
                    ReadErrors();
                    continue;
                }

                _layer.Loop.Poller.Await(_registration, SocketEvents.Readable);
                return;
            }

            Touch();
            if (sender.Address >> 24 == 127)
                sender = sender with { Address = _layer.Addresses.Host };
            if (IsForward && !_callers.Contains(sender))
                Remember(sender);
            _layer.SendBuffer(sender, Guest, count);
        }

        if (!_isClosed)
            _layer.Loop.Schedule(this);
    }

    public override void OnTime(long nowMs) => Dispose();

    public void Dispose()
    {
        if (_isClosed)
            return;
        _isClosed = true;
        _layer.Loop.CancelTimer(this);
        _layer.Remove(this);
        _layer.Loop.Poller.Remove(_registration);
        _socket.Dispose();
    }

    private void Touch()
    {
        LastUsedMs = _layer.Loop.NowMs;
        if (!IsForward)
            _layer.Loop.SetTimer(this, LastUsedMs + IdleMs);
    }

    private void Remember(IPv4EndPoint caller)
    {
        if (_callers.Count == MostCallers)
            _callers.Dequeue();
        _callers.Enqueue(caller);
    }

    /// <summary>Tells the guest what ICMP told the host.</summary>
    private bool ReadErrors()
    {
        var any = false;
        while (IPv4Socket.TryReadError(_socket, out var to, out var error))
        {
            any = true;
            if (to.Address >> 24 == 127)
                to = to with { Address = _layer.Addresses.Host };
            byte? code = error switch
            {
                SocketError.ConnectionRefused => IcmpLayer.PortUnreachable,
                SocketError.HostUnreachable or SocketError.HostDown => IcmpLayer.HostUnreachable,
                SocketError.NetworkUnreachable or SocketError.NetworkDown => IcmpLayer.NetUnreachable,
                SocketError.AccessDenied => IcmpLayer.Prohibited,
                _ => null,
            };
            if (code is not null)
                _layer.Icmp.SendError(code.Value, Guest, to);
        }

        return any;
    }
}
