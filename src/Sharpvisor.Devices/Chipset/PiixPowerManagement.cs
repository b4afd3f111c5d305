// The power management function of the PIIX4: where its register block and its SMBus controller lie.
// Follows: Intel 82371AB (290562), 7.1 (registers of function 3); power-on values as QEMU's PIIX4 PM has them for a
// machine without SMM: DEVACTB says that firmware has set SMM up already, so that it leaves it alone.
// Leaves out: SMM, device monitors and traps, clock control, C2 and C3.

using Sharpvisor.Devices.Acpi;
using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Devices.Chipset;

/// <summary>Device 1, function 3. Its interrupt is the SCI on IRQ 9 whatever PIRQA leads to.</summary>
public sealed class PiixPowerManagement : PciFunction
{
    private const int PowerManagementBase = 0x40, DeviceActivityB = 0x58, PowerManagementMisc = 0x80;
    private const int SmBusBase = 0x90, SmBusHostConfiguration = 0xD2;
    private const uint ApmcEnable = 1 << 25;

    private readonly PciPortWindow _registers, _smBus;

    /// <param name="serialPorts">Which of COM1 to COM4 there are: DEVRESJ and DEVRESI say so.</param>
    public PiixPowerManagement(AcpiPm registers, SmBusController smBus, IReadOnlyCollection<int> serialPorts)
        : base("piix4-pm", new PciIdentity(0x8086, 0x7113, 0x068000, 3), interruptPin: 1)
    {
        _registers = new PciPortWindow(this, AcpiPm.Length, registers, "acpi-pm");
        _smBus = new PciPortWindow(this, SmBusController.Length, smBus, "smbus");
        for (var offset = PciRegister.HeaderEnd; offset < PciConfigSpace.Size; offset++)
            Config.Define(offset, 1, 0, 0xFF);
        Config.Define(PciRegister.Status, 2, PciRegister.StatusMediumTiming | PciRegister.StatusFastBackToBack, clearable: 0xF900);
        Config.Define(PciRegister.Command, 2, 0, PciRegister.CommandIo);
        Config.Define(PowerManagementBase, 4, 1, 0xFFC0);
        Config.Define(DeviceActivityB, 4, ApmcEnable, uint.MaxValue);
        Config.Define(0x5C, 4, 0x1000_0000, uint.MaxValue);
        Config.Define(0x60, 4, 0x6000_0000, uint.MaxValue);
        Config.Define(0x64, 4, (serialPorts.Contains(1) ? 0x0800_0000u : 0) | (serialPorts.Contains(2) ? 0x9000_0000u : 0), uint.MaxValue);
        Config.Define(SmBusBase, 4, 1, 0xFFF0);
    }

    public override void WriteConfig(int offset, int size, uint value)
    {
        base.WriteConfig(offset, size, value);
        Place();
    }

    public override void Reset()
    {
        base.Reset();
        Place();
    }

    /// <summary>Puts the registers where firmware does.</summary>
    public void PlaceAt(ushort registers, ushort smBus)
    {
        Config.Set32(PowerManagementBase, registers | 1u);
        Config.Set8(PowerManagementMisc, 1);
        Config.Set32(SmBusBase, smBus | 1u);
        Config.Set8(SmBusHostConfiguration, 9);
        Place();
    }

    private void Place()
    {
        _registers.Place((Config.Get8(PowerManagementMisc) & 1) != 0 ? Port(PowerManagementBase, 0xFFC0) : null);
        _smBus.Place((Config.Get8(SmBusHostConfiguration) & 1) != 0 ? Port(SmBusBase, 0xFFF0) : null);
    }

    private ushort? Port(int register, uint mask) => (Config.Get32(register) & mask) is not 0 and var port ? (ushort)port : null;
}
