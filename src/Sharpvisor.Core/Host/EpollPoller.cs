// Follows: the Linux manual pages epoll(7), epoll_ctl(2), epoll_wait(2), eventfd(2).
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Sharpvisor.Core.Host;

/// <summary>Edge-triggered epoll: a socket is registered once, for everything.</summary>
internal sealed partial class EpollPoller : SocketPoller
{
    private const int AddOperation = 1, DeleteOperation = 2;
    private const uint In = 1, Out = 4, Error = 8, HangUp = 0x10, ReadHangUp = 0x2000, EdgeTriggered = 0x8000_0000;
    private const int CloseOnExec = 0x80000, NonBlocking = 0x800;
    private const int EventsAtOnce = 128;
    private const ulong WakeUp = ulong.MaxValue;

    // struct epoll_event is packed on x86 only.
    private static readonly int _eventSize = RuntimeInformation.ProcessArchitecture is Architecture.X64 or Architecture.X86 ? 12 : 16;
    private static readonly int _dataOffset = _eventSize - 8;

    private readonly int _epoll, _eventFd;
    private readonly byte[] _events = new byte[EventsAtOnce * 16];
    private readonly Stack<int> _free = new();
    private Registration[] _registrations = new Registration[16];
    private int _count;

    public EpollPoller()
    {
        _epoll = EpollCreate(CloseOnExec);
        _eventFd = EventFd(0, CloseOnExec | NonBlocking);
        if (_epoll < 0 || _eventFd < 0 || !Control(AddOperation, _eventFd, In, WakeUp))
            throw new IOException($"epoll: {Marshal.GetLastPInvokeErrorMessage()}");
    }

    public override int Add(Socket socket, ISocketHandler handler) => Add(socket.SafeHandle, handler);

    public override int Add(SafeFileHandle file, ISocketHandler handler) => Add((SafeHandle)file, handler);

    public override void Remove(int registration)
    {
        ref var removed = ref _registrations[registration];
        Control(DeleteOperation, removed.Descriptor, 0, 0);
        removed.Handler = null;
        removed.Generation++; // an event of it may be under way
        _free.Push(registration);
    }

    public override void Await(int registration, SocketEvents events)
    {
        // The edge comes by itself.
    }

    protected override int Poll(int milliseconds)
    {
        var count = EpollWait(_epoll, _events, EventsAtOnce, milliseconds);
        for (var i = 0; i < count; i++)
        {
            var bits = MemoryMarshal.Read<uint>(_events.AsSpan(i * _eventSize));
            var data = MemoryMarshal.Read<ulong>(_events.AsSpan(i * _eventSize + _dataOffset));
            if (data == WakeUp)
            {
                _ = Read(_eventFd, out _, 8);
                continue;
            }

            ref var registration = ref _registrations[(uint)data];
            if (registration.Handler is not { } handler || registration.Generation != (uint)(data >> 32))
                continue;
            var events = SocketEvents.None;
            if ((bits & (In | ReadHangUp)) != 0)
                events |= SocketEvents.Readable;
            if ((bits & Out) != 0)
                events |= SocketEvents.Writable;
            if ((bits & (Error | HangUp)) != 0)
                events |= SocketEvents.Failed;
            handler.OnSocketEvent(events);
        }

        return Math.Max(0, count); // EINTR is nothing to do, too
    }

    protected override void Signal()
    {
        ulong one = 1;
        _ = Write(_eventFd, in one, 8);
    }

    protected override void Dispose(bool disposing)
    {
        _ = Close(_epoll);
        _ = Close(_eventFd);
    }

    private int Add(SafeHandle descriptor, ISocketHandler handler)
    {
        if (!_free.TryPop(out var number))
        {
            number = _count++;
            if (number == _registrations.Length)
                Array.Resize(ref _registrations, 2 * number);
        }

        ref var registration = ref _registrations[number];
        registration.Handler = handler;
        registration.Descriptor = (int)descriptor.DangerousGetHandle();
        if (!Control(AddOperation, registration.Descriptor, In | Out | ReadHangUp | EdgeTriggered, (ulong)registration.Generation << 32 | (uint)number))
            throw new IOException($"epoll_ctl: {Marshal.GetLastPInvokeErrorMessage()}");
        return number;
    }

    private bool Control(int operation, int descriptor, uint events, ulong data)
    {
        Span<byte> what = stackalloc byte[16];
        MemoryMarshal.Write(what, events);
        MemoryMarshal.Write(what[_dataOffset..], data);
        return EpollControl(_epoll, operation, descriptor, what) == 0;
    }

    [LibraryImport("libc", EntryPoint = "epoll_create1", SetLastError = true)]
    private static partial int EpollCreate(int flags);

    [LibraryImport("libc", EntryPoint = "epoll_ctl", SetLastError = true)]
    private static partial int EpollControl(int epoll, int operation, int descriptor, Span<byte> what);

    [LibraryImport("libc", EntryPoint = "epoll_wait")]
    private static partial int EpollWait(int epoll, [Out] byte[] events, int count, int milliseconds);

    [LibraryImport("libc", EntryPoint = "eventfd", SetLastError = true)]
    private static partial int EventFd(uint initial, int flags);

    [LibraryImport("libc", EntryPoint = "write")]
    private static partial nint Write(int fd, in ulong value, nint count);

    [LibraryImport("libc", EntryPoint = "read")]
    private static partial nint Read(int fd, out ulong value, nint count);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int fd);

    private struct Registration
    {
        public int Descriptor;
        public ISocketHandler? Handler;
        public uint Generation;
    }
}
