// A network card.
// Follows: VIRTIO 1.2, 5.1 (5.1.2 queues, 5.1.3 features, 5.1.4 configuration, 5.1.6 operation); offered features as
// QEMU's virtio-net with a vhost-less tap.
// Leaves out: RSS and hash reports (automatic receive steering by flow instead), notification coalescing, standby,
// receive segment coalescing by the device, UFO to the guest.

using System.Buffers.Binary;
using Sharpvisor.Core;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Devices.Virtio;

/// <summary>A NIC with one or more pairs of queues, and a queue for commands.</summary>
public sealed class VirtioNet : VirtioDevice, INetworkDevice
{
    /// <summary>Pairs of queues that a NIC can have at most here.</summary>
    public const int MaximumQueuePairs = 16;

    private const int Checksum = 0, GuestChecksum = 1, ControlGuestOffloads = 2, MtuFeature = 3, Mac = 5, GuestTso4 = 7, GuestTso6 = 8, GuestEcn = 9;
    private const int HostTso4 = 11, HostTso6 = 12, HostEcn = 13, MergeBuffers = 15, StatusFeature = 16, ControlQueue = 17, ControlRx = 18, ControlVlan = 19;
    private const int ControlRxExtra = 20, MultiQueue = 22, ControlMac = 23;
    private const int StatusOffset = 6, MaxPairsOffset = 8, MtuOffset = 10, ConfigLength = 12, ControlQueueSize = 64;
    private const ushort LinkUp = 1;
    private const ulong OffloadFeatures = (1UL << Checksum) | (1UL << HostTso4) | (1UL << HostTso6) | (1UL << HostEcn) | GuestOffloads | (1UL << ControlGuestOffloads);
    private const ulong GuestOffloads = (1UL << GuestChecksum) | (1UL << GuestTso4) | (1UL << GuestTso6) | (1UL << GuestEcn);

    private readonly VirtioNetOptions _options;
    private readonly INetworkBackend? _backend;
    private readonly MachineGate _gate;
    private readonly NetControl _control;
    private readonly NetReceiver[] _receivers;
    private readonly DescriptorChain _chain = new();
    private readonly byte[] _pairOfFlow = new byte[256];
    private MacAddress _address;
    private ulong _guestOffloads;
    private int _pairs = 1, _nextTransmitter;
    private bool _isLinkUp = true;

    /// <param name="backend">What the cable leads to; null: nothing, the link is down.</param>
    public VirtioNet(VirtioNetOptions options, INetworkBackend? backend, MachineGate gate, GuestErrorLog errors)
        : base("virtio-net", VirtioDeviceType.Network, ConfigLength, QueueSizes(options), errors)
    {
        _options = options;
        _backend = backend;
        _gate = gate;
        _control = new NetControl(this, Filter);
        _receivers = [.. Enumerable.Range(0, options.QueuePairs).Select(i => new NetReceiver(this, Queues[2 * i]))];
        _isLinkUp = backend is not null;
        BinaryPrimitives.WriteUInt16LittleEndian(Configuration[MaxPairsOffset..], (ushort)options.QueuePairs);
        BinaryPrimitives.WriteUInt16LittleEndian(Configuration[MtuOffset..], (ushort)(options.Mtu ?? 0));
        SetStatus();
        Address = options.Address;
    }

    /// <summary>What the driver reads as its address, and may change.</summary>
    public MacAddress Address
    {
        get => _address;
        internal set
        {
            _address = value;
            value.Write(Configuration);
        }
    }

    /// <summary>Whether the cable is plugged in. With the machine's gate held.</summary>
    public bool IsLinkUp
    {
        get => _isLinkUp;
        set
        {
            if (_isLinkUp == value)
                return;
            _isLinkUp = value;
            SetStatus();
            OnConfigurationChanged();
            if (value)
                WakeBackend();
        }
    }

    /// <summary>Frames that were lost: the driver's buffers were too short, or it would not have understood them.</summary>
    public long Dropped { get; private set; }

