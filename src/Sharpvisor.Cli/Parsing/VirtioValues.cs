// -device virtio-blk-pci and virtio-rng-pci, as qemu(1) and their property lists describe them, and -drive if=virtio.
using System.Globalization;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Devices.Virtio.Transports;

namespace Sharpvisor.Cli.Parsing;

/// <summary>What a -device of virtio says, nothing opened yet.</summary>
internal sealed record VirtioSpec(string What)
{
    /// <summary>The device without a drive.</summary>
    public required VirtioPciDevice Device { get; init; }

    /// <summary>Makes the disk of its drive; null: the device has none.</summary>
    public Func<BlockDrive, VirtioDisk>? Disk { get; init; }

    public string? DriveId { get; init; }

    public ErrorPolicy? WriteErrors { get; init; }

    public ErrorPolicy? ReadErrors { get; init; }

    /// <summary>Found by <see cref="VirtioValues.Resolve"/>.</summary>
    public DriveSpec? Drive { get; init; }
}

internal static class VirtioValues
{
    private static readonly string[] CommonKeys =
        ["driver", "id", "bus", "addr", "disable-modern", "disable-legacy", "packed", "indirect_desc", "event_idx", "vectors"];

    private static readonly string[] DiskKeys =
    [
        .. CommonKeys, "drive", "serial", "bootindex", "num-queues", "queue-size", "logical_block_size", "physical_block_size", "min_io_size", "opt_io_size",
        "werror", "rerror",
    ];

    private static readonly string[] EntropyKeys = [.. CommonKeys, "rng"];

    private static readonly (string, bool?)[] Kinds = [("", null), ("-pci", null), ("-pci-transitional", true), ("-pci-non-transitional", false)];

    /// <summary>The names of the devices that there are.</summary>
    public static IReadOnlyList<string> Names { get; } = ["virtio-blk-pci", "virtio-rng-pci"];

    /// <summary>Whether a -device is one of these, by any of QEMU's names.</summary>
    public static bool Knows(string driver) => TryParse(driver, out _, out _);

    public static void Device(RunSettings settings, string value)
    {
        TryParse(value.Split(',')[0], out var isDisk, out var isTransitional);
        var keys = new KeyValues("-device", value, implied: "driver", isDisk ? DiskKeys : EntropyKeys);
        var what = $"-device {value}";
        var common = new VirtioEntropy
        {
            Slot = Slot(keys),
            Pci = Pci(keys, isTransitional),
            OffersPackedRings = keys.OnOff("packed", false),
            WithheldFeatures = (keys.OnOff("indirect_desc", true) ? 0 : 1UL << VirtioFeature.IndirectDescriptors) | (keys.OnOff("event_idx", true) ? 0 : 1UL << VirtioFeature.EventIndex),
            BootIndex = isDisk ? keys.Number("bootindex", 0, int.MaxValue) : null,
        };
        if (!isDisk)
        {
            settings.VirtioDevices.Add(new VirtioSpec(what) { Device = common });
            return;
        }

        if (keys["drive"] is not { } drive)
            throw keys.Error("drive= is missing; give the id of a -drive if=none");
        var options = Options(keys);
        var queues = keys.Number("num-queues", 1, 1024);
        settings.VirtioDevices.Add(new VirtioSpec(what)
        {
            Device = common,
            Disk = d => DiskOf(d, common) with { QueueCount = queues, Options = options },
            DriveId = drive,
            WriteErrors = keys.Word("werror", DriveValues.WritePolicies),
            ReadErrors = keys.Word("rerror", DriveValues.ReadPolicies),
        });
    }

    /// <summary>The disk of a -drive if=virtio.</summary>
    public static void Drive(RunSettings settings, DriveSpec drive) => settings.VirtioDevices.Add(new VirtioSpec(drive.What)
    {
        Device = new VirtioEntropy(),
        Disk = d => new VirtioDisk(d) { Options = new VirtioBlkOptions { Serial = drive.Serial ?? "" } },
        Drive = drive,
    });

