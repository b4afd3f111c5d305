// The event BALLOON_CHANGE (qapi/machine.json of QEMU).
namespace Sharpvisor.Servers.Control;

/// <summary>Tells how large a guest's memory has become, at most once a second (QEMU's limit of BALLOON_CHANGE), with the last size.</summary>
internal sealed class BalloonNews
{
    /// <summary>A driver may write the size byte by byte.</summary>
    private const int SettleMilliseconds = 10;

    private readonly GuestBalloon _balloon;
    private readonly Action<ulong> _tell;
    private readonly TimeSpan _interval;
    private long _lastTold;
    private int _isDue;

    /// <param name="tell">Given the bytes that the guest has, on a thread of the pool.</param>
    public BalloonNews(GuestBalloon balloon, Action<ulong> tell, TimeSpan interval)
    {
        (_balloon, _tell, _interval) = (balloon, tell, interval);
        _lastTold = Environment.TickCount64 - (long)interval.TotalMilliseconds;
        balloon.Changed += OnChanged;
    }

    private void OnChanged()
    {
        if (Interlocked.Exchange(ref _isDue, 1) == 0)
            _ = TellAsync();
    }

    private async Task TellAsync()
    {
        var rest = Volatile.Read(ref _lastTold) + (long)_interval.TotalMilliseconds - Environment.TickCount64;
        await Task.Delay((int)Math.Max(SettleMilliseconds, rest)).ConfigureAwait(false);
        Volatile.Write(ref _lastTold, Environment.TickCount64);
        Volatile.Write(ref _isDue, 0);
        _tell(_balloon.Actual);
    }
}
