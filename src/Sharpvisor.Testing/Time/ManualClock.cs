using Sharpvisor.Core;
using Sharpvisor.Core.Time;

namespace Sharpvisor.Testing.Time;

/// <summary>A clock that stands still until a test advances it; timers expire in order, each at its own time.</summary>
public sealed class ManualClock : Clock
{
    private readonly MachineGate _gate;
    private readonly TimerQueue _queue = new(() => { });
    private long _now;

    /// <param name="gate">The gate that timers expire under; a new one if null.</param>
    /// <param name="unixEpochNs">UTC at the clock's zero; 2026-01-01 00:00:00 by default.</param>
    public ManualClock(MachineGate? gate = null, long unixEpochNs = 1_767_225_600_000_000_000)
    {
        _gate = gate ?? new MachineGate();
        UnixEpochNs = unixEpochNs;
    }

    public override long NowNs => _now;

    public override long UnixEpochNs { get; }

    public override ClockTimer CreateTimer(string name, Action expired) => _queue.Create(name, expired);

    /// <summary>Moves time on by <paramref name="ns"/> nanoseconds.</summary>
    public void Advance(long ns)
    {
        var end = _now + ns;
        using (_gate.Enter())
        {
            while (_queue.NextDeadlineNs <= end)
            {
                _now = Math.Max(_now, _queue.NextDeadlineNs);
                _queue.RunExpired(_now);
            }
        }

        _now = end;
    }
}
