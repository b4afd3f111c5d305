// The IDE function of the PIIX3: two channels at the ports of the IBM PC AT, and their bus masters.
// Follows: Intel 82371SB (290550), 2.3 (registers of function 1), 2.7 (bus master); as in QEMU's piix3-ide the ports of the
// channels answer whatever IDETIM says, and timings have no effect.
// Leaves out: native mode.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Devices.Ide;

/// <summary>Device 1, function 1. The board maps the channels' ports.</summary>
public sealed class PiixIde : PciFunction
{
    /// <summary>Of the primary and the secondary channel.</summary>
    public const ushort PrimaryPort = 0x1F0, PrimaryControlPort = 0x3F6, SecondaryPort = 0x170, SecondaryControlPort = 0x376;

    public const int PrimaryIrq = 14, SecondaryIrq = 15;

    /// <summary>IDETIM of the primary channel; that of the secondary follows. Bit 15: firmware has enabled it.</summary>
    public const int Timing = 0x40;

    public const ushort TimingDecode = 0x8000;

    private const int BusMasterBar = 4;
    private const uint BusMasterPorts = 16, PortsAChannel = 8;

    public PiixIde(IInterruptLine primary, IInterruptLine secondary)
        : base("piix3-ide", new PciIdentity(0x8086, 0x7010, 0x010180, 0))
    {
        Channels = [new IdeChannel(primary), new IdeChannel(secondary)];
        foreach (var channel in Channels)
            channel.BusMaster.Connect(this);
        Config.Define(PciRegister.Status, 2, PciRegister.StatusMediumTiming | PciRegister.StatusFastBackToBack, clearable: 0xF900);
        Config.Define(Timing, 4, 0, uint.MaxValue); // IDETIM
        Config.Define(Timing + 4, 1, 0, 0xFF); // SIDETIM
        AddPortBar(BusMasterBar, BusMasterPorts, new BytePorts(
            port => Channels[(int)(port / PortsAChannel)].BusMaster.Read(port % PortsAChannel),
            (port, value) => Channels[(int)(port / PortsAChannel)].BusMaster.Write(port % PortsAChannel, value)));
    }

    /// <summary>Primary and secondary.</summary>
    public IReadOnlyList<IdeChannel> Channels { get; }

    public override void Reset()
    {
        base.Reset();
        foreach (var channel in Channels)
            channel.Reset();
    }

    /// <summary>What firmware does before an operating system starts: enables both channels.</summary>
    public void EnableChannels()
    {
        Config.Set16(Timing, TimingDecode);
        Config.Set16(Timing + 2, TimingDecode);
    }
}
