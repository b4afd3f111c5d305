// pvpanic: one byte by which a guest's kernel says that it has crashed.
// Follows: QEMU docs/specs/pvpanic.rst: a read gives the events that the device takes, a write says which have happened;
// bit 0 a crash, bit 1 a crash that a kernel within the guest takes care of. On the ISA bus at port 505h, where ACPI
// tells of it by QEMU0001; on PCI as 1B36h:0011h with a memory register.
// Leaves out: bit 2 (a shutdown that ACPI's power-off would not tell of).

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Acpi;
using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Devices.Chipset;

/// <summary>The register, on whichever bus.</summary>
public sealed class PvPanic(IMachineControl machine) : ByteWideDevice
{
    public const ushort Port = 0x505;

    private const byte Panicked = 1, CrashLoaded = 2;

    /// <summary>Tells of the port: the device that Linux's pvpanic and Windows look for.</summary>
    internal static void Describe(AmlWriter sb) => sb.Device("PEVT", d =>
    {
        d.Name("_HID", "QEMU0001");
        d.Name("_STA", 0x0F);
        d.Resources(AmlResources.Ports(Port, 1));
    });

    protected override byte ReadByte(uint offset) => offset == 0 ? (byte)(Panicked | CrashLoaded) : (byte)0xFF;

    protected override void WriteByte(uint offset, byte value)
    {
        if (offset != 0)
            return;
        if ((value & Panicked) != 0)
            machine.ReportPanic("pvpanic", isHandled: false);
        else if ((value & CrashLoaded) != 0)
            machine.ReportPanic("pvpanic", isHandled: true);
    }
}

/// <summary>The same as a function on PCI.</summary>
public sealed class PvPanicPci : PciFunction
{
    private const int RegisterLength = 16;

    public PvPanicPci(IMachineControl machine) : base("pvpanic-pci", new PciIdentity(0x1B36, 0x0011, 0x088000, 1)) =>
        AddMemoryBar(0, RegisterLength, new PvPanic(machine));
}
