// The ACPI differentiated system description table of this machine, in AML.
// Follows: ACPI 6.4, 5.2.11.1 and 20 (AML); the devices and names are those of QEMU's pc machine.
// Leaves out: hot plug, S1 and S2.

using Sharpvisor.Devices.Chipset;
using Sharpvisor.Devices.Firmware;
using Sharpvisor.Devices.Timers;

namespace Sharpvisor.Devices.Acpi;

/// <summary>The differentiated system description table: the devices of <c>\_SB</c> that can't be enumerated.</summary>
internal static class Dsdt
{
    private static readonly (ushort Port, int Irq)[] SerialPorts = [(0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3)];

    public static byte[] Build(AcpiOptions options)
    {
        var aml = new AmlWriter();
        // The SLP_TYP values of PM1a and PM1b for each sleep state.
        if (options.HasSuspendToRam)
            aml.NamePackage(@"\_S3", AcpiPm.SuspendToRam, AcpiPm.SuspendToRam, 0, 0);
        if (options.HasSuspendToDisk)
            aml.NamePackage(@"\_S4", AcpiPm.SuspendToDisk, AcpiPm.SuspendToDisk, 0, 0);
        var softOff = options.IsHardwareReduced ? AcpiReducedPower.SoftOff : AcpiPm.SoftOff;
        aml.NamePackage(@"\_S5", softOff, softOff, 0, 0);
        aml.Scope(@"\_SB", sb =>
        {
            for (var i = 0; i < options.ProcessorCount; i++)
                Processor(sb, i);
            foreach (var port in options.SerialPorts)
                SerialPort(sb, port);
            if (!options.IsHardwareReduced)
                Rtc(sb);
            if (options.HasI8042)
                Keyboard(sb);
            if (options.HasHpet)
                HpetDevice(sb);
            if (options.HasPci)
                PciAml.Add(sb, options);
            if (options.HasFwCfg)
                FwCfgDevice(sb);
            if (options.HasPanicPort)
                PvPanic.Describe(sb);
            options.AddDevices?.Invoke(sb);
        });

        var table = new AcpiTable("DSDT", 2);
        table.Bytes(aml.Code);
        return table.Finish();
    }

    private static void Processor(AmlWriter sb, int index) => sb.Device($"C{index:X3}", d =>
    {
        d.Name("_HID", "ACPI0007");
        d.Name("_UID", (ulong)index);
    });

    private static void SerialPort(AmlWriter sb, int number) => sb.Device($"COM{number}", d =>
    {
        var (port, irq) = SerialPorts[number - 1];
        d.HardwareId("PNP0501");
        d.Name("_UID", (ulong)number);
        d.Resources(AmlResources.Ports(port, 8), AmlResources.Irq(irq));
    });

    private static void Rtc(AmlWriter sb) => sb.Device("RTC", d =>
    {
        d.HardwareId("PNP0B00");
        d.Resources(AmlResources.Ports(0x70, 4), AmlResources.Irq(8));
    });

    private static void Keyboard(AmlWriter sb)
    {
        sb.Device("KBD", d =>
        {
            d.HardwareId("PNP0303");
            d.Resources(AmlResources.Ports(0x60, 1), AmlResources.Ports(0x64, 1), AmlResources.Irq(1));
        });
        sb.Device("MOU", d =>
        {
            d.HardwareId("PNP0F13");
            d.Resources(AmlResources.Irq(12));
        });
    }

    private static void FwCfgDevice(AmlWriter sb) => sb.Device("FWCF", d =>
    {
        d.Name("_HID", "QEMU0002");
        d.Name("_STA", 0x0B);
        d.Resources(AmlResources.Ports(FwCfg.SelectorPort, FwCfg.Length));
    });

    private static void HpetDevice(AmlWriter sb) => sb.Device("HPET", d =>
    {
        d.HardwareId("PNP0103");
        d.Name("_UID", 0);
        d.Resources(AmlResources.Memory32((uint)Hpet.DefaultAddress, Hpet.Length, writable: false));
    });
}
