// -xen-domid and -device xen-console, as qemu(1) has them for machines under Xen.
using Sharpvisor.Backends.Char;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Xen;

namespace Sharpvisor.Cli.Parsing;

/// <summary>-device xen-console.</summary>
/// <param name="Where">Null: nowhere, the console takes all and says nothing.</param>
internal sealed record XenConsoleSpec(string What, CharSpec? Where);

internal static class XenValues
{
    public static void Domain(RunSettings settings, string value)
    {
        if (!int.TryParse(value, out var number) || number is < 1 or > XenOptions.LastDomain)
            throw new ConfigurationException($"-xen-domid {value}: give the number of a domain, 1 to {XenOptions.LastDomain}");
        settings.XenDomain = number;
    }

    /// <summary>-machine xen-callback=: as much as a domain is to find, for kernels that knew no more, and for drivers of theirs.</summary>
    public static XenCallbackOffer Callback(string what, string value) => value switch
    {
        "vcpu-vector" => XenCallbackOffer.ProcessorVector,
        "vector" => XenCallbackOffer.Vector,
        "line" => XenCallbackOffer.Line,
        _ => throw new ConfigurationException($"{what}: xen-callback={value} is no way to tell of events; give vcpu-vector, vector or line"),
    };

    /// <summary>-device xen-console,chardev=c0.</summary>
    public static void Console(RunSettings settings, string value)
    {
        if (settings.XenConsole is not null)
            throw new ConfigurationException($"-device {value}: a domain has one xen-console; leave one out");
        var keys = new KeyValues("-device", value, implied: "driver", ["driver", "id", "chardev"]);
        settings.XenConsole = new XenConsoleSpec($"-device {value}", keys["chardev"] is { } id ? new CharSpec.Named(id) : null);
    }

    /// <summary>-device xen-platform: what an HVM domain has anyway.</summary>
    public static void Platform(RunSettings settings, string value)
    {
        _ = new KeyValues("-device", value, implied: "driver", ["driver", "id", "addr", "bus"]);
        settings.NeedsXenPlatform = true;
    }

    /// <summary>-device VGA, as libxl has it for a standard VGA.</summary>
    public static void Vga(RunSettings settings, string value)
    {
        const int ours = 16;
        var keys = new KeyValues("-device", value, implied: "driver", ["driver", "id", "addr", "bus", "vgamem_mb"]);
        settings.HasVga = true;
        if (keys.Number("vgamem_mb", 1, 512) is { } size and not ours)
            settings.Notes.Add($"-device {value}: the standard VGA has {ours} MiB, not {size}");
    }

    /// <summary>-accel xen: what only a host with Xen has, and nobody misses.</summary>
    public static void Accelerator(RunSettings settings, string what) =>
        settings.Notes.Add($"{what}: no Xen is needed on this host; -accel chooses the engine");

    public static void AcceleratorOrXen(RunSettings settings, string value)
    {
        if (value == "xen")
            Accelerator(settings, "-accel xen");
        else
            settings.Engine = Values.Accelerator(value);
    }

    /// <summary>PVH and PV domains have no serial port: what is said of the first one, or the default, is said of its console.</summary>
    private static void MakeSerialTheConsole(RunSettings settings)
    {
        if (settings.Serial.Count > 1 || (settings.Serial is [not CharSpec.Null] && settings.XenConsole is not null))
            throw new ConfigurationException($"-serial: a {(settings.Machine == MachineKind.XenPv ? "PV" : "PVH")} domain has no serial ports, one -serial is its console hvc0; leave the others out");
        if (settings.Serial is [var where])
            settings.XenConsole ??= new XenConsoleSpec("-serial", where);
        settings.Serial.Clear();
    }

    /// <summary>What of Xen is asked for goes with a machine that has it.</summary>
    public static void Check(RunSettings settings)
    {
        if (settings.NeedsXenPlatform && settings.Machine != MachineKind.XenHvm)
            throw new ConfigurationException("-device xen-platform: this machine is no HVM domain; give -machine xenfv, which has it");
        if (settings is { Machine: MachineKind.XenPvh, XenCallback: XenCallbackOffer.Line })
            throw new ConfigurationException("-machine xenpvh: xen-callback=line needs the interrupt controllers of a PC; give vector, or xenfv");
        if (settings is { Machine: MachineKind.XenPv, XenCallback: not null })
            throw new ConfigurationException("-machine xenpv: a paravirtual kernel names its own way to be told of events; leave xen-callback= out");
        if (settings.Machine is MachineKind.XenPvh or MachineKind.XenPv)
            MakeSerialTheConsole(settings);
        if (settings.Machine != MachineKind.Pc)
            return;
        if (settings.XenCallback is not null)
            throw new ConfigurationException("-machine pc: xen-callback= is of domains; give -machine xenfv or -machine xenpvh, or leave it out");
        if (settings.XenDomain is not null)
            throw new ConfigurationException("-xen-domid: this machine is no domain; give -machine xenfv, xenpvh or xenpv, too");
        if (settings.Drives.Find(d => d.Interface == DriveInterface.Xen) is { } drive)
            throw new ConfigurationException($"{drive.What}: this machine is no domain; give -machine xenfv, xenpvh or xenpv, too, or if=virtio");
        if (settings.Nics.Find(n => n.Model == NicValues.Xen) is { } nic)
            throw new ConfigurationException($"{nic.What}: this machine is no domain; give -machine xenfv, xenpvh or xenpv, too, or model=virtio");
        if ((settings.VirtioDevices.Find(d => d.Device.Connection == VirtioConnection.Xenbus)?.What ?? settings.Nics.Find(n => n.Model == NicValues.Xenbus)?.What) is { } what)
            throw new ConfigurationException($"{what}: this machine is no domain, which alone has a xenbus; give -machine xenfv, xenpvh or xenpv, too, or the device on PCI");
        if (settings.XenConsole is { } console)
            throw new ConfigurationException($"{console.What}: this machine is no domain; give -machine xenfv, xenpvh or xenpv, too");
    }
}
