using System.Text;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boot;

/// <summary>Collects the segments of a plan and refuses what does not fit in the guest's RAM.</summary>
internal sealed class BootPlanBuilder(BootRequest request)
{
    public const string InitrdName = "initrd";

    private const string KernelName = "kernel";

    // What firmware keeps for itself below the end of RAM: ACPI tables, its own code. SeaBIOS takes some 300 KiB.
    private const ulong FirmwareTop = 1 << 20;

    private readonly List<BootSegment> _segments = [];
    private readonly List<(ulong Start, ulong End)> _needed = [];

    /// <summary>The end of RAM below 4 GiB that a kernel and its data may fill.</summary>
    private ulong RamEnd { get; } = request.Way == BootWay.Direct ? request.Below4G : request.Below4G - Math.Min(FirmwareTop, request.Below4G);

    public IReadOnlyList<E820Entry> MemoryMap { get; } = request.IsXen ? E820.ForXen(request.Below4G, request.Above4G) : E820.ForPc(request.Below4G, request.Above4G);

    /// <summary>Adds a part of a kernel; its range must be RAM.</summary>
    /// <param name="lowest">The lowest address that it may have.</param>
    public void AddKernel(ulong address, long offset, ulong fileLength, ulong memoryLength, ulong lowest = BootLayout.KernelStart)
    {
        var source = request.Kernel;
        CheckRange(address, memoryLength, lowest);
        if (offset < 0 || fileLength > (ulong)source.Length || (ulong)offset > (ulong)source.Length - fileLength)
            throw new ConfigurationException($"{source.Name}: truncated: a segment of {fileLength} bytes at offset {offset}, but {source.Length} bytes in all; copy it again");
        Add(new BootSegment(KernelName, address, source, offset, fileLength, memoryLength));
    }

    /// <summary>Refuses a range that the kernel will use if it is not RAM.</summary>
    public void CheckRange(ulong address, ulong length, ulong lowest = BootLayout.KernelStart)
    {
        if (address < lowest)
            throw new ConfigurationException($"{request.Kernel.Name}: wants to be loaded at 0x{address:x}, below 1 MiB, where a direct boot keeps its parameters; link it at 1 MiB or above");
        var end = address + length;
        if (address < BootLayout.KernelStart && end > E820.EbdaStart)
            throw new ConfigurationException($"{request.Kernel.Name}: the kernel needs memory at 0x{address:x} to 0x{end - 1:x}, across 0x{E820.EbdaStart:x} to 0x{E820.OneMiB - 1:x}, where a PC has no RAM; link it at 1 MiB or above");
        var fits = end >= address && (end <= RamEnd
            || (request.Way == BootWay.Direct && address >= E820.FourGiB && end <= E820.FourGiB + request.Above4G));
        if (!fits)
        {
            var needed = end < address || end > E820.FourGiB
                ? $"the guest has no RAM there"
                : $"the guest has {RamEnd >> 20} MiB there: give it at least {ToMiB(end + request.Below4G - RamEnd)}M with -m";
            throw new ConfigurationException($"{request.Kernel.Name}: the kernel needs memory at 0x{address:x} to 0x{end - 1:x}; {needed}");
        }

        if (length > 0)
            _needed.Add((address, end));
    }

    /// <summary>Nothing lies there yet.</summary>
    public bool IsFree(ulong address, ulong length) => _segments.TrueForAll(s => s.Address >= address + length || s.End <= address);

    public void AddData(string name, ulong address, byte[] bytes) =>
        Add(new BootSegment(name, address, BootSource.FromBytes(bytes, name), 0, (ulong)bytes.Length, (ulong)bytes.Length));

    /// <summary>Adds a file at an address behind the kernel.</summary>
    public void AddModule(BootSource source, ulong address)
    {
        var size = (ulong)source.Length;
        if (address > RamEnd || size > RamEnd - address)
            throw new ConfigurationException($"{source.Name}: the module has {ToMiB(size)} MiB, the guest has room for {(RamEnd - Math.Min(address, RamEnd)) >> 20} MiB behind the kernel: give it at least {ToMiB(address + size + request.Below4G - RamEnd)}M with -m");
        if (size > 0)
            Add(new BootSegment("module", address, source, 0, size, size));
    }

    /// <summary>Adds the memory map, unless firmware will tell it.</summary>
    public void AddMemoryMap(Func<IReadOnlyList<E820Entry>, byte[]> format)
    {
        if (request.Way == BootWay.Direct)
            AddData("memory map", BootLayout.MemoryMap, format(MemoryMap));
    }

    /// <exception cref="ConfigurationException">A zero would end the text early.</exception>
    public static void CheckText(string text, string what)
    {
        if (text.Contains('\0', StringComparison.Ordinal))
            throw new ConfigurationException($"{what} holds a NUL character: leave it out");
    }

