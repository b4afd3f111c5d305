namespace Sharpvisor.Core.Time;

/// <summary>
/// The machine's time. TSC, PIT, RTC, HPET, the local APIC's timer, the PM timer and kvmclock all derive from
/// <see cref="NowNs"/>, so that they never drift apart.
/// </summary>
public abstract class Clock : IDisposable
{
    /// <summary>Frequency of the guest's TSC: it counts <see cref="NowNs"/> itself.</summary>
    public const long TscHz = 1_000_000_000;

    /// <summary>Nanoseconds since the machine was made. Never goes back; stands still while the machine is paused.</summary>
    public abstract long NowNs { get; }

    /// <summary>Where generated code finds what <see cref="NowNs"/> is made of, below 2 GiB; null when it can't be read so.</summary>
    public virtual unsafe TscLineData* TscLine => null;

    /// <summary>The UTC time of <see cref="NowNs"/> zero, in nanoseconds since 1970.</summary>
    public abstract long UnixEpochNs { get; }

    /// <summary>
    /// Makes a one-shot timer. <paramref name="expired"/> is called with the machine's gate held, at or after the
    /// deadline, and may set the timer again.
    /// </summary>
    public abstract ClockTimer CreateTimer(string name, Action expired);

    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    protected virtual void Dispose(bool disposing)
    {
    }
}

/// <summary>A one-shot timer of a <see cref="Clock"/>. Use it with the machine's gate held.</summary>
public sealed class ClockTimer : IDisposable
{
    private readonly TimerQueue _queue;

    internal ClockTimer(TimerQueue queue, string name, Action expired, long order)
    {
        _queue = queue;
        Name = name;
        Expired = expired;
        Order = order;
    }

    public string Name { get; }

    /// <summary>The deadline, or null when the timer is not set.</summary>
    public long? DeadlineNs => IsSet ? Deadline : null;

    public bool IsSet { get; internal set; }

    internal long Deadline { get; set; }

    internal Action Expired { get; }

    /// <summary>Which of two timers with one deadline goes first: the one made first.</summary>
    internal long Order { get; }

    /// <summary>Expires once at <paramref name="deadlineNs"/> (at once if that is past), in place of any earlier setting.</summary>
    public void Set(long deadlineNs) => _queue.Set(this, deadlineNs);

    public void Cancel() => _queue.Cancel(this);

    public void Dispose() => Cancel();
}