    /// <summary>What the driver accepts now of what it said it would.</summary>
    public ReceiveOffloads ReceiveOffloads
    {
        get
        {
            using (_gate.Enter())
                return Offloads;
        }
    }

    internal bool MergesBuffers => Has(MergeBuffers);

    internal int HeaderLength => Has(VirtioFeature.Version1) || MergesBuffers ? NetHeader.Length : NetHeader.ShortLength;

    protected override ulong Features => Bit(Mac) | Bit(MergeBuffers) | Bit(StatusFeature) | Bit(ControlQueue) | Bit(ControlRx) | Bit(ControlRxExtra) | Bit(ControlVlan)
        | Bit(ControlMac) | (_options.QueuePairs > 1 ? Bit(MultiQueue) : 0) | (_options.Mtu is null ? 0 : Bit(MtuFeature)) | (_backend is { TakesOffloads: false } ? 0 : OffloadFeatures);

    private ReceiveFilter Filter { get; } = new();

    private ReceiveOffloads Offloads => new(Accepts(GuestChecksum), Accepts(GuestTso4), Accepts(GuestTso6));

    /// <summary>Without VIRTIO_NET_F_MQ the driver knows one pair, and commands follow it.</summary>
    private int ControlIndex => Has(MultiQueue) ? 2 * _options.QueuePairs : 2;

    public bool TryTransmit(PacketBuffer packet)
    {
        using (_gate.Enter())
        {
            for (var i = 0; i < _pairs; i++)
            {
                var pair = (_nextTransmitter + i) % _pairs;
                if (!TryTransmit(Queues[(2 * pair) + 1], pair, packet))
                    continue;
                _nextTransmitter = pair;
                return true;
            }

            return false;
        }
    }

    public bool TryReceive(in EthernetFrame frame)
    {
        using (_gate.Enter())
        {
            if (!MayUseQueues || !_isLinkUp || !Filter.Passes(frame.First, _address))
                return true;
            var offload = frame.Offload;
            var isTooMuch = (offload.NeedsChecksum && !Accepts(GuestChecksum))
                || (offload.Segmentation == Segmentation.Tcp4 && !Accepts(GuestTso4)) || (offload.Segmentation == Segmentation.Tcp6 && !Accepts(GuestTso6))
                || offload.Segmentation is not (Segmentation.None or Segmentation.Tcp4 or Segmentation.Tcp6);
            var receiver = _receivers[_pairOfFlow[FlowOf(frame.First)] % _pairs];
            if (isTooMuch || !receiver.Queue.IsEnabled)
            {
                Dropped++;
                return true;
            }

            receiver.IsWaited = !receiver.TryReceive(frame);
            return !receiver.IsWaited;
        }
    }

    /// <summary>The driver uses so many pairs of queues.</summary>
    internal bool TrySetPairs(int pairs)
    {
        if (!Has(MultiQueue) || pairs < 1 || pairs > _options.QueuePairs)
            return false;
        _pairs = pairs;
        WakeBackend();
        return true;
    }

    /// <summary>The driver changes what it accepts, of what it had said it would.</summary>
    internal bool TrySetGuestOffloads(ulong offloads)
    {
        if (!Has(ControlGuestOffloads) || (offloads & ~(GuestOffloads & AcceptedFeatures)) != 0)
            return false;
        _guestOffloads = offloads;
        return true;
    }

    internal void Fail(string kind, string detail) => Break(kind, detail);

    internal void CountDropped() => Dropped++;

    protected override void OnQueueNotify(Virtqueue queue)
    {
        if (queue.Index == ControlIndex)
        {
            if (Has(ControlQueue))
                _control.Serve(queue);
        }
        else if ((queue.Index & 1) != 0)
        {
            _backend?.OnTransmitReady();
        }
        else if (queue.Index < 2 * _options.QueuePairs && _receivers[queue.Index / 2].IsWaited)
        {
            _receivers[queue.Index / 2].IsWaited = false;
            _backend?.OnReceiveReady();
        }
    }

