// A file or block device of the host by system calls: scattered transfers at an offset, holes, and the locks of an open
// file description, none of which .NET's own files offer together.
// Follows: the Linux manual pages preadv(2), preadv2(2), fallocate(2), fcntl(2), open(2), statx(2).
using System.Buffers;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Core.Host;

/// <summary>An open file. Every failed call is a <see cref="BlockException"/> with the host's words.</summary>
public sealed unsafe partial class HostFile : IDisposable
{
    private const int NotPermitted = 1, Interrupted = 4, Again = 11, PermissionDenied = 13, NoSpace = 28, ReadOnlyFileSystem = 30, NotSupported = 95, QuotaExceeded = 122;
    private const int ReadOnlyFlag = 0, ReadWrite = 2, CreateFlag = 0x40, ExclusiveFlag = 0x80, NonBlocking = 0x800, DirectFlag = 0x4000, CloseOnExec = 0x80000;
    private const int FromEnd = 2, ToData = 3, ToHole = 4; // SEEK_END, SEEK_DATA, SEEK_HOLE
    private const int KeepSize = 1, PunchHoleFlag = 2, ZeroRangeFlag = 0x10;
    private const int OfdGetLock = 36, OfdSetLock = 37;
    private const short ReadLock = 0, WriteLock = 1, Unlocked = 2;
    private const int StatusSize = 256;
    private const int PiecesAtOnce = 64; // of IOV_MAX, 1024
    private const ulong DiscardBlocks = 0x1277, ZeroBlocks = 0x127F; // BLKDISCARD, BLKZEROOUT

    private readonly int _descriptor;
    private int _disposed;
    private volatile bool _tellsWhatIsCached;

    private HostFile(int descriptor, bool isBlockDevice, int alignment, (ulong Device, ulong Number) identity)
    {
        _descriptor = descriptor;
        IsBlockDevice = isBlockDevice;
        Alignment = alignment;
        Identity = identity;
        _tellsWhatIsCached = alignment == 1;
    }

    ~HostFile() => Close();

    public bool IsBlockDevice { get; }

    /// <summary>What offsets, lengths and addresses have to be multiples of: 1, or more without the host's cache.</summary>
    public int Alignment { get; }

    /// <summary>The same for every name of a file: its file system and its number there (st_dev, st_ino).</summary>
    public (ulong Device, ulong Number) Identity { get; }

    /// <summary>In bytes, now.</summary>
    public long Length
    {
        get
        {
            var length = LSeek(_descriptor, 0, FromEnd);
            return length >= 0 ? length : throw Failure();
        }
    }

    /// <summary>What it takes on the host, in bytes: less than its length when it has holes.</summary>
    public long AllocatedBytes
    {
        get
        {
            const int blocksAt = 48, blockSize = 512;
            var status = stackalloc byte[StatusSize];
            Status(_descriptor, status);
            return *(long*)(status + blocksAt) * blockSize;
        }
    }

    /// <summary>Opens a file for writing that is there, as it is, or makes an empty one.</summary>
    /// <param name="mustBeNew">Fails when there is a file.</param>
    public static HostFile OpenOrCreate(string path, bool mustBeNew) =>
        Open(path, ReadWrite | CreateFlag | (mustBeNew ? ExclusiveFlag : 0) | CloseOnExec, direct: false);

    /// <param name="direct">Past the host's cache (O_DIRECT).</param>
    /// <exception cref="BlockException">It can't be opened; <see cref="BlockError.Unsupported"/>: not without the host's cache.</exception>
    public static HostFile Open(string path, bool writable, bool direct) =>
        Open(path, (writable ? ReadWrite : ReadOnlyFlag) | (direct ? DirectFlag : 0) | CloseOnExec, direct);

