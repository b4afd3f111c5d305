// -device virtio-…-pci and virtio-…-device, as qemu(1) and their property lists describe them, and -drive if=virtio.
using System.Globalization;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Devices.Virtio.Transports;

namespace Sharpvisor.Cli.Parsing;

/// <summary>What a -device of virtio says, nothing opened yet.</summary>
internal sealed record VirtioSpec(string What)
{
    /// <summary>The device without a drive, and without ports.</summary>
    public required VirtioPciDevice Device { get; init; }

    public string? Id { get; init; }

    /// <summary>Makes the disk of its drive; null: the device has none.</summary>
    public Func<BlockDrive, VirtioPciDevice>? Disk { get; init; }

    public string? DriveId { get; init; }

    public ErrorPolicy? WriteErrors { get; init; }

    public ErrorPolicy? ReadErrors { get; init; }

    /// <summary>Found by <see cref="VirtioValues.Resolve"/>.</summary>
    public DriveSpec? Drive { get; init; }

    /// <summary>Of a virtio-serial, given by <see cref="VirtioValues.AddPort"/>.</summary>
    public IReadOnlyList<SerialPortSpec> Ports { get; init; } = [];
}

internal static class VirtioValues
{
    private const string ForeignMap = "foreign-map";

    private static readonly string[] CommonKeys = ["driver", "id", "packed", "indirect_desc", "event_idx"];
    private static readonly string[] PciKeys = ["bus", "addr", "disable-modern", "disable-legacy", "vectors"];

    /// <summary>QEMU's names without what they are connected by, each with the properties that only it has.</summary>
    private static readonly Dictionary<string, string[]> Kinds = new(StringComparer.Ordinal)
    {
        ["virtio-blk"] =
        [
            "drive", "serial", "bootindex", "num-queues", "queue-size", "logical_block_size", "physical_block_size", "min_io_size", "opt_io_size",
            "werror", "rerror",
        ],
        ["virtio-rng"] = ["rng"],
        ["virtio-balloon"] = ["free-page-reporting", "deflate-on-oom"],
        ["virtio-serial"] = ["max_ports"],
        [NicValues.Virtio] = [.. NicValues.Keys, .. NicValues.VirtioKeys],
    };

    private static readonly (string Text, bool? IsTransitional, VirtioConnection Connection)[] Suffixes =
    [
        ("", null, VirtioConnection.Pci), ("-pci", null, VirtioConnection.Pci), ("-pci-transitional", true, VirtioConnection.Pci),
        ("-pci-non-transitional", false, VirtioConnection.Pci), ("-device", null, VirtioConnection.Mmio), ("-xenbus", null, VirtioConnection.Xenbus),
    ];

    /// <summary>The names of the devices that there are.</summary>
    public static IReadOnlyList<string> Names { get; } = [.. Kinds.Keys.Select(k => $"{k}-pci")];

    /// <summary>Whether a -device is one of these, by any of QEMU's names.</summary>
    public static bool Knows(string driver) => Find(driver) is not null;

    public static void Device(RunSettings settings, string value)
    {
        var (kind, isTransitional, connection) = Find(value.Split(',')[0]) ?? throw new InvalidOperationException($"{value} is not known");
        var keys = new KeyValues("-device", value, implied: "driver", [.. CommonKeys, .. KeysOf(connection), .. Kinds[kind]]);
        VirtioPciDevice Place(VirtioPciDevice device) => device with
        {
            Connection = connection,
            OffersForeignMap = connection == VirtioConnection.Xenbus && keys.OnOff(ForeignMap, false),
            Slot = Slot(keys),
            Pci = Pci(keys, isTransitional),
            OffersPackedRings = keys.OnOff("packed", false),
            WithheldFeatures = (keys.OnOff("indirect_desc", true) ? 0 : 1UL << VirtioFeature.IndirectDescriptors) | (keys.OnOff("event_idx", true) ? 0 : 1UL << VirtioFeature.EventIndex),
        };
        if (kind == NicValues.Virtio)
        {
            settings.Nics.Add(NicValues.VirtioNic($"-device {value}", connection switch
            {
                VirtioConnection.Mmio => "virtio-net-device",
                VirtioConnection.Xenbus => NicValues.Xenbus,
                _ => "virtio-net-pci",
            }, keys, Place));
            return;
        }

        var spec = new VirtioSpec($"-device {value}") { Device = Place(new VirtioEntropy()), Id = keys["id"] };
        settings.VirtioDevices.Add(kind switch
        {
            "virtio-blk" => Disk(spec, keys, Place),
            "virtio-balloon" => spec with
            {
                Device = Place(new VirtioMemoryBalloon
                {
                    Options = new() { ReportsFreePages = keys.OnOff("free-page-reporting", false), DeflatesOnOom = keys.OnOff("deflate-on-oom", false) },
                }),
            },
            "virtio-serial" => spec with { Device = Place(new VirtioSerialBus([]) { MaximumPorts = keys.Number("max_ports", 1, VirtioConsole.MaximumPorts) ?? 31 }) },
            _ => spec,
        });
    }

