// Memory behind base address registers (a frame buffer, a ROM) as guest memory where the bus decodes it.
// Follows: PCI Local Bus Specification 3.0, 6.2.5. Leaves out: mapping above 4 GiB and in the first megabyte, where each access is decoded.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Pci;

/// <summary>
/// Shows the memory of functions to the processors where the bus decodes it. The bus says what is seen at each address;
/// whole pages of that which are memory are mapped as memory, below 4 GiB and behind the first megabyte.
/// </summary>
internal sealed class PciMemoryMap(AddressSpace mmio, GuestMemory memory)
{
    private const ulong OneMiB = 1UL << 20, FourGiB = 1UL << 32, PageMask = GuestMemory.PageSize - 1;

    private readonly Dictionary<Window, MemoryMapping> _mapped = [];

    /// <summary>Follows a change of the bus.</summary>
    public void Update()
    {
        var seen = new HashSet<Window>();
        foreach (var section in mmio.Sections)
        {
            if (section.Mapping.Device is not RegionDevice device)
                continue;
            var start = (Math.Max(section.Start, OneMiB) + PageMask) & ~PageMask;
            var end = Math.Min(Math.Min(section.End, section.Mapping.Start + device.Region.Size), FourGiB) & ~PageMask;
            var offset = start - section.Mapping.Start;
            if (start < end && (offset & PageMask) == 0)
                seen.Add(new Window(start, end - start, device, offset));
        }

        foreach (var (window, mapping) in _mapped)
        {
            if (seen.Contains(window))
                continue;
            memory.Unmap(mapping);
            _mapped.Remove(window);
        }

        foreach (var window in seen)
        {
            if (!_mapped.ContainsKey(window))
                _mapped[window] = Map(window);
        }
    }

    private MemoryMapping Map(Window window)
    {
        var region = window.Device.Region;
        return memory.Map(window.Start, window.Length, region, window.Offset, window.Device.IsRom ? null : region, window.Offset);
    }

    private readonly record struct Window(ulong Start, ulong Length, RegionDevice Device, ulong Offset);
}
