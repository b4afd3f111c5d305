// What a kernel tells Xen's domain builder by ELF notes: xen/include/public/elfnote.h. The checks are those of Xen's
// libelf (common/libelf/libelf-dominfo.c).
// Leaves out: the __xen_guest section of strings, which kernels had before there were notes.
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boot;

/// <summary>The notes of a kernel that can be started as a paravirtual domain.</summary>
internal sealed record XenElfNotes
{
    private const string Owner = "Xen", LoaderName = "generic", Version = "xen-3.0";
    private const uint EntryType = 1, HypercallPageType = 2, VirtualBaseType = 3, PhysicalOffsetType = 4, VersionType = 5, GuestType = 6,
        LoaderType = 8, FeaturesType = 10, ValidMaskType = 13, FrameListType = 15, ModuleStartType = 16;

    // XENFEAT_* by name. Writable page tables: stores to a mapped table are carried out, checked, as Xen does.
    private static readonly string[] Offered = ["writable_page_tables", "pae_pgdir_above_4gb"];
    private static readonly string[] Known = [.. Offered, "writable_descriptor_tables", "auto_translated_physmap", "supervisor_mode_kernel", "dom0"];

    /// <summary>Where it is entered: a virtual address.</summary>
    public required ulong Entry { get; init; }

    /// <summary>Where the domain's memory begins in the initial mapping.</summary>
    public required ulong VirtualBase { get; init; }

    /// <summary>What the file's physical addresses have too much.</summary>
    public ulong PhysicalOffset { get; init; }

    /// <summary>Virtual address of a page that the builder fills; null: the kernel needs none.</summary>
    public ulong? HypercallPage { get; init; }

    /// <summary>Virtual address where it wants the list of its frames; null: behind the kernel.</summary>
    public ulong? FrameList { get; init; }

    /// <summary>It finds its initrd by the frame and needs no mapping of it.</summary>
    public bool TakesModuleFrame { get; init; }

    /// <summary>Its name for itself.</summary>
    public string GuestName { get; init; } = "";

    /// <exception cref="ConfigurationException">The kernel can't be started so.</exception>
    public static XenElfNotes Parse(ElfImage elf, BootSource kernel)
    {
        var notes = elf.Notes(kernel, Owner);
        if (notes.Count == 0)
            throw new ConfigurationException($"{kernel.Name}: has no notes for Xen; give a Linux kernel built with CONFIG_XEN_PV, or another -machine");
        if (!elf.Is64Bit)
            throw new ConfigurationException($"{kernel.Name}: is a 32-bit kernel, paravirtual domains here have 64 bits; give a 64-bit kernel, or -machine xenpvh");
        if (Number(EntryType) is null && Number(VirtualBaseType) is null)
            throw new ConfigurationException($"{kernel.Name}: has no entry for paravirtual domains (Xen note 1); give a Linux kernel built with CONFIG_XEN_PV, or -machine xenpvh");
        if (Text(LoaderType) is { } loader && loader != LoaderName)
            throw new ConfigurationException($"{kernel.Name}: is made for Xen's loader \"{Printable(loader)}\", which is not here; give a kernel for \"{LoaderName}\"");
        if (Text(VersionType) is { } version && version != Version)
            throw new ConfigurationException($"{kernel.Name}: is made for the interface \"{Printable(version)}\", this is \"{Version}\"; give a newer kernel");
        CheckFeatures(kernel, Text(FeaturesType) ?? "");
        CheckValidMask(kernel, notes);
        return new XenElfNotes
        {
            Entry = Number(EntryType) ?? elf.Entry,
            VirtualBase = Number(VirtualBaseType) ?? 0,
            PhysicalOffset = Number(PhysicalOffsetType) ?? 0,
            HypercallPage = Number(HypercallPageType),
            FrameList = Number(FrameListType),
            TakesModuleFrame = Number(ModuleStartType) is not (null or 0),
            GuestName = Printable(Text(GuestType) ?? ""),
        };

        ulong? Number(uint type) => notes.FirstOrDefault(n => n.Type == type)?.Number;
        string? Text(uint type) => notes.FirstOrDefault(n => n.Type == type)?.Text;
    }

    /// <summary>A list of names between bars; an exclamation mark: it does not run without.</summary>
    private static void CheckFeatures(BootSource kernel, string features)
    {
        foreach (var feature in features.Split(['|', ' '], StringSplitOptions.RemoveEmptyEntries).Where(f => f[0] == '!'))
        {
            var name = feature[1..];
            if (!Offered.Contains(name))
                throw new ConfigurationException($"{kernel.Name}: needs Xen's feature \"{Printable(name)}\", which {(Known.Contains(name) ? "is not offered to paravirtual domains" : "is unknown")} here; give another kernel or -machine xenpvh");
        }
    }

    /// <summary>Pairs of a mask and a value by which the kernel knows a valid entry: a present one must be.</summary>
    private static void CheckValidMask(BootSource kernel, IReadOnlyList<ElfImage.Note> notes)
    {
        const int pair = 16;
        const ulong present = 1;
        if (notes.FirstOrDefault(n => n.Type == ValidMaskType) is not { } note)
            return;
        for (var at = 0; at + pair <= note.Data.Length; at += pair)
        {
            if ((present & BitConverter.ToUInt64(note.Data, at)) == BitConverter.ToUInt64(note.Data, at + 8))
                return;
        }

        throw new ConfigurationException($"{kernel.Name}: takes no entry of a page table for present (Xen note 13); copy it again");
    }

    private static string Printable(string text) => new([.. text.Take(64).Select(c => c is >= ' ' and < (char)0x7F ? c : '?')]);
}
