// The platform device of a Xen HVM domain: a PCI function by which drivers find Xen, with room in the address space for
// the grant table, and the fixed ports by which they take the emulated disks and NICs away before they use Xen's own.
// Follows: Xen docs/misc/hvm-emulated-unplug.pandoc and pci-device-reservations; the product numbers as QEMU's xen-platform knows them.
// Leaves out: the read-only flag of the hypercall loader's ROM; a blacklist of drivers (none is refused).

using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Buses;
using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Devices.Xen;

/// <summary>What a domain asks to have taken away.</summary>
[Flags]
public enum XenUnplug
{
    None = 0,

    /// <summary>Hard disks on IDE and SCSI; CD-ROM drives stay.</summary>
    Disks = 1,
    Nics = 2,

    /// <summary>Hard disks on IDE but the primary master.</summary>
    AuxiliaryDisks = 4,
}

/// <summary>The board maps <see cref="UnplugPorts"/> at <see cref="UnplugPort"/>.</summary>
public sealed class XenPlatform : PciFunction
{
    public const ushort UnplugPort = 0x10;

    public const int UnplugLength = 16;

    private const ulong MemoryLength = 16 << 20;
    private const uint PortLength = 256;

    /// <param name="unplug">Takes devices away until the next reset. Called with the gate held.</param>
    public XenPlatform(Action<XenUnplug> unplug, ILogger logger)
        : base("xen-platform", new PciIdentity(0x5853, 0x0001, 0xFF8000, 0x01) { SubsystemVendorId = 0x5853, SubsystemId = 0x0001 }, interruptPin: 1)
    {
        var log = new XenLog(logger);
        UnplugPorts = new Ports(unplug, log, logger);
        AddPortBar(0, PortLength, new BytePorts(_ => 0xFF, (offset, value) =>
        {
            if (offset == 4)
                log.Add(value);
        }));
        // What drivers do not lay a page of theirs over is nothing.
        AddMemoryBar(1, MemoryLength, new BytePorts(_ => 0xFF, (_, _) => { }), prefetchable: true);
    }

    public IBusDevice UnplugPorts { get; }

    private sealed class Ports(Action<XenUnplug> unplug, XenLog log, ILogger logger) : IBusDevice
    {
        private const ulong Magic = 0x49D2, Version = 1;
        private ulong _product;

        public ulong Read(uint offset, int size) => (offset, size) switch
        {
            (0, 2) => Magic,
            (2, 1) => Version,
            _ => ulong.MaxValue >> (64 - (8 * size)),
        };

        public void Write(uint offset, int size, ulong value)
        {
            const ulong known = (ulong)(XenUnplug.Disks | XenUnplug.Nics | XenUnplug.AuxiliaryDisks);
            switch (offset, size)
            {
                case (0, 2):
                    if ((value & known) != 0)
                        unplug((XenUnplug)(value & known));
                    break;
                case (2, 2):
                    _product = value;
                    break;
                case (0, 4):
                    logger.LogDebug("drivers of product {Product}, build {Build}, use Xen's platform device", _product, value);
                    break;
                case (2, 1):
                    log.Add((byte)value);
                    break;
            }
        }
    }
}
