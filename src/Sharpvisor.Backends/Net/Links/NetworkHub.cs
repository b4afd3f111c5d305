// An Ethernet hub: a frame that comes in by one port goes out by all the others. What QEMU calls -netdev hubport, and
// what its -net connects everything to (hub 0).
// A frame is taken as soon as one port has room for it, so that a slow one does not hold up the others; for those that
// have none it is lost, and counted. With two ports nothing is ever lost: whoever sends waits.
// Leaves out: unfinished frames (IEEE 802.3 has none: each port would have to finish them for itself), learning of
// addresses, which a switch does; ports between two hubs.
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.Links;

/// <summary>Has no thread: each port is driven by that of its NIC or of its network.</summary>
public sealed class NetworkHub : IAsyncDisposable
{
    private readonly Lock _lock = new();
    private readonly List<Port> _ports = [];
    private readonly List<INetworkBackend> _networks = [];
    private readonly ILogger _logger;
    private int _waiting;

    /// <param name="name">For messages.</param>
    public NetworkHub(string name, ILogger logger)
    {
        Name = name;
        _logger = logger;
    }

    public string Name { get; }

    /// <summary>Frames that ports had no room for. Any thread.</summary>
    public long Dropped
    {
        get
        {
            lock (_lock)
                return _ports.Sum(p => p.Dropped);
        }
    }

    /// <summary>A place for the cable of a NIC, of whatever machine; it is free again when that has ended.</summary>
    public HubPort AddPort()
    {
        var port = new HubPort(this, _logger);
        Add(port.Inner);
        return port;
    }

    /// <summary>Connects a network, which belongs to the hub from now on.</summary>
    public void Connect(INetworkBackend network)
    {
        var port = new NetworkSide(this, network);
        Add(port);
        _networks.Add(network);
        network.Attach(port);
    }

    public async ValueTask DisposeAsync()
    {
        foreach (var network in _networks)
            await network.DisposeAsync().ConfigureAwait(false);
        _networks.Clear();
        lock (_lock)
        {
            _ports.RemoveAll(p => p is NetworkSide);
            WakeSenders();
        }
    }

    internal void Remove(Port port)
    {
        lock (_lock)
        {
            _ports.Remove(port);
            WakeSenders();
        }
    }

    private void Add(Port port)
    {
        lock (_lock)
        {
            _ports.Add(port);
            WakeSenders();
        }
    }

    private void WakeSenders()
    {
        _waiting = 0;
        foreach (var port in _ports)
            port.WakeIfWaiting();
    }

    /// <summary>One side of the hub's circuits.</summary>
    internal abstract class Port(NetworkHub hub)
    {
        private const int QueueSize = 512 << 10;

        private readonly FrameQueue _queue = new(QueueSize);
        private bool _isWaiting;

        public long Dropped { get; private set; }

        private bool HasRoom => _queue.Used <= _queue.Capacity - 2 * EthernetFrame.MaximumLength;

        /// <summary>Sends to all others.</summary>
        /// <returns>False: none of them has room; <see cref="OnRoom"/> follows.</returns>
        public bool TryFlood(in EthernetFrame frame)
        {
            lock (hub._lock)
            {
                var (others, free) = (0, 0);
                foreach (var port in hub._ports)
                {
                    others += port == this ? 0 : 1;
                    free += port != this && port.HasRoom ? 1 : 0;
                }

                if (free == 0 && others > 0)
                {
                    hub._waiting += _isWaiting ? 0 : 1;
                    _isWaiting = true;
                    return false;
                }

                foreach (var port in hub._ports)
                {
                    if (port == this)
                        continue;
                    if (!port._queue.TryAdd(frame))
                        port.Dropped++;
                    port.OnFrame();
                }

                return true;
            }
        }

        /// <summary>The next frame of the others.</summary>
        public bool TryTake(PacketBuffer packet)
        {
            lock (hub._lock)
            {
                if (!_queue.TryPeek(out var frame))
                    return false;
                frame.CopyTo(packet.Room.Span);
                packet.Length = frame.Length;
                packet.Offload = default;
                _queue.Remove();
                if (hub._waiting > 0 && _queue.Used <= _queue.Capacity / 2)
                    hub.WakeSenders();
                return true;
            }
        }

        public void WakeIfWaiting()
        {
            if (!_isWaiting)
                return;
            _isWaiting = false;
            OnRoom();
        }

        /// <summary>There is one. With the hub's lock held: only wakes.</summary>
        protected abstract void OnFrame();

        /// <summary>The same.</summary>
        protected abstract void OnRoom();
    }

    /// <summary>A network sees a NIC whose guest is all the others.</summary>
    private sealed class NetworkSide(NetworkHub hub, INetworkBackend network) : Port(hub), INetworkDevice
    {
        public MacAddress Address => default;

        public ReceiveOffloads ReceiveOffloads => default;

        public bool TryTransmit(PacketBuffer packet) => TryTake(packet);

        public bool TryReceive(in EthernetFrame frame) => TryFlood(frame);

        protected override void OnFrame() => network.OnTransmitReady();

        protected override void OnRoom() => network.OnReceiveReady();
    }
}
