// -hda to -hdd, -cdrom, -drive, and -device ide-hd and ide-cd, as qemu(1) describes them.
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Ide;

namespace Sharpvisor.Cli.Parsing;

internal static class DriveValues
{
    public const int CdromIndex = 2;

    private static readonly string[] DriveKeys =
    [
        "file", "format", "if", "id", "index", "bus", "unit", "media", "readonly", "snapshot", "cache", "discard", "detect-zeroes", "werror", "rerror", "serial", "aio",
    ];

    private static readonly string[] DeviceKeys =
    [
        "driver", "drive", "id", "bus", "unit", "bootindex", "serial", "model", "ver", "cyls", "heads", "secs", "werror", "rerror",
    ];

    /// <summary>xvdzz.</summary>
    private const int LastXenDisk = (26 * 27) - 1;

    public static readonly (string, ErrorPolicy)[] WritePolicies =
        [("report", ErrorPolicy.Report), ("stop", ErrorPolicy.Stop), ("enospc", ErrorPolicy.StopWhenFull), ("ignore", ErrorPolicy.Ignore)];

    public static readonly (string, ErrorPolicy)[] ReadPolicies =
        [("report", ErrorPolicy.Report), ("stop", ErrorPolicy.Stop), ("ignore", ErrorPolicy.Ignore)];

    /// <summary>-hda FILE, -cdrom FILE, or a bare FILE.</summary>
    public static void Short(RunSettings settings, string flag, string file, int index, bool isCdrom) => settings.Drives.Add(new DriveSpec($"{flag} {file}")
    {
        File = file,
        Index = index,
        IsCdrom = isCdrom,
        Options = new DriveOptions { IsReadOnly = isCdrom },
    });

    public static void Drive(RunSettings settings, string value)
    {
        ForeignFlags.CheckDrive(value);
        var keys = new KeyValues("-drive", value, implied: null, DriveKeys);
        var place = keys.Word("if", ("ide", DriveInterface.Ide), ("none", DriveInterface.None), ("virtio", DriveInterface.Virtio), ("xen", DriveInterface.Xen)) ?? DriveInterface.Ide;
        var isCdrom = keys.Word("media", ("disk", false), ("cdrom", true)) ?? false;
        if (keys["aio"] is { } aio and not "threads")
            throw keys.Error($"aio={aio} is not in this version; there is threads");
        if (keys["file"] is null && !isCdrom)
            throw keys.Error("file= is missing; only media=cdrom can be empty");
        if (keys.OnOff("snapshot", false) && keys.OnOff("readonly", false))
            throw keys.Error("snapshot=on and readonly=on: a disk that is only read needs no temporary one; leave one of them out");
        if (place == DriveInterface.Virtio && isCdrom)
            throw keys.Error("a virtio disk is no CD-ROM drive; give readonly=on, or if=ide");
        if (place == DriveInterface.Xen && keys["file"] is null)
            throw keys.Error("file= is missing; a drive of a Xen domain is not empty");
        if (place == DriveInterface.Xen && keys["serial"] is { } serial)
            throw keys.Error($"serial={serial}: a Xen domain's disks have none; leave it out");
        if (place == DriveInterface.None && keys["id"] is null)
            throw keys.Error("if=none needs an id= by which a -device names it");
        var drive = new DriveSpec($"-drive {value}")
        {
            File = keys["file"],
            Id = keys["id"],
            Interface = place,
            IsCdrom = isCdrom,
            Index = place switch
            {
                DriveInterface.Virtio => null,
                DriveInterface.Xen => keys.Number("index", 0, LastXenDisk),
                _ => Place(keys),
            },
            Serial = keys.Text("serial", 20),
            Options = new DriveOptions
            {
                Format = Format(keys),
                IsReadOnly = keys.OnOff("readonly", isCdrom) || isCdrom,
                Cache = keys.Word(
                    "cache",
                    ("writeback", CacheMode.Writeback),
                    ("writethrough", CacheMode.Writethrough),
                    ("none", CacheMode.None),
                    ("directsync", CacheMode.DirectSync),
                    ("unsafe", CacheMode.Unsafe)) ?? CacheMode.Writeback,
                Discard = keys.Word("discard", ("unmap", true), ("on", true), ("ignore", false), ("off", false)) ?? false,
                DetectZeroes = DetectZeroes(keys),
                IsTemporary = keys.OnOff("snapshot", false) && !isCdrom,
                WriteErrors = keys.Word("werror", WritePolicies) ?? ErrorPolicy.StopWhenFull,
                ReadErrors = keys.Word("rerror", ReadPolicies) ?? ErrorPolicy.Report,
            },
        };
        settings.Drives.Add(drive);
        if (place == DriveInterface.Virtio)
            VirtioValues.Drive(settings, drive);
    }

