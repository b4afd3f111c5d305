// A network without privileges, what QEMU calls -netdev user (and slirp): the guest's frames end here, its connections go
// on as sockets of this process. A gateway, behind which the host's loopback is, and servers: DHCP, DNS, TFTP, HTTP.
// Follows: RFC 826 (ARP), 791 (IPv4), 792 (ICMP), 768 (UDP), 9293 (TCP). Addresses as slirp gives them.
// Leaves out: IPv6, IGMP and multicast, SMB, guestfwd to a command or a character device.
using System.Collections.Concurrent;
using System.Net;
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Net.User.Ip;
using Sharpvisor.Backends.Net.User.Services;
using Sharpvisor.Backends.Net.User.Tcp;
using Sharpvisor.Backends.Net.User.Udp;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.User;

/// <summary>One thread does everything: it takes frames, serves sockets that are ready, keeps the time, and sleeps.</summary>
public sealed class UserNetwork : INetworkBackend
{
    internal const uint Loopback = 0x7F00_0001;

    /// <summary>The guest's frames before anything else has its turn; their acknowledgments go together.</summary>
    private const int FramesAtOnce = 64;

    private readonly ILogger _logger;
    private readonly PacketBuffer _packet = new();
    private readonly NetworkCounters _counters = new();
    private readonly PacketPool _pool;
    private readonly GuestLink _link;
    private readonly ArpTable _arp;
    private readonly IcmpLayer _icmp;
    private readonly Ipv4Layer _ip;
    private readonly ConcurrentQueue<Action> _posted = new();
    private readonly List<(HostForward Forward, int Port)> _forwards = [];
    private readonly NetworkServices? _services;
    private INetworkDevice? _device;
    private Thread? _thread;
    private volatile bool _isStopping;
    private int _transmitReady = 1, _receiveReady;
    private bool _isDisposed;

    /// <param name="name">For messages.</param>
    /// <exception cref="Core.Guests.ConfigurationException">Addresses that don't fit together, or a port that is in use.</exception>
    public UserNetwork(string name, UserNetworkOptions options, ILogger logger) : this(name, options, logger, SocketPoller.Create())
    {
        try
        {
            _services = new NetworkServices(this, logger);
        }
        catch
        {
            CloseAll();
            throw;
        }
    }

    /// <summary>Without services.</summary>
    internal UserNetwork(string name, UserNetworkOptions options, ILogger logger, SocketPoller poller)
    {
        Name = name;
        Options = options;
        _logger = logger;
        Loop = new NetworkLoop(poller);
        try
        {
            Addresses = new NetworkAddresses(options);
            _pool = new PacketPool(Loop, options.PoolLimit);
            _link = new GuestLink(Loop, _counters);
            _arp = new ArpTable(_link, Addresses, IsOurs);
            var sender = new Ipv4Sender(_link, Addresses, _counters, _arp);
            _icmp = new IcmpLayer(Loop, _link, sender, Addresses, _counters, options.Restrict, logger);
            Udp = new UdpLayer(Loop, _link, sender, _icmp, Addresses, _counters, options, logger);
            Tcp = new TcpLayer(Loop, _link, _arp, _icmp, Addresses, _counters, _pool, options, logger);
            SocketWatch = new SocketWatch(Loop, Udp.RearmServices);
            _ip = new Ipv4Layer(Loop, Addresses, _counters, _arp, _icmp, Udp, Tcp);
        }
        catch
        {
            Loop.Dispose();
            throw;
        }

        try
        {
            foreach (var forward in options.GuestForwards)
                AddGuestForward(forward);
            foreach (var forward in options.HostForwards)
                AddHostForward(forward);
        }
        catch
        {
            CloseAll();
            throw;
        }
    }

    /// <summary>Raised when the network's thread ended by an error of ours.</summary>
    public event Action<Exception>? Faulted;

    public string Name { get; }

    public UserNetworkOptions Options { get; }

    public bool TakesOffloads => true;

    /// <summary>Now. Any thread.</summary>
    public NetworkFigures Figures => new(
        _counters.FramesFromGuest,
        _counters.BytesFromGuest,
        _counters.FramesToGuest,
        _counters.BytesToGuest,
        Tcp.ConnectionCount,
        _counters.ConnectionsOpened,
        _counters.ConnectionsRefused,
        _counters.Retransmissions,
        Udp.FlowCount,
        _pool.Figures,
        _counters.Drops);

    /// <summary>The ports of the host that lead to the guest, also those that were chosen by the host.</summary>
    public IReadOnlyList<(HostForward Forward, int Port)> HostForwardPorts => _forwards;

    internal NetworkLoop Loop { get; }

    internal NetworkAddresses Addresses { get; }

    internal UdpLayer Udp { get; }

    internal TcpLayer Tcp { get; }

    /// <summary>For services that ask the host.</summary>
    internal SocketWatch SocketWatch { get; }

    public void Attach(INetworkDevice device)
    {
        if (_device is not null)
            throw new InvalidOperationException($"{Name} is attached to a device already");
        _device = device;
        _link.Attach(device);
        _thread = new Thread(RunGuarded) { IsBackground = true, Name = $"net {Name}" };
        _thread.Start();
    }

    public void OnTransmitReady()
    {
        Volatile.Write(ref _transmitReady, 1);
        Loop.Poller.Wake();
    }

    public void OnReceiveReady()
    {
        Volatile.Write(ref _receiveReady, 1);
        Loop.Poller.Wake();
    }

