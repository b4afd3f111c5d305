// UDP (RFC 768): services of the network by address and port; everything else by a host socket for each port of the guest.
using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Net.User.Ip;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.User.Udp;

internal sealed class UdpLayer : IUdpSender, IDisposable
{
    private const int HeaderLength = 8;

    private readonly Ipv4Sender _sender;
    private readonly bool _restrict;
    private readonly int _mostFlows;
    private readonly ILogger _logger;
    private readonly Dictionary<IPv4EndPoint, UdpFlow> _flows = [];
    private readonly Dictionary<IPv4EndPoint, UdpFlow> _forwards = []; // by the guest's end, too
    private readonly Dictionary<IPv4EndPoint, UdpServiceTask> _services = [];
    private readonly byte[] _datagram = new byte[64 << 10];
    private bool _saidLimit;

    public UdpLayer(NetworkLoop loop, GuestLink link, Ipv4Sender sender, IcmpLayer icmp, NetworkAddresses addresses, NetworkCounters counters, UserNetworkOptions options, ILogger logger)
    {
        Loop = loop;
        Link = link;
        _sender = sender;
        Icmp = icmp;
        Addresses = addresses;
        Counters = counters;
        _restrict = options.Restrict;
        _mostFlows = Math.Clamp(options.MostSockets / 16, 16, 2048);
        _logger = logger;
    }

    public NetworkLoop Loop { get; }

    public GuestLink Link { get; }

    public IcmpLayer Icmp { get; }

    public NetworkAddresses Addresses { get; }

    public NetworkCounters Counters { get; }

    public int FlowCount => _flows.Count + _forwards.Count;

    /// <summary>Room for one datagram behind its header, for <see cref="SendBuffer"/>.</summary>
    public Span<byte> Buffer => _datagram.AsSpan(HeaderLength, Ipv4Sender.LongestPayload - HeaderLength);

    public bool HasService(uint address) => _services.Keys.Any(k => k.Address == address);

    public void AddService(IPv4EndPoint endPoint, IUdpService service)
    {
        var task = _services.Values.FirstOrDefault(t => t.Service == service) ?? new UdpServiceTask(this, service);
        if (!_services.TryAdd(endPoint, task))
            throw new ConfigurationException($"user network: two services want UDP {endPoint}; give one another port");
        task.Rearm();
    }

    /// <summary>Looks at the deadlines of all services anew.</summary>
    public void RearmServices()
    {
        foreach (var service in _services.Values)
            service.Rearm();
    }

