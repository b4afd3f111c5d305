// The timer of a local APIC.
// Follows: Intel SDM vol. 3A, 11.5.4 "APIC Timer". The bus clock is 1 GHz: one tick of the machine's clock.
// Leaves out: nothing.

using Sharpvisor.Core.Time;
using Sharpvisor.Devices.Timers;

namespace Sharpvisor.Devices.Interrupts;

/// <summary>Bits 18:17 of the LVT timer entry.</summary>
internal enum LocalApicTimerMode
{
    OneShot = 0,
    Periodic = 1,
    TscDeadline = 2,
    Reserved = 3,
}

internal sealed class LocalApicTimer
{
    private readonly Clock _clock;
    private readonly ClockTimer _timer;
    private readonly Action _fire;
    private LocalApicTimerMode _mode;
    private bool _masked = true;
    private uint _divideConfiguration;
    private uint _initialCount;
    private ulong _tscDeadline;
    private long _tscOffset;

    // The counter held _startCount at _startNs and counts down since; 0: it stands still.
    private uint _startCount;
    private long _startNs;
    private long _notBeforeNs;

    public LocalApicTimer(Clock clock, int index, Action fire)
    {
        _clock = clock;
        _fire = fire;
        _timer = clock.CreateTimer($"apic{index}", OnExpired);
    }

    public long TscOffset
    {
        get => _tscOffset;
        set
        {
            _tscOffset = value;
            if (_tscDeadline != 0)
                Arm();
        }
    }

    /// <summary>IA32_TSC_DEADLINE: reads 0 when not armed; ignored outside of TSC-deadline mode.</summary>
    public ulong TscDeadline
    {
        get
        {
            FireIfDue();
            return _tscDeadline;
        }

        set
        {
            if (_mode != LocalApicTimerMode.TscDeadline)
                return;
            _tscDeadline = value;
            Arm();
        }
    }

    public uint InitialCount
    {
        get => _initialCount;
        set
        {
            if (_mode == LocalApicTimerMode.TscDeadline)
                return;
            FireIfDue();
            _initialCount = _startCount = value;
            _startNs = _clock.NowNs;
            Arm();
        }
    }

    public uint CurrentCount => CountAt(_clock.NowNs);

    public uint DivideConfiguration
    {
        get => _divideConfiguration;
        set
        {
            Rebase();
            _divideConfiguration = value;
            Arm();
        }
    }

    /// <summary>Bus clocks for one count: 1 to 128 (SDM figure 11-10).</summary>
    private int Divider => 1 << (((((int)_divideConfiguration >> 1) & 4) | ((int)_divideConfiguration & 3)) + 1 & 7);

    private long FirstExpiryNs => _startNs + ((long)_startCount * Divider);

    public void Reset()
    {
        _mode = LocalApicTimerMode.OneShot;
        _masked = true;
        _divideConfiguration = _initialCount = _startCount = 0;
        _tscDeadline = 0;
        _timer.Cancel();
    }

    /// <summary>The LVT timer entry was written.</summary>
    public void Configure(LocalApicTimerMode mode, bool masked)
    {
        if (mode == _mode)
        {
            FireIfDue();
        }
        else if (mode == LocalApicTimerMode.TscDeadline || _mode == LocalApicTimerMode.TscDeadline)
        {
            // A transition from or to TSC-deadline mode disarms the timer.
            _initialCount = _startCount = 0;
            _tscDeadline = 0;
        }
        else
        {
            Rebase();
        }

        _mode = mode;
        _masked = masked;
        Arm();
    }

    private uint CountAt(long now)
    {
        if (_startCount == 0 || _mode == LocalApicTimerMode.TscDeadline)
            return 0;
        var first = FirstExpiryNs;
        if (now < first)
            return _startCount - (uint)((now - _startNs) / Divider);
        if (_mode != LocalApicTimerMode.Periodic || _initialCount == 0)
            return 0;
        return _initialCount - (uint)((now - first) / Divider % _initialCount);
    }

    /// <summary>Starts anew from the current count, before a change of what it is counted with.</summary>
    private void Rebase()
    {
        FireIfDue();
        var now = _clock.NowNs;
        _startCount = CountAt(now);
        _startNs = now;
    }

    /// <summary>An expiry that the clock has not told yet must not be lost when the timer is set anew.</summary>
    private void FireIfDue()
    {
        if (_timer.DeadlineNs <= _clock.NowNs)
        {
            _timer.Cancel();
            OnExpired();
        }
    }

    private void Arm()
    {
        var now = _clock.NowNs;
        if (_mode == LocalApicTimerMode.TscDeadline)
        {
            ArmDeadline(now);
            return;
        }

        // A masked timer counts without the host: its count is computed when it is read.
        if (_startCount == 0 || _masked)
        {
            _timer.Cancel();
            return;
        }

        var next = FirstExpiryNs;
        if (next <= now && _mode == LocalApicTimerMode.Periodic && _initialCount != 0)
            next = Math.Max(Frequency.NextPoint(next, (long)_initialCount * Divider, now), _notBeforeNs);
        if (next > now)
            _timer.Set(next);
        else
            _timer.Cancel();
    }

    private void ArmDeadline(long now)
    {
        var tsc = (ulong)(now + _tscOffset);
        if (_tscDeadline == 0)
        {
            _timer.Cancel();
        }
        else if (_tscDeadline <= tsc)
        {
            _timer.Cancel();
            OnExpired();
        }
        else
        {
            _timer.Set(now + (long)Math.Min(_tscDeadline - tsc, long.MaxValue / 2));
        }
    }

    private void OnExpired()
    {
        switch (_mode)
        {
            case LocalApicTimerMode.TscDeadline:
                _tscDeadline = 0;
                break;
            case LocalApicTimerMode.Periodic:
                _notBeforeNs = _clock.NowNs + Frequency.ShortestPeriodNs;
                Arm();
                break;
            default:
                _startCount = 0;
                break;
        }

        if (!_masked)
            _fire();
    }
}
