// What a PC and its firmware tell each other: fw_cfg and CMOS for firmware that runs, and all that such firmware would
// leave behind, for a kernel that is started without it.
using System.Buffers.Binary;
using Microsoft.Extensions.Logging;
using Sharpvisor.Boot;
using Sharpvisor.Boot.BootRom;
using Sharpvisor.Core;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Acpi;
using Sharpvisor.Devices.Firmware;
using Sharpvisor.Devices.Ide;
using Sharpvisor.Devices.Timers;

namespace Sharpvisor.Boards;

internal sealed class PcFirmware
{
    /// <summary>Without firmware: where the RSDP lies, with the ACPI tables behind it, and where the SMBIOS tables do.</summary>
    public const ulong RsdpAddress = E820.FirmwareStart, SmbiosAddress = 0xF0000;

    private const int FixedDiskType = 0x19, FixedDiskGeometry = 0x1B, GeometryLength = 9, Translation = 0x39;
    private const int DisketteDrives = 0x10, FixedDisks = 0x12, Equipment = 0x14, BootFlag1 = 0x38, BootFlag2 = 0x3D, SmpCount = 0x5F;
    private const int ShutdownStatus = 0x0F;
    private const byte ResumeFromS3 = 0xFE;
    private const byte CoprocessorAndMouse = 0x06, NoDisketteCheck = 1;

    private readonly MachineOptions _options;
    private readonly GuestMemory _memory;
    private readonly Func<AcpiOptions> _acpi;
    private readonly Rtc _rtc;
    private bool _wasStarted;

    /// <param name="acpi">What the machine has, asked for when it is complete.</param>
    /// <param name="processorId">CPUID leaf 1, EAX in the low half and EDX in the high one.</param>
    public PcFirmware(MachineOptions options, GuestMemory memory, MachineGate gate, Rtc rtc, Func<AcpiOptions> acpi, ulong processorId)
    {
        _options = options;
        _memory = memory;
        _acpi = acpi;
        _rtc = rtc;
        ProcessorId = processorId;
        Config = new FwCfg(memory, gate);
        AddItems();
        AddFiles();
    }

    public FwCfg Config { get; }

    public BootOrder BootOrder { get; } = new();

    /// <summary>The shapes of the hard disks on the IDE controller, by channel and unit.</summary>
    public DiskGeometry?[] Disks { get; } = new DiskGeometry?[4];

    private ulong ProcessorId { get; }

    /// <summary>Loads a BIOS image and shows it below 4 GiB.</summary>
    /// <exception cref="ConfigurationException">It can't be read, or is none.</exception>
    public static MemoryRegion? LoadBios(GuestMemory memory, BootSource? source)
    {
        if (source is null)
            return null;
        FirmwareFiles.CheckBios(source);
        var rom = memory.AddRegion("bios", (ulong)source.Length);
        source.Read(0, rom.Bytes(0, (int)source.Length));
        memory.Map(E820.FourGiB - rom.Size, rom, isRom: true);
        return rom;
    }

    /// <summary>Writes what firmware reads from CMOS memory; a machine's first start may have a boot order of its own.</summary>
    public void Reset()
    {
        var order = BootOptions.ToNibbles(_wasStarted ? _options.Boot.Order : _options.Boot.Once ?? _options.Boot.Order);
        _wasStarted = true;
        _rtc.SetMemorySize(_memory.Below4G, _memory.Above4G);
        _rtc.SetCmos(DisketteDrives, 0);
        SetDisks();
        _rtc.SetCmos(Equipment, CoprocessorAndMouse);
        _rtc.SetCmos(BootFlag1, (byte)(((order >> 8) << 4) | NoDisketteCheck));
        _rtc.SetCmos(BootFlag2, (byte)order);
        _rtc.SetCmos(SmpCount, (byte)(_options.ProcessorCount - 1));
    }

    /// <summary>Has firmware, at its next start, go on where a guest that slept wants to. It clears the byte that tells it so.</summary>
    public void RequestResume()
    {
        if (_options.Firmware is not null)
            _rtc.SetCmos(ShutdownStatus, ResumeFromS3);
    }

    /// <summary>Has firmware start a kernel: by an option ROM, first in the boot order, that finds everything in fw_cfg.</summary>
    public void AddKernel(BootPlan plan)
    {
        var logger = _options.Logger;
        var loads = plan.Segments.Select((segment, i) => new RomLoad(
            Config.AddFile($"opt/sharpvisor/boot/{i}", (uint)segment.FileLength, (offset, bytes) => TryRead(segment, offset, bytes, logger)), segment));
        Config.AddFile(KernelRom.FileName, KernelRom.Build(plan, [.. loads]));
        BootOrder.PutFirst(KernelRom.BootPath);
    }

    private static bool TryRead(BootSegment segment, uint offset, Span<byte> bytes, ILogger logger)
    {
        try
        {
            segment.Source.Read(segment.Offset + offset, bytes);
            return true;
        }
        catch (ConfigurationException e)
        {
            logger.LogError("{Message}", e.Message);
            return false;
        }
    }

