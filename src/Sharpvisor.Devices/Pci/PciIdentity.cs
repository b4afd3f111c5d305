// The identity of a PCI function in its configuration header.
// Follows: PCI Local Bus Specification 3.0, 6.2.1 and appendix D (class codes).

namespace Sharpvisor.Devices.Pci;

/// <summary>Who a function says it is, in its configuration header (PCI 3.0, 6.2.1).</summary>
/// <param name="ClassCode">Base class, sub-class and programming interface: 0x010180 for an IDE controller with bus master.</param>
/// <param name="Revision">Revision id.</param>
public readonly record struct PciIdentity(ushort VendorId, ushort DeviceId, uint ClassCode, byte Revision)
{
    /// <summary>QEMU's, which drivers expect of a paravirtual board.</summary>
    public const ushort QemuSubsystemVendor = 0x1AF4, QemuSubsystem = 0x1100;

    public ushort SubsystemVendorId { get; init; } = QemuSubsystemVendor;

    public ushort SubsystemId { get; init; } = QemuSubsystem;
}

/// <summary>Offsets and bits of the configuration header, type 0 (PCI 3.0, 6.1 and 6.2).</summary>
public static class PciRegister
{
    public const int VendorId = 0x00, DeviceId = 0x02, Command = 0x04, Status = 0x06, RevisionId = 0x08, ClassCode = 0x09;
    public const int CacheLineSize = 0x0C, LatencyTimer = 0x0D, HeaderType = 0x0E, BaseAddress = 0x10;
    public const int SubsystemVendorId = 0x2C, SubsystemId = 0x2E, RomBaseAddress = 0x30, Capabilities = 0x34;
    public const int InterruptLine = 0x3C, InterruptPin = 0x3D, HeaderEnd = 0x40;

    public const ushort CommandIo = 1, CommandMemory = 2, CommandBusMaster = 4, CommandParity = 0x40, CommandSerr = 0x100, CommandInterruptDisable = 0x400;
    public const ushort StatusInterrupt = 8, StatusCapabilities = 0x10, StatusFastBackToBack = 0x80, StatusMediumTiming = 0x200;

    /// <summary>Ids of capabilities.</summary>
    public const byte MsiCapability = 5, VendorCapability = 9, MsixCapability = 17;
}
