using System.Runtime.InteropServices;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Core.Host;

/// <summary>Large host allocations: reserved at once, backed by pages only when touched, zero at first.</summary>
public static unsafe partial class HostMemory
{
    private const int ProtRead = 1, ProtWrite = 2, ProtExec = 4;
    private const int MapPrivate = 2, MapAnonymous = 0x20, MapNoReserve = 0x4000, Map32Bit = 0x40;
    private const int AdviseDontNeed = 4, AdviseHugePage = 14;

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

    public static void Release(void* memory, ulong size)
    {
        if (OperatingSystem.IsLinux())
            _ = MUnmap(memory, (nuint)size);
        else
            NativeMemory.Free(memory);
    }

    [LibraryImport("libc", EntryPoint = "mmap", SetLastError = true)]
    private static partial void* MMap(void* address, nuint length, int protection, int flags, int fd, nint offset);

    [LibraryImport("libc", EntryPoint = "munmap")]
    private static partial int MUnmap(void* address, nuint length);

    [LibraryImport("libc", EntryPoint = "madvise")]
    private static partial int MAdvise(void* address, nuint length, int advice);
}
