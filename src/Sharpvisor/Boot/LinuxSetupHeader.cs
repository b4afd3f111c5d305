// The real-mode setup header of a bzImage, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header". Offsets are
// those of the file, which are those of boot_params as well.
using System.Buffers.Binary;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boot;

internal sealed class LinuxSetupHeader
{
    public const uint Magic = 0x53726448; // "HdrS"
    public const int Start = 0x1F1;

    private const int End = 0x268;
    private const byte LoadedHigh = 1;
    private const int ParagraphRest = 15;
    private readonly byte[] _bytes;

    private LinuxSetupHeader(byte[] bytes)
    {
        _bytes = bytes;
    }

    public ushort Version => U16(0x206);

    /// <summary>Bytes of real-mode code before the protected-mode kernel.</summary>
    public long SetupLength => ((_bytes[0x1F1] == 0 ? 4 : _bytes[0x1F1]) + 1) * 512;

    public bool IsLoadedHigh => (_bytes[0x211] & LoadedHigh) != 0;

    /// <summary>
    /// Nothing says that the kernel has an entry for 32-bit loaders: those of Linux since 2.6.26 tell where their payload
    /// is. Older ones, and other programs in this format (iPXE, memdisk), are entered in real mode.
    /// </summary>
    public bool IsRealModeOnly => !IsLoadedHigh || Version < 0x208;

    /// <summary>Size of the protected-mode kernel, in bytes.</summary>
    public long SystemLength => U32(0x1F4) * 16L;

    public bool Is64Bit => Version >= 0x20C && (U16(0x236) & 1) != 0; // XLF_KERNEL_64

    public bool CanBeLoadedAbove4G => Version >= 0x20C && (U16(0x236) & 2) != 0; // XLF_CAN_BE_LOADED_ABOVE_4G

    public bool IsRelocatable => Version >= 0x205 && _bytes[0x234] != 0;

    public ulong Alignment => Version >= 0x205 && U32(0x230) != 0 ? U32(0x230) : 0x1000;

    /// <summary>Where the kernel would like to run, or 0.</summary>
    public ulong PreferredAddress => Version >= 0x20A ? U64(0x258) : 0;

    /// <summary>Memory that the kernel uses from its run address on before it looks at the memory map, in bytes.</summary>
    public ulong InitSize => Math.Max(Version >= 0x20A ? U32(0x260) : 0, (ulong)SystemLength);

    /// <summary>Where the packed kernel lies, from the protected-mode code on, and how long it is; 0: not told.</summary>
    public uint PayloadOffset => Version >= 0x208 ? U32(0x248) : 0;

    public uint PayloadLength => Version >= 0x208 ? U32(0x24C) : 0;

    public uint InitrdHighestByte => Version >= 0x203 ? U32(0x22C) : 0x37FFFFFF;

    /// <summary>The longest command line, without its terminating zero.</summary>
    public uint CommandLineLimit => Version >= 0x206 ? U32(0x238) : 255;

    /// <summary>The header as it goes into boot_params, from <see cref="Start"/> on.</summary>
    public ReadOnlySpan<byte> Bytes => _bytes.AsSpan(Start, Math.Min(End, 0x202 + _bytes[0x201]) - Start);

    /// <exception cref="ConfigurationException">Truncated, or too old a boot protocol for this way.</exception>
    public static LinuxSetupHeader Parse(BootSource kernel, BootWay way)
    {
        var header = new LinuxSetupHeader(kernel.Read(0, End));
        if (header.U16(0x1FE) != 0xAA55)
            throw new ConfigurationException($"{kernel.Name}: corrupt bzImage: no 0xAA55 at 0x1fe; copy it again");
        const string throughFirmware = "-machine kernel-boot=firmware";
        if (way == BootWay.Direct && header.Version < 0x202)
            throw new ConfigurationException($"{kernel.Name}: boot protocol {header.Version >> 8}.{header.Version & 0xff:d2} is too old, 2.02 is the oldest that works without firmware; give a newer kernel, or {throughFirmware}");
        if (way == BootWay.Direct && !header.IsLoadedHigh)
            throw new ConfigurationException($"{kernel.Name}: is a zImage, which loads below 1 MiB; give a bzImage, or {throughFirmware}");
        // The size is in whole paragraphs, and before 2.04 not to be trusted: the field was two bytes wide.
        var whole = header.SetupLength + (header.Version >= 0x204 ? header.SystemLength : 1) - ParagraphRest;
        if (kernel.Length < whole)
            throw new ConfigurationException($"{kernel.Name}: truncated bzImage: {whole} bytes expected, {kernel.Length} there; copy it again");
        return header;
    }

    private ushort U16(int offset) => BinaryPrimitives.ReadUInt16LittleEndian(_bytes.AsSpan(offset));

    private uint U32(int offset) => BinaryPrimitives.ReadUInt32LittleEndian(_bytes.AsSpan(offset));

    private ulong U64(int offset) => BinaryPrimitives.ReadUInt64LittleEndian(_bytes.AsSpan(offset));
}
