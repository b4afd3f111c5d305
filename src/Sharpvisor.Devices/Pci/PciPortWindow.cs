// Ports that a PCI function decodes by a register outside of its header, as the power management of PIIX4 does.
// Follows: Intel 82371AB (PIIX4) data sheet, 7.1 (PMBA, SMBBA).

using Sharpvisor.Core.Buses;

namespace Sharpvisor.Devices.Pci;

/// <summary>A block of ports that a function decodes where a register of its own says, outside of the header.</summary>
public sealed class PciPortWindow(PciFunction function, uint length, IBusDevice device, string name)
{
    private AddressSpace.Mapping? _mapping;
    private ushort? _port;

    /// <summary>Moves the block; null: it is not decoded.</summary>
    public void Place(ushort? port)
    {
        if (port == _port)
            return;
        var ports = function.Bus.Ports;
        if (_mapping is not null)
            ports.Unmap(_mapping);
        _mapping = port is { } start ? ports.Overlay(start, length, device, name, PciBus.PortPriority) : null;
        _port = port;
    }
}
