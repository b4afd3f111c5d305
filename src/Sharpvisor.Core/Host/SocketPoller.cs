using System.Diagnostics;
using System.Net.Sockets;
using Microsoft.Win32.SafeHandles;

namespace Sharpvisor.Core.Host;

/// <summary>What a socket is ready for.</summary>
[Flags]
public enum SocketEvents
{
    None = 0,
    Readable = 1,
    Writable = 2,

    /// <summary>An error or the end of both directions; reading and writing tell which.</summary>
    Failed = 4,
}

/// <summary>What belongs to a socket of a <see cref="SocketPoller"/>.</summary>
public interface ISocketHandler
{
    /// <summary>Called by the thread that waits.</summary>
    void OnSocketEvent(SocketEvents events);
}

/// <summary>
/// One thread waits here for many sockets and for other threads. Linux: epoll(7) and an eventfd; elsewhere select.
/// </summary>
/// <remarks>
/// An event comes once, when the socket changes: whoever has got it uses the socket until that would block, and then
/// calls <see cref="Await"/>. More events than that may come.
/// </remarks>
public abstract class SocketPoller : IDisposable
{
    private const int Quiet = 0, Woken = 1, Asleep = 2;

    private int _state;
    private bool _disposed;
    private PollBeforeSleep _look;

    /// <summary>The best that this host has.</summary>
    public static SocketPoller Create() => OperatingSystem.IsLinux() ? new EpollPoller() : CreateSelect();

    /// <summary>What every host has.</summary>
    public static SocketPoller CreateSelect() => new SelectPoller();

    /// <summary>Watches a socket for everything.</summary>
    /// <returns>The registration's number.</returns>
    public abstract int Add(Socket socket, ISocketHandler handler);

    /// <summary>The same for another file that can be waited for, such as a tap. Linux only.</summary>
    public virtual int Add(SafeFileHandle file, ISocketHandler handler) => throw new PlatformNotSupportedException();

    /// <summary>Before the socket is closed. No event comes afterwards.</summary>
    public abstract void Remove(int registration);

    /// <summary>The socket would have blocked: wants to be told when it no longer does.</summary>
    public abstract void Await(int registration, SocketEvents events);

    /// <summary>Calls the handlers of what is ready; if nothing is, waits for it, for <see cref="Wake"/> or for the time.</summary>
    /// <param name="milliseconds">0: does not wait; -1: for ever.</param>
    public void Wait(int milliseconds)
    {
        if (milliseconds == 0)
        {
            Poll(0);
        }
        else if (!Look(out var since))
        {
            Poll(Interlocked.CompareExchange(ref _state, Asleep, Quiet) == Quiet ? milliseconds : 0);
            _look.OnSlept(since);
        }

        Interlocked.Exchange(ref _state, Quiet);
    }

    /// <summary>Ends the current or, if there is none, the next wait. Any thread.</summary>
    public void Wake()
    {
        if (Interlocked.Exchange(ref _state, Woken) == Asleep && !Volatile.Read(ref _disposed))
            Signal();
    }

    /// <summary>No thread may be waiting any more. A later <see cref="Wake"/> does nothing.</summary>
    public void Dispose()
    {
        Volatile.Write(ref _disposed, true);
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    protected abstract void Dispose(bool disposing);

    /// <summary>Waits and calls the handlers.</summary>
    /// <returns>How many sockets were ready.</returns>
    protected abstract int Poll(int milliseconds);

    /// <summary>Ends a <see cref="Poll"/>.</summary>
    protected abstract void Signal();

    /// <summary>Looks for work before it sleeps: true, there was some.</summary>
    private bool Look(out long since)
    {
        since = Stopwatch.GetTimestamp();
        while (Volatile.Read(ref _state) == Quiet)
        {
            if (!_look.IsWorthIt(since))
                return false;
            if (Poll(0) > 0)
                return true;
            Thread.SpinWait(8);
        }

        Poll(0);
        return true;
    }
}
