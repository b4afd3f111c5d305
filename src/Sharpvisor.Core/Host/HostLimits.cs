// Follows: the Linux manual page getrlimit(2).
using System.Runtime.InteropServices;

namespace Sharpvisor.Core.Host;

/// <summary>What the host allows this process.</summary>
public static partial class HostLimits
{
    private const int OpenFilesResource = 7; // RLIMIT_NOFILE

    /// <summary>Descriptors that may be open at a time.</summary>
    public static int OpenFiles { get; } =
        OperatingSystem.IsLinux() && GetLimit(OpenFilesResource, out var limit) == 0 ? (int)Math.Min(int.MaxValue, limit.Current) : int.MaxValue;

    [LibraryImport("libc", EntryPoint = "getrlimit")]
    private static partial int GetLimit(int resource, out Limit limit);

    private struct Limit
    {
        public ulong Current;
        public ulong Maximum;
    }
}
