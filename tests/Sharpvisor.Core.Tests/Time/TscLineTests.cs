using System.Diagnostics;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Time;

namespace Sharpvisor.Core.Tests.Time;

public sealed unsafe class TscLineTests
{
    /// <summary>As generated code reads it; false: not now.</summary>
    private static bool TryRead(TscLineData* line, out long ns)
    {
        var version = Volatile.Read(ref line->Version);
        var ticks = HostTsc.Read() - Volatile.Read(ref line->Tsc);
        var span = Volatile.Read(ref line->Span);
        var slope = Volatile.Read(ref line->Slope);
        ns = Volatile.Read(ref line->Ns) + (long)((ticks * slope) >> 32);
        return ticks < span && Volatile.Read(ref line->Version) == version;
    }

    /// <summary>The first line needs a rate, which is measured for some milliseconds.</summary>
    private static void WaitForLine(HostClock clock)
    {
        for (var tries = 0; !TryRead(clock.TscLine, out _); tries++)
        {
            Assert.True(tries < 10_000);
            Thread.Sleep(1);
            _ = clock.NowNs;
        }
    }

    [Fact]
    public void The_line_runs_at_the_rate_of_the_clock_and_nobody_sees_time_go_back()
    {
        using var clock = new HostClock(new MachineGate());
        if (clock.TscLine == null)
        {
            Assert.False(HostTsc.IsClock);
            return;
        }

        // Two threads hand the latest time on to each other, in the order in which they read it.
        WaitForLine(clock);
        var latest = 0L;
        var read = 0;
        var behind = 0L;
        var gate = new Lock();
        void Read(bool line)
        {
            for (var watch = Stopwatch.StartNew(); watch.ElapsedMilliseconds < 100;)
            {
                lock (gate)
                {
                    long ns = 0;
                    var fromLine = line && TryRead(clock.TscLine, out ns);
                    if (!fromLine)
                        ns = clock.NowNs;
                    behind = Math.Max(behind, latest - ns);
                    latest = Math.Max(latest, ns);
                    read += fromLine ? 1 : 0;
                }
            }
        }

        var other = new Thread(() => Read(line: true));
        other.Start();
        Read(line: false);
        other.Join();
        Assert.True(read > 0);
        Assert.Equal(0, behind);
        var stamp = Stopwatch.GetTimestamp();
        var start = clock.NowNs;
        Thread.Sleep(30);
        var expected = Stopwatch.GetElapsedTime(stamp).TotalNanoseconds;
        Assert.InRange(clock.NowNs - start, expected * 0.99, (expected * 1.01) + 2_000_000);
    }

    [Fact]
    public void It_can_not_be_read_while_time_stands_still()
    {
        using var clock = new HostClock(new MachineGate());
        if (clock.TscLine == null)
            return;
        WaitForLine(clock);
        var before = clock.NowNs;
        clock.Pause();
        var stopped = clock.NowNs;
        Assert.True(stopped >= before);
        Assert.False(TryRead(clock.TscLine, out _));
        Thread.Sleep(30);
        Assert.Equal(stopped, clock.NowNs);
        clock.Resume();
        var resumed = clock.NowNs;
        Assert.InRange(resumed, stopped, stopped + 25_000_000);
        WaitForLine(clock);
        Assert.True(TryRead(clock.TscLine, out var after) ? after >= resumed : clock.NowNs >= resumed);
    }
}
