using System.Runtime.InteropServices;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Core.Host;

/// <summary>Large host allocations: reserved at once, backed by pages only when touched, zero at first.</summary>
public static unsafe partial class HostMemory
{
    private const int ProtNone = 0, ProtRead = 1, ProtWrite = 2, ProtExec = 4;
    private const int MapShared = 1, MapPrivate = 2, MapFixed = 0x10, MapAnonymous = 0x20, MapNoReserve = 0x4000, Map32Bit = 0x40;
    private const int AdviseDontNeed = 4, AdviseHugePage = 14, AdviseCollapse = 25;

    /// <summary>Bytes of a huge page.</summary>
    public const ulong HugePage = 2 << 20;

    /// <summary>Reserves zeroed memory, page aligned.</summary>
    /// <param name="hugePages">Ask for transparent huge pages: guest RAM gains 10 % on random reads.</param>
    /// <exception cref="ConfigurationException">The host has no room for it.</exception>
    public static void* Reserve(ulong size, bool hugePages)
    {
        if (!OperatingSystem.IsLinux())
            return NativeMemory.AllocZeroed((nuint)size);
        var memory = MMap(null, (nuint)size, ProtRead | ProtWrite, MapPrivate | MapAnonymous | MapNoReserve, -1, 0);
        if ((nint)memory == -1)
            throw new ConfigurationException($"the host cannot reserve {size >> 20} MiB of memory: give the guest less with -m");
        if (hugePages)
            _ = MAdvise(memory, (nuint)size, AdviseHugePage);
        return memory;
    }

    /// <summary>Reserves memory that can be written and executed, below 2 GB so that generated code can address it absolutely.</summary>
    public static void* ReserveExecutable(ulong size)
    {
        if (!OperatingSystem.IsLinux())
            throw new PlatformNotSupportedException("executable memory is made on Linux only");
        var memory = MMap(null, (nuint)size, ProtRead | ProtWrite | ProtExec, MapPrivate | MapAnonymous | MapNoReserve | Map32Bit, -1, 0);
        if ((nint)memory == -1)
            throw new ConfigurationException("the host refuses executable memory (mmap PROT_EXEC): allow it for this process");
        return memory;
    }

    /// <summary>Reserves zeroed memory below 2 GiB, where generated code reaches it by an absolute address of 32 bits.</summary>
    /// <exception cref="ConfigurationException">There is no room left below 2 GiB.</exception>
    public static void* ReserveLow(ulong size)
    {
        if (!OperatingSystem.IsLinux())
            return NativeMemory.AllocZeroed((nuint)size);
        var memory = MMap(null, (nuint)size, ProtRead | ProtWrite, MapPrivate | MapAnonymous | MapNoReserve | Map32Bit, -1, 0);
        if ((nint)memory == -1)
            throw new ConfigurationException($"no {size >> 10} KiB left below 2 GiB of the process's addresses: run fewer processors in one process");
        return memory;
    }

    /// <summary>
    /// Reserves memory for generated code that is mapped twice, once to be written and once, below 2 GiB, to be executed,
    /// so that no page is ever both.
    /// </summary>
    /// <exception cref="ConfigurationException">The host refuses it.</exception>
    public static void ReserveCode(ulong size, out byte* writable, out byte* executable)
    {
        if (!OperatingSystem.IsLinux())
            throw new PlatformNotSupportedException("executable memory is made on Linux only");
        var fd = MemfdCreate("sharpvisor-code", 1);
        if (fd < 0 || FTruncate(fd, (long)size) != 0)
            throw new ConfigurationException("the host refuses a memory file for generated code (memfd_create): run with -accel interpreter");

        // The view to write by lies a page off, so that it never has huge pages: what is patched later is a page each.
        writable = MapAt(fd, size, ProtRead | ProtWrite, 0, 4096);
        executable = MapAt(fd, size, ProtRead | ProtExec, Map32Bit, 0);
        _ = Close(fd);
        if ((nint)writable == -1 || (nint)executable == -1)
            throw new ConfigurationException("the host refuses executable memory (mmap PROT_EXEC): run with -accel interpreter");
    }