    /// <summary>The disk of a -drive if=virtio.</summary>
    public static void Drive(RunSettings settings, DriveSpec drive) => settings.VirtioDevices.Add(new VirtioSpec(drive.What)
    {
        Device = new VirtioEntropy(),
        Disk = d => new VirtioDisk(d) { Options = new VirtioBlkOptions { Serial = drive.Serial ?? "" } },
        Drive = drive,
    });

    /// <summary>Puts a port on the virtio-serial that it names, or on the first one.</summary>
    public static void AddPort(RunSettings settings, SerialPortSpec port)
    {
        var at = settings.VirtioDevices.FindIndex(d => d.Device is VirtioSerialBus && (port.Bus is null || d.Id == port.Bus));
        if (at < 0)
        {
            throw new ConfigurationException(port.Bus is null
                ? $"{port.What}: there is no virtio-serial that it could be on; give -device virtio-serial-pci"
                : $"{port.What}: there is no virtio-serial {port.Bus}; give -device virtio-serial-pci,id={port.Bus}, or leave bus= out");
        }

        settings.VirtioDevices[at] = settings.VirtioDevices[at] with { Ports = [.. settings.VirtioDevices[at].Ports, port] };
    }

    /// <summary>Gives every disk its drive, out of those that are loose.</summary>
    public static void Resolve(RunSettings settings, List<DriveSpec> loose)
    {
        for (var i = 0; i < settings.VirtioDevices.Count; i++)
        {
            if (settings.VirtioDevices[i] is { DriveId: { } id } device)
                settings.VirtioDevices[i] = device with { Drive = DriveValues.TakeDrive(device.What, id, loose, device.WriteErrors, device.ReadErrors) };
        }
    }

    private static string[] KeysOf(VirtioConnection connection) => connection switch
    {
        VirtioConnection.Pci => PciKeys,
        VirtioConnection.Xenbus => [ForeignMap],
        _ => [],
    };

    private static (string Kind, bool? IsTransitional, VirtioConnection Connection)? Find(string driver)
    {
        foreach (var kind in Kinds.Keys)
        {
            foreach (var (suffix, isTransitional, connection) in Suffixes)
            {
                if (driver == kind + suffix)
                    return (kind, isTransitional, connection);
            }
        }

        return null;
    }

    private static VirtioSpec Disk(VirtioSpec spec, KeyValues keys, Func<VirtioPciDevice, VirtioPciDevice> place)
    {
        if (keys["drive"] is not { } drive)
            throw keys.Error("drive= is missing; give the id of a -drive if=none");
        var options = Options(keys);
        var queues = keys.Number("num-queues", 1, 1024);
        var bootIndex = keys.Number("bootindex", 0, int.MaxValue);
        if (bootIndex is not null && spec.Device.Connection == VirtioConnection.Xenbus)
            throw keys.Error("bootindex=: firmware does not see a disk on xenbus; leave it out");
        return spec with
        {
            Disk = d => place(new VirtioDisk(d) { QueueCount = queues, Options = options, BootIndex = bootIndex }),
            DriveId = drive,
            WriteErrors = keys.Word("werror", DriveValues.WritePolicies),
            ReadErrors = keys.Word("rerror", DriveValues.ReadPolicies),
        };
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

    public static int? PowerOfTwo(KeyValues keys, string key, int minimum, int maximum)
    {
        var number = keys.Number(key, minimum, maximum);
        return number is null || int.IsPow2(number.Value) ? number : throw keys.Error($"{key}={number}: give a power of two from {minimum} to {maximum}");
    }

    /// <summary>addr=5, addr=1f.0: the device number in hexadecimal digits, and a function, which is 0.</summary>
    public static int? Slot(KeyValues keys)
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