    protected override void OnDriverReady()
    {
        _guestOffloads = GuestOffloads & AcceptedFeatures;
        Filter.FiltersVlans = Has(ControlVlan);
        WakeBackend();
    }

    protected override void OnReset()
    {
        foreach (var receiver in _receivers)
            receiver.Reset();
        Array.Clear(_pairOfFlow);
        _pairs = 1;
        _nextTransmitter = 0;
        _guestOffloads = 0;
        Filter.Reset();
        Address = _options.Address;
        WakeBackend();
    }

    protected override void OnConfigurationWritten(int offset, byte value)
    {
        // A driver of before 1.0; others have a command for it.
        if (offset >= MacAddress.Length || Has(VirtioFeature.Version1))
            return;
        Configuration[offset] = value;
        _address = MacAddress.Read(Configuration);
    }

    private static ulong Bit(int feature) => 1UL << feature;

    private static IEnumerable<int> QueueSizes(VirtioNetOptions options)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(options.QueuePairs, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(options.QueuePairs, MaximumQueuePairs);
        return Enumerable.Repeat(options.QueueSize, 2 * options.QueuePairs).Append(ControlQueueSize);
    }

    /// <summary>The same for both directions of a connection.</summary>
    private static byte FlowOf(ReadOnlySpan<byte> frame)
    {
        const int typeOffset = 12, addresses4 = 26, headerLength4 = 20, addresses6 = 22, headerLength6 = 40;
        if (frame.Length < EthernetFrame.HeaderLength)
            return 0;
        var type = BinaryPrimitives.ReadUInt16BigEndian(frame[typeOffset..]);
        var (start, length, ports) = type switch
        {
            0x0800 => (addresses4, 8, EthernetFrame.HeaderLength + ((frame.Length > EthernetFrame.HeaderLength ? frame[EthernetFrame.HeaderLength] & 15 : headerLength4 / 4) * 4)),
            0x86DD => (addresses6, 32, EthernetFrame.HeaderLength + headerLength6),
            _ => (0, 0, int.MaxValue),
        };
        if (frame.Length < start + length || frame.Length < (long)ports + 4)
            return 0;
        byte sum = 0;
        foreach (var b in frame.Slice(start, length))
            sum += b;
        return (byte)(sum + frame[ports] + frame[ports + 2] + (3 * (frame[ports + 1] + frame[ports + 3])));
    }

    private bool TryTransmit(Virtqueue queue, int pair, PacketBuffer packet)
    {
        Span<byte> header = stackalloc byte[NetHeader.Length];
        while (queue.TryPop(_chain))
        {
            var headerLength = HeaderLength;
            var length = _chain.ReadableLength - headerLength;
            if (length < 0)
            {
                Fail("a frame without header", $"{_chain.ReadableLength} bytes");
                return false;
            }

            _chain.Readable.Slice(0, headerLength).CopyTo(header);
            FrameOffload offload = default;
            var isGood = length is >= EthernetFrame.HeaderLength and <= EthernetFrame.MaximumLength && NetHeader.TryRead(header, length, out offload);
            if (isGood)
            {
                packet.Length = length;
                packet.Offload = offload;
                _chain.Readable.Slice(headerLength).CopyTo(packet.Frame);
                _pairOfFlow[FlowOf(packet.Frame)] = (byte)pair;
            }
            else
            {
                ReportError("a frame that makes no sense", $"{length} bytes");
                Dropped++;
            }

            queue.Complete(_chain, 0);
            if (isGood && _isLinkUp)
                return true;
        }

        return false;
    }

    private bool Accepts(int offload) => (_guestOffloads & Bit(offload)) != 0;

    private void SetStatus() => BinaryPrimitives.WriteUInt16LittleEndian(Configuration[StatusOffset..], _isLinkUp ? LinkUp : (ushort)0);

    private void WakeBackend()
    {
        _backend?.OnTransmitReady();
        _backend?.OnReceiveReady();
    }
}
