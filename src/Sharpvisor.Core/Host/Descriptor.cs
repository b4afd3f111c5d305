// read(2), write(2) and poll(2) on a file descriptor that .NET did not open: standard input and output (whose .NET
// wrappers change the terminal's mode), and the master end of a pseudo terminal.
using System.Runtime.InteropServices;

namespace Sharpvisor.Core.Host;

/// <summary>A file descriptor whose reads another thread can end.</summary>
public sealed partial class Descriptor : IDisposable
{
    private const short PollIn = 1, PollOut = 4, PollErr = 8, PollHangUp = 16;
    private const int Interrupted = 4, WouldBlock = 11; // EINTR, EAGAIN

    private const int WriteAtOnce = 4096; // PIPE_BUF

    private readonly int _descriptor;
    private readonly bool _owned;
    private readonly int _stopEvent;

    private Descriptor(int descriptor, bool owned)
    {
        _descriptor = descriptor;
        _owned = owned;
        _stopEvent = EventFd(0, 0x80800); // EFD_CLOEXEC | EFD_NONBLOCK
    }

    public static Descriptor StandardInput() => new(0, owned: false);

    public static Descriptor StandardOutput() => new(1, owned: false);

    /// <summary>Opens a new pseudo terminal in raw mode.</summary>
    /// <param name="path">Of its other end: /dev/pts/N.</param>
    /// <exception cref="IOException">The host has none left.</exception>
    public static Descriptor OpenPseudoTerminal(out string path)
    {
        const int readWrite = 2, noControllingTerminal = 0x100, nonBlocking = 0x800, closeOnExec = 0x80000;
        var master = OpenPt(readWrite | noControllingTerminal | nonBlocking | closeOnExec);
        var name = new byte[128];
        if (master < 0 || GrantPt(master) != 0 || UnlockPt(master) != 0 || PtsName(master, name, name.Length) != 0)
            throw new IOException($"no pseudo terminal: {Marshal.GetLastPInvokeErrorMessage()}");
        path = System.Text.Encoding.ASCII.GetString(name, 0, Array.IndexOf(name, (byte)0));
        var termios = new byte[128];
        if (TcGetAttr(master, termios) == 0)
        {
            MakeRaw(termios);
            _ = TcSetAttr(master, 0, termios);
        }

        return new Descriptor(master, owned: true);
    }

    /// <summary>Waits for bytes. 0: the end, or <see cref="Stop"/> was called; -1: an error or a closed other end.</summary>
    public int Read(Span<byte> destination)
    {
        while (true)
        {
            if (!Wait(PollIn, out var events))
                return 0;
            if ((events & PollIn) == 0)
                return (events & PollHangUp) != 0 && !_owned ? 0 : -1;
            var count = ReadFd(_descriptor, destination, destination.Length);
            if (count >= 0)
                return (int)count;
            if (Marshal.GetLastPInvokeError() is not (Interrupted or WouldBlock))
                return -1;
        }
    }

    /// <summary>Writes some bytes, waiting for room; -1 on an error or after <see cref="Stop"/>.</summary>
    public int Write(ReadOnlySpan<byte> source)
    {
        while (true)
        {
            // Poll first: standard output blocks, and a write of this size doesn't once poll has said that there is room.
            if (!Wait(PollOut, out _))
                return -1;
            var count = WriteFd(_descriptor, source, Math.Min(source.Length, WriteAtOnce));
            if (count >= 0)
                return (int)count;
            if (Marshal.GetLastPInvokeError() is not (Interrupted or WouldBlock))
                return -1;
        }
    }

    /// <summary>Whether someone has the other end of a pseudo terminal open.</summary>
    public bool IsConnected()
    {
        Span<PollFd> polls = [new PollFd { Fd = _descriptor, Events = PollOut }];
        _ = Poll(polls, 1, 0);
        return (polls[0].ReturnedEvents & PollHangUp) == 0;
    }

    /// <summary>Ends the waits of <see cref="Read"/> and <see cref="Write"/>, now and later. Any thread.</summary>
    public void Stop() => _ = WriteFd(_stopEvent, [1, 0, 0, 0, 0, 0, 0, 0], 8);

    /// <summary>Sleeps; ended early by <see cref="Stop"/>.</summary>
    public void Pause(int milliseconds)
    {
        Span<PollFd> polls = [new PollFd { Fd = _stopEvent, Events = PollIn }];
        _ = Poll(polls, 1, milliseconds);
    }

    public void Dispose()
    {
        _ = Close(_stopEvent);
        if (_owned)
            _ = Close(_descriptor);
    }

    private bool Wait(short wanted, out short events)
    {
        Span<PollFd> polls = [new PollFd { Fd = _descriptor, Events = wanted }, new PollFd { Fd = _stopEvent, Events = PollIn }];
        while (Poll(polls, 2, -1) < 0)
        {
            if (Marshal.GetLastPInvokeError() != Interrupted)
            {
                events = PollErr;
                return true;
            }
        }

        events = polls[0].ReturnedEvents;
        return polls[1].ReturnedEvents == 0;
    }

    [LibraryImport("libc", EntryPoint = "eventfd")]
    private static partial int EventFd(uint initial, int flags);

    [LibraryImport("libc", EntryPoint = "read", SetLastError = true)]
    private static partial nint ReadFd(int fd, Span<byte> buffer, nint count);

    [LibraryImport("libc", EntryPoint = "write", SetLastError = true)]
    private static partial nint WriteFd(int fd, ReadOnlySpan<byte> buffer, nint count);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int fd);

    [LibraryImport("libc", EntryPoint = "poll", SetLastError = true)]
    private static partial int Poll(Span<PollFd> fds, nuint count, int timeoutMs);

    [LibraryImport("libc", EntryPoint = "posix_openpt", SetLastError = true)]
    private static partial int OpenPt(int flags);

    [LibraryImport("libc", EntryPoint = "grantpt", SetLastError = true)]
    private static partial int GrantPt(int fd);

    [LibraryImport("libc", EntryPoint = "unlockpt", SetLastError = true)]
    private static partial int UnlockPt(int fd);

    [LibraryImport("libc", EntryPoint = "ptsname_r", SetLastError = true)]
    private static partial int PtsName(int fd, [Out] byte[] name, nint length);

    [LibraryImport("libc", EntryPoint = "tcgetattr")]
    private static partial int TcGetAttr(int fd, [In, Out] byte[] termios);

    [LibraryImport("libc", EntryPoint = "tcsetattr")]
    private static partial int TcSetAttr(int fd, int when, byte[] termios);

    [LibraryImport("libc", EntryPoint = "cfmakeraw")]
    private static partial void MakeRaw([In, Out] byte[] termios);

    [StructLayout(LayoutKind.Sequential)]
    private struct PollFd
    {
        public int Fd;
        public short Events;
        public short ReturnedEvents;
    }
}
