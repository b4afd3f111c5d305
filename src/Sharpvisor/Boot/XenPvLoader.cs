// Builds a paravirtual 64-bit domain of Xen's as its domain builder does: xen/include/public/xen.h, "Start-of-day memory
// layout" and struct start_info; the order of things is that of tools/libs/guest/xg_dom_core.c and xg_dom_x86.c:
//   kernel, [initrd], [p2m], start_info, store page, console page, page tables, stack, padding; then, not mapped
//   with the kernel, [initrd] and [p2m with the page tables that map it].
// Leaves out: symbol tables behind the kernel (BSD), several modules, virtual framebuffers.
using System.Text;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Xen.Pv;

namespace Sharpvisor.Boot;

internal static class XenPvLoader
{
    /// <summary>MAX_GUEST_CMDLINE, with its zero.</summary>
    private const int CommandLineSize = 1024;

    private const ulong Page = GuestMemory.PageSize;

    // The mapped region ends on such a boundary, so much behind the last thing in it.
    private const ulong RegionAlignment = 4 << 20, Padding = 512 << 10;

    // Linear addresses that are not canonical or Xen's: from here to there.
    private const ulong LowEnd = 1UL << 47, HighStart = IParavirtualDomain.HoleStart + IParavirtualDomain.HoleLength;

    /// <summary>Places all of a domain; nothing is written yet.</summary>
    /// <param name="request">A bzImage or a 64-bit ELF kernel with Xen's notes.</param>
    /// <exception cref="ConfigurationException">It can't be started so, is damaged, or does not fit.</exception>
    public static XenPvPlan Plan(BootRequest request)
    {
        var kernel = KernelProbe.UnpackToElf(request.Kernel);
        var elf = ElfImage.Parse(kernel);
        var notes = XenElfNotes.Parse(elf, kernel);
        if (Encoding.UTF8.GetByteCount(request.CommandLine) >= CommandLineSize)
            throw new ConfigurationException($"-append: the command line has {Encoding.UTF8.GetByteCount(request.CommandLine)} bytes, a paravirtual domain takes {CommandLineSize - 1}; shorten it");
        if (request.Initrd is { Length: 0 } empty)
            throw new ConfigurationException($"{empty.Name}: the initrd is empty; give a cpio archive or leave -initrd out");

        var layout = new PvLayout(request.Below4G, request.Above4G);
        var segments = Place(elf, kernel, notes);
        CheckInKernel(kernel, segments, notes.VirtualBase, notes.Entry, 1, "entry");
        if (notes.HypercallPage is { } hypercalls)
        {
            if (hypercalls % Page != 0)
                throw new ConfigurationException($"{kernel.Name}: its hypercall page 0x{hypercalls:x} is not on a page boundary; copy it again");
            CheckInKernel(kernel, segments, notes.VirtualBase, hypercalls, Page, "hypercall page");
        }

        var initrdPages = Pages((ulong)(request.Initrd?.Length ?? 0));
        var listPages = Pages(layout.PageCount * 8);
        var next = Pages(segments.Max(s => s.Address + s.MemoryLength));
        ulong initrd = 0, list = 0;
        if (!notes.TakesModuleFrame)
            initrd = Take(ref next, initrdPages);
        if (notes.FrameList is null)
            list = Take(ref next, listPages);
        var startInfo = Take(ref next, 1);
        var store = Take(ref next, 1);
        var console = Take(ref next, 1);
        CheckMemory(next);

        var tables = new PvPageTables(next, layout.PageCount);
        var region = MapRegion(tables, notes.VirtualBase, next);
        CheckRange(notes.VirtualBase, region, "memory (Xen note 3)");
        var tableCount = (ulong)tables.Count;
        var stack = next + tableCount;
        CheckMemory(stack + 1);
        next = region;
        if (notes.TakesModuleFrame)
            initrd = Take(ref next, initrdPages);
        ulong listTables = 0;
        if (notes.FrameList is { } listAt)
        {
            CheckRange(listAt, listPages, "list of frames (Xen note 15)");
            if (listAt < notes.VirtualBase + (region * Page) && notes.VirtualBase < listAt + (listPages * Page))
                throw new ConfigurationException($"{kernel.Name}: wants its list of frames at 0x{listAt:x}, over the memory at 0x{notes.VirtualBase:x}; copy it again");
            listTables = next;
            tables.Continue(next);
            tables.Reserve(listAt, listPages);
            next += (ulong)tables.Count - tableCount;
            list = Take(ref next, listPages);
            tables.Map(listAt, listPages, list);
        }

        // The padding may go beyond the end of memory; what lies in the domain's frames may not.
        if (next != region)
            CheckMemory(next);
        return new XenPvPlan(new XenPvPlaces
        {
            Initrd = request.Initrd,
            CommandLine = request.CommandLine,
            Layout = layout,
            Notes = notes,
            Segments = segments,
            Tables = tables,
            InitrdFrame = initrd,
            ListFrame = list,
            ListTables = listTables,
            TableCount = tableCount,
            StartInfoFrame = startInfo,
            StoreFrame = store,
            ConsoleFrame = console,
            StackFrame = stack,
        });

        void CheckMemory(ulong pages)
        {
            if (pages <= layout.PageCount)
                return;
            var missing = ((pages - layout.PageCount) * Page) + (1 << 20) - 1;
            throw new ConfigurationException($"{kernel.Name}: kernel, initrd and what a paravirtual domain starts with need {pages * Page >> 20} MiB, the domain has {layout.PageCount * Page >> 20}: give it at least {(request.Below4G + request.Above4G + missing) >> 20}M with -m");
        }

        void CheckRange(ulong start, ulong pages, string what)
        {
            // The last page of all is left free: no end wraps to 0.
            var isLow = start < LowEnd && pages < (LowEnd - start) / Page;
            var isHigh = start >= HighStart && pages < (0 - start) / Page;
            if (start % Page != 0 || !(isLow || isHigh))
                throw new ConfigurationException($"{kernel.Name}: wants its {what} at 0x{start:x}, where a paravirtual domain can have none; copy it again");
        }
    }