    /// <summary>Adds the command line with its terminating zero.</summary>
    /// <param name="limit">The longest that the kernel takes, in bytes without the zero.</param>
    /// <param name="end">Where it ends; null: it begins at its usual place.</param>
    /// <returns>Its address.</returns>
    public ulong AddCommandLine(ulong limit, ulong? end = null)
    {
        limit = Math.Min(limit, BootLayout.CommandLineSpace - 1);
        var bytes = Encoding.UTF8.GetBytes(request.CommandLine + "\0");
        CheckText(request.CommandLine, "the kernel command line");
        if ((ulong)bytes.Length - 1 > limit)
            throw new ConfigurationException($"the kernel command line has {bytes.Length - 1} bytes, {request.Kernel.Name} takes {limit} at most: shorten -append");
        var address = end is null ? BootLayout.CommandLine : (end.Value - (ulong)bytes.Length) & ~0xFUL;
        AddData("command line", address, bytes);
        return address;
    }

    /// <summary>Puts the initrd as high as allowed, out of the way of a kernel that unpacks itself.</summary>
    /// <param name="highestByte">The last address that any byte of it may have.</param>
    /// <param name="kernelEnd">The first address behind what the kernel uses.</param>
    /// <param name="above4G">The kernel can find it above 4 GiB.</param>
    /// <returns>Its address and size; zeroes if there is none.</returns>
    public (ulong Address, ulong Size) AddInitrd(ulong highestByte, ulong kernelEnd, bool above4G)
    {
        if (request.Initrd is not { } source)
            return (0, 0);
        var size = (ulong)source.Length;
        if (size == 0)
            throw new ConfigurationException($"{source.Name}: the initrd is empty; give a cpio archive or leave -initrd out");
        var address = PlaceBelow(Math.Min(RamEnd, highestByte + 1), size);
        if ((address is null || address < kernelEnd) && above4G && request.Above4G > size)
            address = PlaceBelow(E820.FourGiB + request.Above4G, size);
        if (address is null || address < kernelEnd)
        {
            var end = Math.Min(RamEnd, highestByte + 1);
            var room = end - Math.Min(kernelEnd, end);
            throw new ConfigurationException(
                $"{source.Name}: the initrd has {ToMiB(size)} MiB, the guest has room for {room >> 20} MiB next to the kernel: give it at least {ToMiB(kernelEnd + size + request.Below4G - RamEnd) + 1}M with -m");
        }

        Add(new BootSegment(InitrdName, address.Value, source, 0, size, size));
        return (address.Value, size);
    }

    public BootPlan Build(KernelKind kind, ulong entry, ulong parametersAddress, ulong stackOffset = 0)
    {
        var longMode = kind is KernelKind.Linux64 or KernelKind.LinuxElf64;
        if (kind != KernelKind.LinuxRealMode)
            AddData("gdt", BootLayout.Gdt, EntryState.Gdt(longMode));
        if (longMode)
            AddData("page tables", BootLayout.PageTables, EntryState.IdentityPageTables());
        _segments.Sort((a, b) => a.Address.CompareTo(b.Address));
        return new BootPlan
        {
            Kind = kind,
            Way = request.Way,
            LoadAddress = _segments.First(s => s.Name == KernelName).Address,
            Entry = entry,
            ParametersAddress = parametersAddress,
            StackOffset = stackOffset,
            NeededMemory = [.. _needed.Union(_segments.Select(s => (s.Address, s.End)))],
            MemoryMap = MemoryMap,
            Segments = _segments,
        };
    }

    private static ulong ToMiB(ulong bytes) => (bytes + 0xFFFFF) >> 20;

    private static ulong? PlaceBelow(ulong end, ulong size) => size > end ? null : (end - size) & ~0xFFFUL;

    private void Add(BootSegment segment)
    {
        if (request.Way == BootWay.Firmware && segment.Address < BootLayout.StackTop && segment.End > BootLayout.MemoryMap)
            throw new ConfigurationException($"{request.Kernel.Name}: the kernel lies over 0x{BootLayout.MemoryMap:x} to 0x{BootLayout.StackTop - 1:x}, where the memory map goes; link it at 1 MiB or above");
        foreach (var other in _segments)
        {
            if (segment.Address >= other.End || other.Address >= segment.End)
                continue;
            if (segment.Name == KernelName != (other.Name == KernelName))
                throw new ConfigurationException($"{request.Kernel.Name}: the kernel lies over 0x{Math.Max(segment.Address, other.Address):x}, where the {(segment.Name == KernelName ? other : segment).Name} goes; link it at 1 MiB or above");
            throw new ConfigurationException($"{request.Kernel.Name}: corrupt: two parts at 0x{segment.Address:x} and 0x{other.Address:x} overlap; copy it again");
        }

        _segments.Add(segment);
    }
}
