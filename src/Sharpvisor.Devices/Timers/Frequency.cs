namespace Sharpvisor.Devices.Timers;

/// <summary>Conversions between nanoseconds and the ticks of an oscillator, exact and free of overflow.</summary>
internal static class Frequency
{
    private const long Second = 1_000_000_000;

    /// <summary>The shortest distance between two interrupts of a periodic timer, in ns: a guest that asks for more
    /// of them gets this many and the host stays alive. Its counters are exact all the same.</summary>
    public const long ShortestPeriodNs = 20_000;

    /// <summary>Whole ticks in <paramref name="ns"/> nanoseconds (not negative) at <paramref name="hz"/> up to 1 GHz.</summary>
    public static long ToTicks(long ns, long hz)
    {
        var (seconds, rest) = Math.DivRem(ns, Second);
        return (seconds * hz) + (rest * hz / Second);
    }

    /// <summary>The first nanosecond at which <paramref name="ticks"/> ticks have passed; saturates.</summary>
    public static long ToNs(long ticks, long hz)
    {
        var (seconds, rest) = Math.DivRem(ticks, hz);
        if (seconds > long.MaxValue / Second / 2)
            return long.MaxValue / 2;
        return (seconds * Second) + (((rest * Second) + hz - 1) / hz);
    }

    /// <summary>
    /// The first point of <c>first + k * period</c> after <paramref name="now"/>. Points that were missed merge, as
    /// interrupt requests do.
    /// </summary>
    public static long NextPoint(long first, long period, long now) =>
        now < first ? first : first + ((((now - first) / period) + 1) * period);
}