    /// <summary>The file's segments at the domain's own addresses.</summary>
    private static List<BootSegment> Place(ElfImage elf, BootSource kernel, XenElfNotes notes)
    {
        List<BootSegment> placed = [];
        foreach (var segment in elf.LoadSegments)
        {
            var address = segment.PhysicalAddress - notes.PhysicalOffset;
            if (segment.PhysicalAddress < notes.PhysicalOffset || address > GuestMemory.MaximumSize || segment.MemoryLength > GuestMemory.MaximumSize)
                throw new ConfigurationException($"{kernel.Name}: corrupt ELF file: a segment of 0x{segment.MemoryLength:x} bytes at 0x{segment.PhysicalAddress:x} (offset 0x{notes.PhysicalOffset:x}); copy it again");
            if (segment.FileLength > 0 && (segment.Offset > (ulong)kernel.Length || segment.FileLength > (ulong)kernel.Length - segment.Offset))
                throw new ConfigurationException($"{kernel.Name}: truncated: a segment of {segment.FileLength} bytes at {segment.Offset}, {kernel.Length} there; copy it again");
            placed.Add(new BootSegment("kernel", address, kernel, (long)segment.Offset, segment.FileLength, segment.MemoryLength));
        }

        return placed;
    }

    private static void CheckInKernel(BootSource kernel, List<BootSegment> segments, ulong virtualBase, ulong address, ulong length, string what)
    {
        var offset = address - virtualBase;
        if (!segments.Any(s => offset >= s.Address && offset - s.Address < s.MemoryLength && s.MemoryLength - (offset - s.Address) >= length))
            throw new ConfigurationException($"{kernel.Name}: its {what} 0x{address:x} lies outside of what it loads; copy it again");
    }

    /// <summary>Maps memory from its first page on up to the end of the region.</summary>
    /// <param name="used">Pages before the page tables.</param>
    /// <returns>Pages of the region.</returns>
    private static ulong MapRegion(PvPageTables tables, ulong virtualBase, ulong used)
    {
        ulong pages = 0;
        while (true)
        {
            // More tables may need more region, which may need more tables.
            var needed = Align(virtualBase + ((used + (ulong)tables.Count + 1) * Page) + Padding, RegionAlignment) - virtualBase;
            if (needed / Page <= pages)
                return pages;
            pages = needed / Page;
            tables.Map(virtualBase, pages, 0);
        }
    }

    private static ulong Take(ref ulong next, ulong pages)
    {
        var taken = next;
        next += pages;
        return taken;
    }

    private static ulong Pages(ulong bytes) => (bytes + Page - 1) / Page;

    private static ulong Align(ulong value, ulong alignment) => (value + alignment - 1) & ~(alignment - 1);
}
