// What Xen keeps for one virtual processor: its time, its timers, and where it wants to be told of events.
// Follows: Xen's public headers vcpu.h and xen.h (vcpu_time_info), common/domain.c's behaviour.
// What it has done with its time: XenRunstate.cs.

using Sharpvisor.Core.Host;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;
using Sharpvisor.Core.Time;
using Sharpvisor.Devices.Timers;

namespace Sharpvisor.Devices.Xen;

/// <summary>Used with the machine's gate held.</summary>
public sealed class XenVcpu : IMsrDevice, ITscFollower
{
    /// <summary>Bytes of vcpu_time_info.</summary>
    public const int TimeLength = PvClock.TimeLength;

    /// <summary>vcpu_time_info in vcpu_info.</summary>
    private const uint TimeInVcpuInfo = 32;

    private readonly XenDomain _domain;
    private readonly GuestMemory _memory;
    private readonly Clock _clock;
    private readonly ClockTimer _single, _periodic;
    private uint _version;
    private long _tscOffset;
    private long _period, _next;
    private ulong _timeArea;

    internal XenVcpu(int index, XenDomain domain, GuestMemory memory, Clock clock)
    {
        Index = index;
        _domain = domain;
        _memory = memory;
        _clock = clock;
        Runstate = new XenRunstate(memory, clock);
        _single = clock.CreateTimer($"xen-single{index}", RaiseTimer);
        _periodic = clock.CreateTimer($"xen-periodic{index}", OnPeriod);
    }

    public int Index { get; }

    public XenRunstate Runstate { get; }

    /// <summary>On which it sleeps in a hypercall.</summary>
    internal WakeableSleep Rest { get; } = new();

    /// <summary>It sleeps until an event comes, of any port.</summary>
    internal bool IsResting { get; set; }

    /// <summary>When the poll that it is in ends, in ns of machine time; null: it is in none.</summary>
    internal long? PollDeadline { get; set; }

    /// <summary>The vector of its local APIC by which it is told of events; 0: none.</summary>
    public byte UpcallVector { get; set; }

    public long TscOffset
    {
        get => _tscOffset;
        set
        {
            _tscOffset = value;
            UpdateTime();
        }
    }

    /// <summary>Guest-physical address of a second vcpu_time_info, which a guest may show its programs; 0: none.</summary>
    public ulong TimeArea
    {
        get => _timeArea;
        set
        {
            _timeArea = value;
            UpdateTime();
        }
    }

    public bool TryReadMsr(uint msr, out ulong value) => XenDomain.TryReadMsr(msr, out value);

    public bool TryWriteMsr(uint msr, ulong value) => _domain.TryWriteMsr(msr, value);

    /// <summary>Writes its time anew: in vcpu_info, wherever that is now, and in the second place.</summary>
    public void UpdateTime()
    {
        _version += 2;
        if (_domain.Events.VcpuInfo(Index) is not 0 and var info)
            PvClock.WriteTime(_memory, info + TimeInVcpuInfo, _version, _clock.NowNs, _tscOffset);
        if (_timeArea != 0)
            PvClock.WriteTime(_memory, _timeArea, _version, _clock.NowNs, _tscOffset);
    }

    /// <summary>VIRQ_TIMER once, at a system time in ns.</summary>
    /// <param name="onlyInFuture">VCPU_SSHOTTMR_future.</param>
    public XenError SetTimer(ulong deadline, bool onlyInFuture)
    {
        if (onlyInFuture && deadline < (ulong)_clock.NowNs)
            return XenError.ETIME;
        _single.Set((long)Math.Min(deadline, long.MaxValue));
        return XenError.None;
    }

    public void StopTimer() => _single.Cancel();

    /// <summary>VIRQ_TIMER again and again; 0: no longer.</summary>
    /// <param name="period">In ns; Xen's least is a millisecond.</param>
    public XenError SetPeriod(ulong period)
    {
        const ulong least = 1_000_000;
        if (period != 0 && period is < least or > long.MaxValue / 2)
            return XenError.EINVAL;
        _period = (long)period;
        if (period == 0)
            _periodic.Cancel();
        else
            _periodic.Set(_next = _clock.NowNs + _period);
        return XenError.None;
    }

    /// <summary>A new domain.</summary>
    public void Reset()
    {
        Release();
        Runstate.Reset(isOff: Index != 0);
    }

    /// <summary>The domain is told of nothing any more, wherever it wanted to be told.</summary>
    internal void Release()
    {
        Runstate.Release();
        UpcallVector = 0;
        _period = 0;
        _single.Cancel();
        _periodic.Cancel();
        _timeArea = 0;
        PollDeadline = null;
    }

    private void OnPeriod()
    {
        // Ticks that were missed are not made up for.
        _next += (((_clock.NowNs - _next) / _period) + 1) * _period;
        _periodic.Set(_next);
        RaiseTimer();
    }

    private void RaiseTimer()
    {
        Runstate.Look();
        _domain.Events.RaiseVirq(EventChannels.VirqTimer, Index);
    }
}
