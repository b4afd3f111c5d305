// connect(2), sendto(2), recvfrom(2) and the error queue (ip(7), IP_RECVERR) on .NET's sockets: .NET's own calls throw
// where a socket that does not block would, and allocate an address each time.
using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace Sharpvisor.Core.Host;

/// <summary>An IPv4 address and a port, in the processor's order of bytes.</summary>
public readonly record struct IPv4EndPoint(uint Address, ushort Port)
{
    public static implicit operator IPEndPoint(IPv4EndPoint endPoint) => new(ToIPAddress(endPoint.Address), endPoint.Port);

    public static IPv4EndPoint From(IPEndPoint endPoint) => new(ToUInt32(endPoint.Address), (ushort)endPoint.Port);

    public static IPAddress ToIPAddress(uint address) => new([(byte)(address >> 24), (byte)(address >> 16), (byte)(address >> 8), (byte)address]);

    /// <summary>Of an IPv4 address, also one that is mapped into IPv6.</summary>
    public static uint ToUInt32(IPAddress address)
    {
        Span<byte> bytes = stackalloc byte[4];
        return address.MapToIPv4().TryWriteBytes(bytes, out _) ? BinaryPrimitives.ReadUInt32BigEndian(bytes) : 0;
    }

    public override string ToString() => ((IPEndPoint)this).ToString();
}

/// <summary>Calls on sockets that do not block, without exceptions or allocations.</summary>
public static partial class IPv4Socket
{
    private const int AddressSize = 16; // struct sockaddr_in
    private const int ErrorQueue = 0x2000, NoSignal = 0x4000; // MSG_
    private const int ReceiveErrors = 11; // IP_RECVERR

    /// <summary>Begins to connect.</summary>
    /// <returns>WouldBlock: it goes on; the socket becomes writable or fails.</returns>
    public static SocketError Connect(Socket socket, IPv4EndPoint to)
    {
        if (!OperatingSystem.IsLinux())
            return Catch(() => socket.Connect(to), out _);
        Span<byte> address = stackalloc byte[AddressSize];
        Write(address, to);
        return ConnectFd(socket.SafeHandle, address, AddressSize) == 0 ? SocketError.Success : LastError();
    }

    /// <summary>How a connect ended.</summary>
    public static SocketError ConnectResult(Socket socket) => (SocketError)(int)socket.GetSocketOption(SocketOptionLevel.Socket, SocketOptionName.Error)!;

    /// <returns>Bytes; -1: see <paramref name="error"/>.</returns>
    public static int SendTo(Socket socket, ReadOnlySpan<byte> data, IPv4EndPoint to, out SocketError error)
    {
        if (!OperatingSystem.IsLinux())
        {
            var copy = data.ToArray();
            error = Catch(() => socket.SendTo(copy, to), out var sent);
            return sent;
        }

        Span<byte> address = stackalloc byte[AddressSize];
        Write(address, to);
        var count = SendToFd(socket.SafeHandle, data, data.Length, NoSignal, address, AddressSize);
        error = count >= 0 ? SocketError.Success : LastError();
        return (int)count;
    }

    /// <returns>Bytes, which may be none; -1: see <paramref name="error"/>.</returns>
    public static int ReceiveFrom(Socket socket, Span<byte> buffer, out IPv4EndPoint from, out SocketError error)
    {
        from = default;
        if (!OperatingSystem.IsLinux())
        {
            EndPoint sender = new IPEndPoint(IPAddress.Any, 0);
            var copy = new byte[buffer.Length];
            error = Catch(() => socket.ReceiveFrom(copy, ref sender), out var received);
            if (received < 0)
                return -1;
            copy.AsSpan(0, received).CopyTo(buffer);
            from = IPv4EndPoint.From((IPEndPoint)sender);
            return received;
        }

        Span<byte> address = stackalloc byte[AddressSize];
        var length = AddressSize;
        var count = ReceiveFromFd(socket.SafeHandle, buffer, buffer.Length, 0, address, ref length);
        error = count >= 0 ? SocketError.Success : LastError();
        from = Read(address);
        return (int)count;
    }

    /// <summary>Has the host keep what ICMP says about datagrams of this socket. Where it can't, nobody is told.</summary>
    public static void KeepErrors(Socket socket)
    {
        if (OperatingSystem.IsLinux())
            socket.SetRawSocketOption((int)SocketOptionLevel.IP, ReceiveErrors, [1, 0, 0, 0]);
    }

