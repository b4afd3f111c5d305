// The flags of `run`, spelled as QEMU spells them and with one dash or two. A value is always the next argument, even
// one that starts with a dash (-append -v), or follows an equals sign after two dashes (--append=-v).
using Sharpvisor.Backends.Char;
using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Control;
using Sharpvisor.Servers.Endpoints;
using Sharpvisor.Servers.Secrets;
using Sharpvisor.Servers.Vnc;

namespace Sharpvisor.Cli.Parsing;

internal static class RunFlags
{
    private static readonly Dictionary<string, Flag> All = new Flag[]
    {
        new("m", "SIZE", (s, v) => s.Memory = Values.Memory(v)),
        new("smp", "N", (s, v) => s.Processors = Values.Processors(v)),
        new("cpu", "MODEL", (s, v) => s.Cpu = v),
        new("kernel", "FILE", (s, v) => s.Kernel = v),
        new("initrd", "FILE", (s, v) => s.Initrd = v),
        new("append", "TEXT", (s, v) => s.Append = v),
        new("bios", "FILE", (s, v) => s.Bios = v),
        new("boot", "ORDER", BootValues.Boot),
        new("uuid", "UUID", (s, v) => s.Uuid = Values.Uuid(v)),
        new("hda", "FILE", (s, v) => DriveValues.Short(s, "-hda", v, 0, isCdrom: false)),
        new("hdb", "FILE", (s, v) => DriveValues.Short(s, "-hdb", v, 1, isCdrom: false)),
        new("hdc", "FILE", (s, v) => DriveValues.Short(s, "-hdc", v, 2, isCdrom: false)),
        new("hdd", "FILE", (s, v) => DriveValues.Short(s, "-hdd", v, 3, isCdrom: false)),
        new("cdrom", "FILE", (s, v) => DriveValues.Short(s, "-cdrom", v, DriveValues.CdromIndex, isCdrom: true)),
        new("drive", "OPTIONS", DriveValues.Drive),
        new("blockdev", "OPTIONS", BlockdevValues.Blockdev),
        new("snapshot", null, (s, _) => s.IsTemporary = true),
        new("nic", "OPTIONS", NicValues.Nic),
        new("netdev", "OPTIONS", NetdevValues.Netdev),
        new("net", "OPTIONS", NicValues.Net),
        new("bootp", "FILE", (s, v) => s.BootFile = v),
        new("serial", "WHERE", (s, v) => s.Serial.Add(CharSpec.Parse(v))),
        new("chardev", "OPTIONS", CharValues.Chardev),
        new("monitor", "WHERE", MonitorValues.Monitor),
        new("qmp", "WHERE", (s, v) => MonitorValues.Qmp(s, "-qmp", v, ControlProtocol.Qmp)),
        new("qmp-pretty", "WHERE", (s, v) => MonitorValues.Qmp(s, "-qmp-pretty", v, ControlProtocol.QmpPretty)),
        new("mon", "CHARDEV", MonitorValues.Mon),
        new("name", "NAME", (s, v) => s.Name = Values.Name(v)),
        new("accel", "KIND", XenValues.AcceleratorOrXen),
        new("machine", "KIND", Values.Machine),
        new("M", "KIND", Values.Machine),
        new("xen-domid", "NUMBER", XenValues.Domain),
        new("xl", "FILE", Xl.XlValues.Apply),
        new("display", "none|curses", (s, v) => s.IsCurses = Values.IsCurses(v)),
        new("vga", "std|none", (s, v) => s.HasVga = Values.HasVga(v)),
        new("vnc", "DISPLAY", (s, v) => s.Vnc = VncSpec.Parse(v)),
        new("gdb", "WHERE", (s, v) => s.Gdb = ServerAddress.Parse(v, "-gdb")),
        new("s", null, (s, _) => s.Gdb = ServerAddress.Parse("tcp::1234", "-gdb")),
        new("object", "OBJECT", Values.Object),
        new("device", "DEVICE", Values.Device),
        new("debugcon", "WHERE", (s, v) => s.DebugConsole = CharSpec.Parse(v, "-debugcon")),
        new("global", "SETTING", Values.Global),
        new("d", "ITEMS", (s, v) => s.Log.AddAll(v)),
        new("D", "FILE", (s, v) => s.TraceFile = v),
        new("trace", "EVENT", Values.TraceEvents),
        new("no-kvm", null, (_, _) => { }), // as QEMU spelled it once: nothing here needs it
        new("perfmap", null, (s, _) => s.PerfMap = true),
        new("nographic", null, (s, _) => s.IsCurses = false), // serial goes to stdio by itself
        new("no-reboot", null, (s, _) => s.Actions = s.Actions with { Reboot = RebootAction.Shutdown }),
        new("no-shutdown", null, (s, _) => s.Actions = s.Actions with { Shutdown = ShutdownAction.Pause }),
        new("S", null, (s, _) => s.StartPaused = true),
        new("action", "EVENT=ACTION", ActionValues.Action),
        new("on-poweroff", "ACTION", ActionValues.OnPowerOff),
        new("on-reboot", "ACTION", ActionValues.OnReboot),
        new("on-crash", "ACTION", ActionValues.OnCrash),
        new("nodefaults", null, (s, _) => s.NoDefaults = true),
    }.ToDictionary(f => f.Name, StringComparer.Ordinal);

