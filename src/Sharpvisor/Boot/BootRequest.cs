namespace Sharpvisor.Boot;

/// <summary>What to boot, and what the machine offers for it.</summary>
public sealed record BootRequest
{
    /// <summary>A bzImage, an ELF vmlinux, an ELF image with a PVH entry, or a multiboot kernel.</summary>
    public required BootSource Kernel { get; init; }

    public BootSource? Initrd { get; init; }

    /// <summary>For a multiboot kernel, and for a PVH domain's; behind <see cref="Initrd"/>.</summary>
    public IReadOnlyList<BootModule> Modules { get; init; } = [];

    public BootWay Way { get; init; }

    /// <summary>The machine is a domain of Xen's, with pages for the two of them.</summary>
    public bool IsXen { get; init; }

    /// <summary>The kernel is to be entered by PVH and nothing else.</summary>
    public bool NeedsPvh { get; init; }

    public string CommandLine { get; init; } = "";

    /// <summary>RAM from address 0, in bytes.</summary>
    public required ulong Below4G { get; init; }

    /// <summary>RAM from 4 GiB, in bytes.</summary>
    public ulong Above4G { get; init; }

    /// <summary>Guest-physical address of the ACPI RSDP, or 0 for the guest to search it.</summary>
    public ulong RsdpAddress { get; init; }

    /// <summary>There is a VGA in text mode 3.</summary>
    public bool HasTextScreen { get; init; }
}
