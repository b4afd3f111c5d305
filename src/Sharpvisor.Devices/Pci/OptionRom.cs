// The header of an expansion ROM.
// Follows: PCI Firmware Specification 3.0, 5.1 (55h, AAh, size; pointer to the PCI data structure with vendor and device).

using System.Buffers.Binary;

namespace Sharpvisor.Devices.Pci;

/// <summary>Makes a ROM fit the function that it is on.</summary>
public static class OptionRom
{
    private const int ChecksumByte = 6, PciDataPointer = 0x18, VendorOffset = 4, DeviceOffset = 6, PciDataLength = 8;

    /// <summary>
    /// Writes a function's ids into its ROM, which one ROM for several kinds of a device has not, as QEMU does: firmware
    /// and the ROM itself look for them. The sum of all bytes stays.
    /// </summary>
    public static void SetIdentity(Span<byte> rom, ushort vendor, ushort device)
    {
        if (rom.Length < PciDataPointer + 2 || rom[0] != 0x55 || rom[1] != 0xAA)
            return;
        var data = BinaryPrimitives.ReadUInt16LittleEndian(rom[PciDataPointer..]);
        if (data + PciDataLength > rom.Length || !rom.Slice(data, 4).SequenceEqual("PCIR"u8))
            return;
        Set(rom, data + VendorOffset, vendor);
        Set(rom, data + DeviceOffset, device);
    }

    private static void Set(Span<byte> rom, int at, ushort value)
    {
        var before = rom[at] + rom[at + 1];
        BinaryPrimitives.WriteUInt16LittleEndian(rom[at..], value);
        rom[ChecksumByte] -= (byte)(rom[at] + rom[at + 1] - before);
    }
}