    /// <summary>A port of the host that leads to one of the guest.</summary>
    /// <returns>The host's port.</returns>
    /// <exception cref="ConfigurationException">The port is taken.</exception>
    public int AddForward(IPEndPoint host, IPv4EndPoint guest)
    {
        if (_forwards.ContainsKey(guest))
            throw new ConfigurationException($"hostfwd=udp:{host}-{guest}: another hostfwd leads to this port of the guest; give another");
        Socket? socket = null;
        try
        {
            socket = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp) { Blocking = false };
            socket.Bind(host);
            _forwards.Add(guest, new UdpFlow(this, guest, socket, isForward: true));
            return ((IPEndPoint)socket.LocalEndPoint!).Port;
        }
        catch (SocketException e)
        {
            socket?.Dispose();
            throw HostPortError.Make($"hostfwd=udp:{host}", e);
        }
    }

    public void OnPacket(in Ipv4Packet packet)
    {
        var data = packet.Payload;
        if (data.Length < HeaderLength)
        {
            Counters.Drop(DropReason.Malformed);
            return;
        }

        int length = BinaryPrimitives.ReadUInt16BigEndian(data[4..]);
        if (packet.Offload.Segmentation != Segmentation.None)
            length = data.Length; // of all segments
        if (length < HeaderLength || length > data.Length)
        {
            Counters.Drop(DropReason.Malformed);
            return;
        }

        data = data[..length];
        if (!packet.ChecksumIsGood && BinaryPrimitives.ReadUInt16BigEndian(data[6..]) != 0 && !IsRight(packet, data))
        {
            Counters.Drop(DropReason.Checksum);
            return;
        }

        var from = new IPv4EndPoint(packet.Source, BinaryPrimitives.ReadUInt16BigEndian(data));
        var to = new IPv4EndPoint(packet.Destination, BinaryPrimitives.ReadUInt16BigEndian(data[2..]));
        data = data[HeaderLength..];
        var size = packet.Offload.Segmentation == Segmentation.UdpL4 && packet.Offload.SegmentSize > 0 ? packet.Offload.SegmentSize : data.Length;
        do
        {
            var count = Math.Min(size, data.Length);
            if (!Deliver(packet, from, to, data[..count]))
                return;
            data = data[count..];
        }
        while (data.Length > 0);
    }

    public void Send(IPEndPoint from, IPEndPoint to, ReadOnlySpan<byte> data, MacAddress? toAddress = null)
    {
        if (data.Length > Buffer.Length)
        {
            Counters.Drop(DropReason.Malformed);
            return;
        }

        data.CopyTo(Buffer);
        SendBuffer(IPv4EndPoint.From(from), IPv4EndPoint.From(to), data.Length, toAddress);
    }

    /// <summary>Sends what lies in <see cref="Buffer"/> to the guest.</summary>
    public void SendBuffer(IPv4EndPoint from, IPv4EndPoint to, int length, MacAddress? mac = null)
    {
        var datagram = _datagram.AsSpan(0, HeaderLength + length);
        BinaryPrimitives.WriteUInt16BigEndian(datagram, from.Port);
        BinaryPrimitives.WriteUInt16BigEndian(datagram[2..], to.Port);
        BinaryPrimitives.WriteUInt32BigEndian(datagram[4..], (uint)datagram.Length << 16);
        var sum = default(InternetChecksum);
        sum.AddPseudoHeader(from.Address, to.Address, Ipv4Packet.Udp, datagram.Length);
        sum.Add(datagram);
        var checksum = sum.Finish();
        BinaryPrimitives.WriteUInt16BigEndian(datagram[6..], checksum == 0 ? (ushort)0xFFFF : checksum);
        _sender.Send(Ipv4Packet.Udp, from.Address, to.Address, datagram, mac);
    }

    public void Remove(UdpFlow flow) => (flow.IsForward ? _forwards : _flows).Remove(flow.Guest);

    public void Dispose()
    {
        foreach (var flow in _flows.Values.Concat(_forwards.Values).ToArray())
            flow.Dispose();
    }

    private static bool IsRight(in Ipv4Packet packet, ReadOnlySpan<byte> data)
    {
        var sum = default(InternetChecksum);
        sum.AddPseudoHeader(packet.Source, packet.Destination, Ipv4Packet.Udp, data.Length);
        sum.Add(data);
        return sum.Finish() == 0;
    }

    /// <returns>False: nor will the next one go there.</returns>
    private bool Deliver(in Ipv4Packet packet, IPv4EndPoint from, IPv4EndPoint to, ReadOnlySpan<byte> data)
    {
        var isBroadcast = to.Address == uint.MaxValue || to.Address == Addresses.Broadcast;
        if (FindService(isBroadcast ? to with { Address = Addresses.Host } : to) is { } service)
        {
            service.OnDatagram(from, to, data);
            return true;
        }

        if (isBroadcast || from.Address == 0 || to.Port == 0 || NetworkAddresses.IsNowhere(to.Address))
        {
            Counters.Drop(DropReason.Destination);
            return false;
        }

        // Who came by hostfwd gets the answer from where he came to: under restrict, too.
        if (_forwards.TryGetValue(from, out var forward) && forward.WasCaller(to))
            return Forward(forward, packet, to, data);
        if (_restrict)
        {
            Counters.Drop(DropReason.Destination);
            return false;
        }

        if (Addresses.IsInside(to.Address) && to.Address != Addresses.Host)
        {
            Icmp.SendError(packet, IcmpLayer.Unreachable, to.Address == Addresses.Dns ? IcmpLayer.PortUnreachable : IcmpLayer.HostUnreachable);
            return false;
        }

        return (_flows.GetValueOrDefault(from) ?? TryOpen(from)) is { } flow && Forward(flow, packet, to, data);
    }

    private UdpServiceTask? FindService(IPv4EndPoint to)
    {
        if (_services.TryGetValue(to, out var service) || !Addresses.IsInside(to.Address))
            return service;
        foreach (var (endPoint, other) in _services)
        {
            if (endPoint.Address == to.Address && other.Service.HasPort(to.Port))
                return other;
        }

        return null;
    }

    private bool Forward(UdpFlow flow, in Ipv4Packet packet, IPv4EndPoint to, ReadOnlySpan<byte> data)
    {
        var error = flow.Send(data, to.Address == Addresses.Host ? to with { Address = UserNetwork.Loopback } : to);
        switch (error)
        {
            case SocketError.Success:
                return true;
            case SocketError.NetworkUnreachable:
                Icmp.SendError(packet, IcmpLayer.Unreachable, IcmpLayer.NetUnreachable);
                return false;
            case SocketError.HostUnreachable or SocketError.HostDown:
                Icmp.SendError(packet, IcmpLayer.Unreachable, IcmpLayer.HostUnreachable);
                return false;
            case SocketError.AccessDenied:
                Icmp.SendError(packet, IcmpLayer.Unreachable, IcmpLayer.Prohibited);
                return false;
            default:
                Counters.Drop(DropReason.Host);
                return true;
        }
    }

    private UdpFlow? TryOpen(IPv4EndPoint guest)
    {
        if (_flows.Count >= _mostFlows)
        {
            // The one that has been silent for longest. A guest that needs so many ports pays for the search.
            UdpFlow? oldest = null;
            foreach (var flow in _flows.Values)
            {
                if (oldest is null || flow.LastUsedMs < oldest.LastUsedMs)
                    oldest = flow;
            }

            oldest?.Dispose();
        }

        Socket? socket = null;
        try
        {
            socket = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp) { Blocking = false };
            socket.Bind(new IPEndPoint(IPAddress.Any, 0));
            IPv4Socket.KeepErrors(socket);
            var flow = new UdpFlow(this, guest, socket, isForward: false);
            _flows.Add(guest, flow);
            return flow;
        }
        catch (Exception e) when (e is SocketException or IOException)
        {
            socket?.Dispose();
            Counters.Drop(DropReason.Limit);
            if (!_saidLimit)
                _logger.LogWarning("user network: no socket for the guest's UDP: {Reason}; raise the limit of open files (ulimit -n)", e.Message);
            _saidLimit = true;
            return null;
        }
    }
}
