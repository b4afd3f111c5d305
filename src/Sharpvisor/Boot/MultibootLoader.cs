// Loads a multiboot kernel: Multiboot Specification 0.6.96. ELF32 by its physical addresses, or whatever the address
// fields of the header say; modules on pages behind it. The command line begins with the kernel's name, as QEMU has it.
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boot;

internal static class MultibootLoader
{
    private const string LoaderName = "sharpvisor";
    private const ulong PageSize = 0x1000;

    public static BootPlan Plan(BootRequest request, MultibootHeader header)
    {
        var builder = new BootPlanBuilder(request);
        var (entry, kernelEnd) = header.HasAddresses ? LoadByHeader(request, header, builder) : LoadElf(request, builder);
        var modules = LoadModules(request, builder, Math.Max(kernelEnd, BootLayout.KernelStart));

        BootPlanBuilder.CheckText(request.CommandLine, "the kernel command line");
        foreach (var (_, _, line) in modules)
            BootPlanBuilder.CheckText(line, "the command line of a module");
        var (strings, commandLine, loaderName) = MultibootInfo.Strings($"{request.Kernel.Name} {request.CommandLine}", LoaderName, modules);
        if (strings.Length > BootLayout.CommandLineSpace)
            throw new ConfigurationException($"the command lines of kernel and modules have {strings.Length} bytes together, there is room for {BootLayout.CommandLineSpace}: shorten -append and -initrd");
        var map = request.Way == BootWay.Direct ? builder.MemoryMap : null;
        builder.AddData("module list", BootLayout.CommandLine, strings);
        builder.AddData("multiboot information", BootLayout.StartInfo, MultibootInfo.Build(map, request.HasTextScreen && header.WantsVideo, modules.Count, commandLine, loaderName));
        builder.AddMemoryMap(MultibootInfo.MemoryMap);
        return builder.Build(KernelKind.Multiboot, entry, BootLayout.StartInfo);
    }

    private static (ulong Entry, ulong End) LoadElf(BootRequest request, BootPlanBuilder builder)
    {
        var kernel = request.Kernel;
        if (!kernel.Read(0, (int)Math.Min(4, kernel.Length)).AsSpan().SequenceEqual(ElfImage.Magic))
            throw new ConfigurationException($"{kernel.Name}: has a multiboot header without addresses, but is no ELF file: nothing says where to load it; give the kernel's ELF file");
        var elf = ElfImage.Parse(kernel);
        if (elf.Is64Bit)
            throw new ConfigurationException($"{kernel.Name}: is a 64-bit ELF file, multiboot takes 32-bit ones: cannot load an x86-64 image, give a 32-bit one (objcopy -O elf32-i386)");
        foreach (var segment in elf.LoadSegments)
            builder.AddKernel(segment.PhysicalAddress, (long)segment.Offset, segment.FileLength, segment.MemoryLength, 0);
        // Paging is off: an entry that is linked virtually is meant where its segment lies.
        var home = elf.LoadSegments.FirstOrDefault(s => elf.Entry - s.VirtualAddress < s.MemoryLength && elf.Entry >= s.VirtualAddress);
        var entry = home is null ? elf.Entry : elf.Entry - home.VirtualAddress + home.PhysicalAddress;
        if (!elf.LoadSegments.Any(s => entry >= s.PhysicalAddress && entry - s.PhysicalAddress < s.MemoryLength))
            throw new ConfigurationException($"{kernel.Name}: its entry 0x{entry:x} lies outside of what it loads; link it anew");
        return (entry, elf.LoadSegments.Max(s => s.PhysicalAddress + s.MemoryLength));
    }

    private static (ulong Entry, ulong End) LoadByHeader(BootRequest request, MultibootHeader header, BootPlanBuilder builder)
    {
        var kernel = request.Kernel;
        var offset = header.Offset - ((long)header.HeaderAddress - header.LoadAddress);
        if (header.HeaderAddress < header.LoadAddress || offset < 0)
            throw Corrupt($"the header is at 0x{header.Offset:x} of the file and at 0x{header.HeaderAddress:x} in memory, but loading begins at 0x{header.LoadAddress:x}");
        if (header.LoadEnd != 0 && header.LoadEnd <= header.LoadAddress)
            throw Corrupt($"loading ends at 0x{header.LoadEnd:x}, before it begins at 0x{header.LoadAddress:x}");
        var fileLength = header.LoadEnd != 0 ? header.LoadEnd - header.LoadAddress : (ulong)(kernel.Length - offset);
        if (header.BssEnd != 0 && header.BssEnd < header.LoadAddress + fileLength)
            throw Corrupt($".bss ends at 0x{header.BssEnd:x}, before what is loaded does at 0x{header.LoadAddress + fileLength:x}");
        var memoryLength = header.BssEnd != 0 ? header.BssEnd - header.LoadAddress : fileLength;
        builder.AddKernel(header.LoadAddress, offset, fileLength, memoryLength, 0);
        if (header.Entry < header.LoadAddress || header.Entry - header.LoadAddress >= memoryLength)
            throw Corrupt($"its entry 0x{header.Entry:x} lies outside of what it loads");
        return (header.Entry, header.LoadAddress + memoryLength);

        ConfigurationException Corrupt(string why) => new($"{kernel.Name}: corrupt multiboot header: {why}; link it anew");
    }

    private static List<(ulong Start, ulong End, string CommandLine)> LoadModules(BootRequest request, BootPlanBuilder builder, ulong address)
    {
        List<BootModule> modules = [.. request.Modules];
        if (request.Initrd is { } initrd)
            modules.Insert(0, new BootModule(initrd, initrd.Name));
        List<(ulong, ulong, string)> placed = [];
        foreach (var (source, line) in modules)
        {
            address = (address + PageSize - 1) & ~(PageSize - 1);
            builder.AddModule(source, address);
            placed.Add((address, address + (ulong)source.Length, line));
            address += (ulong)source.Length;
        }

        return placed;
    }
}
