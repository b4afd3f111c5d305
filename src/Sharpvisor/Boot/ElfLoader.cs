// Loads an ELF kernel by its physical addresses. With a XEN_ELFNOTE_PHYS32_ENTRY note it is entered by PVH (Xen
// docs/misc/pvh.pandoc); an ELF64 without one is taken as a Linux vmlinux, whose e_entry is the physical address of
// startup_64.
using System.Text;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boot;

internal static class ElfLoader
{
    private const uint PhysicalEntry32Note = 18; // XEN_ELFNOTE_PHYS32_ENTRY

    // An ELF file does not say how long a command line may be: COMMAND_LINE_SIZE of Linux on x86, with its zero.
    private const ulong CommandLineLimit = 2047, PageSize = 0x1000;

    public static bool HasPvhEntry(BootSource kernel) => ElfImage.Parse(kernel).FindNote(kernel, "Xen", PhysicalEntry32Note) is not null;

    public static BootPlan Plan(BootRequest request)
    {
        var elf = ElfImage.Parse(request.Kernel);
        var pvhEntry = elf.FindNote(request.Kernel, "Xen", PhysicalEntry32Note);
        if (pvhEntry is null && !elf.Is64Bit)
            throw new ConfigurationException($"{request.Kernel.Name}: is a 32-bit ELF file without a PVH entry (Xen note 18); give a 64-bit vmlinux, a bzImage, or a kernel built with CONFIG_PVH");

        if (pvhEntry is null && request.Way == BootWay.Firmware)
            throw new ConfigurationException($"{request.Kernel.Name}: is a vmlinux without a PVH entry, which firmware cannot start; give its bzImage, or -machine kernel-boot=direct");

        var builder = new BootPlanBuilder(request);
        foreach (var segment in elf.LoadSegments)
            builder.AddKernel(segment.PhysicalAddress, (long)segment.Offset, segment.FileLength, segment.MemoryLength);
        var entry = pvhEntry ?? elf.Entry;
        if (!elf.LoadSegments.Any(s => entry >= s.PhysicalAddress && entry - s.PhysicalAddress < s.MemoryLength))
            throw new ConfigurationException($"{request.Kernel.Name}: its entry 0x{entry:x} lies outside of what it loads; give a vmlinux whose entry is a physical address");
        if (pvhEntry > uint.MaxValue)
            throw new ConfigurationException($"{request.Kernel.Name}: its PVH entry 0x{entry:x} is above 4 GiB, where 32-bit code cannot run; link it lower");

        builder.AddCommandLine(CommandLineLimit);
        var kernelEnd = elf.LoadSegments.Max(s => s.PhysicalAddress + s.MemoryLength);
        var (initrd, initrdSize) = builder.AddInitrd(0x7FFF_FFFF, kernelEnd, above4G: false);
        if (pvhEntry is not null)
        {
            var entries = request.Way == BootWay.Direct ? builder.MemoryMap.Count : 0;
            List<(ulong, ulong, ulong)> modules = initrdSize == 0 ? [] : [(initrd, initrdSize, 0)];
            AddModules(request, builder, kernelEnd, modules);
            builder.AddData("hvm_start_info", BootLayout.StartInfo, PvhStartInfo.Build(entries, modules, request.RsdpAddress));
            builder.AddMemoryMap(PvhStartInfo.MemoryMap);
            return builder.Build(KernelKind.Pvh, entry, BootLayout.StartInfo);
        }

        var parameters = new BootParams(null);
        parameters.SetCommandLine(BootLayout.CommandLine);
        parameters.SetInitrd(initrd, initrdSize);
        parameters.SetRsdp(request.RsdpAddress);
        if (request.HasTextScreen)
            parameters.SetTextScreen();
        parameters.SetMemoryMap(builder.MemoryMap);
        builder.AddData("boot_params", BootLayout.BootParams, parameters.ToArray());
        return builder.Build(KernelKind.LinuxElf64, entry, BootLayout.BootParams);
    }

    /// <summary>Files behind the kernel, each with a command line: what Xen as a PVH kernel makes its own domain of.</summary>
    private static void AddModules(BootRequest request, BootPlanBuilder builder, ulong address, List<(ulong, ulong, ulong)> list)
    {
        var lines = new MemoryStream();
        foreach (var (source, line) in request.Modules)
        {
            BootPlanBuilder.CheckText(line, "the command line of a module");
            // Other than with multiboot, the file's name is no part of it.
            var arguments = line.StartsWith(source.Name, StringComparison.Ordinal) ? line[source.Name.Length..].TrimStart() : line;
            address = (address + PageSize - 1) & ~(PageSize - 1);
            builder.AddModule(source, address);
            list.Add((address, (ulong)source.Length, arguments.Length == 0 ? 0 : BootLayout.ModuleLines + (ulong)lines.Length));
            if (arguments.Length != 0)
                lines.Write(Encoding.UTF8.GetBytes(arguments + "\0"));
            address += (ulong)source.Length;
        }

        if (list.Count > PvhStartInfo.ModuleLimit)
            throw new ConfigurationException($"-initrd: {list.Count} modules, a PVH kernel gets {PvhStartInfo.ModuleLimit} at most: leave some out");
        if (lines.Length > BootLayout.ModuleLinesSpace)
            throw new ConfigurationException($"the command lines of the modules have {lines.Length} bytes together, there is room for {BootLayout.ModuleLinesSpace}: shorten -initrd");
        if (lines.Length > 0)
            builder.AddData("command lines of modules", BootLayout.ModuleLines, lines.ToArray());
    }
}
