// The frame of an option ROM that a BIOS can boot from: Plug and Play BIOS Specification 1.0A, section 3.2 (option ROM
// header) and 3.3 (expansion header for Plug and Play). Firmware calls offset 3 when it finds the ROM and the boot entry
// vector when it is to boot from it; both by far calls in real mode, with CS at the ROM's own segment.
using System.Buffers.Binary;
using System.Text;

namespace Sharpvisor.Boot.BootRom;

internal static class OptionRom
{
    /// <summary>Offset of what the ROM carries.</summary>
    public const int DataStart = 0x80;

    public const int BlockSize = 512, LargestSize = 0x10000;

    private const string Manufacturer = "Sharpvisor";
    private const int InitEntry = 3, PnpPointer = 0x1A, Pnp = 0x20, PnpSize = 0x20, Strings = 0x40;
    private const byte BootDevice = 0x64; // may be shadowed and cached, boots
    private const byte BootDeviceAttached = 0x20; // AX of the initialization

    /// <param name="product">What a boot menu shows.</param>
    /// <param name="data">Goes to <see cref="DataStart"/>.</param>
    /// <param name="code">Goes behind the data; its first instruction is the boot entry.</param>
    public static byte[] Build(string product, byte[] data, byte[] code)
    {
        var bootEntry = DataStart + data.Length;
        var size = (bootEntry + code.Length + 1 + BlockSize - 1) / BlockSize * BlockSize;
        if (size > LargestSize)
            throw new ArgumentException($"{size} bytes are too many for an option ROM", nameof(data));
        var productAt = Strings + Manufacturer.Length + 1;
        if (productAt + product.Length >= DataStart)
            throw new ArgumentException($"\"{product}\" is too long for an option ROM's header", nameof(product));

        var rom = new byte[size];
        U16(0, 0xAA55);
        rom[2] = (byte)(size / BlockSize);
        ((byte[])[0xB8, BootDeviceAttached, 0x00, 0xCB]).CopyTo(rom, InitEntry); // mov ax,20h; retf
        U16(PnpPointer, Pnp);
        "$PnP"u8.CopyTo(rom.AsSpan(Pnp));
        rom[Pnp + 4] = 1; // revision
        rom[Pnp + 5] = PnpSize / 16;
        U16(Pnp + 0x0E, Strings);
        U16(Pnp + 0x10, productAt);
        rom[Pnp + 0x15] = BootDevice;
        U16(Pnp + 0x1A, bootEntry);
        rom[Pnp + 9] = Checksum(rom.AsSpan(Pnp, PnpSize));
        Encoding.ASCII.GetBytes(Manufacturer).CopyTo(rom, Strings);
        Encoding.ASCII.GetBytes(product).CopyTo(rom, productAt);
        data.CopyTo(rom, DataStart);
        code.CopyTo(rom, bootEntry);
        rom[^1] = Checksum(rom);
        return rom;

        void U16(int offset, int value) => BinaryPrimitives.WriteUInt16LittleEndian(rom.AsSpan(offset), (ushort)value);
    }

    /// <summary>What makes the sum of all bytes zero.</summary>
    private static byte Checksum(ReadOnlySpan<byte> bytes)
    {
        byte sum = 0;
        foreach (var value in bytes)
            sum += value;
        return (byte)-sum;
    }
}
