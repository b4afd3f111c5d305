// The capability by which firmware that maps no memory reaches the modern registers through configuration space.
// Follows: VIRTIO 1.2, 4.1.4.9 (VIRTIO_PCI_CAP_PCI_CFG).

using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Devices.Virtio.Transports;

internal sealed class VirtioPciAccessWindow
{
    private const int CapabilityLength = 20, Type = 5, BarField = 4, OffsetField = 8, LengthField = 12, DataField = 16, DataLength = 4;

    private readonly PciConfigSpace _config;
    private readonly VirtioModernRegisters _registers;
    private readonly int _bar, _at;

    public VirtioPciAccessWindow(PciConfigSpace config, VirtioModernRegisters registers, int bar)
    {
        _config = config;
        _registers = registers;
        _bar = bar;
        _at = config.AddCapability(PciRegister.VendorCapability, CapabilityLength);
        config.Define(_at + 2, 1, CapabilityLength);
        config.Define(_at + 3, 1, Type);
        config.Define(_at + BarField, 1, 0, 0xFF);
        config.Define(_at + OffsetField, 4, 0, uint.MaxValue);
        config.Define(_at + LengthField, 4, 0, uint.MaxValue);
        config.Define(_at + DataField, 4, 0, uint.MaxValue);
    }

    /// <summary>Before configuration space is read: the data field shows the register.</summary>
    public void OnRead(int offset, int size)
    {
        if (TryLocate(offset, size, out var register, out var length))
            _config.Set32(_at + DataField, (uint)_registers.Read(register, length));
    }

    /// <summary>After configuration space was written: the register gets the data field.</summary>
    public void OnWritten(int offset, int size)
    {
        if (TryLocate(offset, size, out var register, out var length))
            _registers.Write(register, length, _config.Get32(_at + DataField) & (uint.MaxValue >> (32 - (8 * length))));
    }

    private bool TryLocate(int offset, int size, out uint register, out int length)
    {
        register = _config.Get32(_at + OffsetField);
        var wanted = _config.Get32(_at + LengthField);
        length = (int)wanted;
        return offset < _at + DataField + DataLength && offset + size > _at + DataField && _config.Get8(_at + BarField) == _bar
            && wanted is 1 or 2 or 4 && register % wanted == 0 && register < VirtioModernRegisters.Length;
    }
}
