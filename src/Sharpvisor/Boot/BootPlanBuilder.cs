using System.Text;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boot;

/// <summary>Collects the segments of a plan and refuses what does not fit in the guest's RAM.</summary>
internal sealed class BootPlanBuilder(BootRequest request)
{
    public const string InitrdName = "initrd";

    private readonly List<BootSegment> _segments = [];

    public IReadOnlyList<E820Entry> MemoryMap { get; } = E820.ForPc(request.Below4G, request.Above4G);

    /// <summary>Adds a part of a kernel; its range must be RAM above the boot data.</summary>
    public void AddKernel(ulong address, long offset, ulong fileLength, ulong memoryLength)
    {
        var source = request.Kernel;
        CheckRange(address, memoryLength);
        if (offset < 0 || fileLength > (ulong)source.Length || (ulong)offset > (ulong)source.Length - fileLength)
            throw new ConfigurationException($"{source.Name}: truncated: a segment of {fileLength} bytes at offset {offset}, but {source.Length} bytes in all; copy it again");
        Add(new BootSegment("kernel", address, source, offset, fileLength, memoryLength));
    }

    /// <summary>Refuses a range that the kernel will use if it is not RAM at 1 MiB or above.</summary>
    public void CheckRange(ulong address, ulong length)
    {
        if (address < BootLayout.KernelStart)
            throw new ConfigurationException($"{request.Kernel.Name}: wants to be loaded at 0x{address:x}, below 1 MiB, where a direct boot keeps its parameters; link it at 1 MiB or above");
        var end = address + length;
        var fits = end >= address && (end <= request.Below4G
            || (address >= E820.FourGiB && end <= E820.FourGiB + request.Above4G));
        if (!fits)
        {
            var needed = end < address || end > E820.FourGiB
                ? $"the guest has no RAM there"
                : $"the guest has {request.Below4G >> 20} MiB there: give it at least {(end + 0xFFFFF) >> 20}M with -m";
            throw new ConfigurationException($"{request.Kernel.Name}: the kernel needs memory at 0x{address:x} to 0x{end - 1:x}; {needed}");
        }
    }

    public void AddData(string name, ulong address, byte[] bytes) =>
        Add(new BootSegment(name, address, BootSource.FromBytes(bytes, name), 0, (ulong)bytes.Length, (ulong)bytes.Length));

    /// <summary>Adds the command line with its terminating zero.</summary>
    /// <param name="limit">The longest that the kernel takes, in bytes without the zero.</param>
    public void AddCommandLine(ulong limit)
    {
        limit = Math.Min(limit, BootLayout.CommandLineSpace - 1);
        var bytes = Encoding.UTF8.GetBytes(request.CommandLine + "\0");
        if (bytes.AsSpan(..^1).Contains((byte)0))
            throw new ConfigurationException("the kernel command line holds a NUL character: leave it out of -append");
        if ((ulong)bytes.Length - 1 > limit)
            throw new ConfigurationException($"the kernel command line has {bytes.Length - 1} bytes, {request.Kernel.Name} takes {limit} at most: shorten -append");
        AddData("command line", BootLayout.CommandLine, bytes);
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
        var address = PlaceBelow(Math.Min(request.Below4G, highestByte + 1), size);
        if ((address is null || address < kernelEnd) && above4G && request.Above4G > size)
            address = PlaceBelow(E820.FourGiB + request.Above4G, size);
        if (address is null || address < kernelEnd)
        {
            var end = Math.Min(request.Below4G, highestByte + 1);
            var room = end - Math.Min(kernelEnd, end);
            throw new ConfigurationException(
                $"{source.Name}: the initrd has {ToMiB(size)} MiB, the guest has room for {room >> 20} MiB next to the kernel: give it at least {ToMiB(kernelEnd + size) + 1}M with -m");
        }

        Add(new BootSegment(InitrdName, address.Value, source, 0, size, size));
        return (address.Value, size);
    }

    public BootPlan Build(KernelKind kind, ulong entry, ulong parametersAddress)
    {
        var longMode = kind is KernelKind.Linux64 or KernelKind.LinuxElf64;
        AddData("gdt", BootLayout.Gdt, EntryState.Gdt(longMode));
        if (longMode)
            AddData("page tables", BootLayout.PageTables, EntryState.IdentityPageTables());
        _segments.Sort((a, b) => a.Address.CompareTo(b.Address));
        return new BootPlan
        {
            Kind = kind,
            LoadAddress = _segments.First(s => s.Name == "kernel").Address,
            Entry = entry,
            ParametersAddress = parametersAddress,
            MemoryMap = MemoryMap,
            Segments = _segments,
        };
    }

    private static ulong ToMiB(ulong bytes) => (bytes + 0xFFFFF) >> 20;

    private static ulong? PlaceBelow(ulong end, ulong size) => size > end ? null : (end - size) & ~0xFFFUL;

    private void Add(BootSegment segment)
    {
        foreach (var other in _segments)
        {
            if (segment.Address < other.End && other.Address < segment.End)
                throw new ConfigurationException($"{request.Kernel.Name}: corrupt: two parts at 0x{segment.Address:x} and 0x{other.Address:x} overlap; copy it again");
        }

        _segments.Add(segment);
    }
}
