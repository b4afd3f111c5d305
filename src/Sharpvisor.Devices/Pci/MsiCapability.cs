// Message-signalled interrupts of a function.
// Follows: PCI Local Bus Specification 3.0, 6.8.1 (capability, per-vector masking). All its state is in configuration space.
// Leaves out: nothing.

namespace Sharpvisor.Devices.Pci;

/// <summary>The MSI capability: up to 32 messages that differ in the low bits of their data.</summary>
public sealed class MsiCapability
{
    private const ushort Enable = 1, Is64Bit = 0x80, Maskable = 0x100;

    private readonly PciFunction _function;
    private readonly PciConfigSpace _config;
    private readonly int _offset, _vectors, _data, _mask;
    private readonly bool _is64, _maskable;

    internal MsiCapability(PciFunction function, int vectors, bool is64, bool maskable, int offset)
    {
        if (vectors is < 1 or > 32 || !int.IsPow2(vectors))
            throw new ArgumentOutOfRangeException(nameof(vectors), vectors, "1, 2, 4, 8, 16 or 32");
        _function = function;
        _config = function.Config;
        (_vectors, _is64, _maskable) = (vectors, is64, maskable);
        var length = (is64 ? 14 : 10) + (maskable ? 10 : 0);
        _offset = _config.AddCapability(PciRegister.MsiCapability, length, offset);
        _data = _offset + (is64 ? 12 : 8);
        _mask = _data + 4;
        _config.Define(
            _offset + 2, 2, (uint)((int.Log2(vectors) << 1) | (is64 ? Is64Bit : 0) | (maskable ? Maskable : 0)), Enable | (vectors > 1 ? 0x70u : 0));
        _config.Define(_offset + 4, 4, 0, 0xFFFF_FFFC);
        if (is64)
            _config.Define(_offset + 8, 4, 0, uint.MaxValue);
        _config.Define(_data, 2, 0, 0xFFFF);
        if (maskable)
        {
            _config.Define(_mask, 4, 0, VectorBits);
            _config.Define(_mask + 4, 4, 0);
        }
    }

    /// <summary>The guest wants messages; it gets no INTx then.</summary>
    public bool IsEnabled => (_config.Get16(_offset + 2) & Enable) != 0;

    private uint VectorBits => uint.MaxValue >> (32 - _vectors);

    /// <summary>Sends a vector's message, or keeps it while the vector is masked. Does nothing while MSI is off.</summary>
    public void Notify(int vector)
    {
        if (!IsEnabled || vector < 0 || vector >= _vectors)
            return;
        if (_maskable && (_config.Get32(_mask) & (1u << vector)) != 0)
        {
            _config.Set32(_mask + 4, _config.Get32(_mask + 4) | (1u << vector));
            return;
        }

        // As many low bits of the data as the guest has enabled are the vector's; a guest that enables fewer shares them.
        var enabled = 1u << Math.Min((_config.Get16(_offset + 2) >> 4) & 7, int.Log2(_vectors));
        var address = _config.Get32(_offset + 4) | (_is64 ? (ulong)_config.Get32(_offset + 8) << 32 : 0);
        var data = _config.Get16(_data) & ~(enabled - 1);
        _function.SendMessage(address, data | ((uint)vector & (enabled - 1)));
    }

    internal void OnConfigWritten()
    {
        if (!_maskable || !IsEnabled)
            return;
        var ready = _config.Get32(_mask + 4) & ~_config.Get32(_mask);
        _config.Set32(_mask + 4, _config.Get32(_mask + 4) & ~ready);
        for (var vector = 0; ready != 0; vector++, ready >>= 1)
        {
            if ((ready & 1) != 0)
                Notify(vector);
        }
    }
}
