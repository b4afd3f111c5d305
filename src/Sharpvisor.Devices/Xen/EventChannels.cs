// Event channels of one domain, by the two-level ABI: a bit for each port in a page that the domain shares, with a mask,
// and above it a word and a flag for each processor.
// Follows: Xen's public headers event_channel.h, xen.h (shared_info, vcpu_info) and common/event_channel.c's behaviour.
// Leaves out: the FIFO ABI (the domain is told that there is none), physical interrupts.

using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Xen;

/// <summary>EVTCHNSTAT_*.</summary>
public enum EventChannelState : uint
{
    Closed = 0,

    /// <summary>Waits for the other side to bind.</summary>
    Unbound = 1,
    Interdomain = 2,
    Virq = 4,
    Ipi = 5,
}

/// <summary>What EVTCHNOP_status tells.</summary>
/// <param name="Domain">Of the other side, or who may bind.</param>
/// <param name="Detail">The remote port, or the number of the virtual interrupt.</param>
public readonly record struct EventChannelStatus(EventChannelState State, int Processor, int Domain, uint Detail);

/// <summary>Used with the machine's gate held.</summary>
public sealed class EventChannels
{
    /// <summary>64 words of 64 bits. Port 0 is none.</summary>
    public const int PortCount = 4096;

    /// <summary>DOMID_SELF, and the domain of the back ends.</summary>
    public const int Self = 0x7FF0, BackEnd = 0;

    /// <summary>VIRQ_TIMER and VIRQ_DEBUG are each processor's own; of the others there is one, at first with processor 0.</summary>
    public const int VirqTimer = 0, VirqDebug = 1, VirqConsole = 2, VirqCount = 24;

    private const uint PendingOffset = 0x800, UpcallPending = 0;

    private readonly GuestMemory _memory;
    private readonly GuestErrorLog _errors;
    private readonly int _domain;
    private readonly ulong[] _vcpuInfo;
    private readonly Action<int> _upcall;
    private readonly Channel[] _channels = new Channel[PortCount];

    /// <param name="domain">Number of the domain whose channels they are.</param>
    /// <param name="upcall">A processor's flag of waiting events has been set: it is to be interrupted.</param>
    public EventChannels(GuestMemory memory, GuestErrorLog errors, int domain, int processorCount, Action<int> upcall)
    {
        _memory = memory;
        _errors = errors;
        _domain = domain;
        _vcpuInfo = new ulong[processorCount];
        _upcall = upcall;
    }

    /// <summary>Some port has become pending: for processors that poll.</summary>
    public event Action<uint>? Pending;

    /// <summary>
    /// The domain's words, of which the bitmaps are made, have 32 bits: a quarter of the ports, and shorter structures.
    /// The bits are numbered the same way, so that here they are reached by 64 at a time.
    /// </summary>
    public bool Is32Bit { get; set; }

    /// <summary>Guest-physical address of shared_info; 0 before the domain has said where it is.</summary>
    public ulong SharedInfo { get; set; }

    /// <summary>Guest-physical address of a processor's vcpu_info; 0 if it has none.</summary>
    public ulong VcpuInfo(int processor) => _vcpuInfo[processor];

    /// <summary>Moves a processor's vcpu_info. What was or may have been pending is told again.</summary>
    /// <param name="address">Aligned to 8 bytes.</param>
    public void SetVcpuInfo(int processor, ulong address)
    {
        _vcpuInfo[processor] = address;
        if (address == 0)
            return;
        if (Is32Bit)
            _memory.TrySetBits(address, ulong.MaxValue << 32, out _);
        else
            _memory.TrySetBits(address + 8, ulong.MaxValue, out _);
        _memory.TrySetBits(address + UpcallPending, 1, out _);
        _upcall(processor);
    }

    /// <summary>True while a processor has events and does not mask them.</summary>
    public bool HasUpcall(int processor) =>
        _vcpuInfo[processor] is not 0 and var info && _memory.TryRead(info + UpcallPending, out byte pending) && pending != 0;

    /// <summary>SCHEDOP_block: a processor that waits does not mask what it waits for.</summary>
    public void Unblock(int processor)
    {
        const uint upcallMask = 1;
        if (_vcpuInfo[processor] is not 0 and var info)
            _memory.TryWrite(info + upcallMask, (byte)0);
    }

    /// <summary>A processor that has not begun: it waits for nothing and masks all.</summary>
    public void MaskUpcalls(int processor)
    {
        if (_vcpuInfo[processor] is not (not 0 and var info))
            return;
        _memory.TryWrite(info, 0x100UL);
        _memory.TryWrite(info + 8, 0UL); // pending_sel: what is set there is not told again
    }

