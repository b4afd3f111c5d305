// A folder of the host out of which files are opened by names that somebody else chooses, a guest for example: nothing
// outside of the folder can be reached, whatever the name and whatever the links in the folder are, and nothing is opened
// whose opening has an effect or waits (a device, a FIFO).
// Follows: the Linux manual pages open(2) (O_PATH), statx(2), proc(5).
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Core.Host;

/// <summary>What became of opening a file by name.</summary>
public enum OpenResult
{
    Opened,

    /// <summary>There is none of this name.</summary>
    NotFound,

    /// <summary>The name leads out of the folder, to a directory or a device, or the host does not let us read it.</summary>
    Refused,

    /// <summary>The host can't now: too many open files, a damaged disk.</summary>
    Failed,
}

/// <summary>Opens files of a folder for reading.</summary>
public sealed unsafe partial class HostFolder
{
    private const int NoEntry = 2, Access = 13, NotADirectory = 20, NameTooLong = 36, TooManyLinks = 40;
    private const int ReadOnly = 0, NonBlocking = 0x800, CloseOnExec = 0x80000, PathOnly = 0x200000;

    private readonly string _root;

    /// <exception cref="ConfigurationException">There is no such folder, or it can't be looked into.</exception>
    public HostFolder(string path)
    {
        Path = path;
        using var folder = OpenAt(path, PathOnly);
        if (folder is null || !IsKind(folder, Directory))
            throw new ConfigurationException($"{path}: {(folder is null ? Marshal.GetLastPInvokeErrorMessage() : "not a folder")}; give a folder that can be read");
        var real = RealPath(folder) ?? throw new ConfigurationException($"{path}: its real path is not known; mount /proc");
        _root = real == "/" ? real : real + "/";
    }

    /// <summary>As it was given.</summary>
    public string Path { get; }

    /// <summary>Opens a regular file.</summary>
    /// <param name="name">Below the folder, with slashes. A link may lead to another place in the folder.</param>
    public OpenResult TryOpen(string name, out SafeFileHandle? file)
    {
        file = null;
        if (name.Contains('\0', StringComparison.Ordinal) || name.Split('/').Contains(".."))
            return OpenResult.Refused;
        // First only a place in the tree of files, which opens nothing; what lies there is looked at before it is opened.
        using var place = OpenAt(_root + name, PathOnly);
        if (place is null)
            return Outcome();
        var real = RealPath(place);
        if (real is null)
            return OpenResult.Failed;
        if (!real.StartsWith(_root, StringComparison.Ordinal) || !IsKind(place, RegularFile))
            return OpenResult.Refused;
        file = OpenAt(LinkOf(place), ReadOnly | NonBlocking);
        return file is null ? Outcome() : OpenResult.Opened;
    }

    private const int Directory = 4, RegularFile = 8; // S_IFDIR, S_IFREG without what is below

    private static OpenResult Outcome() => Marshal.GetLastPInvokeError() switch
    {
        NoEntry or NotADirectory or NameTooLong => OpenResult.NotFound,
        Access or TooManyLinks => OpenResult.Refused,
        _ => OpenResult.Failed,
    };

    private static SafeFileHandle? OpenAt(string path, int flags)
    {
        const int interrupted = 4;
        int descriptor;
        do
            descriptor = Open(path, flags | CloseOnExec, 0);
        while (descriptor < 0 && Marshal.GetLastPInvokeError() == interrupted);
        return descriptor < 0 ? null : new SafeFileHandle(descriptor, ownsHandle: true);
    }

    private static string LinkOf(SafeFileHandle handle) => $"/proc/self/fd/{handle.DangerousGetHandle()}";

    /// <summary>Where it lies, all links followed.</summary>
    private static string? RealPath(SafeFileHandle handle)
    {
        try
        {
            return File.ResolveLinkTarget(LinkOf(handle), returnFinalTarget: false)?.FullName;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    private static bool IsKind(SafeFileHandle handle, int kind)
    {
        const int emptyPath = 0x1000, statusSize = 256, modeAt = 28;
        const uint type = 1; // STATX_TYPE
        var status = stackalloc byte[statusSize];
        return StatX((int)handle.DangerousGetHandle(), "", emptyPath, type, status) == 0 && *(ushort*)(status + modeAt) >> 12 == kind;
    }

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags, int mode);

    [LibraryImport("libc", EntryPoint = "statx", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int StatX(int fd, string path, int flags, uint mask, byte* status);
}
