// ICMP (RFC 792): echo requests, to the network's own addresses and through the host to others; errors for the guest.
// Leaves out: redirects, timestamps, and what the guest reports about packets that it got.
using System.Buffers.Binary;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User.Ip;

internal sealed class IcmpLayer : IDisposable
{
    public const byte Unreachable = 3, TimeExceeded = 11;
    public const byte NetUnreachable = 0, HostUnreachable = 1, PortUnreachable = 3, Prohibited = 13;
    private const byte EchoReply = 0, EchoRequest = 8;
    private const int HeaderLength = 8, MostFlows = 64;
    private const int QuotedData = 8; // of the packet that an error is about

    private readonly NetworkLoop _loop;
    private readonly GuestLink _link;
    private readonly Ipv4Sender _sender;
    private readonly NetworkAddresses _addresses;
    private readonly NetworkCounters _counters;
    private readonly ILogger _logger;
    private readonly bool _restrict;
    private readonly Dictionary<(uint Guest, ushort Identifier), EchoFlow> _flows = [];
    private readonly byte[] _message = new byte[64 << 10];
    private bool _isRefused;

    public IcmpLayer(NetworkLoop loop, GuestLink link, Ipv4Sender sender, NetworkAddresses addresses, NetworkCounters counters, bool restrict, ILogger logger)
    {
        _loop = loop;
        _link = link;
        _sender = sender;
        _addresses = addresses;
        _counters = counters;
        _restrict = restrict;
        _logger = logger;
    }

    public void OnPacket(in Ipv4Packet packet)
    {
        var message = packet.Payload;
        if (message.Length < HeaderLength || InternetChecksum.Of(message) != 0)
        {
            _counters.Drop(message.Length < HeaderLength ? DropReason.Malformed : DropReason.Checksum);
            return;
        }

        if (message[0] != EchoRequest || message.Length > Ipv4Sender.LongestPayload)
        {
            _counters.Drop(DropReason.Protocol);
            return;
        }

        if (packet.Destination == _addresses.Host || packet.Destination == _addresses.Dns)
            SendEchoReply(packet.Destination, packet.Source, message, BinaryPrimitives.ReadUInt16BigEndian(message[4..]));
        else if (_restrict)
            _counters.Drop(DropReason.Destination);
        else if (_addresses.IsInside(packet.Destination) || NetworkAddresses.IsNowhere(packet.Destination))
            SendError(packet, Unreachable, HostUnreachable);
        else
            Forward(packet);
    }

    /// <summary>Tells the guest what became of its packet (RFC 1122, 3.2.2: never of one that went to many, or of an ICMP error).</summary>
    public void SendError(in Ipv4Packet packet, byte type, byte code)
    {
        _counters.Drop(DropReason.Destination);
        if (packet.FragmentOffset > 0 || packet.Protocol == Ipv4Packet.Icmp && (packet.Payload.IsEmpty || packet.Payload[0] != EchoRequest))
            return;
        var quoted = packet.Header.Length + Math.Min(QuotedData, packet.Payload.Length);
        var message = StartError(type, code, quoted);
        packet.Header.CopyTo(message[HeaderLength..]);
        packet.Payload[..Math.Min(QuotedData, packet.Payload.Length)].CopyTo(message[(HeaderLength + packet.Header.Length)..]);
        SendMessage(_addresses.Host, packet.Source, message);
    }

    /// <summary>The same about a datagram that is gone already.</summary>
    public void SendError(byte code, IPv4EndPoint guest, IPv4EndPoint to)
    {
        const int quoted = Ipv4Packet.HeaderLength + QuotedData;
        var message = StartError(Unreachable, code, quoted);
        FrameHeaders.WriteIpv4(message[HeaderLength..], quoted, 0, 0, Ipv4Packet.Udp, guest.Address, to.Address);
        var udp = message[(HeaderLength + Ipv4Packet.HeaderLength)..];
        BinaryPrimitives.WriteUInt16BigEndian(udp, guest.Port);
        BinaryPrimitives.WriteUInt16BigEndian(udp[2..], to.Port);
        BinaryPrimitives.WriteUInt32BigEndian(udp[4..], QuotedData << 16);
        SendMessage(to.Address, guest.Address, message);
    }

    public void Dispose()
    {
        foreach (var flow in _flows.Values.ToArray())
            flow.Dispose();
    }

