// SMBIOS: what a machine tells about itself, for firmware to place or for a boot without it.
// Follows: DMTF DSP0134 2.8: 5.2.1 (entry point), 7.1 to 7.5 and 7.17 to 7.20, 7.33, 7.45 (types 0, 1, 3, 4, 16, 17, 19,
// 32, 127). Firmware fills in the address of the structures and both checksums of the entry point.
// Leaves out: the 64-bit entry point, base boards, caches, slots.

using System.Buffers.Binary;
using System.Text;

namespace Sharpvisor.Devices.Firmware;

/// <summary>What the structures tell.</summary>
public sealed record SmbiosOptions
{
    public required int ProcessorCount { get; init; }

    /// <summary>RAM below and from 4 GiB on, in bytes.</summary>
    public required ulong Below4G { get; init; }

    public ulong Above4G { get; init; }

    public string Manufacturer { get; init; } = "Sharpvisor";

    public string Product { get; init; } = "Standard PC (i440FX + PIIX)";

    public string Version { get; init; } = "pc";

    /// <summary>CPUID leaf 1: EAX in the low half, EDX in the high one.</summary>
    public ulong ProcessorId { get; init; }

    public Guid Uuid { get; init; }
}

/// <summary>Builds the structures and the entry point.</summary>
public sealed class SmbiosTables
{
    /// <summary>Files of fw_cfg.</summary>
    public const string AnchorFile = "etc/smbios/smbios-anchor", TablesFile = "etc/smbios/smbios-tables";

    private const int EntryPointLength = 31;
    private const ulong MemoryDeviceSize = 16UL << 30;
    private const byte Other = 1, Unknown = 2;

    private readonly List<byte> _bytes = [];
    private int _count, _largest;

    private SmbiosTables(SmbiosOptions options)
    {
        Bios(options);
        SystemInformation(options);
        Chassis(options);
        for (var i = 0; i < options.ProcessorCount; i++)
            Processor(options, i);
        Memory(options);
        Add(32, 0x2000, [0, 0, 0, 0, 0, 0, 0]); // boot information: no errors
        Add(127, 0x7F00, []);
        Structures = [.. _bytes];
        Anchor = EntryPoint();
    }

    /// <summary>All structures.</summary>
    public byte[] Structures { get; }

    /// <summary>The entry point, for structures at address 0.</summary>
    public byte[] Anchor { get; }

    public static SmbiosTables Build(SmbiosOptions options) => new(options);

