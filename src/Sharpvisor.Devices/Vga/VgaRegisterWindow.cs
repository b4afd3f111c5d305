using Sharpvisor.Core.Buses;

namespace Sharpvisor.Devices.Vga;

/// <summary>
/// The 4 KiB of memory-mapped registers behind BAR 2: EDID from 0 on, the ports 3C0h to 3DFh at 400h, Bochs' registers
/// by index at 500h, QEMU's extension (its size, and the byte order of the frame buffer) at 600h.
/// </summary>
internal sealed class VgaRegisterWindow(VgaPorts ports, BochsDisplay display, byte[] edid) : IBusDevice
{
    public const uint Length = 0x1000;

    private const uint EdidLength = 0x400, Ports = 0x400, PortsLength = 0x20, Bochs = 0x500, BochsLength = 0x16, Extended = 0x600, ExtendedLength = 8;
    private const uint LittleEndian = 0x1E1E_1E1E;

    public ulong Read(uint offset, int size)
    {
        if (offset - Ports < PortsLength)
            return ports.Read(offset - Ports + 0x3C0 - VgaPorts.Base, size);
        ulong value = 0;
        for (var i = 0u; i < size; i++)
            value |= (ulong)ReadByte(offset + i) << (int)(8 * i);
        return value;
    }

    public void Write(uint offset, int size, ulong value)
    {
        if (offset - Ports < PortsLength)
        {
            ports.Write(offset - Ports + 0x3C0 - VgaPorts.Base, size, value);
            return;
        }

        // Registers are words; a wider access is one to each of several.
        if (size < 2 || (offset & 1) != 0)
            return;
        for (var i = 0u; i < size; i += 2)
        {
            if (offset + i - Bochs < BochsLength)
                display.WriteRegister((int)(offset + i - Bochs) / 2, (ushort)(value >> (int)(8 * i)));
        }
    }

    private byte ReadByte(uint offset)
    {
        if (offset < EdidLength)
            return offset < edid.Length ? edid[offset] : (byte)0;
        if (offset - Bochs < BochsLength)
            return (byte)(display.ReadRegister((int)(offset - Bochs) / 2) >> (int)(8 * (offset & 1)));
        if (offset - Extended < 4)
            return (byte)(ExtendedLength >> (int)(8 * (offset - Extended)));
        if (offset - Extended < ExtendedLength)
            return (byte)(LittleEndian >> (int)(8 * (offset - Extended - 4)));
        return 0xFF;
    }
}