    public static ZeroDetection DetectZeroes(KeyValues keys) =>
        keys.Word("detect-zeroes", ("off", ZeroDetection.Off), ("on", ZeroDetection.On), ("unmap", ZeroDetection.Unmap)) ?? ZeroDetection.Off;

    /// <summary>-snapshot: every disk is temporary, whatever else was said.</summary>
    public static void MakeTemporary(RunSettings settings)
    {
        for (var i = 0; i < settings.Drives.Count; i++)
            settings.Drives[i] = Temporary(settings.Drives[i]);
        for (var i = 0; i < settings.VirtioDevices.Count; i++)
        {
            if (settings.VirtioDevices[i] is { Drive: { } drive } device)
                settings.VirtioDevices[i] = device with { Drive = Temporary(drive) };
        }
    }

    private static DriveSpec Temporary(DriveSpec drive) =>
        drive.IsCdrom || drive.Options.IsReadOnly ? drive : drive with { Options = drive.Options with { IsTemporary = true } };

    /// <summary>-device ide-hd,… and -device ide-cd,…</summary>
    public static void Device(RunSettings settings, string value)
    {
        var keys = new KeyValues("-device", value, implied: "driver", DeviceKeys);
        var isCdrom = keys["driver"] == "ide-cd";
        if (!isCdrom && keys["drive"] is null)
            throw keys.Error("drive= is missing; give the id of a -drive if=none");
        settings.IdeDevices.Add(new IdeDeviceSpec($"-device {value}")
        {
            IsCdrom = isCdrom,
            DriveId = keys["drive"],
            Channel = keys.Word("bus", ("ide.0", 0), ("ide.1", 1)),
            Unit = keys.Number("unit", 0, 1),
            BootIndex = keys.Number("bootindex", 0, int.MaxValue),
            Serial = keys.Text("serial", 20),
            Model = keys.Text("model", 40),
            Version = keys.Text("ver", 8),
            Geometry = Geometry(keys),
            WriteErrors = keys.Word("werror", WritePolicies),
            ReadErrors = keys.Word("rerror", ReadPolicies),
        });
    }

    /// <summary>Gives every drive a place: first those that name one, then the others, in order.</summary>
    /// <exception cref="ConfigurationException">Two want the same one, there are too many, or a device names no drive.</exception>
    public static IReadOnlyList<PlacedDrive> Resolve(RunSettings settings)
    {
        var loose = settings.Drives.Where(d => d.Interface == DriveInterface.None).ToList();
        VirtioValues.Resolve(settings, loose);
        List<WantedDrive> wanted =
        [
            .. settings.Drives.Where(d => d.Interface == DriveInterface.Ide).Select(d => new WantedDrive(d, new IdeDeviceSpec(d.What)
            {
                IsCdrom = d.IsCdrom, Channel = d.Index / 2, Unit = d.Index % 2, Serial = d.Serial,
            })),
        ];
        foreach (var device in settings.IdeDevices)
            wanted.Add(new WantedDrive(TakeDrive(device, loose), device));
        if (loose is [var unused, ..])
            throw new ConfigurationException($"{unused.What}: no device uses it; give -device ide-hd,drive={unused.Id} or -device virtio-blk-pci,drive={unused.Id}, or leave if=none out");

        List<PlacedDrive> placed = [];
        foreach (var (drive, device) in wanted.OrderBy(w => w.Device is { Channel: not null, Unit: not null } ? 0 : w.Device.Channel is not null || w.Device.Unit is not null ? 1 : 2))
        {
            var candidates = Enumerable.Range(0, IdeDrive.MaximumCount)
                .Where(p => (device.Channel is null || device.Channel == p / 2) && (device.Unit is null || device.Unit == p % 2));
            var free = candidates.Where(p => placed.TrueForAll(other => other.Place != p)).ToList();
            if (free.Count == 0 && device is { Channel: { } channel, Unit: { } unit })
            {
                var other = placed.Find(p => p.Channel == channel && p.Unit == unit)!;
                throw new ConfigurationException($"{device.What}: {other.Device.What} has that place (bus ide.{channel}, unit {unit}); give another index=, or bus= and unit=");
            }

            if (free.Count == 0)
                throw new ConfigurationException($"{device.What}: no place is left for it; an IDE controller has room for {IdeDrive.MaximumCount} drives, two on a bus");
            placed.Add(new PlacedDrive(free[0] / 2, free[0] % 2, drive, device));
        }

        return [.. placed.OrderBy(p => p.Place)];
    }

