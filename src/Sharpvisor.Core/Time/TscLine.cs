using System.Diagnostics;
using System.Runtime.InteropServices;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Core.Time;

/// <summary>
/// The machine's time as a straight line over the host's TSC, good for some milliseconds, as generated code reads it:
/// load <see cref="Version"/>, read the TSC, load the others, and take the result only if the TSC is less than
/// <see cref="Span"/> behind <see cref="Tsc"/> and the version, loaded after the TSC has been read, is still the same.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
public struct TscLineData
{
    /// <summary>Grows before and after each change.</summary>
    public ulong Version;

    /// <summary>The host's TSC where the line begins.</summary>
    public ulong Tsc;

    /// <summary>For how many ticks it is good; zero: not now.</summary>
    public ulong Span;

    /// <summary>Nanoseconds for a tick, times 2^32.</summary>
    public ulong Slope;

    /// <summary>Nanoseconds of the machine's time where the line begins.</summary>
    public long Ns;
}

/// <summary>
/// Keeps a <see cref="TscLineData"/> up to date against <see cref="Stopwatch"/>, which costs twice as much and can't be
/// read by generated code. Each new line begins no lower than anybody can have read the old one, so time never goes back.
/// </summary>
internal sealed unsafe class TscLine
{
    private const long SpanNs = 10_000_000;

    /// <summary>A rate is measured over this long, and for the first time over a hundredth of it: 4 parts in a million.</summary>
    private const long WindowNs = 2_000_000_000;
    private const ulong Size = 4096;

    private readonly TscLineData* _data = (TscLineData*)HostMemory.ReserveLow(Size);
    private ulong _windowTsc;
    private long _windowStamp;
    private double _nsPerTick;

    /// <summary>What the data were last set to.</summary>
    private ulong _tsc, _span, _slope;
    private long _ns;

    public TscLine() => (_windowTsc, _windowStamp) = Sample();

    // Whoever has the address refers to the clock as well.
    ~TscLine() => HostMemory.Release(_data, Size);

    public TscLineData* Data => _data;

    /// <summary>By any thread. False: someone has to call <see cref="Follow"/>.</summary>
    public bool TryRead(out long ns)
    {
        var version = Volatile.Read(ref _data->Version);
        var ticks = HostTsc.Read() - Volatile.Read(ref _data->Tsc);
        var span = Volatile.Read(ref _data->Span);
        var slope = Volatile.Read(ref _data->Slope);
        ns = Volatile.Read(ref _data->Ns) + (long)((ticks * slope) >> 32);
        return ticks < span && Volatile.Read(ref _data->Version) == version;
    }

    /// <summary>Begins a new line. One thread at a time.</summary>
    /// <param name="origin">What <see cref="Stopwatch"/> showed at time zero.</param>
    /// <returns>The time now.</returns>
    public long Follow(long origin)
    {
        Stop();
        var (tsc, stamp) = Sample();
        var elapsed = stamp - _windowStamp;
        if (elapsed >= (_nsPerTick == 0 ? WindowNs / 100 : WindowNs))
        {
            var rate = elapsed / (double)(long)(tsc - _windowTsc);
            if (rate > 0 && (_nsPerTick == 0 || Math.Abs((rate / _nsPerTick) - 1) < 0.01)) // else the host slept, or moved
                _nsPerTick = rate;
            _windowTsc = tsc;
            _windowStamp = stamp;
        }

        var now = stamp - origin;
        _ns = Math.Max(now, _ns);
        _tsc = tsc;
        if (_nsPerTick != 0) // else no rate is known yet
        {
            // A line that was too high is followed by one that is not as steep.
            _span = (ulong)(SpanNs / _nsPerTick);
            _slope = (ulong)(_nsPerTick * Math.Max(0.5, 1 - ((_ns - now) / (double)SpanNs)) * (1UL << 32));
        }

        Volatile.Write(ref _data->Tsc, _tsc);
        Volatile.Write(ref _data->Slope, _slope);
        Volatile.Write(ref _data->Ns, _ns);
        Volatile.Write(ref _data->Version, _data->Version + 1);
        Volatile.Write(ref _data->Span, _span);
        return _ns;
    }

    /// <summary>Nobody can read it until <see cref="Follow"/>. One thread at a time.</summary>
    /// <returns>A time that is not before any that was read.</returns>
    public long Stop()
    {
        Volatile.Write(ref _data->Span, 0);
        Volatile.Write(ref _data->Version, _data->Version + 1);
        Interlocked.MemoryBarrier(); // whoever still succeeds has read the TSC before this
        _ns += (long)((Math.Min(HostTsc.Read() - _tsc, _span) * _slope) >> 32);
        _span = _slope = 0;
        return _ns;
    }

    /// <summary>The TSC and <see cref="Stopwatch"/>'s nanoseconds at one time, to about ten.</summary>
    private static (ulong Tsc, long Stamp) Sample()
    {
        (ulong, long) best = default;
        var least = ulong.MaxValue;
        for (var i = 0; i < 3; i++)
        {
            var before = HostTsc.Read();
            var stamp = Stopwatch.GetTimestamp();
            var took = HostTsc.Read() - before;
            if (took >= least)
                continue;
            least = took;
            best = (before + (took / 2), stamp);
        }

        return best;
    }
}
