// TCP (RFC 9293, with RFC 7323's window scaling and RFC 5961's defences) as the guest's other end: each connection is
// ended here and goes on as a socket of the host, or as a service of the network. What the guest sends gets there in its
// order; what comes from there is kept until the guest has acknowledged it.
// Leaves out: selective acknowledgments, timestamps, congestion control (there is no network between), urgent data as
// such, reassembly of what comes out of order (the cable keeps the order; the guest sends again), IPv6.
using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Net.User.Ip;
using Sharpvisor.Backends.Net.User.Services;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User.Tcp;

internal sealed class TcpLayer : IDisposable
{
    private const int MostConnections = 65536, MostHalfOpen = 4096;
    private const int MostChallenges = 100; // a second

    private readonly IcmpLayer _icmp;
    private readonly bool _restrict;
    private readonly int _mostSockets;
    private readonly ILogger _logger;
    private readonly Dictionary<TcpFlow, TcpConnection> _connections = [];
    private readonly HashSet<TcpConnection> _detached = [];
    private readonly Dictionary<IPv4EndPoint, IStreamService> _services = [];
    private readonly Dictionary<IPv4EndPoint, Func<IPv4EndPoint?>> _guestForwards = [];
    private readonly List<TcpForward> _forwards = [];
    private TcpConnection? _last;
    private long _challengeSecond;
    private int _challenges;
    private ushort _nextPort = 49152;
    private bool _saidLimit;

    public TcpLayer(
        NetworkLoop loop, GuestLink link, ArpTable arp, IcmpLayer icmp, NetworkAddresses addresses, NetworkCounters counters, PacketPool pool, UserNetworkOptions options, ILogger logger)
    {
        Loop = loop;
        Link = link;
        _icmp = icmp;
        Addresses = addresses;
        Counters = counters;
        Pool = pool;
        _restrict = options.Restrict;
        _mostSockets = options.MostSockets;
        _logger = logger;
        Sender = new TcpSender(link, arp, addresses);
        arp.Learned += OnAddressLearned;
    }

    public NetworkLoop Loop { get; }

    public GuestLink Link { get; }

    public NetworkAddresses Addresses { get; }

    public NetworkCounters Counters { get; }

    public PacketPool Pool { get; }

    public TcpSender Sender { get; }

    public int ConnectionCount => _connections.Count + _detached.Count;

    /// <summary>Of the host.</summary>
    public int SocketCount { get; set; }

    /// <summary>Connections that are not established yet.</summary>
    public int HalfOpen { get; set; }

    public bool HasService(uint address) => _services.Keys.Any(k => k.Address == address) || _guestForwards.Keys.Any(k => k.Address == address);

    /// <exception cref="ConfigurationException">There is one already.</exception>
    public void AddService(IPv4EndPoint endPoint, IStreamService service)
    {
        if (_guestForwards.ContainsKey(endPoint) || !_services.TryAdd(endPoint, service))
            throw new ConfigurationException($"user network: two services want TCP {endPoint}; give one another port");
    }

    /// <param name="target">Where it leads at this time; null: nowhere.</param>
    /// <exception cref="ConfigurationException">There is a service already.</exception>
    public void AddGuestForward(IPv4EndPoint server, Func<IPv4EndPoint?> target)
    {
        if (_services.ContainsKey(server) || !_guestForwards.TryAdd(server, target))
            throw new ConfigurationException($"guestfwd=tcp:{server}: two of them; give one another port");
    }

    /// <returns>The host's port.</returns>
    /// <exception cref="ConfigurationException">The port is taken.</exception>
    public int AddForward(IPEndPoint host, IPv4EndPoint guest)
    {
        var forward = new TcpForward(this, host, guest, _logger);
        _forwards.Add(forward);
        return forward.Port;
    }

    public void OnPacket(in Ipv4Packet packet)
    {
        if (!TcpSegment.TryParse(packet, out var segment, out var reason))
        {
            Counters.Drop(reason);
            return;
        }

        if (_last is { } last && last.Flow == segment.Flow || _connections.TryGetValue(segment.Flow, out last))
        {
            _last = last;
            if (!last.IsReplacedBy(segment))
            {
                last.OnSegment(segment);
                return;
            }

            last.Detach();
        }

        if (segment.Has(TcpFlags.Rst))
            return;
        if (segment.Flags == TcpFlags.Syn)
            Accept(packet, segment);
        else
            Refuse(segment);
    }

    /// <summary>Opens a connection to the guest for somebody of the host.</summary>
    /// <returns>False: too many.</returns>
    public bool Open(IPv4EndPoint guest, IPv4EndPoint client, Socket socket)
    {
        if (client.Address >> 24 == 127 || Addresses.IsInside(client.Address))
            client = client with { Address = Addresses.Host };
        var flow = new TcpFlow(guest, client);
        for (var tries = 0; _connections.ContainsKey(flow) && tries < 16384; tries++)
        {
            flow = new TcpFlow(guest, client with { Port = _nextPort });
            _nextPort = _nextPort == ushort.MaxValue ? (ushort)49152 : (ushort)(_nextPort + 1);
        }

        if (IsFull || SocketCount >= _mostSockets || _connections.ContainsKey(flow))
            return false;
        var connection = new TcpConnection(this, flow);
        connection.Open(new SocketStreamPeer(this, connection, socket));
        Add(connection);
        return true;
    }

