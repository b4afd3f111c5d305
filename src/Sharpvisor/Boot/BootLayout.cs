// Where a boot by -kernel puts what is not the kernel itself: all in the first 640 KiB, which every kernel leaves alone
// until it has read its boot parameters. Through firmware, the BIOS's own data below 500h stays.
namespace Sharpvisor.Boot;

internal static class BootLayout
{
    public const ulong Gdt = 0x500;

    /// <summary>hvm_start_info of PVH, or the information structure of multiboot.</summary>
    public const ulong StartInfo = 0x6000;

    /// <summary>boot_params of Linux, and for the others the memory map: a page.</summary>
    public const ulong BootParams = 0x7000, MemoryMap = 0x7000;

    /// <summary>Variables of the option ROM, and its stack above them.</summary>
    public const ulong RomScratch = 0x8000;

    public const ulong StackTop = 0x9000;

    /// <summary>One PML4, one PDPT, four page directories: 4 GiB mapped to themselves by 2 MiB pages.</summary>
    public const ulong PageTables = 0x9000;

    /// <summary>The command line; for multiboot the list of modules and all strings.</summary>
    public const ulong CommandLine = 0x20000;
    public const int CommandLineSpace = 0x10000;

    /// <summary>The command lines of a PVH kernel's modules.</summary>
    public const ulong ModuleLines = 0x30000;
    public const int ModuleLinesSpace = 0x10000;

    /// <summary>Linux's setup code with its heap and stack, in real mode; the command line follows.</summary>
    public const ulong RealMode = 0x10000;

    /// <summary>The same for kernels before 2.02 of the boot protocol, with the end of the command line.</summary>
    public const ulong OldRealMode = 0x90000, OldRealModeEnd = 0x9A000;

    /// <summary>Where a zImage is loaded.</summary>
    public const ulong LowKernel = 0x10000;

    /// <summary>Kernels and ramdisks go to 1 MiB or above.</summary>
    public const ulong KernelStart = 0x100000;
}