    private static HostFile Open(string path, int flags, bool direct)
    {
        const int invalid = 22, permissions = 0x1A4; // rw-r--r--, less what the umask takes
        var descriptor = OpenFile(path, flags | NonBlocking, permissions); // a FIFO must not make us wait
        if (descriptor < 0)
        {
            if (direct && Marshal.GetLastPInvokeError() == invalid)
                throw new BlockException(BlockError.Unsupported, "its file system has no direct access (O_DIRECT)");
            throw Failure();
        }

        try
        {
            const int directory = 4, blockDevice = 6;
            var kind = Kind(descriptor, out var alignment, out var identity);
            if (kind == directory)
                throw new BlockException("is a directory");
            return new HostFile(descriptor, kind == blockDevice, direct ? AlignmentOf(descriptor, alignment) : 1, identity);
        }
        catch
        {
            _ = CloseFile(descriptor);
            throw;
        }
    }

    /// <summary>Memory that a file without the host's cache takes.</summary>
    public static Memory<byte> AllocateAligned(int length, int alignment)
    {
        var array = GC.AllocateUninitializedArray<byte>(length + alignment, pinned: true);
        var start = (int)(-(long)Unsafe.AsPointer(ref array[0]) & (alignment - 1));
        return array.AsMemory(start, length);
    }

    /// <summary>Whether there are data at an offset, or a hole, which reads as zeroes, and where that ends: at the latest at the file's end.</summary>
    public bool IsData(long offset, out long end)
    {
        const int noSuchAddress = 6;
        end = long.MaxValue;
        var data = LSeek(_descriptor, offset, ToData);
        if (data > offset)
        {
            end = data;
            return false;
        }

        if (data < 0 && Marshal.GetLastPInvokeError() == noSuchAddress)
        {
            end = Math.Max(Length, offset);
            return false;
        }

        var hole = data < 0 ? -1 : LSeek(_descriptor, offset, ToHole);
        end = hole > offset ? hole : Length; // without holes in the file system, all is data
        return true;
    }

    /// <summary>Whether a transfer keeps to <see cref="Alignment"/>.</summary>
    public bool IsAligned(long offset, BlockBuffers buffers)
    {
        if (Alignment == 1)
            return true;
        var bits = offset | (long)buffers.Length;
        foreach (var piece in buffers)
        {
            using var pin = piece.Pin();
            bits |= (long)pin.Pointer | (long)piece.Length;
        }

        return (bits & (Alignment - 1)) == 0;
    }

    /// <summary>Reads until the buffers are full or the file ends; the number of bytes.</summary>
    public int Read(long offset, BlockBuffers buffers) => Transfer(offset, buffers, isWrite: false);

    /// <summary>Reads what the host has in memory, without waiting for a disk. False: not all of it, or the host can't tell.</summary>
    public bool TryReadCached(long offset, BlockBuffers buffers)
    {
        if (!_tellsWhatIsCached || _disposed != 0)
            return false;
        var count = Call(offset, buffers, Operation.ReadCached);
        if (count < 0 && Marshal.GetLastPInvokeError() is not (Again or Interrupted))
            _tellsWhatIsCached = false; // a file system or kernel that knows no RWF_NOWAIT
        return count == buffers.Length;
    }

    /// <summary>Writes all of the buffers, behind the end as well.</summary>
    public void Write(long offset, BlockBuffers buffers) => Transfer(offset, buffers, isWrite: true);

    /// <summary>Waits until the data, and what is needed to find them, are on the medium.</summary>
    public void Sync()
    {
        while (FDataSync(_descriptor) != 0)
            ThrowUnlessInterrupted();
    }

    /// <summary>Gives room back; what was there reads as zeroes or, on a device, as anything. False: the host can't do this here.</summary>
    public bool TryPunchHole(long offset, long length) => IsBlockDevice
        ? TryControl(DiscardBlocks, offset, length)
        : TryAllocate(PunchHoleFlag | KeepSize, offset, length);

    /// <summary>Makes a range read as zeroes without writing them. False: the host can't do this here.</summary>
    public bool TryZeroRange(long offset, long length) => IsBlockDevice
        ? TryControl(ZeroBlocks, offset, length)
        : TryAllocate(ZeroRangeFlag, offset, length);

    public void SetLength(long length)
    {
        while (FTruncate(_descriptor, length) != 0)
            ThrowUnlessInterrupted();
    }