    public static IEnumerable<string> Names => All.Keys;

    /// <exception cref="ConfigurationException">A flag is unknown, lacks its value, or has a wrong one.</exception>
    public static RunSettings Parse(IReadOnlyList<string> args)
    {
        var settings = new RunSettings();
        Apply(settings, args);
        CharValues.Resolve(settings);
        Check(settings);
        NicValues.AddDefault(settings);
        NicValues.Check(settings);
        settings.Drives.AddRange(BlockdevValues.Drives(settings));
        if (settings.IsTemporary)
            DriveValues.MakeTemporary(settings);
        settings.PlacedDrives = DriveValues.Resolve(settings);
        return settings;
    }

    /// <summary>What each flag says by itself.</summary>
    /// <exception cref="ConfigurationException">A flag is unknown, lacks its value, or has a wrong one.</exception>
    public static void Apply(RunSettings settings, IReadOnlyList<string> args)
    {
        for (var i = 0; i < args.Count; i++)
        {
            var arg = args[i];
            if (!arg.StartsWith('-') || arg.Length < 2)
            {
                DriveValues.Short(settings, "-hda", arg, 0, isCdrom: false);
                continue;
            }

            var name = arg.StartsWith("--", StringComparison.Ordinal) ? arg[2..] : arg[1..];
            string? value = null;
            var equals = name.IndexOf('=', StringComparison.Ordinal);
            if (equals > 0)
                (name, value) = (name[..equals], name[(equals + 1)..]);
            if (!All.TryGetValue(name, out var flag) && ForeignFlags.Knows(name))
            {
                value ??= ForeignFlags.HasValue(name) && i + 1 < args.Count ? args[++i] : null;
                ForeignFlags.Apply(settings, name, value);
                continue;
            }

            if (flag is null)
                throw new ConfigurationException($"unknown flag {arg}; the nearest is -{Nearest.Of(name, Names)}; see sharpvisor run --help");
            if (flag.ValueName is null && value is not null)
                throw new ConfigurationException($"-{name} takes no value: leave \"={value}\" out");
            if (flag.ValueName is not null && value is null)
            {
                if (++i == args.Count)
                    throw new ConfigurationException($"-{name} needs a value: -{name} {flag.ValueName}");
                value = args[i];
            }

            flag.Apply(settings, value ?? "");
        }
    }

    private static void Check(RunSettings settings)
    {
        List<string> onStdio = [.. settings.Serial.Where(s => s.IsStdio).Select(_ => "-serial stdio")];
        if (settings.DebugConsole is { IsStdio: true })
            onStdio.Add("-debugcon stdio");
        onStdio.AddRange(settings.Monitors.Where(m => m.Where.IsStdio).Select(m => m.What));
        onStdio.AddRange(settings.VirtioDevices.SelectMany(d => d.Ports).Where(p => p.Where is { IsStdio: true }).Select(p => p.What));
        if (settings.XenConsole is { Where.IsStdio: true } console)
            onStdio.Add(console.What);
        if (settings.Gdb is { IsStdio: true })
            onStdio.Add("-gdb stdio");
        if (settings.IsCurses)
            onStdio.Add("-display curses");
        // As QEMU: a machine that is told nothing else has its first serial port on stdio.
        var usesDefault = settings.Serial.Count == 0 && !settings.NoDefaults;
        if (usesDefault && onStdio.Count == 0)
            settings.Serial.Add(new CharSpec.Stdio { SharesTerminal = !settings.HasMonitorFlag });
        else if (usesDefault && settings.IsCurses)
            settings.Serial.Add(new CharSpec.Null());
        if (settings is { IsCurses: true, HasVga: false })
            throw new ConfigurationException("-display curses and -vga none: there is no screen to show; leave one of them out");
        if (settings is { Vnc: { } vnc, HasVga: false })
            throw new ConfigurationException($"-vnc {vnc.Text} and -vga none: there is no screen to show; leave one of them out");
        XenValues.Check(settings);
        if (onStdio.Count > 1)
            throw new ConfigurationException($"two devices on one stdio: {onStdio[0]} and {onStdio[1]}; give one of them file:PATH, pty, tcp: or null");
        if (settings.Serial.Count > 4)
            throw new ConfigurationException($"{settings.Serial.Count} times -serial: a PC has 4 serial ports at most");
    }

    private sealed record Flag(string Name, string? ValueName, Action<RunSettings, string> Apply);
}
