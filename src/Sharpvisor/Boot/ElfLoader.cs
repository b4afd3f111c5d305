// Loads an ELF kernel by its physical addresses. With a XEN_ELFNOTE_PHYS32_ENTRY note it is entered by PVH (Xen
// docs/misc/pvh.pandoc, xen/include/public/arch-x86/hvm/start_info.h version 1); an ELF64 without one is taken as a Linux
// vmlinux, whose e_entry is the physical address of startup_64.
using System.Buffers.Binary;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boot;

internal static class ElfLoader
{
    private const uint PhysicalEntry32Note = 18; // XEN_ELFNOTE_PHYS32_ENTRY
    private const uint StartInfoMagic = 0x336EC578;
    private const int StartInfoSize = 56, ModuleSize = 32, MapEntrySize = 24;

    // An ELF file does not say how long a command line may be: COMMAND_LINE_SIZE of Linux on x86, with its zero.
    private const ulong CommandLineLimit = 2047;

    public static BootPlan Plan(BootRequest request)
    {
        var elf = ElfImage.Parse(request.Kernel);
        var pvhEntry = elf.FindNote(request.Kernel, "Xen", PhysicalEntry32Note);
        if (pvhEntry is null && !elf.Is64Bit)
            throw new ConfigurationException($"{request.Kernel.Name}: is a 32-bit ELF file without a PVH entry (Xen note 18); give a 64-bit vmlinux, a bzImage, or a kernel built with CONFIG_PVH");

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
            builder.AddData("hvm_start_info", BootLayout.PvhStartInfo, StartInfo(builder.MemoryMap, initrd, initrdSize, request.RsdpAddress));
            return builder.Build(KernelKind.Pvh, entry, BootLayout.PvhStartInfo);
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

    /// <summary>hvm_start_info, followed by its list of one module and the memory map.</summary>
    private static byte[] StartInfo(IReadOnlyList<E820Entry> map, ulong initrd, ulong initrdSize, ulong rsdp)
    {
        var bytes = new byte[StartInfoSize + ModuleSize + (map.Count * MapEntrySize)];
        U32(0, StartInfoMagic);
        U32(4, 1); // version
        U32(12, initrdSize == 0 ? 0u : 1); // nr_modules
        U64(16, initrdSize == 0 ? 0 : BootLayout.PvhStartInfo + StartInfoSize); // modlist_paddr
        U64(24, BootLayout.CommandLine); // cmdline_paddr
        U64(32, rsdp); // rsdp_paddr
        U64(40, BootLayout.PvhStartInfo + StartInfoSize + ModuleSize); // memmap_paddr
        U32(48, (uint)map.Count); // memmap_entries
        U64(StartInfoSize, initrd);
        U64(StartInfoSize + 8, initrdSize);
        for (var i = 0; i < map.Count; i++)
        {
            var offset = StartInfoSize + ModuleSize + (i * MapEntrySize);
            U64(offset, map[i].Address);
            U64(offset + 8, map[i].Length);
            U32(offset + 16, (uint)map[i].Type);
        }

        return bytes;

        void U32(int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(offset), value);
        void U64(int offset, ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(offset), value);
    }
}
