using System.Diagnostics;
using System.Runtime.CompilerServices;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Core.Time;

/// <summary>Real time of the host, read by way of its TSC where that can be, with one thread that runs expired timers to the microsecond.</summary>
public sealed class HostClock : Clock
{
    private static readonly double NsPerTick = 1e9 / Stopwatch.Frequency;

    private readonly MachineGate _gate;
    private readonly Action<Exception>? _onError;
    private readonly TimerQueue _queue;
    private readonly WakeableSleep _sleep = new();
    private readonly Thread _thread;
    private readonly TscLine? _line = HostTsc.IsClock && Stopwatch.Frequency == 1_000_000_000 ? new TscLine() : null;
    private readonly Lock _following = new();
    private long _origin = Stopwatch.GetTimestamp();
    private long _pausedAtNs = -1;
    private volatile bool _stopping;

    /// <param name="onError">Told of an exception that a timer threw; without it, it ends the process. The clock goes on.</param>
    public HostClock(MachineGate gate, Action<Exception>? onError = null)
    {
        _gate = gate;
        _onError = onError;
        _queue = new TimerQueue(_sleep.Wake);
        UnixEpochNs = (DateTimeOffset.UtcNow - DateTimeOffset.UnixEpoch).Ticks * 100;
        _thread = new Thread(Loop) { IsBackground = true, Name = "clock" };
        _thread.Start();
    }

    public override long UnixEpochNs { get; }

    public override long NowNs
    {
        get
        {
            if (_line is not null)
                return _line.TryRead(out var ns) ? ns : Follow();
            var paused = Volatile.Read(ref _pausedAtNs);
            return paused >= 0 ? paused : Elapsed(Stopwatch.GetTimestamp() - Volatile.Read(ref _origin));
        }
    }

    public override unsafe TscLineData* TscLine => _line is null ? null : _line.Data;

    public override ClockTimer CreateTimer(string name, Action expired) => _queue.Create(name, expired);

    /// <summary>Stops guest time until <see cref="Resume"/>.</summary>
    public void Pause()
    {
        using (_gate.Enter())
        using (_following.EnterScope())
        {
            if (_pausedAtNs < 0)
                Volatile.Write(ref _pausedAtNs, Math.Max(_line?.Stop() ?? 0, Elapsed(Stopwatch.GetTimestamp() - _origin)));
        }
    }

    public void Resume()
    {
        using (_gate.Enter())
        using (_following.EnterScope())
        {
            if (_pausedAtNs < 0)
                return;
            Volatile.Write(ref _origin, Stopwatch.GetTimestamp() - (long)(_pausedAtNs / NsPerTick));
            Volatile.Write(ref _pausedAtNs, -1);
        }

        _sleep.Wake();
    }

    protected override void Dispose(bool disposing)
    {
        _stopping = true;
        _sleep.Wake();
        if (Thread.CurrentThread != _thread)
            _thread.Join();
        _sleep.Dispose();
        base.Dispose(disposing);
    }

    /// <summary>The line is at its end, or time stands still.</summary>
    private long Follow()
    {
        lock (_following)
        {
            if (_pausedAtNs >= 0)
                return _pausedAtNs;
            return _line!.TryRead(out var ns) ? ns : _line.Follow(_origin);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static long Elapsed(long ticks) => Stopwatch.Frequency == 1_000_000_000 ? ticks : (long)(ticks * NsPerTick);

    private void Loop()
    {
        while (!_stopping)
        {
            long wait;
            using (_gate.Enter())
            {
                if (_pausedAtNs >= 0)
                {
                    wait = long.MaxValue;
                }
                else
                {
                    RunExpired();
                    var next = _queue.NextDeadlineNs;
                    wait = next == long.MaxValue ? long.MaxValue : Math.Max(0, next - NowNs);
                }
            }

            if (wait > 0)
                _sleep.Sleep(wait);
        }
    }

    private void RunExpired()
    {
        try
        {
            _queue.RunExpired(NowNs);
        }
        catch (Exception e) when (_onError is not null)
        {
            _onError(e);
        }
    }
}
