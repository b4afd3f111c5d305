// Flags that Xen's libxl (libxl_dm.c), OpenXT's dm-agent and QEMUs patched for them are started with, and that mean nothing
// here or can't be had: the first are noted, the others refused by their names.
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Parsing;

internal static class ForeignFlags
{
    private static readonly Dictionary<string, Foreign> All = new Foreign[]
    {
        // What they ask for is so anyway, or concerns a host with Xen.
        new("xen-attach", false, "the domain is the machine's own, there is none to attach to"),
        new("xen-domid-restrict", false, "the machine reaches no other domain"),
        new("no-user-config", false, null),
        new("nodefconfig", false, null),
        new("enable-kvm", false, "guests run without it; -accel chooses the engine"),
        new("runas", true, "the machine runs as who started it"),
        new("chroot", true, "the machine sees the file system as who started it"),
        new("k", true, "keys are those of the viewer or the terminal"),
        new("parallel", true, "there is no parallel port in this version"),
        new("soundhw", true, "there is no sound in this version; the guest finds no sound card"),
        new("disable-audio-rec", false, "there is no sound in this version"),
        new("usb", false, "there is no USB in this version; the mouse tells positions by VMware's port"),
        new("usbdevice", true, "there is no USB in this version; the mouse tells positions by VMware's port"),

        new("gfx_passthru", false, "devices of the host are not given to guests; leave it out", IsRefused: true),
        new("surfman", false, "OpenXT's surfman is not here; give -vnc :0 or -display curses", IsRefused: true),
        new("vgpu", false, "there is no virtual GPU; give -vga std", IsRefused: true),
        new("xen-acpi-pm", false, "the host's battery and lid are not shown to guests; leave it out", IsRefused: true),
        new("tpmdev", true, "there is no TPM in this version; leave it out", IsRefused: true),
        new("incoming", true, "machines do not move between hosts in this version; leave it out", IsRefused: true),
        new("loadvm", true, "states of machines are not saved in this version; leave it out", IsRefused: true),
        new("icount", true, "time is the host's, and runs are neither recorded nor replayed in this version; leave it out", IsRefused: true),
        new("spice", true, "there is no SPICE in this version; give -vnc :0", IsRefused: true),
        new("sdl", false, "there is no SDL window; give -vnc :0", IsRefused: true),
        new("localtime", false, "the clock of the machine has UTC; leave it out", IsRefused: true),
        new("fda", true, "there is no floppy drive in this version; leave it out", IsRefused: true),
        new("fdb", true, "there is no floppy drive in this version; leave it out", IsRefused: true),
    }.ToDictionary(f => f.Name, StringComparer.Ordinal);

    /// <summary>Devices of -device, the same.</summary>
    private static readonly Dictionary<string, string> Devices = new(StringComparer.Ordinal)
    {
        ["xenmou"] = "OpenXT's mouse is not here; leave it out: the PS/2 mouse tells positions by VMware's port",
        ["xen-pci-passthrough"] = "devices of the host are not given to guests; leave it out",
        ["vfio-pci"] = "devices of the host are not given to guests; leave it out",
        ["xen-pvdevice"] = "the machine has Xen's platform device; leave it out",
        ["usb-tablet"] = "there is no USB in this version; leave it out: the PS/2 mouse tells positions by VMware's port",
        ["cirrus-vga"] = "there is no Cirrus in this version; give -vga std",
        ["AC97"] = "there is no sound in this version; leave it out",
        ["intel-hda"] = "there is no sound in this version; leave it out",
        ["lsi53c895a"] = "there is no SCSI in this version; give -drive if=ide or if=xen",
        ["scsi-disk"] = "there is no SCSI in this version; give -drive if=ide or if=xen",
        ["scsi-hd"] = "there is no SCSI in this version; give -drive if=ide or if=xen",
        ["tpm-tis"] = "there is no TPM in this version; leave it out",
    };

    public static bool Knows(string name) => All.ContainsKey(name);

    /// <summary>Whether a value follows.</summary>
    public static bool HasValue(string name) => All[name].HasValue;

    public static void Apply(RunSettings settings, string name, string? value)
    {
        var flag = All[name];
        var what = value is null ? $"-{name}" : $"-{name} {value}";
        if (flag.IsRefused)
            throw new ConfigurationException($"{what}: {flag.Reason}");
        if (flag.Reason is { } reason && value is not "none")
            settings.Notes.Add($"{what}: {reason}");
    }

    /// <exception cref="ConfigurationException">It is one of these.</exception>
    public static void CheckDevice(string driver, string value)
    {
        if (Devices.TryGetValue(driver, out var reason))
            throw new ConfigurationException($"-device {value}: {reason}");
    }

    /// <summary>-drive file=atapi-pt-local:/dev/sr0,if=atapi-pt: the host's drive itself, commands and all.</summary>
    /// <exception cref="ConfigurationException">It is that.</exception>
    public static void CheckDrive(string value)
    {
        const string through = "atapi-pt";
        if (!value.Contains(through, StringComparison.Ordinal))
            return;
        var file = value.Split(',').FirstOrDefault(p => p.StartsWith("file=", StringComparison.Ordinal))?["file=".Length..] ?? "";
        var disc = file.StartsWith(through, StringComparison.Ordinal) && file.Contains(':', StringComparison.Ordinal) ? file[(file.IndexOf(':', StringComparison.Ordinal) + 1)..] : "/dev/sr0";
        if (file.StartsWith(through, StringComparison.Ordinal) || value.Contains($"if={through}", StringComparison.Ordinal))
            throw new ConfigurationException($"-drive {value}: the commands of the host's drive are not passed through; give file={disc},if=ide,media=cdrom for the disc in it");
    }

    /// <param name="Reason">Why it says nothing, or can't be had; null: it is so anyway.</param>
    private sealed record Foreign(string Name, bool HasValue, string? Reason, bool IsRefused = false);
}
