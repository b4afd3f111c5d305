// The values of QEMU's flags as qemu(1) describes them: sizes with suffixes, lists of key=value.
using System.Globalization;
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Core.Tracing;
using Sharpvisor.Cpu;
using Sharpvisor.Servers.Secrets;

namespace Sharpvisor.Cli.Parsing;

internal static class Values
{
    private static readonly string[] Devices = ["ide-hd", "ide-cd", .. VirtioValues.Names, NicValues.E1000, "virtconsole", "virtserialport", "isa-debug-exit", "pc-testdev", "pci-testdev", "pvpanic", "pvpanic-pci"];

    private const ulong MinimumMemory = 1UL << 20;

    /// <summary>-m 512, 2G, 1.5G, size=2G: bytes.</summary>
    public static ulong Memory(string value)
    {
        var text = value;
        foreach (var part in value.Split(','))
        {
            if (!part.Contains('=', StringComparison.Ordinal))
                text = part;
            else if (part.StartsWith("size=", StringComparison.Ordinal))
                text = part["size=".Length..];
            else
                throw new ConfigurationException($"-m {value}: \"{part}\" is not supported, memory cannot be plugged in; give the size only");
        }

        var bytes = Size($"-m {value}", text, 1 << 20);
        if (bytes < MinimumMemory || bytes > GuestMemory.MaximumSize)
            throw new ConfigurationException($"-m {value}: out of range; give 1M to {GuestMemory.MaximumSize >> 30}G");
        return bytes & ~(ulong)(GuestMemory.PageSize - 1);
    }

    /// <summary>A size with a suffix, in bytes; anything past the largest memory is that and one more.</summary>
    /// <param name="unit">Of a number without a suffix.</param>
    private static ulong Size(string what, string text, decimal unit)
    {
        var meaning = unit == 1 << 20 ? " of MiB" : "";
        var number = text;
        if (text.StartsWith("0x", StringComparison.OrdinalIgnoreCase)) // without a suffix: B is a digit
        {
            return ulong.TryParse(text.AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var bytes)
                ? (ulong)Math.Min(Math.Min(bytes, GuestMemory.MaximumSize + 1) * unit, GuestMemory.MaximumSize + 1)
                : throw new ConfigurationException($"{what}: not a size; give a number{meaning}, or one with K, M or G: 512, 2G");
        }

        if (text.Length > 0 && char.IsAsciiLetter(text[^1]))
        {
            number = text[..^1];
            unit = char.ToUpperInvariant(text[^1]) switch
            {
                'B' => 1,
                'K' => 1 << 10,
                'M' => 1 << 20,
                'G' => 1 << 30,
                'T' => 1L << 40,
                _ => 0,
            };
        }

        if (unit == 0 || number.Length > 20 || !decimal.TryParse(number, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out var count))
            throw new ConfigurationException($"{what}: not a size; give a number{meaning}, or one with K, M or G: 512, 2G");
        return (ulong)Math.Min(Math.Min(count, GuestMemory.MaximumSize + 1) * unit, GuestMemory.MaximumSize + 1); // before an overflow
    }

    private static ulong Below4G(string value, string text)
    {
        const ulong minimum = 1 << 20, maximum = 1UL << 32;
        var bytes = Size($"-machine {value}", text, 1);
        if (bytes < minimum || bytes > maximum)
            throw new ConfigurationException($"-machine {value}: max-ram-below-4g is out of range; give 1M to 4G");
        return bytes;
    }

    public static Guid Uuid(string value) => Guid.TryParseExact(value, "D", out var uuid)
        ? uuid
        : throw new ConfigurationException($"-uuid {value}: not a UUID; give one such as 12345678-1234-1234-1234-123456789abc");

    /// <summary>-smp 4, cpus=4.</summary>
    public static int Processors(string value)
    {
        int? cpus = null, maximum = null;
        foreach (var part in value.Split(','))
        {
            var equals = part.IndexOf('=', StringComparison.Ordinal);
            var (key, text) = equals < 0 ? ("cpus", part) : (part[..equals], part[(equals + 1)..]);
            if (!int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number))
                throw new ConfigurationException($"-smp {value}: \"{text}\" is not a number; give 1 to {MachineOptions.MaximumProcessors}");
            switch (key)
            {
                case "cpus":
                    cpus = number;
                    break;
                case "maxcpus":
                    maximum = number;
                    break;
                case "sockets" or "dies" or "cores" or "threads":
                    throw new ConfigurationException($"-smp {value}: \"{key}\" is not supported, there is no topology to choose; give the number of processors only");
                default:
                    throw new ConfigurationException($"-smp {value}: unknown option \"{key}\"; give cpus=N");
            }
        }

