namespace Sharpvisor.Servers.Control;

/// <summary>What kinds of PCI functions are called in info pci, as QEMU calls them (PCI Code and ID Assignment Specification, 1).</summary>
internal static class PciClasses
{
    /// <param name="code">Base class and sub-class.</param>
    public static string Describe(ushort code) => code switch
    {
        0x0100 => "SCSI controller",
        0x0101 => "IDE controller",
        0x0106 => "SATA controller",
        0x0200 => "Ethernet controller",
        0x0300 => "VGA controller",
        0x0380 => "Display controller",
        0x0600 => "Host bridge",
        0x0601 => "ISA bridge",
        0x0680 => "Bridge",
        0x0700 => "Serial port",
        0x0780 => "Communication controller",
        0x0880 => "System peripheral",
        _ => $"Class {code:x4}",
    };
}
