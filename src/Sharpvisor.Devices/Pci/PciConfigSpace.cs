// The 256 bytes of configuration space of a function: values, and for each bit whether a guest can change it.
// Follows: PCI Local Bus Specification 3.0, 6.1 (organization), 6.7 (capabilities list).
// Leaves out: the extended space of PCI Express.

using System.Buffers.Binary;

namespace Sharpvisor.Devices.Pci;

/// <summary>Values with masks of what a guest's write changes and of what a written 1 clears.</summary>
public sealed class PciConfigSpace
{
    public const int Size = 256;

    private readonly byte[] _values = new byte[Size];
    private readonly byte[] _writable = new byte[Size];
    private readonly byte[] _clearable = new byte[Size];
    private readonly byte[] _powerOn = new byte[Size];
    private int _nextCapability = PciRegister.HeaderEnd;

    public byte Get8(int offset) => _values[offset];

    public ushort Get16(int offset) => BinaryPrimitives.ReadUInt16LittleEndian(_values.AsSpan(offset));

    public uint Get32(int offset) => BinaryPrimitives.ReadUInt32LittleEndian(_values.AsSpan(offset));

    public void Set8(int offset, byte value) => _values[offset] = value;

    public void Set16(int offset, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(_values.AsSpan(offset), value);

    public void Set32(int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(_values.AsSpan(offset), value);

    /// <summary>Defines a register of 1, 2 or 4 bytes.</summary>
    /// <param name="value">At power-on.</param>
    /// <param name="writable">The bits that a guest writes.</param>
    /// <param name="clearable">The bits that a guest clears by writing 1.</param>
    public void Define(int offset, int size, uint value, uint writable = 0, uint clearable = 0)
    {
        for (var i = 0; i < size; i++)
        {
            _values[offset + i] = _powerOn[offset + i] = (byte)(value >> (8 * i));
            _writable[offset + i] = (byte)(writable >> (8 * i));
            _clearable[offset + i] = (byte)(clearable >> (8 * i));
        }
    }

    /// <summary>Puts a capability at the head of the list and returns its offset; its first two bytes are filled in.</summary>
    /// <param name="offset">Where; 0: the next free place.</param>
    /// <exception cref="InvalidOperationException">There is no room left.</exception>
    public int AddCapability(byte id, int length, int offset = 0)
    {
        if (offset == 0)
            offset = _nextCapability;
        if (offset + length > Size)
            throw new InvalidOperationException($"no room in configuration space for capability {id} of {length} bytes");
        _nextCapability = Math.Max(_nextCapability, (offset + length + 3) & ~3);
        Define(offset, 1, id);
        Define(offset + 1, 1, _values[PciRegister.Capabilities]);
        Define(PciRegister.Capabilities, 1, (uint)offset);
        var status = Get16(PciRegister.Status) | PciRegister.StatusCapabilities;
        Set16(PciRegister.Status, (ushort)status);
        _powerOn[PciRegister.Status] = (byte)status;
        return offset;
    }

    /// <summary>A guest's read; bytes behind the end are all ones.</summary>
    public uint Read(int offset, int size)
    {
        var value = 0u;
        for (var i = 0; i < size; i++)
            value |= (uint)(offset + i < Size ? _values[offset + i] : 0xFF) << (8 * i);
        return value;
    }

    /// <summary>A guest's write: changes what it may.</summary>
    public void Write(int offset, int size, uint value)
    {
        for (var i = 0; i < size && offset + i < Size; i++)
        {
            var written = (byte)(value >> (8 * i));
            ref var at = ref _values[offset + i];
            at = (byte)((at & ~_writable[offset + i]) | (written & _writable[offset + i]));
            at &= (byte)~(written & _clearable[offset + i]);
        }
    }

    public void Reset() => _powerOn.CopyTo(_values, 0);
}