    public void Remove(TcpConnection connection)
    {
        if (!_detached.Remove(connection))
            _connections.Remove(connection.Flow);
        if (_last == connection)
            _last = null;
    }

    /// <summary>Its ports are free for another one; it lives until the host has taken its data.</summary>
    public void OnDetached(TcpConnection connection)
    {
        Remove(connection);
        _detached.Add(connection);
    }

    /// <summary>RFC 5961, 7: so that nobody can have many of them sent.</summary>
    public bool MayChallenge()
    {
        if (Loop.NowMs / 1000 != _challengeSecond)
            (_challengeSecond, _challenges) = (Loop.NowMs / 1000, 0);
        return ++_challenges <= MostChallenges;
    }

    public void SayLimit(string reason)
    {
        Counters.Drop(DropReason.Limit);
        if (!_saidLimit)
            _logger.LogWarning("user network: no socket for a TCP connection: {Reason}; raise the limit of open files (ulimit -n)", reason);
        _saidLimit = true;
    }

    public void Dispose()
    {
        foreach (var forward in _forwards)
            forward.Dispose();
        foreach (var connection in _connections.Values.Concat(_detached).ToArray())
            connection.Dispose();
    }

    private bool IsFull => _connections.Count >= MostConnections || HalfOpen >= MostHalfOpen;

    private void Add(TcpConnection connection)
    {
        _connections.Add(connection.Flow, connection);
        _last = connection;
        Counters.ConnectionsOpened++;
    }

    private void Accept(in Ipv4Packet packet, in TcpSegment segment)
    {
        var to = segment.Flow.Remote;
        if (IsFull)
        {
            // As a full backlog: the guest tries again, the ones before have a chance meanwhile.
            Counters.Drop(DropReason.Limit);
            return;
        }

        if (to.Address == packet.Source || to.Address == uint.MaxValue || to.Address == Addresses.Broadcast || NetworkAddresses.IsNowhere(to.Address))
        {
            Counters.Drop(DropReason.Destination);
            return;
        }

        var connection = new TcpConnection(this, segment.Flow);
        if (_services.TryGetValue(to, out var service))
        {
            if (service.Accept(segment.Flow.Guest, connection) is { } peer)
            {
                connection.Accept(segment, peer);
                Add(connection);
            }
            else
            {
                Refuse(segment);
            }

            return;
        }

        IPv4EndPoint? target = null;
        if (_guestForwards.TryGetValue(to, out var forward))
            target = forward();
        else if (to.Address == Addresses.Host && !_restrict)
            target = to with { Address = UserNetwork.Loopback };
        else if (!Addresses.IsInside(to.Address) && !_restrict)
            target = to;
        if (target is null)
            Refuse(segment);
        else
            Connect(packet, segment, connection, target.Value);
    }

    private void Connect(in Ipv4Packet packet, in TcpSegment segment, TcpConnection connection, IPv4EndPoint target)
    {
        if (SocketCount >= _mostSockets)
        {
            SayLimit("there are too many");
            Refuse(segment);
            return;
        }

        SocketStreamPeer peer;
        SocketError error;
        try
        {
            peer = SocketStreamPeer.Connect(this, connection, target, out error);
        }
        catch (Exception e) when (e is SocketException or IOException)
        {
            SayLimit(e.Message);
            Refuse(segment);
            return;
        }

        if (error is not (SocketError.Success or SocketError.WouldBlock))
        {
            peer.Dispose();
            if (error is SocketError.HostUnreachable or SocketError.NetworkUnreachable)
                _icmp.SendError(packet, IcmpLayer.Unreachable, error == SocketError.HostUnreachable ? IcmpLayer.HostUnreachable : IcmpLayer.NetUnreachable);
            Refuse(segment);
            return;
        }

        if (error == SocketError.Success)
            connection.Accept(segment, peer);
        else
            connection.AcceptWhenConnected(segment, peer);
        Add(connection);
    }

    /// <summary>Answers what belongs to no connection (RFC 9293, 3.10.7.1).</summary>
    private void Refuse(in TcpSegment segment)
    {
        if (segment.Has(TcpFlags.Syn))
            Counters.ConnectionsRefused++;
        if (segment.Has(TcpFlags.Ack))
            Sender.TrySend(segment.Flow, TcpFlags.Rst, segment.Acknowledgment, 0, 0);
        else
            Sender.TrySend(segment.Flow, TcpFlags.Rst | TcpFlags.Ack, 0, segment.Sequence + segment.Length, 0);
    }

    private void OnAddressLearned(uint address)
    {
        foreach (var connection in _connections.Values)
        {
            if (connection.Flow.Guest.Address == address)
                Loop.Schedule(connection);
        }
    }
}