    public bool IsPending(uint port) => IsSet(PendingOffset, port);

    // --- what the domain asks for ---

    /// <summary>A port that a domain may bind to.</summary>
    public XenError AllocateUnbound(int remote, out uint port)
    {
        var error = Allocate(out port);
        if (error == XenError.None)
            _channels[port] = new Channel { State = EventChannelState.Unbound, Remote = remote == Self ? _domain : remote };
        return error;
    }

    /// <summary>Connects to a port of the domain itself: all other domains are back ends, which bind to its ports instead.</summary>
    public XenError BindInterdomain(int remote, uint remotePort, out uint port)
    {
        port = 0;
        if (remote != Self && remote != _domain)
            return XenError.ESRCH;
        if (!IsOpen(remotePort) || _channels[remotePort] is not { State: EventChannelState.Unbound } other || other.Remote != _domain)
            return XenError.EINVAL;
        var error = Allocate(out port);
        if (error != XenError.None)
            return error;
        _channels[port] = new Channel { State = EventChannelState.Interdomain, Remote = _domain, RemotePort = remotePort };
        _channels[remotePort] = other with { State = EventChannelState.Interdomain, RemotePort = port };
        Raise(port); // what was sent before is not lost
        return XenError.None;
    }

    public XenError BindVirq(int virq, int processor, out uint port)
    {
        port = 0;
        if (virq is < 0 or >= VirqCount)
            return XenError.EINVAL;
        if (!IsProcessor(processor))
            return XenError.ENOENT;
        if (!IsPerProcessor(virq) && processor != 0)
            return XenError.EINVAL;
        if (FindVirq(virq, processor) != 0)
            return XenError.EEXIST;
        var error = Allocate(out port);
        if (error == XenError.None)
            _channels[port] = new Channel { State = EventChannelState.Virq, Processor = processor, Virq = virq };
        return error;
    }

    public XenError BindIpi(int processor, out uint port)
    {
        port = 0;
        if (!IsProcessor(processor))
            return XenError.ENOENT;
        var error = Allocate(out port);
        if (error == XenError.None)
            _channels[port] = new Channel { State = EventChannelState.Ipi, Processor = processor };
        return error;
    }

    public XenError Close(uint port)
    {
        if (!IsOpen(port))
            return XenError.EINVAL;
        var channel = _channels[port];
        _channels[port] = default;
        ClearBit(PendingOffset, port);
        if (channel.State != EventChannelState.Interdomain)
            return XenError.None;
        if (channel.OnEvent is null)
            _channels[channel.RemotePort] = _channels[channel.RemotePort] with { State = EventChannelState.Unbound, RemotePort = 0 };
        else
            channel.OnClosed?.Invoke();
        return XenError.None;
    }

    /// <summary>EVTCHNOP_send.</summary>
    public XenError Send(uint port)
    {
        if (!IsOpen(port))
            return XenError.EINVAL;
        var channel = _channels[port];
        switch (channel.State)
        {
            case EventChannelState.Interdomain when channel.OnEvent is { } onEvent:
                onEvent();
                return XenError.None;
            case EventChannelState.Interdomain:
                Raise(channel.RemotePort);
                return XenError.None;
            case EventChannelState.Ipi:
                Raise(port);
                return XenError.None;
            case EventChannelState.Unbound:
                return XenError.None; // nobody hears it
            default:
                return XenError.EINVAL;
        }
    }

    public XenError GetStatus(uint port, out EventChannelStatus status)
    {
        status = default;
        if (port >= Ports)
            return XenError.EINVAL;
        var channel = _channels[port];
        status = new EventChannelStatus(channel.State, channel.Processor, channel.Remote, channel.State == EventChannelState.Virq ? (uint)channel.Virq : channel.RemotePort);
        return XenError.None;
    }

    /// <summary>EVTCHNOP_bind_vcpu: who is told of events of a port from now on.</summary>
    public XenError BindProcessor(uint port, int processor)
    {
        if (!IsProcessor(processor))
            return XenError.ENOENT;
        if (!IsOpen(port) || _channels[port] is var channel && (channel.State == EventChannelState.Ipi || (channel.State == EventChannelState.Virq && IsPerProcessor(channel.Virq))))
            return XenError.EINVAL;
        _channels[port] = channel with { Processor = processor };
        return XenError.None;
    }

    /// <summary>EVTCHNOP_unmask: an event that came meanwhile is told now.</summary>
    public XenError Unmask(uint port)
    {
        if (!IsOpen(port))
            return XenError.EINVAL;
        ClearBit(MaskOffset, port);
        if (IsPending(port))
            Tell(port);
        return XenError.None;
    }

