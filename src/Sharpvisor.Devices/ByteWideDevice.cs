// What devices with an 8-bit data bus have in common: the bridge splits wider accesses.
// Follows: the ISA bus, where a transfer to an 8-bit device is made of single bytes, the lowest address first.

using Sharpvisor.Core.Buses;

namespace Sharpvisor.Devices;

/// <summary>
/// A device with an 8-bit data bus: a wider access becomes one access for each byte, in ascending order, as an ISA
/// bridge does it.
/// </summary>
public abstract class ByteWideDevice : IBusDevice
{
    public virtual ulong Read(uint offset, int size)
    {
        if (size == 1)
            return ReadByte(offset);
        ulong value = 0;
        for (var i = 0; i < size; i++)
            value |= (ulong)ReadByte(offset + (uint)i) << (8 * i);
        return value;
    }

    public virtual void Write(uint offset, int size, ulong value)
    {
        if (size == 1)
        {
            WriteByte(offset, (byte)value);
            return;
        }

        for (var i = 0; i < size; i++)
            WriteByte(offset + (uint)i, (byte)(value >> (8 * i)));
    }

    protected abstract byte ReadByte(uint offset);

    protected abstract void WriteByte(uint offset, byte value);
}

/// <summary>One of several byte-wide register ranges of a device.</summary>
internal sealed class BytePorts(Func<uint, byte> read, Action<uint, byte> write) : ByteWideDevice
{
    protected override byte ReadByte(uint offset) => read(offset);

    protected override void WriteByte(uint offset, byte value) => write(offset, value);
}
