using System.Runtime.InteropServices;
using Sharpvisor.Core.Host;

namespace Conformance.Fuzzing;

/// <summary>
/// The piece of address space, below 2 GiB of the host's, that both processors see at the same linear addresses:
/// code, scratch memory between two unmapped pages, a read-only page, another unmapped page.
/// </summary>
public sealed unsafe partial class Arena : IDisposable
{
    public const int PageSize = 4096;
    public const int ScratchSize = 4 * PageSize;
    public const int MaximumCode = PageSize;

    private const int StubPages = 4;
    private const int Pages = StubPages + 10;

    /// <summary>Nothing is mapped so far around it: segments reach that, and nothing else of this process.</summary>
    private const int Margin = 32 * PageSize;
    private const int ProtNone = 0, ProtRead = 1;

    private readonly byte* _reserved, _start;

    public Arena()
    {
        _reserved = (byte*)HostMemory.ReserveExecutable((Pages * PageSize) + (2 * Margin));
        _start = _reserved + Margin;
        Protect(_reserved, Margin, ProtNone);
        Protect(_start + (Pages * PageSize), Margin, ProtNone);
        var random = new Random(1);
        random.NextBytes(new Span<byte>(ReadOnly, PageSize));
        Protect(Code + PageSize, PageSize, ProtNone);
        Protect(Scratch + ScratchSize, PageSize, ProtNone);
        Protect(ReadOnly, PageSize, ProtRead);
        Protect(ReadOnly + PageSize, PageSize, ProtNone);
    }

    /// <summary>Pages for the native side's own context and code; the guest has nothing there.</summary>
    public byte* Stubs => _start;

    /// <summary>One page for the sequence; the next page is not mapped.</summary>
    public byte* Code => _start + (StubPages * PageSize);

    /// <summary>Memory to work on; the page before and the page behind are not mapped.</summary>
    public byte* Scratch => Code + (2 * PageSize);

    /// <summary>A page of constants that can't be written; the next page is not mapped.</summary>
    public byte* ReadOnly => Scratch + ScratchSize + PageSize;

    public ulong CodeAddress => (ulong)Code;

    public ulong ScratchAddress => (ulong)Scratch;

    public ulong ReadOnlyAddress => (ulong)ReadOnly;

    /// <summary>The first address behind the scratch memory: nothing is mapped there.</summary>
    public ulong UnmappedAddress => ScratchAddress + ScratchSize;

    public void Dispose() => HostMemory.Release(_reserved, (Pages * PageSize) + (2 * Margin));

    private static void Protect(byte* start, int length, int protection)
    {
        if (MProtect(start, (nuint)length, protection) != 0)
            throw new InvalidOperationException("mprotect failed");
    }

    [LibraryImport("libc", EntryPoint = "mprotect")]
    private static partial int MProtect(void* address, nuint length, int protection);
}
