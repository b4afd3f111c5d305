// The PCI host bridge in the DSDT: what it passes on, and which interrupt each pin of each slot leads to.
// Follows: ACPI 6.4, 6.2.13 (_PRT), 6.2.2 and 6.2.16 (_CRS, _SRS); PCI Firmware Specification 3.0, 4.1.3. The interrupt
// links program the PIIX3's PIRQ route control; the names and choices of interrupts are those of QEMU's pc machine.
// Leaves out: a window above 4 GiB; hot plug.

using Sharpvisor.Devices.Chipset;

namespace Sharpvisor.Devices.Acpi;

internal static class PciAml
{
    private const int SlotCount = 32, PinCount = 4, LinkCount = 4;
    private const ulong NotRouted = 0x80, LinkDisabled = 0x09, LinkEnabled = 0x0B;

    /// <summary>Where the first interrupt number of an extended interrupt descriptor is.</summary>
    private const ulong InterruptOffset = 5;

    public static void Add(AmlWriter sb, AcpiOptions options)
    {
        sb.Device("PCI0", d =>
        {
            d.HardwareId("PNP0A03");
            d.Name("_UID", 0);
            d.Resources(
                AmlResources.BusNumbers(0, 0xFF),
                AmlResources.Ports(Pci.PciConfigPorts.Port, Pci.PciConfigPorts.Length),
                AmlResources.PortWindow(0x0000, 0x0CF7),
                AmlResources.PortWindow(0x0D00, 0xFFFF),
                AmlResources.MemoryWindow(0x000A_0000, 0x000B_FFFF, cacheable: true),
                AmlResources.MemoryWindow(options.PciHoleStart, 0xFEBF_FFFF, cacheable: false));
            d.NameTerm("_PRT", RoutingTable());
            d.Device("ISA", isa =>
            {
                isa.Name("_ADR", 0x0001_0000);
                isa.Add(Aml.PciConfigRegion("P40C", PiixIsaBridge.PirqRouteControl, LinkCount));
            });
        });
        sb.Add(Aml.ByteFields("PCI0.ISA.P40C", "PRQ0", "PRQ1", "PRQ2", "PRQ3"));
        // Link status: bit 7 of a PIRQ register disables it.
        sb.Method("IQST", 1, false,
            Aml.If(Aml.And(Aml.Integer(NotRouted), Aml.Argument(0), Aml.Nowhere), Aml.Return(Aml.Integer(LinkDisabled))),
            Aml.Return(Aml.Integer(LinkEnabled)));
        // Current resources of a link: the interrupt, or 0.
        sb.Method("IQCR", 1, true,
            NameInMethod("PRR0", Aml.ResourceTemplate(AmlResources.SharedInterrupts(0))),
            Aml.DWordField(Aml.Name("PRR0"), InterruptOffset, "PRRI"),
            Aml.If(Aml.Less(Aml.Argument(0), Aml.Integer(NotRouted)), Aml.Store(Aml.Argument(0), Aml.Name("PRRI"))),
            Aml.Return(Aml.Name("PRR0")));
        for (var i = 0; i < LinkCount; i++)
            Link(sb, i);
        FixedLink(sb);
    }

    private static void Link(AmlWriter sb, int index) => sb.Device($"LNK{(char)('A' + index)}", d =>
    {
        var register = Aml.Name($"PRQ{index}");
        d.HardwareId("PNP0C0F");
        d.Name("_UID", (ulong)index);
        d.Resources("_PRS", AmlResources.SharedInterrupts(5, 10, 11));
        d.Method("_STA", 0, false, Aml.Return([.. Aml.Name("IQST"), .. register]));
        d.Method("_DIS", 0, false, Aml.Or(register, Aml.Integer(NotRouted), register));
        d.Method("_CRS", 0, false, Aml.Return([.. Aml.Name("IQCR"), .. register]));
        d.Method("_SRS", 1, false,
            Aml.DWordField(Aml.Argument(0), InterruptOffset, "PRRI"),
            Aml.Store(Aml.Name("PRRI"), register));
    });

    /// <summary>The power management function's pin, which is the SCI wherever PIRQA leads.</summary>
    private static void FixedLink(AmlWriter sb) => sb.Device("LNKS", d =>
    {
        d.HardwareId("PNP0C0F");
        d.Name("_UID", LinkCount);
        d.Resources("_PRS", AmlResources.SharedInterrupts(AcpiTables.SciIrq));
        d.Method("_STA", 0, false, Aml.Return(Aml.Integer(LinkEnabled)));
        d.Method("_DIS", 0, false);
        d.Method("_CRS", 0, false, Aml.Return(Aml.Name("_PRS")));
        d.Method("_SRS", 1, false);
    });

    private static byte[] RoutingTable()
    {
        var entries = new List<byte[]>();
        for (var slot = 0; slot < SlotCount; slot++)
        {
            for (var pin = 0; pin < PinCount; pin++)
            {
                var link = slot == 1 && pin == 0 ? "LNKS" : $"LNK{(char)('A' + ((slot + pin + LinkCount - 1) % LinkCount))}";
                entries.Add(Aml.Package(Aml.Integer(((ulong)slot << 16) | 0xFFFF), Aml.Integer((ulong)pin), Aml.Name(link), Aml.Integer(0)));
            }
        }

        return Aml.Package([.. entries]);
    }

    private static byte[] NameInMethod(string name, byte[] value) => [0x08, .. Aml.Name(name), .. value];
}