    /// <summary>Maps a file a given distance behind a multiple of <see cref="HugePage"/>; -1 if that can't be.</summary>
    private static byte* MapAt(int fd, ulong size, int protection, int flags, ulong distance)
    {
        var room = size + HugePage + distance;
        var start = (byte*)MMap(null, (nuint)room, ProtNone, MapPrivate | MapAnonymous | MapNoReserve | flags, -1, 0);
        if ((nint)start == -1)
            return start;
        var at = (byte*)((((ulong)start + HugePage - 1) & ~(HugePage - 1)) + distance);
        if (at != start)
            Release(start, (ulong)(at - start));
        var end = (byte*)(((ulong)at + size + 4095) & ~4095UL);
        if (end < start + room)
            Release(end, (ulong)(start + room - end));
        return (byte*)MMap(at, (nuint)size, protection, MapShared | MapNoReserve | MapFixed, fd, 0);
    }

    /// <summary>
    /// Takes pages of shared memory out of this view of it until they are touched there again; what they hold stays.
    /// The process has them once, not twice.
    /// </summary>
    public static void Unmap(void* memory, ulong size)
    {
        if (OperatingSystem.IsLinux())
            _ = MAdvise(memory, (nuint)size, AdviseDontNeed);
    }

    /// <summary>
    /// Makes huge pages of memory of <see cref="ReserveCode"/>, in units of <see cref="HugePage"/>, whatever the host's
    /// settings for shared memory are (MADV_COLLAPSE, since Linux 6.1). Where that can't be, nothing changes.
    /// </summary>
    public static void Collapse(void* memory, ulong size)
    {
        if (OperatingSystem.IsLinux())
            _ = MAdvise(memory, (nuint)size, AdviseCollapse);
    }

    /// <summary>Whether this process may have memory that is writable and executable.</summary>
    public static bool AllowsExecutable()
    {
        if (!OperatingSystem.IsLinux())
            return false;
        const int page = 4096;
        var memory = MMap(null, page, ProtRead | ProtWrite | ProtExec, MapPrivate | MapAnonymous, -1, 0);
        if ((nint)memory == -1)
            return false;
        Release(memory, page);
        return true;
    }

    /// <summary>Zeroes memory of <see cref="Reserve"/> and gives its pages back.</summary>
    public static void Discard(void* memory, ulong size)
    {
        if (!OperatingSystem.IsLinux() || MAdvise(memory, (nuint)size, AdviseDontNeed) != 0)
            NativeMemory.Clear(memory, (nuint)size);
    }

    /// <summary>Bytes of page-aligned memory of <see cref="Reserve"/> that the host has pages for; where it does not tell, all.</summary>
    public static ulong CountResident(void* memory, ulong size)
    {
        const ulong page = 4096, atOnce = 16384;
        if (!OperatingSystem.IsLinux() || Environment.SystemPageSize != (int)page)
            return size;
        var isResident = new byte[atOnce];
        var count = 0ul;
        for (ulong done = 0; done < size; done += atOnce * page)
        {
            var part = Math.Min(size - done, atOnce * page);
            fixed (byte* vector = isResident)
            {
                if (MInCore((byte*)memory + done, (nuint)part, vector) != 0)
                    return size;
            }

            count += (ulong)isResident.AsSpan(0, (int)((part + page - 1) / page)).Count((byte)1);
        }

        return Math.Min(size, count * page);
    }

    public static void Release(void* memory, ulong size)
    {
        if (OperatingSystem.IsLinux())
            _ = MUnmap(memory, (nuint)size);
        else
            NativeMemory.Free(memory);
    }

    [LibraryImport("libc", EntryPoint = "mmap", SetLastError = true)]
    private static partial void* MMap(void* address, nuint length, int protection, int flags, int fd, nint offset);

    [LibraryImport("libc", EntryPoint = "memfd_create", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int MemfdCreate(string name, uint flags);

    [LibraryImport("libc", EntryPoint = "ftruncate")]
    private static partial int FTruncate(int fd, long length);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int fd);

    [LibraryImport("libc", EntryPoint = "munmap")]
    private static partial int MUnmap(void* address, nuint length);

    [LibraryImport("libc", EntryPoint = "mincore")]
    private static partial int MInCore(void* address, nuint length, byte* vector);

    [LibraryImport("libc", EntryPoint = "madvise")]
    private static partial int MAdvise(void* address, nuint length, int advice);
}