    private Span<byte> StartError(byte type, byte code, int quoted)
    {
        var message = _message.AsSpan(0, HeaderLength + quoted);
        message[..HeaderLength].Clear();
        message[0] = type;
        message[1] = code;
        return message;
    }

    private void SendMessage(uint from, uint to, Span<byte> message)
    {
        BinaryPrimitives.WriteUInt16BigEndian(message[2..], 0);
        BinaryPrimitives.WriteUInt16BigEndian(message[2..], InternetChecksum.Of(message));
        _sender.Send(Ipv4Packet.Icmp, from, to, message);
    }

    private void SendEchoReply(uint from, uint to, ReadOnlySpan<byte> message, ushort identifier)
    {
        var reply = _message.AsSpan(0, message.Length);
        message.CopyTo(reply);
        reply[0] = EchoReply;
        BinaryPrimitives.WriteUInt16BigEndian(reply[4..], identifier);
        SendMessage(from, to, reply);
    }

    private void Forward(in Ipv4Packet packet)
    {
        var key = (packet.Source, BinaryPrimitives.ReadUInt16BigEndian(packet.Payload[4..]));
        if (!_flows.TryGetValue(key, out var flow))
        {
            if (_isRefused || _flows.Count >= MostFlows)
            {
                _counters.Drop(_isRefused ? DropReason.Host : DropReason.Limit);
                return;
            }

            try
            {
                flow = new EchoFlow(this, key);
            }
            catch (SocketException e)
            {
                _isRefused = e.SocketErrorCode != SocketError.TooManyOpenSockets;
                _counters.Drop(DropReason.Host);
                _logger.LogWarning(
                    "user network: the guest's pings of other hosts get no answer: {Reason}; allow ICMP sockets by net.ipv4.ping_group_range", e.Message);
                return;
            }

            _flows.Add(key, flow);
        }

        flow.Send(packet);
    }

    /// <summary>The pings of one process in the guest, by an ICMP socket that needs no privileges (icmp(7)). The host chooses the identifier on its side.</summary>
    private sealed class EchoFlow : NetworkTask, ISocketHandler, IDisposable
    {
        private const long IdleMs = 30_000;
        private const int AtOnce = 64;

        private readonly IcmpLayer _layer;
        private readonly (uint Guest, ushort Identifier) _key;
        private readonly Socket _socket = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Icmp) { Blocking = false };
        private readonly int _registration;
        private bool _isClosed;

        public EchoFlow(IcmpLayer layer, (uint Guest, ushort Identifier) key)
        {
            _layer = layer;
            _key = key;
            _registration = layer._loop.Poller.Add(_socket, this);
        }

        public void Send(in Ipv4Packet packet)
        {
            _layer._loop.SetTimer(this, _layer._loop.NowMs + IdleMs);
            if (IPv4Socket.SendTo(_socket, packet.Payload, new IPv4EndPoint(packet.Destination, 0), out var error) < 0 && error != SocketError.WouldBlock)
                _layer.SendError(packet, Unreachable, error == SocketError.NetworkUnreachable ? NetUnreachable : HostUnreachable);
        }

        public void OnSocketEvent(SocketEvents events) => _layer._loop.Schedule(this);

        public override void Work()
        {
            if (_isClosed)
                return;
            Span<byte> buffer = stackalloc byte[2048];
            for (var i = 0; i < AtOnce && _layer._link.HasRoom; i++)
            {
                var count = IPv4Socket.ReceiveFrom(_socket, buffer, out var from, out var error);
                if (count >= HeaderLength && buffer[0] == EchoReply)
                {
                    _layer.SendEchoReply(from.Address, _key.Guest, buffer[..count], _key.Identifier);
                }
                else if (error == SocketError.WouldBlock)
                {
                    _layer._loop.Poller.Await(_registration, SocketEvents.Readable);
                    return;
                }
            }

            if (_layer._link.HasRoom)
                _layer._loop.Schedule(this);
            else
                _layer._loop.ScheduleWhenGuestHasRoom(this);
        }

        public override void OnTime(long nowMs) => Dispose();

        public void Dispose()
        {
            _isClosed = true;
            _layer._loop.CancelTimer(this);
            _layer._flows.Remove(_key);
            _layer._loop.Poller.Remove(_registration);
            _socket.Dispose();
        }
    }
}