    /// <summary>
    /// Takes a shared lock on a byte of the file, held until it is closed. False: someone has an exclusive one.
    /// </summary>
    public bool TryLockByte(long at) => TryLock(OfdSetLock, ReadLock, at, out _);

    /// <summary>Whether another open file has a lock on a byte.</summary>
    public bool IsByteLocked(long at) => TryLock(OfdGetLock, WriteLock, at, out var found) && found != Unlocked;

    public void Dispose()
    {
        Close();
        GC.SuppressFinalize(this);
    }

    private void Close()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        // A child that is about to be another program still has the descriptor, and with it the locks.
        var everything = new FileLock { Kind = Unlocked };
        _ = FileControl(_descriptor, OfdSetLock, &everything);
        _ = CloseFile(_descriptor);
    }

    private int Transfer(long offset, BlockBuffers buffers, bool isWrite)
    {
        ObjectDisposedException.ThrowIf(_disposed != 0, this);
        var done = 0;
        while (done < buffers.Length)
        {
            var count = Call(offset + done, done == 0 ? buffers : buffers.Slice(done), isWrite ? Operation.Write : Operation.Read);
            if (count > 0)
                done += (int)count;
            else if (count < 0)
                ThrowUnlessInterrupted();
            else if (!isWrite)
                break;
            else
                throw new BlockException("the host wrote nothing");
        }

        return done;
    }

    /// <summary>One system call for the first pieces; its result.</summary>
    private nint Call(long offset, BlockBuffers buffers, Operation operation)
    {
        const int noWait = 8; // RWF_NOWAIT
        var vectors = stackalloc Vector[PiecesAtOnce];
        var pins = default(Pins);
        var count = 0;
        try
        {
            foreach (var piece in buffers)
            {
                if (count == PiecesAtOnce)
                    break;
                pins[count] = piece.Pin();
                vectors[count] = new Vector { Start = pins[count].Pointer, Length = (nuint)piece.Length };
                count++;
            }

            return operation switch
            {
                Operation.Write => PWriteV(_descriptor, vectors, count, offset),
                Operation.ReadCached => PReadV2(_descriptor, vectors, count, offset, noWait),
                _ => PReadV(_descriptor, vectors, count, offset),
            };
        }
        finally
        {
            for (var i = 0; i < count; i++)
                pins[i].Dispose();
        }
    }

    private bool TryAllocate(int mode, long offset, long length)
    {
        while (FAllocate(_descriptor, mode, offset, length) != 0)
        {
            const int notImplemented = 38, invalid = 22;
            if (Marshal.GetLastPInvokeError() is NotSupported or notImplemented or invalid)
                return false;
            ThrowUnlessInterrupted();
        }

        return true;
    }

    private bool TryControl(ulong request, long offset, long length)
    {
        var range = stackalloc long[] { offset, length };
        while (IoControl(_descriptor, request, range) != 0)
        {
            const int noSuchControl = 25, invalid = 22;
            if (Marshal.GetLastPInvokeError() is NotSupported or noSuchControl or invalid)
                return false;
            ThrowUnlessInterrupted();
        }

        return true;
    }

    private bool TryLock(int command, short kind, long at, out short found)
    {
        var request = new FileLock { Kind = kind, Start = at, Length = 1 };
        while (FileControl(_descriptor, command, &request) != 0)
        {
            if (Marshal.GetLastPInvokeError() is Again or PermissionDenied)
            {
                found = WriteLock;
                return false;
            }

            ThrowUnlessInterrupted();
        }

        found = request.Kind;
        return true;
    }

    /// <summary>The S_IFMT of a file by four bits, and the alignment that its direct access wants (0: the host doesn't say).</summary>
    private static int Kind(int descriptor, out int alignment, out (ulong Device, ulong Number) identity)
    {
        const int modeAt = 28, numberAt = 32, deviceMajorAt = 136, deviceMinorAt = 140, memoryAlignmentAt = 152, offsetAlignmentAt = 156;
        var status = stackalloc byte[StatusSize];
        Status(descriptor, status);
        alignment = Math.Max(*(int*)(status + memoryAlignmentAt), *(int*)(status + offsetAlignmentAt));
        identity = (((ulong)*(uint*)(status + deviceMajorAt) << 32) | *(uint*)(status + deviceMinorAt), *(ulong*)(status + numberAt));
        return *(ushort*)(status + modeAt) >> 12;
    }

    /// <summary>struct statx.</summary>
    private static void Status(int descriptor, byte* status)
    {
        const int emptyPath = 0x1000;
        const uint typeNumberBlocksAndAlignment = 0x2501;
        new Span<byte>(status, StatusSize).Clear();
        if (StatX(descriptor, "", emptyPath, typeNumberBlocksAndAlignment, status) != 0)
            throw Failure();
    }

    /// <summary>The least alignment with which a read succeeds.</summary>
    private static int AlignmentOf(int descriptor, int told)
    {
        const int least = IBlockImage.SectorSize, page = 4096;
        if (told > 0)
            return Math.Max(told, least);
        var memory = (byte*)NativeMemory.AlignedAlloc(2 * page, page);
        try
        {
            // One that is aligned to no more than what is tried.
            var vector = new Vector { Start = memory + least, Length = least };
            return PReadV(descriptor, &vector, 1, 0) >= 0 ? least : page;
        }
        finally
        {
            NativeMemory.AlignedFree(memory);
        }
    }

    private static void ThrowUnlessInterrupted()
    {
        if (Marshal.GetLastPInvokeError() != Interrupted)
            throw Failure();
    }

    private static BlockException Failure()
    {
        var number = Marshal.GetLastPInvokeError();
        var error = number switch
        {
            NoSpace or QuotaExceeded => BlockError.NoSpace,
            ReadOnlyFileSystem or PermissionDenied or NotPermitted => BlockError.ReadOnly,
            _ => BlockError.Io,
        };
        return new BlockException(error, Marshal.GetPInvokeErrorMessage(number).ToLowerInvariant());
    }

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int OpenFile(string path, int flags, int mode);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int CloseFile(int fd);

    [LibraryImport("libc", EntryPoint = "lseek", SetLastError = true)]
    private static partial long LSeek(int fd, long offset, int whence);

    [LibraryImport("libc", EntryPoint = "preadv", SetLastError = true)]
    private static partial nint PReadV(int fd, Vector* vectors, int count, long offset);

    [LibraryImport("libc", EntryPoint = "preadv2", SetLastError = true)]
    private static partial nint PReadV2(int fd, Vector* vectors, int count, long offset, int flags);

    [LibraryImport("libc", EntryPoint = "pwritev", SetLastError = true)]
    private static partial nint PWriteV(int fd, Vector* vectors, int count, long offset);

    [LibraryImport("libc", EntryPoint = "fdatasync", SetLastError = true)]
    private static partial int FDataSync(int fd);

    [LibraryImport("libc", EntryPoint = "fallocate", SetLastError = true)]
    private static partial int FAllocate(int fd, int mode, long offset, long length);

    [LibraryImport("libc", EntryPoint = "ftruncate", SetLastError = true)]
    private static partial int FTruncate(int fd, long length);

    [LibraryImport("libc", EntryPoint = "fcntl", SetLastError = true)]
    private static partial int FileControl(int fd, int command, FileLock* argument);

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int IoControl(int fd, ulong request, long* argument);

    [LibraryImport("libc", EntryPoint = "statx", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int StatX(int fd, string path, int flags, uint mask, byte* status);

    private enum Operation
    {
        Read,
        ReadCached,
        Write,
    }

    /// <summary>struct iovec.</summary>
    private struct Vector
    {
        public void* Start;
        public nuint Length;
    }

    /// <summary>struct flock.</summary>
    private struct FileLock
    {
        public short Kind;
        public short Whence;
        public long Start;
        public long Length;
        public int Process;
    }

    [InlineArray(PiecesAtOnce)]
    private struct Pins
    {
        private MemoryHandle _first;
    }
}
