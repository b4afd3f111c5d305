// Where a direct boot puts what is not the kernel itself: all in the first 640 KiB, which every kernel leaves alone
// until it has read its boot parameters.
namespace Sharpvisor.Boot;

internal static class BootLayout
{
    public const ulong Gdt = 0x500;
    public const ulong PvhStartInfo = 0x6000;
    public const ulong BootParams = 0x7000;
    public const ulong StackTop = 0x9000;

    /// <summary>One PML4, one PDPT, four page directories: 4 GiB mapped to themselves by 2 MiB pages.</summary>
    public const ulong PageTables = 0x9000;

    public const ulong CommandLine = 0x20000;
    public const int CommandLineSpace = 0x10000;

    /// <summary>Kernels and ramdisks go to 1 MiB or above.</summary>
    public const ulong KernelStart = 0x100000;
}
