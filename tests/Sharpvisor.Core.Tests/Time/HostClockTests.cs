using Sharpvisor.Core.Time;

namespace Sharpvisor.Core.Tests.Time;

public sealed class HostClockTests
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    [Fact]
    public void A_timer_expires_under_the_gate_and_not_before_its_deadline()
    {
        var gate = new MachineGate();
        using var clock = new HostClock(gate);
        using var expired = new ManualResetEventSlim();
        long at = 0, deadline = 0;
        var held = false;
        var timer = clock.CreateTimer("test", () =>
        {
            held = gate.IsHeld;
            at = clock.NowNs;
            expired.Set();
        });
        using (gate.Enter())
        {
            deadline = clock.NowNs + 3_000_000;
            timer.Set(deadline);
        }

        Assert.True(expired.Wait(Patience));
        Assert.True(held);
        Assert.True(at >= deadline);
    }

    [Fact]
    public void An_earlier_timer_shortens_the_sleep()
    {
        var gate = new MachineGate();
        using var clock = new HostClock(gate);
        using var expired = new ManualResetEventSlim();
        using (gate.Enter())
            clock.CreateTimer("late", () => { }).Set(clock.NowNs + 3_600_000_000_000);
        Thread.Sleep(5); // the thread sleeps for an hour now
        using (gate.Enter())
            clock.CreateTimer("early", expired.Set).Set(clock.NowNs + 1_000_000);
        Assert.True(expired.Wait(Patience));
    }

    [Fact]
    public void Time_stands_still_while_paused_and_timers_wait()
    {
        var gate = new MachineGate();
        using var clock = new HostClock(gate);
        using var expired = new ManualResetEventSlim();
        clock.Pause();
        clock.Pause();
        var stopped = clock.NowNs;
        using (gate.Enter())
            clock.CreateTimer("test", expired.Set).Set(stopped + 1000);
        Assert.False(expired.Wait(20));
        Assert.Equal(stopped, clock.NowNs);
        clock.Resume();
        clock.Resume();
        Assert.True(expired.Wait(Patience));
        Assert.True(clock.NowNs >= stopped + 1000);
    }

    [Fact]
    public void Time_never_goes_back_for_any_thread()
    {
        using var clock = new HostClock(new MachineGate());
        var last = 0L;
        for (var i = 0; i < 10_000; i++)
        {
            if (i % 100 == 0)
                clock.Pause();
            if (i % 100 == 50)
                clock.Resume();
            var now = clock.NowNs;
            Assert.True(now >= last, $"{now} after {last}");
            last = now;
        }
    }

    [Fact]
    public void Disposal_ends_the_thread_and_a_late_timer_does_no_harm()
    {
        var gate = new MachineGate();
        var clock = new HostClock(gate);
        var timer = clock.CreateTimer("test", () => Assert.Fail("expired after disposal"));
        clock.Dispose();
        using (gate.Enter())
            timer.Set(0);
    }
}
