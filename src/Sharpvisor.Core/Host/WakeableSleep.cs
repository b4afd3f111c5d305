using System.Runtime.InteropServices;

namespace Sharpvisor.Core.Host;

/// <summary>
/// A sleep of nanosecond resolution that another thread can end. On Linux an eventfd and ppoll(2): .NET's own waits
/// round to milliseconds, which is longer than a guest's timer tick may be late. Elsewhere a semaphore.
/// </summary>
public sealed partial class WakeableSleep : IDisposable
{
    private const int Quiet = 0, Woken = 1, Asleep = 2;

    private readonly int _eventFd = -1;
    private readonly SemaphoreSlim? _semaphore;
    private readonly bool _polls;
    private PollBeforeSleep _poll;
    private int _state;
    private bool _disposed;

    /// <param name="polls">The sleeper is often woken at once: <see cref="PollBeforeSleep"/>.</param>
    public WakeableSleep(bool polls = false)
    {
        _polls = polls;
        if (OperatingSystem.IsLinux())
            _eventFd = EventFd(0, 0x80800); // EFD_CLOEXEC | EFD_NONBLOCK
        if (_eventFd < 0)
            _semaphore = new SemaphoreSlim(0);
    }

    /// <summary>Ends the current or, if there is none, the next <see cref="Sleep"/>.</summary>
    public void Wake()
    {
        if (Interlocked.Exchange(ref _state, Woken) != Asleep || Volatile.Read(ref _disposed))
            return;
        if (_semaphore is not null)
        {
            _semaphore.Release();
            return;
        }

        ulong one = 1;
        _ = Write(_eventFd, in one, 8);
    }

    /// <summary>Sleeps for <paramref name="ns"/> nanoseconds (<see cref="long.MaxValue"/>: for ever) or until woken.</summary>
    /// <remarks>One thread sleeps. It may also be woken by what was meant for the sleep before.</remarks>
    public void Sleep(long ns)
    {
        var since = 0L;
        if (_polls ? !_poll.IsSet(ref _state, out since) : Volatile.Read(ref _state) == Quiet)
        {
            if (Interlocked.CompareExchange(ref _state, Asleep, Quiet) == Quiet)
                Wait(ns);
            if (_polls)
                _poll.OnSlept(since);
        }

        Interlocked.Exchange(ref _state, Quiet);
    }

    /// <summary>No thread may be sleeping any more. A later <see cref="Wake"/> does nothing.</summary>
    public void Dispose()
    {
        Volatile.Write(ref _disposed, true); // or a late wake would write to whatever file got the descriptor next
        _semaphore?.Dispose();
        if (_eventFd >= 0)
            _ = Close(_eventFd);
    }

    private void Wait(long ns)
    {
        if (_semaphore is not null)
        {
            _semaphore.Wait(ns == long.MaxValue ? Timeout.Infinite : (int)Math.Min(int.MaxValue, Math.Max(0, ns) / 1_000_000 + 1));
            return;
        }

        var poll = new PollFd { Fd = _eventFd, Events = 1 };
        if (ns == long.MaxValue)
        {
            _ = Poll(ref poll, 1, -1);
        }
        else
        {
            var time = new TimeSpec { Seconds = ns / 1_000_000_000, Nanoseconds = ns % 1_000_000_000 };
            _ = PPoll(ref poll, 1, in time, 0);
        }

        if ((poll.ReturnedEvents & 1) != 0)
            _ = Read(_eventFd, out _, 8);
    }

    [LibraryImport("libc", EntryPoint = "eventfd")]
    private static partial int EventFd(uint initial, int flags);

    [LibraryImport("libc", EntryPoint = "write")]
    private static partial nint Write(int fd, in ulong value, nint count);

    [LibraryImport("libc", EntryPoint = "read")]
    private static partial nint Read(int fd, out ulong value, nint count);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int fd);

    [LibraryImport("libc", EntryPoint = "poll")]
    private static partial int Poll(ref PollFd fds, nuint count, int timeoutMs);

    [LibraryImport("libc", EntryPoint = "ppoll")]
    private static partial int PPoll(ref PollFd fds, nuint count, in TimeSpec timeout, nint signalMask);

    [StructLayout(LayoutKind.Sequential)]
    private struct PollFd
    {
        public int Fd;
        public short Events;
        public short ReturnedEvents;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct TimeSpec
    {
        public long Seconds;
        public long Nanoseconds;
    }
}