    public async ValueTask DisposeAsync()
    {
        if (_isDisposed)
            return;
        _isDisposed = true;
        _isStopping = true;
        if (_thread is not null)
        {
            Loop.Poller.Wake();
            await Task.Run(_thread.Join).ConfigureAwait(false);
        }

        CloseAll();
    }

    /// <summary>Adds a service, before <see cref="Attach"/> or on the network's thread. What is sent to all comes to that of the gateway's address.</summary>
    internal void AddUdpService(IPAddress address, int port, IUdpService service) =>
        Udp.AddService(new IPv4EndPoint(IPv4EndPoint.ToUInt32(address), (ushort)port), service);

    /// <summary>The same for connections.</summary>
    internal void AddStreamService(IPAddress address, int port, IStreamService service) =>
        Tcp.AddService(new IPv4EndPoint(IPv4EndPoint.ToUInt32(address), (ushort)port), service);

    /// <summary>Has something done on the network's thread, soon. Any thread.</summary>
    internal void Post(Action action)
    {
        _posted.Enqueue(action);
        Loop.Poller.Wake();
    }

    private bool IsOurs(uint address) =>
        address == Addresses.Host || address == Addresses.Dns || Addresses.IsInside(address) && (Udp.HasService(address) || Tcp.HasService(address));

    private void AddHostForward(HostForward forward)
    {
        var guest = new IPv4EndPoint(forward.GuestAddress is null ? Addresses.FirstGuest : IPv4EndPoint.ToUInt32(forward.GuestAddress), (ushort)forward.GuestPort);
        var option = $"hostfwd={(forward.IsUdp ? "udp" : "tcp")}:{forward.HostAddress}:{forward.HostPort}-{forward.GuestAddress}:{forward.GuestPort}";
        if (forward.HostPort is < 0 or > 65535 || forward.GuestPort is < 1 or > 65535)
            throw new Core.Guests.ConfigurationException($"{option}: a port is out of range; give one from 1 to 65535");
        if (!Addresses.CanBeGuest(guest.Address))
            throw new Core.Guests.ConfigurationException($"{option}: no address of a guest; give one of the network {IPv4EndPoint.ToIPAddress(Addresses.Network)}");
        if (forward.HostAddress is { AddressFamily: not System.Net.Sockets.AddressFamily.InterNetwork })
            throw new Core.Guests.ConfigurationException($"{option}: not an IPv4 address; give one");
        var host = new IPEndPoint(forward.HostAddress ?? IPAddress.Any, forward.HostPort);
        _forwards.Add((forward, forward.IsUdp ? Udp.AddForward(host, guest) : Tcp.AddForward(host, guest)));
    }

    private void AddGuestForward(GuestForward forward)
    {
        var address = IPv4EndPoint.ToUInt32(forward.ServerAddress);
        if (!Addresses.CanBeGuest(address) && address != Addresses.Host && address != Addresses.Dns || forward.ServerPort is < 1 or > 65535)
        {
            throw new Core.Guests.ConfigurationException(
                $"guestfwd=tcp:{forward.ServerAddress}:{forward.ServerPort}: not in the network {IPv4EndPoint.ToIPAddress(Addresses.Network)}; give one of its addresses and a port from 1 to 65535");
        }

        var target = IPv4EndPoint.From(forward.Target);
        Tcp.AddGuestForward(new IPv4EndPoint(address, (ushort)forward.ServerPort), () => target);
    }

    private void RunGuarded()
    {
        try
        {
            while (!_isStopping)
                RunOnce();
        }
        catch (Exception e)
        {
            if (Faulted is { } faulted)
                faulted(e);
            else
                _logger.LogError(e, "{Backend}: stopped by an internal error", Name);
        }
    }

    private void RunOnce()
    {
        while (_posted.TryDequeue(out var action))
            action();
        if (Interlocked.Exchange(ref _receiveReady, 0) != 0)
            _link.OnRoom();
        var hasMore = TakeFrames();
        Loop.RunDue();
        Loop.Wait(hasMore);
    }

    /// <summary>True: there may be more.</summary>
    private bool TakeFrames()
    {
        if (Interlocked.Exchange(ref _transmitReady, 0) == 0)
            return false;
        for (var i = 0; i < FramesAtOnce; i++)
        {
            if (!_device!.TryTransmit(_packet))
                return false;
            _counters.FramesFromGuest++;
            _counters.BytesFromGuest += _packet.Length;
            OnFrame(_packet.Frame, _packet.Offload);
        }

        Volatile.Write(ref _transmitReady, 1);
        return true;
    }

    private void OnFrame(ReadOnlySpan<byte> frame, FrameOffload offload)
    {
        if (frame.Length < EthernetFrame.HeaderLength)
        {
            _counters.Drop(DropReason.Malformed);
            return;
        }

        var to = MacAddress.Read(frame);
        if (to != Addresses.Mac && !to.IsGroup)
        {
            _counters.Drop(DropReason.OtherStation);
            return;
        }

        var from = MacAddress.Read(frame[MacAddress.Length..]);
        var data = frame[EthernetFrame.HeaderLength..];
        switch (frame[12] << 8 | frame[13])
        {
            case FrameHeaders.Ipv4EtherType:
                _ip.OnPacket(from, data, offload);
                break;
            case ArpTable.EtherType:
                _arp.OnPacket(data, _counters);
                break;
            default:
                _counters.Drop(DropReason.Protocol);
                break;
        }
    }

    private void CloseAll()
    {
        _services?.Dispose();
        Tcp.Dispose();
        Udp.Dispose();
        _icmp.Dispose();
        Loop.Dispose();
    }
}