    /// <summary>Gives every disk its drive, out of those that are loose.</summary>
    public static void Resolve(RunSettings settings, List<DriveSpec> loose)
    {
        for (var i = 0; i < settings.VirtioDevices.Count; i++)
        {
            if (settings.VirtioDevices[i] is { DriveId: { } id } device)
                settings.VirtioDevices[i] = device with { Drive = DriveValues.TakeDrive(device.What, id, loose, device.WriteErrors, device.ReadErrors) };
        }
    }

    private static VirtioDisk DiskOf(BlockDrive drive, VirtioPciDevice common) => new(drive)
    {
        Slot = common.Slot,
        Pci = common.Pci,
        OffersPackedRings = common.OffersPackedRings,
        WithheldFeatures = common.WithheldFeatures,
        BootIndex = common.BootIndex,
    };

    private static bool TryParse(string driver, out bool isDisk, out bool? isTransitional)
    {
        isDisk = driver.StartsWith("virtio-blk", StringComparison.Ordinal);
        isTransitional = null;
        if (!isDisk && !driver.StartsWith("virtio-rng", StringComparison.Ordinal))
            return false;
        foreach (var (suffix, meaning) in Kinds)
        {
            if (driver["virtio-blk".Length..] != suffix)
                continue;
            isTransitional = meaning;
            return true;
        }

        return false;
    }

    private static VirtioPciOptions Pci(KeyValues keys, bool? isTransitional)
    {
        // On this machine's bus, which is no PCI Express, auto is off.
        var options = new VirtioPciOptions
        {
            DisableModern = keys.OnOff("disable-modern", false),
            DisableLegacy = keys.Word("disable-legacy", ("on", true), ("off", false), ("auto", false)) ?? isTransitional == false,
            Vectors = keys.Number("vectors", 0, 2048),
        };
        return options switch
        {
            { DisableModern: true, DisableLegacy: true } => throw keys.Error("a device that is neither modern nor legacy; leave disable-modern=on or disable-legacy=on out"),
            { DisableModern: true } when keys.OnOff("packed", false) => throw keys.Error("packed rings are for modern drivers; leave packed=on or disable-modern=on out"),
            _ => options,
        };
    }

    private static VirtioBlkOptions Options(KeyValues keys)
    {
        var logical = PowerOfTwo(keys, "logical_block_size", 512, 32768) ?? 512;
        var physical = PowerOfTwo(keys, "physical_block_size", 512, 32768) ?? Math.Max(512, logical);
        if (logical > physical)
            throw keys.Error($"logical_block_size={logical}: larger than physical_block_size={physical}; give a smaller one");
        return new VirtioBlkOptions
        {
            QueueSize = PowerOfTwo(keys, "queue-size", 4, 1024) ?? new VirtioBlkOptions().QueueSize,
            Serial = keys.Text("serial", 20) ?? "",
            LogicalBlockSize = logical,
            PhysicalBlockSize = physical,
            MinimumIoSize = keys.Number("min_io_size", 0, ushort.MaxValue * 512) ?? 0,
            OptimalIoSize = keys.Number("opt_io_size", 0, int.MaxValue) ?? 0,
        };
    }

    private static int? PowerOfTwo(KeyValues keys, string key, int minimum, int maximum)
    {
        var number = keys.Number(key, minimum, maximum);
        return number is null || int.IsPow2(number.Value) ? number : throw keys.Error($"{key}={number}: give a power of two from {minimum} to {maximum}");
    }

    /// <summary>addr=5, addr=1f.0: the device number in hexadecimal digits, and a function, which is 0.</summary>
    private static int? Slot(KeyValues keys)
    {
        if (keys["bus"] is { } bus and not "pci.0")
            throw keys.Error($"bus={bus}: there is pci.0");
        if (keys["addr"] is not { } address)
            return null;
        var digits = address.EndsWith(".0", StringComparison.Ordinal) ? address[..^2] : address;
        digits = digits.StartsWith("0x", StringComparison.OrdinalIgnoreCase) ? digits[2..] : digits;
        return int.TryParse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var slot) && slot is >= 0 and < 32
            ? slot
            : throw keys.Error($"addr={address}: give a device number from 0 to 1f");
    }
}