    /// <summary>Entry point and structures in one piece, for <paramref name="address"/>, a multiple of 16.</summary>
    public byte[] LinkAt(uint address)
    {
        byte[] image = [.. Anchor, .. new byte[32 - EntryPointLength], .. Structures];
        BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(24), address + 32);
        SetChecksums(image.AsSpan(0, EntryPointLength));
        return image;
    }

    private static void SetChecksums(Span<byte> anchor)
    {
        anchor[4] = anchor[21] = 0;
        anchor[21] = Acpi.AcpiTable.Checksum(anchor[16..]);
        anchor[4] = Acpi.AcpiTable.Checksum(anchor);
    }

    private byte[] EntryPoint()
    {
        var anchor = new byte[EntryPointLength];
        "_SM_"u8.CopyTo(anchor);
        anchor[5] = EntryPointLength;
        anchor[6] = 2;
        anchor[7] = 8;
        BinaryPrimitives.WriteUInt16LittleEndian(anchor.AsSpan(8), (ushort)_largest);
        "_DMI_"u8.CopyTo(anchor.AsSpan(16));
        BinaryPrimitives.WriteUInt16LittleEndian(anchor.AsSpan(22), (ushort)_bytes.Count);
        BinaryPrimitives.WriteUInt16LittleEndian(anchor.AsSpan(28), (ushort)_count);
        anchor[30] = 0x28;
        SetChecksums(anchor);
        return anchor;
    }

    private void Bios(SmbiosOptions options)
    {
        const ulong characteristicsNotSupported = 1 << 3;
        const byte virtualMachine = 1 << 4;
        byte[] body = [1, 2, 0, 0xE8, 3, 0, .. U64(characteristicsNotSupported), 0, virtualMachine, 0, 0, 0xFF, 0xFF];
        Add(0, 0, body, options.Manufacturer, options.Version, "01/01/2026");
    }

    private void SystemInformation(SmbiosOptions options)
    {
        const byte powerSwitch = 6;
        Add(1, 0x100, [1, 2, 3, 0, .. options.Uuid.ToByteArray(), powerSwitch, 0, 0], options.Manufacturer, options.Product, options.Version);
    }

    private void Chassis(SmbiosOptions options)
    {
        const byte safe = 3;
        // Type, version, serial, asset; states of boot-up, supply and temperature; security; no height, cord or contents.
        Add(3, 0x300, [1, Other, 2, 0, 0, safe, safe, safe, Unknown, 0, 0, 0, 0, 0, 0, 0, 0, 0], options.Manufacturer, options.Version);
    }

    private void Processor(SmbiosOptions options, int index)
    {
        const byte central = 3, populatedAndEnabled = 0x41;
        byte[] body =
        [
            1, central, Other, 2, .. U64(options.ProcessorId), 3, 0, 0, 0, 0, 0, 0, 0, populatedAndEnabled, Other,
            0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 1, 1, 1, Unknown, 0, 1, 0,
        ];
        Add(4, (ushort)(0x400 + index), body, $"CPU {index}", options.Manufacturer, options.Version);
    }

    private void Memory(SmbiosOptions options)
    {
        var total = options.Below4G + options.Above4G;
        var deviceCount = (int)((total + MemoryDeviceSize - 1) / MemoryDeviceSize);
        const byte systemMemory = 3, multiBitEcc = 6;
        const ushort noErrorInformation = 0xFFFE;
        // 80000000h KiB or more go to the extended field, in bytes.
        var kib = total >> 10;
        Add(16, 0x1000, [Other, systemMemory, multiBitEcc, .. U32((uint)Math.Min(kib, 0x8000_0000)), .. U16(noErrorInformation), .. U16((ushort)deviceCount), .. U64(kib >= 0x8000_0000 ? total : 0)]);
        for (var i = 0; i < deviceCount; i++)
        {
            const byte dimm = 9, ram = 7;
            var size = Math.Min(MemoryDeviceSize, total - ((ulong)i * MemoryDeviceSize));
            var mib = (ushort)(size >> 20);
            byte[] body =
            [
                .. U16(0x1000), .. U16(noErrorInformation), 0xFF, 0xFF, 0xFF, 0xFF, .. U16(mib), dimm, 0, 1, 0, ram, .. U16(Unknown),
                0, 0, 2, 0, 0, 0, 0, .. U32(0), .. U16(0), .. U16(0), .. U16(0), .. U16(0),
            ];
            Add(17, (ushort)(0x1100 + i), body, $"DIMM {i}", options.Manufacturer);
        }

        MappedAddress(0x1300, 0, options.Below4G, deviceCount);
        if (options.Above4G > 0)
            MappedAddress(0x1301, 1UL << 32, options.Above4G, deviceCount);
    }

    private void MappedAddress(ushort handle, ulong start, ulong length, int deviceCount)
    {
        var end = start + length;
        var fits = end >> 10 <= uint.MaxValue;
        Add(19, handle,
        [
            .. U32(fits ? (uint)(start >> 10) : uint.MaxValue), .. U32(fits ? (uint)((end >> 10) - 1) : uint.MaxValue), .. U16(0x1000),
            (byte)deviceCount, .. U64(fits ? 0 : start), .. U64(fits ? 0 : end - 1),
        ]);
    }

    private void Add(byte type, ushort handle, byte[] body, params ReadOnlySpan<string> strings)
    {
        var start = _bytes.Count;
        _bytes.AddRange([type, (byte)(4 + body.Length), (byte)handle, (byte)(handle >> 8), .. body]);
        foreach (var text in strings)
        {
            _bytes.AddRange(Encoding.ASCII.GetBytes(text));
            _bytes.Add(0);
        }

        if (strings.IsEmpty)
            _bytes.Add(0);
        _bytes.Add(0);
        _count++;
        _largest = Math.Max(_largest, _bytes.Count - start);
    }

    private static byte[] U16(ushort value) => [(byte)value, (byte)(value >> 8)];

    private static byte[] U32(uint value) => BitConverter.GetBytes(value);

    private static byte[] U64(ulong value) => BitConverter.GetBytes(value);
}
