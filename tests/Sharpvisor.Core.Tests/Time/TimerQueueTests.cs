using Sharpvisor.Core.Time;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Core.Tests.Time;

public sealed class TimerQueueTests
{
    private readonly List<string> _log = [];
    private readonly TimerQueue _queue;
    private int _earlier;

    public TimerQueueTests()
    {
        _queue = new TimerQueue(() => _earlier++);
    }

    [Fact]
    public void Timers_expire_by_deadline_and_then_by_age()
    {
        var a = Create("a");
        var b = Create("b");
        var c = Create("c");
        c.Set(10);
        b.Set(20);
        a.Set(20);
        Assert.Equal(10, _queue.NextDeadlineNs);
        _queue.RunExpired(19);
        Assert.Equal(["c"], _log);
        Assert.False(c.IsSet);
        Assert.Null(c.DeadlineNs);
        _queue.RunExpired(20);
        Assert.Equal(["c", "a", "b"], _log);
        Assert.Equal(long.MaxValue, _queue.NextDeadlineNs);
    }

    [Fact]
    public void Setting_again_replaces_and_cancelling_removes()
    {
        var a = Create("a");
        var b = Create("b");
        a.Set(10);
        a.Set(30);
        b.Set(20);
        b.Cancel();
        b.Cancel();
        Assert.Equal(30, _queue.NextDeadlineNs);
        _queue.RunExpired(29);
        Assert.Empty(_log);
        a.Dispose();
        _queue.RunExpired(100);
        Assert.Empty(_log);
    }

    [Fact]
    public void The_sleeper_is_told_of_an_earlier_deadline_only()
    {
        Create("a").Set(10);
        Assert.Equal(1, _earlier);
        Create("b").Set(20);
        Assert.Equal(1, _earlier);
        Create("c").Set(5);
        Assert.Equal(2, _earlier);
    }

    [Fact]
    public void A_timer_may_cancel_another_that_is_due_at_the_same_time()
    {
        ClockTimer? second = null;
        var first = _queue.Create("first", () => second!.Cancel());
        second = Create("second");
        first.Set(10);
        second.Set(10);
        _queue.RunExpired(10);
        Assert.Empty(_log);
    }

    [Fact]
    public void A_timer_that_sets_itself_in_the_past_for_ever_does_not_hang_the_machine()
    {
        var count = 0;
        ClockTimer? timer = null;
        timer = _queue.Create("storm", () =>
        {
            count++;
            timer!.Set(0);
        });
        timer.Set(0);
        _queue.RunExpired(1000);
        Assert.Equal(1, count);
        Assert.Equal(0, _queue.NextDeadlineNs); // due at once in the next round, after others had the gate
    }

    [Fact]
    public void A_manual_clock_shows_each_timer_its_own_time_under_the_gate()
    {
        var gate = new MachineGate();
        using var clock = new ManualClock(gate);
        List<long> times = [];
        ClockTimer? timer = null;
        timer = clock.CreateTimer("periodic", () =>
        {
            Assert.True(gate.IsHeld);
            times.Add(clock.NowNs);
            timer!.Set(clock.NowNs + 30);
        });
        timer.Set(10);
        clock.Advance(100);
        Assert.Equal([10, 40, 70, 100], times);
        Assert.Equal(100, clock.NowNs);
        timer.Set(50); // past: at once
        clock.Advance(0);
        Assert.Equal(100, times[^1]);
        Assert.Equal(5, times.Count);
    }

    private ClockTimer Create(string name) => _queue.Create(name, () => _log.Add(name));
}