    /// <summary>The next such error.</summary>
    /// <param name="to">Where the datagram was sent to.</param>
    /// <returns>False: there is none.</returns>
    public static unsafe bool TryReadError(Socket socket, out IPv4EndPoint to, out SocketError error)
    {
        to = default;
        error = SocketError.Success;
        if (!OperatingSystem.IsLinux())
            return false;
        Span<byte> address = stackalloc byte[AddressSize];
        var control = stackalloc byte[256];
        var data = stackalloc byte[64];
        nint count;
        fixed (byte* name = address)
        {
            var vector = new Vector { Start = data, Length = 64 };
            var message = new Message { Name = name, NameLength = AddressSize, Vectors = &vector, VectorCount = 1, Control = control, ControlLength = 256 };
            count = ReceiveMessage(socket.SafeHandle, ref message, ErrorQueue);
            if (count < 0)
                return false;
            to = Read(address);
            // struct cmsghdr, then struct sock_extended_err, which begins with the error's number.
            var header = sizeof(nuint) + 8;
            error = message.ControlLength >= (nuint)(header + 4) ? ToSocketError(*(int*)(control + header)) : SocketError.SocketError;
            return true;
        }
    }

    private static SocketError Catch(Func<int> call, out int result)
    {
        result = -1;
        try
        {
            result = call();
            return SocketError.Success;
        }
        catch (SocketException e)
        {
            return e.SocketErrorCode is SocketError.InProgress or SocketError.AlreadyInProgress ? SocketError.WouldBlock : e.SocketErrorCode;
        }
    }

    private static SocketError Catch(Action call, out int result) => Catch(
        () =>
        {
            call();
            return 0;
        },
        out result);

    private static void Write(Span<byte> address, IPv4EndPoint endPoint)
    {
        const ushort family = 2; // AF_INET
        address.Clear();
        MemoryMarshal.Write(address, family);
        BinaryPrimitives.WriteUInt16BigEndian(address[2..], endPoint.Port);
        BinaryPrimitives.WriteUInt32BigEndian(address[4..], endPoint.Address);
    }

    private static IPv4EndPoint Read(ReadOnlySpan<byte> address) => new(BinaryPrimitives.ReadUInt32BigEndian(address[4..]), BinaryPrimitives.ReadUInt16BigEndian(address[2..]));

    private static SocketError LastError() => ToSocketError(Marshal.GetLastPInvokeError());

    private static SocketError ToSocketError(int number) => number switch
    {
        4 or 11 or 114 or 115 => SocketError.WouldBlock, // EINTR, EAGAIN, EALREADY, EINPROGRESS
        1 or 13 => SocketError.AccessDenied,
        23 or 24 => SocketError.TooManyOpenSockets,
        90 => SocketError.MessageSize,
        98 => SocketError.AddressAlreadyInUse,
        99 => SocketError.AddressNotAvailable,
        100 => SocketError.NetworkDown,
        101 => SocketError.NetworkUnreachable,
        104 => SocketError.ConnectionReset,
        105 or 12 => SocketError.NoBufferSpaceAvailable,
        110 => SocketError.TimedOut,
        111 => SocketError.ConnectionRefused,
        112 => SocketError.HostDown,
        113 => SocketError.HostUnreachable,
        _ => SocketError.SocketError,
    };

    [LibraryImport("libc", EntryPoint = "connect", SetLastError = true)]
    private static partial int ConnectFd(SafeHandle fd, ReadOnlySpan<byte> address, int length);

    [LibraryImport("libc", EntryPoint = "sendto", SetLastError = true)]
    private static partial nint SendToFd(SafeHandle fd, ReadOnlySpan<byte> data, nint count, int flags, ReadOnlySpan<byte> address, int length);

    [LibraryImport("libc", EntryPoint = "recvfrom", SetLastError = true)]
    private static partial nint ReceiveFromFd(SafeHandle fd, Span<byte> data, nint count, int flags, Span<byte> address, ref int length);

    [LibraryImport("libc", EntryPoint = "recvmsg", SetLastError = true)]
    private static partial nint ReceiveMessage(SafeHandle fd, ref Message message, int flags);

    /// <summary>struct iovec.</summary>
    private unsafe struct Vector
    {
        public void* Start;
        public nuint Length;
    }

    /// <summary>struct msghdr.</summary>
    private unsafe struct Message
    {
        public void* Name;
        public uint NameLength;
        public Vector* Vectors;
        public nuint VectorCount;
        public void* Control;
        public nuint ControlLength;
        public int Flags;
    }
}
