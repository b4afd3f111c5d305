// Configuration mechanism #1: CONFIG_ADDRESS and CONFIG_DATA.
// Follows: PCI Local Bus Specification 3.0, 3.2.2.3.2; Intel 82441FX (290549) 3.1. Only a write of 32 bits changes
// CONFIG_ADDRESS; the chipset's reset control register lies in the middle of it and takes the bytes at CF9h.
// Leaves out: mechanism #2, special cycles.

using Sharpvisor.Core.Buses;

namespace Sharpvisor.Devices.Pci;

/// <summary>Ports CF8h to CFFh.</summary>
public sealed class PciConfigPorts(PciBus bus, IBusDevice? resetControl = null) : IBusDevice, IResettable
{
    public const ushort Port = 0xCF8;

    /// <summary>Length, in ports.</summary>
    public const int Length = 8;

    private const uint Enable = 1u << 31;

    private uint _address;

    public void Reset() => _address = 0;

    public ulong Read(uint offset, int size)
    {
        if (offset == 1 && size == 1 && resetControl is not null)
            return resetControl.Read(0, 1);
        if (offset < 4)
            return (ulong)_address >> (int)(8 * offset);
        return (_address & Enable) == 0
            ? ulong.MaxValue
            : bus.ReadConfig((int)(_address >> 16) & 255, (int)(_address >> 8) & 255, Register(offset), size);
    }

    public void Write(uint offset, int size, ulong value)
    {
        if (offset == 1 && size == 1)
            resetControl?.Write(0, 1, value);
        else if (offset == 0 && size == 4)
            _address = (uint)value;
        else if (offset >= 4 && (_address & Enable) != 0)
            bus.WriteConfig((int)(_address >> 16) & 255, (int)(_address >> 8) & 255, Register(offset), size, (uint)value);
    }

    private int Register(uint offset) => (int)((_address & 0xFC) | (offset & 3));
}