    /// <summary>EVTCHNOP_reset, and a reset of the machine: every port is closed.</summary>
    public void Reset()
    {
        for (var port = 1u; port < PortCount; port++)
            Close(port);
    }

    // --- what back ends do ---

    /// <summary>Connects a back end to a port that the domain has made for it.</summary>
    /// <param name="onEvent">Called with the gate held when the domain sends. It returns at once.</param>
    /// <param name="onClosed">The domain has closed its port.</param>
    /// <returns>False: there is no such port, or it is for somebody else.</returns>
    public bool TryConnect(uint port, Action onEvent, Action? onClosed = null)
    {
        if (!IsOpen(port) || _channels[port] is not { State: EventChannelState.Unbound, Remote: BackEnd } channel)
            return false;
        _channels[port] = channel with { State = EventChannelState.Interdomain, OnEvent = onEvent, OnClosed = onClosed };
        return true;
    }

    /// <summary>The back end goes; the port stays as the domain made it.</summary>
    public void Disconnect(uint port)
    {
        if (IsOpen(port) && _channels[port] is { State: EventChannelState.Interdomain, OnEvent: not null } channel)
            _channels[port] = channel with { State = EventChannelState.Unbound, OnEvent = null, OnClosed = null };
    }

    /// <summary>A back end sends to the domain.</summary>
    public void Notify(uint port)
    {
        if (IsOpen(port) && _channels[port].OnEvent is not null)
            Raise(port);
    }

    public void RaiseVirq(int virq, int processor)
    {
        if (FindVirq(virq, processor) is not 0 and var port)
            Raise(port);
    }

    private static bool IsPerProcessor(int virq) => virq is VirqTimer or VirqDebug;

    private bool IsProcessor(int processor) => processor >= 0 && processor < _vcpuInfo.Length;

    private uint Ports => Is32Bit ? 1024u : PortCount;

    private uint MaskOffset => PendingOffset + (Ports / 8);

    private bool IsOpen(uint port) => port != 0 && port < Ports && _channels[port].State != EventChannelState.Closed;

    private XenError Allocate(out uint port)
    {
        for (port = 1; port < Ports; port++)
        {
            if (_channels[port].State == EventChannelState.Closed)
                return XenError.None;
        }

        port = 0;
        return XenError.ENOSPC;
    }

    private uint FindVirq(int virq, int processor)
    {
        for (var port = 1u; port < PortCount; port++)
        {
            if (_channels[port] is { State: EventChannelState.Virq } channel && channel.Virq == virq && (!IsPerProcessor(virq) || channel.Processor == processor))
                return port;
        }

        return 0;
    }

    private void Raise(uint port)
    {
        if (SharedInfo == 0)
            return;
        if (!_memory.TrySetBits(SharedInfo + PendingOffset + (port / 64 * 8), 1UL << (int)(port % 64), out var old))
        {
            _errors.Report("xen", "shared_info is no memory");
            return;
        }

        if ((old >> (int)(port % 64) & 1) != 0)
            return;
        if (!IsSet(MaskOffset, port))
            Tell(port);
        Pending?.Invoke(port);
    }

    /// <summary>A pending port that is not masked: its word is marked for its processor.</summary>
    private void Tell(uint port)
    {
        var processor = _channels[port].Processor;
        if (_vcpuInfo[processor] == 0)
            return;
        var (word, bit) = Is32Bit ? (_vcpuInfo[processor], 32 + (int)(port / 32)) : (_vcpuInfo[processor] + 8, (int)(port / 64));
        if (_memory.TrySetBits(word, 1UL << bit, out var old) && (old >> bit & 1) == 0)
            RaiseUpcall(processor);
    }

    private void RaiseUpcall(int processor)
    {
        if (_memory.TrySetBits(_vcpuInfo[processor] + UpcallPending, 1, out var old) && (byte)old == 0)
            _upcall(processor);
    }

    private bool IsSet(uint offset, uint port) =>
        SharedInfo != 0 && _memory.TryRead(SharedInfo + offset + (port / 64 * 8), out ulong word) && (word >> (int)(port % 64) & 1) != 0;

    private void ClearBit(uint offset, uint port)
    {
        if (SharedInfo != 0)
            _memory.TryClearBits(SharedInfo + offset + (port / 64 * 8), 1UL << (int)(port % 64), out _);
    }

    private readonly record struct Channel
    {
        public EventChannelState State { get; init; }

        public int Processor { get; init; }

        public int Remote { get; init; }

        public uint RemotePort { get; init; }

        public int Virq { get; init; }

        /// <summary>Of a back end that is connected.</summary>
        public Action? OnEvent { get; init; }

        public Action? OnClosed { get; init; }
    }
}
