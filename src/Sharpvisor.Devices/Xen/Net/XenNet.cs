// The back end of a NIC of a Xen domain (vif).
// Follows: Xen's public header io/netif.h; which keys are written when, as Linux's xen-netback.
// Leaves out: more than one queue (all of a machine's devices are behind one gate), the control ring with its hashes,
// multicast lists (a NIC here gets all that its cable brings), frames by flipping pages.

using Sharpvisor.Core;
using Sharpvisor.Core.Net;
using Sharpvisor.Devices.Xen.Bus;

namespace Sharpvisor.Devices.Xen.Net;

/// <summary>A NIC. The thread of what its cable leads to copies frames between that and pages of the domain: nothing waits here.</summary>
public sealed class XenNet : XenBackEnd, INetworkDevice
{
    private readonly INetworkBackend? _backend;
    private readonly MachineGate _gate;
    private SharedRing? _transmitRing, _receiveRing;
    private XenNetTransmitter? _transmitter;
    private XenNetReceiver? _receiver;
    private uint _transmitPort, _receivePort;

    /// <param name="number">The domain's number for it: 0 for eth0.</param>
    /// <param name="backend">What the cable leads to; null: nothing.</param>
    public XenNet(int number, MacAddress address, INetworkBackend? backend, MachineGate gate) : base("vif", number)
    {
        Address = address;
        _backend = backend;
        _gate = gate;
    }

    public MacAddress Address { get; }

    /// <summary>Frames that were lost: the front end had no pages that were granted, or would not have understood them.</summary>
    public long Dropped { get; private set; }

    public ReceiveOffloads ReceiveOffloads
    {
        get
        {
            using (_gate.Enter())
                return _receiver is { Receives: var r } ? new ReceiveOffloads(r.Checksum4, r.Tcp4, r.Tcp6) : default;
        }
    }

    /// <summary>What the cable leads to takes frames whose checksum is not made.</summary>
    internal bool LeavesChecksums => _backend is not { TakesOffloads: false };

    public bool TryTransmit(PacketBuffer packet)
    {
        using (_gate.Enter())
        {
            if (_transmitter is not { } transmitter)
                return false;
            var isTaken = transmitter.TryTake(packet, out var wrong);
            if (wrong is not null)
                Fail("what it sends:", wrong);
            return isTaken;
        }
    }

    public bool TryReceive(in EthernetFrame frame)
    {
        using (_gate.Enter())
        {
            if (_receiver is not { } receiver)
                return true;
            receiver.IsWaited = !receiver.TryGive(frame, out var wrong);
            if (wrong is not null)
                Fail("what it receives by:", wrong);
            return !receiver.IsWaited;
        }
    }

    internal void CountDropped() => Dropped++;

    internal void CountBadFrame()
    {
        Dropped++;
        Bus!.Errors.Report(Name, "a frame that makes no sense");
    }

    internal void NotifyTransmit() => Notify(_transmitPort);

    internal void NotifyReceive() => Notify(_receivePort);

    /// <summary>Reads from a page that is granted only for that.</summary>
    internal bool TryReadGranted(uint reference, int offset, Span<byte> destination)
    {
        if (!Bus!.Domain.Grants.TryAcquire(reference, writable: false, out var page))
            return false;
        var isRead = Bus.Memory.TryRead(page.Page + (ulong)offset, destination);
        Bus.Domain.Grants.Release(page);
        return isRead;
    }

    internal bool TryAcquire(uint reference, out GrantedPage page) => Bus!.Domain.Grants.TryAcquire(reference, writable: true, out page);

    internal bool TryWriteGranted(in GrantedPage page, int offset, ReadOnlySpan<byte> source) => Bus!.Memory.TryWrite(page.Page + (ulong)offset, source);

    internal void Release(in GrantedPage page) => Bus!.Domain.Grants.Release(page);

