namespace Sharpvisor.Core.Time;

/// <summary>The timers of a clock by deadline. All members are called with the machine's gate held.</summary>
public sealed class TimerQueue
{
    private readonly SortedSet<ClockTimer> _timers = new(Comparer<ClockTimer>.Create((a, b) =>
        a.Deadline != b.Deadline ? a.Deadline.CompareTo(b.Deadline) : a.Order.CompareTo(b.Order)));

    private readonly Action _earlier;
    private long _created;

    /// <param name="earlier">Called when a timer becomes the first to expire.</param>
    public TimerQueue(Action earlier)
    {
        _earlier = earlier;
    }

    /// <summary>The earliest deadline, or <see cref="long.MaxValue"/>.</summary>
    public long NextDeadlineNs => _timers.Min?.Deadline ?? long.MaxValue;

    public ClockTimer Create(string name, Action expired) => new(this, name, expired, _created++);

    /// <summary>Runs every timer whose deadline is at or before <paramref name="nowNs"/>, in order.</summary>
    /// <remarks>
    /// At most as many as are set now: a timer that a guest makes expire without end is left for the next round, so
    /// that others get the gate in between.
    /// </remarks>
    public void RunExpired(long nowNs)
    {
        for (var left = _timers.Count; left > 0 && _timers.Min is { } timer && timer.Deadline <= nowNs; left--)
        {
            Cancel(timer);
            timer.Expired();
        }
    }

    internal void Set(ClockTimer timer, long deadlineNs)
    {
        Cancel(timer);
        timer.Deadline = deadlineNs;
        timer.IsSet = true;
        _timers.Add(timer);
        if (ReferenceEquals(_timers.Min, timer))
            _earlier();
    }

    internal void Cancel(ClockTimer timer)
    {
        if (!timer.IsSet)
            return;
        _timers.Remove(timer);
        timer.IsSet = false;
    }
}
