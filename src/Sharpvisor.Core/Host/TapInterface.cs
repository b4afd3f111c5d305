// A network interface of the host whose other side is this process: Linux's tun driver in its tap mode.
// Follows: Documentation/networking/tuntap.rst and include/uapi/linux/if_tun.h of Linux; netdevice(7) for struct ifreq.
// Leaves out: several queues, steering by eBPF, addresses and routes: whoever made the interface sets them.
using System.ComponentModel;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace Sharpvisor.Core.Host;

/// <summary>Reads and writes whole frames, each behind a <see cref="Net.NetHeader"/> if it <see cref="HasHeader"/>. Never blocks.</summary>
public sealed unsafe partial class TapInterface : IDisposable
{
    public const string Device = "/dev/net/tun";

    private const int NameSize = 16, RequestSize = 40; // IFNAMSIZ, sizeof(struct ifreq)
    private const int ReadWrite = 2, NonBlocking = 0x800, CloseOnExec = 0x80000; // O_
    private const int GetFlags = 3, SetFlags = 4; // F_
    private const uint SetInterface = 0x400454CA, GetFeatures = 0x800454CF, SetOffload = 0x400454D0, GetInterface = 0x800454D2, SetHeaderSize = 0x400454D8; // TUN
    private const ushort Tap = 2, NoPacketInformation = 0x1000, VnetHeader = 0x4000; // IFF_
    private const uint Checksum = 1, Tso4 = 2, Tso6 = 4, TsoEcn = 8; // TUN_F_
    private const int WouldBlock = 11, Interrupted = 4;

    private TapInterface(SafeFileHandle handle, string name, bool hasHeader)
    {
        (Handle, Name, HasHeader) = (handle, name, hasHeader);
        var size = Net.NetHeader.ShortLength;
        if (hasHeader)
            Control(handle, SetHeaderSize, &size);
    }

    public SafeFileHandle Handle { get; }

    /// <summary>As the host lists it: tap0.</summary>
    public string Name { get; }

    /// <summary>Frames may be unfinished; a header of <see cref="Net.NetHeader.ShortLength"/> bytes says so.</summary>
    public bool HasHeader { get; }

    /// <summary>Connects to an interface; makes it if it is not there and this user may.</summary>
    /// <param name="name">Null: the next free of tap0, tap1 ...</param>
    /// <param name="header">Null: if the host can.</param>
    /// <exception cref="Win32Exception">What the host says.</exception>
    public static TapInterface Open(string? name, bool? header)
    {
        var handle = OpenFile(Device, ReadWrite | NonBlocking | CloseOnExec);
        try
        {
            if (handle.IsInvalid)
                throw new Win32Exception(Marshal.GetLastPInvokeError());
            uint features = 0;
            var hasHeader = header ?? (Control(handle, GetFeatures, &features) == 0 && (features & VnetHeader) != 0);
            var request = stackalloc byte[RequestSize];
            new Span<byte>(request, RequestSize).Clear();
            Encoding.ASCII.GetBytes(name ?? "tap%d", new Span<byte>(request, NameSize - 1));
            *(ushort*)(request + NameSize) = (ushort)(Tap | NoPacketInformation | (hasHeader ? VnetHeader : 0));
            if (Control(handle, SetInterface, request) != 0)
                throw new Win32Exception(Marshal.GetLastPInvokeError());
            return new TapInterface(handle, NameIn(request), hasHeader);
        }
        catch
        {
            handle.Dispose();
            throw;
        }
    }

    /// <summary>One that whoever started this process has opened.</summary>
    /// <exception cref="Win32Exception">The descriptor is no tap.</exception>
    public static TapInterface FromDescriptor(int descriptor)
    {
        var request = stackalloc byte[RequestSize];
        new Span<byte>(request, RequestSize).Clear();
        var handle = new SafeFileHandle(descriptor, ownsHandle: true);
        var flags = FileControl(handle, GetFlags, 0);
        if (Control(handle, GetInterface, request) != 0 || FileControl(handle, SetFlags, flags | NonBlocking) != 0)
        {
            var error = Marshal.GetLastPInvokeError();
            handle.SetHandleAsInvalid(); // it stays as it was
            throw new Win32Exception(error);
        }

        return new TapInterface(handle, NameIn(request), (*(ushort*)(request + NameSize) & VnetHeader) != 0);
    }

    /// <summary>What the host may leave for the reader to finish. Without a header nothing is.</summary>
    public void SetOffloads(Net.ReceiveOffloads offloads)
    {
        if (!HasHeader)
            return;
        var flags = offloads.Checksum ? Checksum | (offloads.Tcp4 ? Tso4 : 0) | (offloads.Tcp6 ? Tso6 : 0) | (offloads.Tcp4 || offloads.Tcp6 ? TsoEcn : 0) : 0;
        if (Control(Handle, SetOffload, (void*)flags) != 0)
            Control(Handle, SetOffload, null);
    }

    /// <returns>Bytes of the frame; 0: there is none; -1: the interface has gone. One that is too long is cut off.</returns>
    public int Read(Span<byte> header, Span<byte> frame)
    {
        fixed (byte* first = header, second = frame)
        {
            var vectors = stackalloc Vector[] { new Vector { Start = first, Length = (nuint)header.Length }, new Vector { Start = second, Length = (nuint)frame.Length } };
            var count = ReadVectors(Handle, HasHeader ? vectors : vectors + 1, HasHeader ? 2 : 1);
            if (count < 0)
                return Marshal.GetLastPInvokeError() is WouldBlock or Interrupted ? 0 : -1;
            return Math.Max(0, (int)count - (HasHeader ? header.Length : 0));
        }
    }

    /// <returns>False: the host has no room now. A frame that it refuses, as when the interface is down, is lost.</returns>
    public bool TryWrite(ReadOnlySpan<byte> header, ReadOnlySpan<byte> frame, out bool isLost)
    {
        fixed (byte* first = header, second = frame)
        {
            var vectors = stackalloc Vector[] { new Vector { Start = first, Length = (nuint)header.Length }, new Vector { Start = second, Length = (nuint)frame.Length } };
            isLost = WriteVectors(Handle, HasHeader ? vectors : vectors + 1, HasHeader ? 2 : 1) < 0;
            if (!isLost || Marshal.GetLastPInvokeError() is not (WouldBlock or Interrupted))
                return true;
            isLost = false;
            return false;
        }
    }

    public void Dispose() => Handle.Dispose();

    private static string NameIn(byte* request) => Marshal.PtrToStringUTF8((nint)request) ?? "";

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial SafeFileHandle OpenFile(string path, int flags);

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int Control(SafeFileHandle handle, nuint request, void* argument);

    [LibraryImport("libc", EntryPoint = "fcntl", SetLastError = true)]
    private static partial int FileControl(SafeFileHandle handle, int command, nint argument);

    [LibraryImport("libc", EntryPoint = "readv", SetLastError = true)]
    private static partial nint ReadVectors(SafeFileHandle handle, Vector* vectors, int count);

    [LibraryImport("libc", EntryPoint = "writev", SetLastError = true)]
    private static partial nint WriteVectors(SafeFileHandle handle, Vector* vectors, int count);

    /// <summary>struct iovec.</summary>
    private struct Vector
    {
        public void* Start;
        public nuint Length;
    }
}
