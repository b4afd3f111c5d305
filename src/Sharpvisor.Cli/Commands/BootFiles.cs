using Sharpvisor.Boot;
using Sharpvisor.Cli.Parsing;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Commands;

/// <summary>What a machine boots: -kernel, -initrd and -bios, opened.</summary>
internal sealed class BootFiles : IDisposable
{
    private BootFiles(BootSource? kernel)
    {
        Kernel = kernel;
    }

    public BootSource? Kernel { get; }

    public BootSource? Initrd { get; private set; }

    /// <summary>What -initrd names when the kernel has a multiboot header.</summary>
    public IReadOnlyList<BootModule> Modules { get; private set; } = [];

    public BootSource? Firmware { get; private set; }

    /// <exception cref="ConfigurationException">A file can't be opened, or one is missing.</exception>
    public static BootFiles Open(RunSettings settings)
    {
        var kernelFile = settings.Kernel ?? (StandsForHvmloader(settings) ? settings.Bios : null);
        var files = new BootFiles(kernelFile is null ? null : BootSource.FromFile(kernelFile));
        try
        {
            if (NeedsFirmware(settings, files.Kernel))
                files.Firmware = OpenFirmware(settings.Bios);
            // What -initrd says depends on the kernel: a list for multiboot and for Xen itself, for others one file.
            var takesList = settings.Machine is not MachineKind.XenPv && files.Kernel is { } kernel && BootPlan.TakesModules(kernel);
            if (settings.Initrd is not null && takesList)
                files.Modules = BootModule.OpenList(settings.Initrd);
            else if (settings.Initrd is not null)
                files.Initrd = BootSource.FromFile(settings.Initrd);
            return files;
        }
        catch
        {
            files.Dispose();
            throw;
        }
    }

    public void AddTo(MachineBuilder builder)
    {
        if (Firmware is not null)
            builder.WithFirmware(Firmware);
        if (Kernel is not null)
            builder.WithKernel(Kernel);
        if (Initrd is not null)
            builder.WithInitrd(Initrd);
        builder.WithModules(Modules);
    }

    public void Dispose()
    {
        Firmware?.Dispose();
        Kernel?.Dispose();
        Initrd?.Dispose();
        foreach (var module in Modules)
            module.Source.Dispose();
    }

    /// <summary>Firmware starts the machine when there is no kernel, when -bios or kernel-boot says so, and for kernels that take it.</summary>
    private static bool NeedsFirmware(RunSettings settings, BootSource? kernel) =>
        kernel is null || (settings.Bios is not null && !StandsForHvmloader(settings)) || settings.KernelBoot == BootWay.Firmware || (settings.KernelBoot is null && BootPlan.NeedsFirmware(kernel));

    /// <summary>
    /// Firmware of an HVM domain that is no BIOS but an ELF image, which Xen's builder starts like a kernel: so are test kernels
    /// run, by firmware_override in a file of xl's.
    /// </summary>
    private static bool StandsForHvmloader(RunSettings settings)
    {
        if (settings is not { Machine: MachineKind.XenHvm, Kernel: null, Bios: { } path } || !File.Exists(path))
            return false;
        Span<byte> magic = stackalloc byte[4];
        using var file = File.OpenHandle(path);
        return RandomAccess.Read(file, magic, 0) == magic.Length && magic.SequenceEqual("\u007FELF"u8);
    }

    /// <summary>A BIOS by its path, or, as QEMU does, by its name among the firmware of the host.</summary>
    private static BootSource OpenFirmware(string? bios)
    {
        if (bios is null)
            return BootSource.FromFile(FirmwareFiles.Require(FirmwareFiles.SeaBios, "-bios", GuestCache.Firmware));
        var found = File.Exists(bios) || bios.Contains('/', StringComparison.Ordinal) ? bios : FirmwareFiles.Find(bios, GuestCache.Firmware);
        return BootSource.FromFile(found ?? bios);
    }
}
