using System.Diagnostics;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Core.Tests.Host;

public sealed class WakeableSleepTests
{
    [Fact]
    public void Sleeps_for_about_the_time_given()
    {
        using var sleep = new WakeableSleep();
        var start = Stopwatch.GetTimestamp();
        sleep.Sleep(3_000_000);
        Assert.True(Stopwatch.GetElapsedTime(start) >= TimeSpan.FromMilliseconds(2.9));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-1)]
    [InlineData(long.MinValue)]
    public void Nothing_to_sleep_for_returns_at_once(long ns)
    {
        using var sleep = new WakeableSleep();
        sleep.Sleep(ns);
    }

    [Fact]
    public void A_wake_before_the_sleep_ends_it_and_is_used_up()
    {
        using var sleep = new WakeableSleep();
        sleep.Wake();
        sleep.Wake();
        sleep.Sleep(long.MaxValue);
        var start = Stopwatch.GetTimestamp();
        sleep.Sleep(3_000_000);
        Assert.True(Stopwatch.GetElapsedTime(start) >= TimeSpan.FromMilliseconds(2.9));
    }

    [Fact]
    public void No_wake_is_lost_between_two_threads()
    {
        using var sleep = new WakeableSleep();
        const int Rounds = 20_000;
        var produced = 0;
        var consumed = 0;
        var consumer = new Thread(() =>
        {
            while (Volatile.Read(ref consumed) < Rounds)
            {
                sleep.Sleep(long.MaxValue);
                Volatile.Write(ref consumed, Volatile.Read(ref produced));
            }
        });
        consumer.Start();
        for (var i = 0; i < Rounds; i++)
        {
            Interlocked.Increment(ref produced);
            sleep.Wake();
        }

        Assert.True(consumer.Join(TimeSpan.FromSeconds(20)), $"the consumer saw {consumed} of {Rounds}");
    }
}
