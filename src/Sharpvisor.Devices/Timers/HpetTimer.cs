using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Time;

namespace Sharpvisor.Devices.Timers;

/// <summary>One comparator of a <see cref="Hpet"/>.</summary>
internal sealed class HpetTimer
{
    // Timer n configuration and capabilities (2.3.8).
    private const ulong LevelTriggered = 1 << 1, InterruptEnable = 1 << 2, Periodic = 1 << 3, ValueSet = 1 << 6, Mode32 = 1 << 8;
    private const ulong Writable = LevelTriggered | InterruptEnable | Periodic | ValueSet | Mode32 | (0x1F << 9);

    // PER_INT_CAP, SIZE_CAP, and routes to IOAPIC pins 2, 8 and 16 to 23.
    private const uint RoutePins = 0x00FF_0104;
    private const ulong Capabilities = (1 << 4) | (1 << 5) | ((ulong)RoutePins << 32);

    private readonly Hpet _hpet;
    private readonly Clock _clock;
    private readonly ClockTimer _timer;
    private ulong _config, _comparator, _period;
    private long _notBeforeNs;

    public HpetTimer(Hpet hpet, int index, Clock clock)
    {
        _hpet = hpet;
        _clock = clock;
        Index = index;
        _timer = clock.CreateTimer($"hpet{index}", OnExpired);
        _comparator = ulong.MaxValue;
    }

    public int Index { get; }

    private bool IsPeriodic => (_config & Periodic) != 0;

    private ulong SizeMask => (_config & Mode32) != 0 ? uint.MaxValue : ulong.MaxValue;

    /// <summary>The pin of INT_ROUTE; one that the timer can't drive falls back to the first it can.</summary>
    private IInterruptLine Line
    {
        get
        {
            var route = (int)(_config >> 9) & 0x1F;
            return _hpet.Line(Index, (RoutePins >> route & 1) != 0 ? route : 2);
        }
    }

    public void Reset()
    {
        ReleaseLine();
        _timer.Cancel();
        _config = _period = 0;
        _comparator = ulong.MaxValue;
    }

    public ulong Read(uint offset)
    {
        switch (offset)
        {
            case 0x00:
                return _config | Capabilities;
            case 0x08:
                SkipMissed();
                return _comparator & SizeMask;
            default:
                return 0; // FSB route
        }
    }

    public void Write(uint offset, ulong value, ulong mask)
    {
        FireIfDue();
        switch (offset)
        {
            case 0x00:
                ReleaseLine();
                _config = ((_config & ~mask) | (value & mask)) & Writable;
                break;
            case 0x08:
                if (!IsPeriodic || (_config & ValueSet) != 0)
                    _comparator = ((_comparator & ~mask) | (value & mask)) & SizeMask;
                if (IsPeriodic)
                    _period = ((_period & ~mask) | (value & mask)) & SizeMask;
                _config &= ~ValueSet;
                break;
        }

        Arm();
    }

    /// <summary>Sets the host's timer to the next match.</summary>
    public void Arm()
    {
        if (!_hpet.IsEnabled || (_config & InterruptEnable) == 0)
        {
            _timer.Cancel();
            return;
        }

        SkipMissed();
        var distance = (_comparator - _hpet.Counter) & SizeMask;
        ArmAfter(distance);
    }

    /// <summary>An expiry that the clock has not told yet must not be lost when registers change.</summary>
    public void FireIfDue()
    {
        if (_timer.DeadlineNs <= _clock.NowNs)
        {
            _timer.Cancel();
            OnExpired();
        }
    }

    public void ReleaseLine()
    {
        if ((_config & InterruptEnable) != 0)
            Line.Set(false);
    }

    /// <summary>Drives the line of a level-triggered timer as its status bit says.</summary>
    public void DriveLevel(bool asserted)
    {
        if ((_config & (LevelTriggered | InterruptEnable)) == (LevelTriggered | InterruptEnable))
            Line.Set(asserted);
    }

    private void ArmAfter(ulong distance)
    {
        if (_hpet.DeadlineNs(distance) is { } deadline)
            _timer.Set(Math.Max(deadline, _notBeforeNs));
        else
            _timer.Cancel();
    }

    /// <summary>Moves a periodic comparator past the counter: matches that were missed merge.</summary>
    private void SkipMissed()
    {
        if (!IsPeriodic || _period == 0 || !_hpet.IsEnabled)
            return;
        var behind = (_hpet.Counter - _comparator) & SizeMask;
        if (behind < SizeMask / 2 && behind != 0 && !_timer.IsSet)
            _comparator = (_comparator + (((behind / _period) + 1) * _period)) & SizeMask;
    }

    private void OnExpired()
    {
        _notBeforeNs = _clock.NowNs + Frequency.ShortestPeriodNs;
        if (IsPeriodic && _period != 0)
        {
            var behind = (_hpet.Counter - _comparator) & SizeMask;
            _comparator = (_comparator + (((behind / _period) + 1) * _period)) & SizeMask;
            ArmAfter((_comparator - _hpet.Counter) & SizeMask);
        }
        else
        {
            // The counter meets the comparator again when it has wrapped.
            var distance = (_comparator - _hpet.Counter - 1) & SizeMask;
            if (distance != ulong.MaxValue)
                ArmAfter(distance + 1);
        }

        Interrupt();
    }

    private void Interrupt()
    {
        if ((_config & LevelTriggered) != 0)
        {
            _hpet.SetStatus(Index);
            DriveLevel(true);
        }
        else
        {
            // The line stays high after the edge: the PIC takes a request only while it is.
            Line.Set(false);
            Line.Set(true);
        }
    }
}