        var count = cpus ?? maximum ?? 1;
        if (count < 1 || count > MachineOptions.MaximumProcessors)
            throw new ConfigurationException($"-smp {value}: out of range; give 1 to {MachineOptions.MaximumProcessors} processors");
        if (maximum is not null && maximum != count)
            throw new ConfigurationException($"-smp {value}: processors cannot be plugged in; leave maxcpus out");
        return count;
    }

    public static string Name(string value)
    {
        var name = value.Split(',')[0];
        return name.StartsWith("guest=", StringComparison.Ordinal) ? name["guest=".Length..] : name;
    }

    /// <summary>-accel NAME, perhaps with properties of QEMU's that say nothing here.</summary>
    public static string Accelerator(string value)
    {
        var parts = value.Split(',');
        foreach (var property in parts.Skip(1))
        {
            if (!property.StartsWith("thread=", StringComparison.Ordinal) && !property.StartsWith("tb-size=", StringComparison.Ordinal))
                throw new ConfigurationException($"-accel {value}: \"{property}\" is not a property of it; leave it out");
        }

        CpuEngines.Check(parts[0]);
        return parts[0];
    }

    public static void Machine(RunSettings settings, string value)
    {
        foreach (var part in value.Split(','))
        {
            switch (part)
            {
                case "pc" or "type=pc":
                    settings.Machine = MachineKind.Pc;
                    break;
                case "xenfv" or "type=xenfv" or "xenfv-3.1" or "xenfv-4.2":
                    settings.Machine = MachineKind.XenHvm;
                    break;
                case "xenpvh" or "type=xenpvh":
                    settings.Machine = MachineKind.XenPvh;
                    break;
                case "xenpv" or "type=xenpv":
                    settings.Machine = MachineKind.XenPv;
                    break;
                case "igd-passthru=off" or "usb=off" or "suppress-vmdesc=on":
                    break; // it is so
                case "igd-passthru=on":
                    throw new ConfigurationException($"-machine {value}: devices of the host are not given to guests; leave igd-passthru=on out");
                case "accel=xen":
                    XenValues.Accelerator(settings, $"-machine {value}");
                    break;
                case not null when part.StartsWith("accel=", StringComparison.Ordinal):
                    settings.Engine = Accelerator(part["accel=".Length..]);
                    break;
                case not null when part.StartsWith("max-ram-below-4g=", StringComparison.Ordinal):
                    settings.MaximumBelow4G = Below4G(value, part["max-ram-below-4g=".Length..]);
                    break;
                case "vmport=on" or "vmport=auto":
                    settings.HasVmwarePort = true;
                    break;
                case "vmport=off":
                    settings.HasVmwarePort = false;
                    break;
                case "kernel-boot=firmware":
                    settings.KernelBoot = BootWay.Firmware;
                    break;
                case "kernel-boot=direct":
                    settings.KernelBoot = BootWay.Direct;
                    break;
                case not null when part.StartsWith("kernel-boot=", StringComparison.Ordinal):
                    throw new ConfigurationException($"-machine {value}: a kernel boots by kernel-boot=firmware or kernel-boot=direct");
                case not null when part.StartsWith("xen-callback=", StringComparison.Ordinal):
                    settings.XenCallback = XenValues.Callback($"-machine {value}", part["xen-callback=".Length..]);
                    break;
                case "help" or "?":
                    throw new ConfigurationException("-machine: there are pc, xenfv, xenpvh and xenpv");
                default:
                    throw new ConfigurationException($"-machine {value}: \"{part}\" is not in this version; give pc, xenfv, xenpvh or xenpv");
            }
        }
    }

    /// <summary>-display none or curses: whether the screen is shown on the terminal.</summary>
    public static bool IsCurses(string value) => value switch
    {
        "none" => false,
        "curses" => true,
        "surfman" => throw new ConfigurationException("-display surfman: OpenXT's surfman is not here; give -display none, and -vnc :0 for a VNC viewer"),
        _ => throw new ConfigurationException($"-display {value}: not in this version; give curses or none, and -vnc :0 for a VNC viewer"),
    };

    /// <summary>-vga std or none.</summary>
    public static bool HasVga(string value) => value switch
    {
        "std" => true,
        "none" => false,
        "cirrus" or "vmware" or "qxl" or "virtio" => throw new ConfigurationException($"-vga {value}: not in this version; give std or none"),
        _ => throw new ConfigurationException($"-vga {value}: unknown; give std or none"),
    };

    /// <summary>-device isa-debug-exit,iobase=0xf4,iosize=4; -device pc-testdev.</summary>
    public static void Device(RunSettings settings, string value)
    {
        var parts = value.Split(',');
        ForeignFlags.CheckDevice(parts[0], value);
        switch (parts[0])
        {
            case "xen-platform":
                XenValues.Platform(settings, value);
                break;
            case "VGA":
                XenValues.Vga(settings, value);
                break;
            case "xen-console":
                XenValues.Console(settings, value);
                break;
            case "isa-debug-exit":
                DebugExit(settings, value, parts);
                break;
            case "pc-testdev" or "pci-testdev" or "pvpanic" or "pvpanic-pci":
                if (parts.Skip(1).FirstOrDefault(p => !p.StartsWith("id=", StringComparison.Ordinal)) is { } option)
                    throw new ConfigurationException($"-device {value}: unknown option \"{option}\"; {parts[0]} has none");
                settings.HasTestDevice |= parts[0] == "pc-testdev";
                settings.HasPciTestDevice |= parts[0] == "pci-testdev";
                settings.HasPanicDevice |= parts[0] == "pvpanic";
                settings.HasPciPanicDevice |= parts[0] == "pvpanic-pci";
                break;
            case "ide-hd" or "ide-cd":
                DriveValues.Device(settings, value);
                break;
            case NicValues.E1000 or "e1000-82540em":
                NicValues.E1000Device(settings, value);
                break;
            case var driver when CharValues.KnowsPort(driver):
                CharValues.Port(settings, value);
                break;
            case var driver when VirtioValues.Knows(driver):
                VirtioValues.Device(settings, value);
                break;
            default:
                throw new ConfigurationException($"-device {parts[0]}: not in this version; the nearest is {Nearest.Of(parts[0], Devices)} of {string.Join(", ", Devices)}");
        }
    }

    /// <summary>-object secret,… and filter-dump,….</summary>
    public static void Object(RunSettings settings, string value)
    {
        if (value.StartsWith("filter-dump,", StringComparison.Ordinal))
            NetdevValues.Dump(settings, value);
        else
            settings.Secrets.Add(Secret.Parse(value));
    }

    private static void DebugExit(RunSettings settings, string value, string[] parts)
    {
        ushort port = 0x501;
        var count = 2;
        foreach (var part in parts.Skip(1))
        {
            if (part.StartsWith("iobase=", StringComparison.Ordinal))
                port = (ushort)Number($"-device {value}", part["iobase=".Length..], 0xFFFF);
            else if (part.StartsWith("iosize=", StringComparison.Ordinal))
                count = (int)Number($"-device {value}", part["iosize=".Length..], 0x100);
            else if (!part.StartsWith("id=", StringComparison.Ordinal))
                throw new ConfigurationException($"-device {value}: unknown option \"{part}\"; isa-debug-exit has iobase= and iosize=");
        }

        if (settings.DebugExit is not null)
            throw new ConfigurationException("two times -device isa-debug-exit: one is enough");
        settings.DebugExit = (port, count);
    }

    /// <summary>-global isa-debugcon.iobase=0x402, -global PIIX4_PM.disable_s3=1.</summary>
    public static void Global(RunSettings settings, string value)
    {
        const string debugPort = "isa-debugcon.iobase=", noSuspendToRam = "PIIX4_PM.disable_s3=", noSuspendToDisk = "PIIX4_PM.disable_s4=";
        if (value.StartsWith(debugPort, StringComparison.Ordinal))
            settings.DebugConsolePort = (ushort)Number($"-global {value}", value[debugPort.Length..], 0xFFFF);
        else if (value.StartsWith(noSuspendToRam, StringComparison.Ordinal))
            settings.HasSuspendToRam = !Switch($"-global {value}", value[noSuspendToRam.Length..]);
        else if (value.StartsWith(noSuspendToDisk, StringComparison.Ordinal))
            settings.HasSuspendToDisk = !Switch($"-global {value}", value[noSuspendToDisk.Length..]);
        else
            throw new ConfigurationException($"-global {value}: not in this version; there are {debugPort}PORT, {noSuspendToRam}1 and {noSuspendToDisk}1");
    }

    private static bool Switch(string what, string text) => text switch
    {
        "1" or "on" or "true" => true,
        "0" or "off" or "false" => false,
        _ => throw new ConfigurationException($"{what}: give on or off"),
    };

    /// <summary>-trace [enable=]EVENT[,events=FILE][,file=FILE]; a file of events has one a line, # for remarks.</summary>
    public static void TraceEvents(RunSettings settings, string value)
    {
        foreach (var item in value.Split(','))
        {
            if (item.StartsWith("file=", StringComparison.Ordinal))
                settings.TraceFile = item["file=".Length..];
            else if (item.StartsWith("events=", StringComparison.Ordinal))
                settings.Log.Events.AddRange(ReadTraceEvents(item["events=".Length..]));
            else
                settings.Log.Events.Add(TraceFilter.Parse(item.StartsWith("enable=", StringComparison.Ordinal) ? item["enable=".Length..] : item));
        }
    }

    private static IEnumerable<TraceFilter> ReadTraceEvents(string path)
    {
        try
        {
            return [.. File.ReadLines(path).Select(l => l.Trim()).Where(l => l.Length > 0 && l[0] != '#').Select(TraceFilter.Parse)];
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new ConfigurationException($"-trace events={path}: {e.Message.TrimEnd('.')}", e);
        }
    }

    private static ulong Number(string what, string text, ulong maximum)
    {
        var isHex = text.StartsWith("0x", StringComparison.OrdinalIgnoreCase);
        var digits = isHex ? text.AsSpan(2) : text.AsSpan();
        var style = isHex ? NumberStyles.AllowHexSpecifier : NumberStyles.None;
        if (!ulong.TryParse(digits, style, CultureInfo.InvariantCulture, out var number) || number < 1 || number > maximum)
            throw new ConfigurationException($"{what}: \"{text}\" is not a number from 1 to 0x{maximum:x}");
        return number;
    }
}