    private static DriveSpec TakeDrive(IdeDeviceSpec device, List<DriveSpec> loose)
    {
        if (device.DriveId is not { } id)
            return new DriveSpec(device.What) { IsCdrom = true, Options = new DriveOptions { IsReadOnly = true } };
        var drive = TakeDrive(device.What, id, loose, device.WriteErrors, device.ReadErrors);
        var options = device.IsCdrom ? drive.Options with { IsReadOnly = true, IsTemporary = false } : drive.Options;
        return drive with { IsCdrom = device.IsCdrom, Options = options };
    }

    /// <summary>Takes the drive that a device names out of those that have none yet.</summary>
    public static DriveSpec TakeDrive(string what, string id, List<DriveSpec> loose, ErrorPolicy? writeErrors, ErrorPolicy? readErrors)
    {
        var drive = loose.Find(d => d.Id == id);
        if (drive is null)
        {
            throw new ConfigurationException(loose.Count == 0
                ? $"{what}: there is no drive \"{id}\" that is free; give -drive if=none,id={id},file=FILE"
                : $"{what}: there is no drive \"{id}\" that is free; the nearest is {Nearest.Of(id, loose.Select(d => d.Id!))}");
        }

        loose.Remove(drive);
        return drive with
        {
            Options = drive.Options with { WriteErrors = writeErrors ?? drive.Options.WriteErrors, ReadErrors = readErrors ?? drive.Options.ReadErrors },
        };
    }

    private static int? Place(KeyValues keys)
    {
        var index = keys.Number("index", 0, IdeDrive.MaximumCount - 1);
        var bus = keys.Number("bus", 0, 1);
        var unit = keys.Number("unit", 0, 1);
        if (index is not null && (bus is not null || unit is not null))
            throw keys.Error("index= and bus= or unit= say the same; give one of them");
        return index ?? (bus is null && unit is null ? null : ((bus ?? 0) * 2) + (unit ?? 0));
    }

    private static string? Format(KeyValues keys)
    {
        if (keys["format"] is { } format && !ImageFormat.Names.Contains(format))
            throw keys.Error($"format={format} is not in this version; there is {string.Join(", ", ImageFormat.Names)}");
        return keys["format"];
    }

    private static DiskGeometry? Geometry(KeyValues keys)
    {
        var cylinders = keys.Number("cyls", 1, DiskGeometry.MaximumCylinders);
        var heads = keys.Number("heads", 1, DiskGeometry.MaximumHeads);
        var sectors = keys.Number("secs", 1, DiskGeometry.MaximumSectors);
        if (cylinders is null && heads is null && sectors is null)
            return null;
        if (cylinders is null || heads is null || sectors is null)
            throw keys.Error("cyls=, heads= and secs= go together; give all three or none");
        var translation = cylinders <= 1024 ? DiskTranslation.None : DiskTranslation.Lba;
        return new DiskGeometry(cylinders.Value, heads.Value, sectors.Value, translation);
    }

    /// <summary>A class: code for lists of value types is compiled at each start.</summary>
    private sealed record WantedDrive(DriveSpec Drive, IdeDeviceSpec Device);
}
