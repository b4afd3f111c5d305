// The memory map of a PC as BIOS function INT 15h, AX=E820h gives it (ACPI 6.5, section 15.1), for guests that boot
// without a BIOS. The numbers of the types are the ones that boot_params and hvm_start_info use as well.
namespace Sharpvisor.Boot;

public enum E820Type
{
    Ram = 1,
    Reserved = 2,
    Acpi = 3,
    Nvs = 4,
}

/// <summary>A range of guest-physical addresses, in bytes.</summary>
public readonly record struct E820Entry(ulong Address, ulong Length, E820Type Type)
{
    public ulong End => Address + Length;
}

public static class E820
{
    /// <summary>Where the extended BIOS data area starts on a PC; RAM below it.</summary>
    public const ulong EbdaStart = 0x9FC00;

    /// <summary>From here to 1 MiB: firmware. ACPI tables lie there.</summary>
    public const ulong FirmwareStart = 0xE0000;

    public const ulong OneMiB = 0x100000;

    public const ulong FourGiB = 1UL << 32;

    /// <summary>The same of a domain of Xen's, with the pages by which it and Xen talk.</summary>
    public static IReadOnlyList<E820Entry> ForXen(ulong below4G, ulong above4G) =>
    [
        .. ForPc(below4G, above4G).Where(e => e.Address < FourGiB),
        new(Devices.Xen.XenDomain.SpecialPages, Devices.Xen.XenDomain.SpecialLength, E820Type.Reserved),
        .. ForPc(below4G, above4G).Where(e => e.Address >= FourGiB),
    ];

    /// <summary>The map of a PC with so much RAM (bytes) from 0 and from 4 GiB on.</summary>
    public static IReadOnlyList<E820Entry> ForPc(ulong below4G, ulong above4G)
    {
        var map = new List<E820Entry>
        {
            new(0, EbdaStart, E820Type.Ram),
            new(EbdaStart, 0xA0000 - EbdaStart, E820Type.Reserved),
            new(FirmwareStart, OneMiB - FirmwareStart, E820Type.Reserved),
        };
        if (below4G > OneMiB)
            map.Add(new(OneMiB, below4G - OneMiB, E820Type.Ram));
        if (above4G > 0)
            map.Add(new(FourGiB, above4G, E820Type.Ram));
        return map;
    }
}