    protected override IEnumerable<(string Key, string Value)> Describe()
    {
        var offloads = LeavesChecksums ? "1" : "0";
        return
        [
            ("mac", Address.ToString()), ("handle", XenBus.Number(Number)), ("type", "vif"), ("hotplug-status", "connected"),
            ("feature-rx-copy", "1"), ("feature-rx-flip", "0"), ("feature-sg", "1"), ("feature-split-event-channels", "1"), ("feature-ipv6-csum-offload", "1"),
            ("feature-gso-tcpv4", offloads), ("feature-gso-tcpv6", offloads),
        ];
    }

    protected override IEnumerable<(string Key, string Value)> DescribeFrontEnd() => [("mac", Address.ToString()), ("handle", XenBus.Number(Number)), ("mtu", "1500")];

    protected override string? TryConnect()
    {
        if (ReadFrontNumber("request-rx-copy") != 1)
            return "frames by flipping pages";
        if (ReadFrontNumber("tx-ring-ref") is not { } transmit || ReadFrontNumber("rx-ring-ref") is not { } receive)
            return "no rings";
        var transmitPort = ReadFrontNumber("event-channel-tx") ?? ReadFrontNumber("event-channel");
        var receivePort = ReadFrontNumber("event-channel-rx") ?? ReadFrontNumber("event-channel");
        if (transmitPort is null || receivePort is null)
            return "no event channel";
        var (grants, memory) = (Bus!.Domain.Grants, Bus.Memory);
        _transmitRing = SharedRing.TryMap(memory, grants, [transmit], XenNetLayout.TransmitEntry);
        _receiveRing = _transmitRing is null ? null : SharedRing.TryMap(memory, grants, [receive], XenNetLayout.ReceiveEntry);
        if (_receiveRing is null || !TryConnectPorts(transmitPort.Value, receivePort.Value))
        {
            TryDisconnect();
            return _receiveRing is null ? "rings that are not granted" : "an event channel that is not for us";
        }

        var scatter = Has("feature-sg");
        _transmitter = new XenNetTransmitter(this, _transmitRing!);
        _receiver = new XenNetReceiver(this, _receiveRing, new XenNetReceives(
            Scatter: scatter,
            Checksum4: !Has("feature-no-csum-offload"),
            Checksum6: Has("feature-ipv6-csum-offload"),
            Tcp4: scatter && Has("feature-gso-tcpv4"),
            Tcp6: scatter && Has("feature-gso-tcpv6")));
        return null;

        bool Has(string key) => ReadFrontNumber(key) == 1;
    }

    protected override void OnConnected() => WakeBackend();

    protected override bool TryDisconnect()
    {
        if (Bus is { } bus)
        {
            foreach (var port in new[] { _transmitPort, _receivePort }.Distinct().Where(p => p != 0))
                bus.Domain.Events.Disconnect(port);
            _transmitRing?.Unmap();
            _receiveRing?.Unmap();
        }

        OnAbandoned();
        return true;
    }

    protected override void OnAbandoned()
    {
        (_transmitter, _receiver, _transmitPort, _receivePort) = (null, null, 0, 0);
        (_transmitRing, _receiveRing) = (null, null);
        WakeBackend(); // what waits is lost
    }

    private bool TryConnectPorts(uint transmit, uint receive)
    {
        var events = Bus!.Domain.Events;
        if (transmit == receive)
        {
            if (!events.TryConnect(transmit, () => { OnTransmitEvent(); OnReceiveEvent(); }, () => _transmitPort = _receivePort = 0))
                return false;
            _transmitPort = _receivePort = transmit;
            return true;
        }

        if (!events.TryConnect(transmit, OnTransmitEvent, () => _transmitPort = 0))
            return false;
        _transmitPort = transmit;
        if (!events.TryConnect(receive, OnReceiveEvent, () => _receivePort = 0))
            return false;
        _receivePort = receive;
        return true;
    }

    private void OnTransmitEvent() => _backend?.OnTransmitReady();

    private void OnReceiveEvent()
    {
        if (_receiver is not { IsWaited: true } receiver)
            return;
        receiver.IsWaited = false;
        _backend?.OnReceiveReady();
    }

    private void Notify(uint port)
    {
        if (port != 0)
            Bus!.Domain.Events.Notify(port);
    }

    private void WakeBackend()
    {
        _backend?.OnTransmitReady();
        _backend?.OnReceiveReady();
    }
}