    /// <summary>Puts ACPI and SMBIOS tables where an operating system looks for them.</summary>
    public void PlaceTables()
    {
        AcpiTables.Place(_memory, _acpi(), RsdpAddress, (int)(SmbiosAddress - RsdpAddress));
        var smbios = Smbios().LinkAt((uint)SmbiosAddress);
        if ((ulong)smbios.Length > E820.OneMiB - SmbiosAddress || !_memory.TryWrite(SmbiosAddress, smbios))
            throw new ConfigurationException($"no guest memory for the SMBIOS tables at 0x{SmbiosAddress:x}: give the guest more with -m");
    }

    /// <summary>The two disks of the primary channel as an AT's setup describes them, and how all four are translated.</summary>
    private void SetDisks()
    {
        const byte userDefined = 47, inNextByte = 0x0F, noPrecompensation = 0xFF, manyHeads = 0xC8, fewHeads = 0xC0;
        var types = 0;
        var translations = 0;
        for (var i = 0; i < Disks.Length; i++)
        {
            if (Disks[i] is not { } disk)
                continue;
            translations |= (int)disk.Translation << (2 * i);
            if (i >= 2)
                continue;
            types |= inNextByte << (i == 0 ? 4 : 0);
            _rtc.SetCmos(FixedDiskType + i, userDefined);
            byte[] geometry =
            [
                (byte)disk.Cylinders, (byte)(disk.Cylinders >> 8), (byte)disk.Heads, noPrecompensation, noPrecompensation,
                disk.Heads > 8 ? manyHeads : fewHeads, (byte)disk.Cylinders, (byte)(disk.Cylinders >> 8), (byte)disk.Sectors,
            ];
            for (var at = 0; at < GeometryLength; at++)
                _rtc.SetCmos(FixedDiskGeometry + (GeometryLength * i) + at, geometry[at]);
        }

        _rtc.SetCmos(FixedDisks, (byte)types);
        _rtc.SetCmos(Translation, (byte)translations);
    }

    private SmbiosTables Smbios() => SmbiosTables.Build(new SmbiosOptions
    {
        ProcessorCount = _options.ProcessorCount,
        Below4G = _memory.Below4G,
        Above4G = _memory.Above4G,
        ProcessorId = ProcessorId,
        Uuid = _options.Uuid,
    });

    private void AddItems()
    {
        var count = _options.ProcessorCount;
        Config.AddItem(FwCfgItem.Uuid, _options.Uuid.ToByteArray(bigEndian: true));
        Config.AddItem(FwCfgItem.RamSize, BitConverter.GetBytes(_memory.Size));
        Config.AddItem(FwCfgItem.NoGraphic, U16(0));
        Config.AddItem(FwCfgItem.ProcessorCount, U16(count));
        Config.AddItem(FwCfgItem.MaximumProcessorCount, U16(count));
        Config.AddItem(FwCfgItem.BootMenu, U16(_options.Boot.Menu ? 1 : 0));
        Config.AddItem(FwCfgItem.Irq0Override, 1);
        // No NUMA: a count of zero nodes, and that of each processor.
        Config.AddItem(FwCfgItem.Numa, new byte[8 * (1 + count)]);
    }

    private void AddFiles()
    {
        Config.AddFile("etc/e820", E820File());
        Config.AddFile(AcpiImage.LoaderFile, () => AcpiTables.Build(_acpi()).LoaderScript());
        Config.AddFile(AcpiImage.RsdpFile, () => AcpiTables.Build(_acpi()).Rsdp);
        Config.AddFile(AcpiImage.TablesFile, () => AcpiTables.Build(_acpi()).Tables);
        Config.AddFile(SmbiosTables.AnchorFile, () => Smbios().Anchor);
        Config.AddFile(SmbiosTables.TablesFile, () => Smbios().Structures);
        Config.AddFile("bootorder", () => BootOrder.ToFile(_options.Boot.Strict));
        // SLP_TYP of S0 to S5, and in bit 7 whether the state is there.
        const byte isThere = 0x80;
        byte State(byte type, bool has) => (byte)(type | (has ? isThere : 0));
        Config.AddFile("etc/system-states",
            [isThere, 0, 0, State(AcpiPm.SuspendToRam, _options.HasSuspendToRam), State(AcpiPm.SuspendToDisk, _options.HasSuspendToDisk), State(AcpiPm.SoftOff, true)]);
        Config.AddFile("etc/boot-fail-wait", BitConverter.GetBytes(_options.Boot.RebootTimeout));
        if (_options.Boot.SplashTime is { } splash)
            Config.AddFile("etc/boot-menu-wait", U16(splash));
    }

    private byte[] E820File()
    {
        const int entryLength = 20;
        List<(ulong Address, ulong Length)> ram = [(0, _memory.Below4G)];
        if (_memory.Above4G > 0)
            ram.Add((E820.FourGiB, _memory.Above4G));
        var file = new byte[entryLength * ram.Count];
        foreach (var ((address, length), i) in ram.Select((r, i) => (r, i)))
        {
            var entry = file.AsSpan(entryLength * i);
            BinaryPrimitives.WriteUInt64LittleEndian(entry, address);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], length);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[16..], (uint)E820Type.Ram);
        }

        return file;
    }

    private static byte[] U16(int value) => [(byte)value, (byte)(value >> 8)];
}
