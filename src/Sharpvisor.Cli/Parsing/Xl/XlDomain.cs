// What a domain configuration file of xl's says, as flags of `run`: xl.cfg(5), xl-network-configuration(5).
using System.Globalization;
using System.Text;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Parsing.Xl;

/// <summary>A flag that a key of the file stands for.</summary>
internal sealed record XlFlag(string Name, string Value, string Key, int Line);

/// <summary>One file, translated.</summary>
internal sealed class XlDomain
{
    /// <summary>Keys that concern Xen's hosts or its tools: nothing of the guest's depends on them.</summary>
    private static readonly string[] Hosts =
    [
        "cpus", "cpus_soft", "cpu_weight", "cap", "pool", "seclabel", "init_seclabel", "device_model_version", "device_model_override", "device_model_user",
        "device_model_stubdomain_override", "device_model_stubdomain_seclabel", "device_model_stubdomain_memory", "dm_restrict", "max_grant_frames", "max_maptrack_frames",
        "max_grant_version", "event_channels", "nomigrate", "suppress_spurious_page_faults", "passthrough", "claim_mode", "driver_domain", "xend_suspend_evtchn_compat",
        "shadow_memory", "hap", "oos", "mmio_hole", "timer_mode", "tsc_mode", "vpt_align", "altp2m", "keymap", "videoram", "vncunused", "usbversion", "bootloader_restrict",
        "bios_path_check", "vmtrace_buf_kb", "vpmu", "sched", "extratime", "arch", "viridian", "vm_watchdog", "mca_caps", "ms_vm_genid", "e820_host", "smbios_firmware", "xauthority",
    ];

    /// <summary>Devices and abilities that are not here: off or empty they do no harm.</summary>
    private static readonly Dictionary<string, string> Missing = new(StringComparer.Ordinal)
    {
        ["sdl"] = "there is no SDL window; give vnc=1",
        ["opengl"] = "there is no OpenGL; leave it out",
        ["spice"] = "there is no SPICE in this version; give vnc=1",
        ["gfx_passthru"] = "devices of the host are not given to guests; leave it out",
        ["pci"] = "devices of the host are not given to guests; leave it out",
        ["usbctrl"] = "there is no USB in this version; leave it out",
        ["usbdev"] = "there is no USB in this version; leave it out",
        ["rdm"] = "devices of the host are not given to guests; leave it out",
        ["dtdev"] = "devices of the host are not given to guests; leave it out",
        ["ioports"] = "ports of the host are not given to guests; leave it out",
        ["iomem"] = "memory of the host's devices is not given to guests; leave it out",
        ["irqs"] = "interrupts of the host are not given to guests; leave it out",
        ["vtpm"] = "there is no TPM in this version; leave it out",
        ["tpm"] = "there is no TPM in this version; leave it out",
        ["p9"] = "there is no 9p in this version; leave it out",
        ["channel"] = "there are no channels in this version; give -device virtserialport beside --xl",
        ["vfb"] = "there is no paravirtual screen in this version; give type=\"hvm\" and vnc=1",
        ["vkb"] = "there is no paravirtual keyboard in this version; leave it out",
        ["vdispl"] = "there is no paravirtual screen in this version; leave it out",
        ["vsnd"] = "there is no sound in this version; leave it out",
        ["vnuma"] = "there is no virtual NUMA in this version; leave it out",
        ["pvshim"] = "PV domains need no shim here; leave it out",
        ["nestedhvm"] = "the processors have no virtualization of their own; leave it out",
        ["localtime"] = "the clock of the machine has UTC; leave it out",
        ["rtc_timeoffset"] = "the clock of the machine has UTC; leave it out",
        ["xenstore_quota"] = "leave it out",
        ["bootloader"] = "no boot loader runs on the host; give kernel= and ramdisk=, or type=\"hvm\"",
        ["acpi_firmware"] = "ACPI tables are not added in this version; leave it out",
        ["device_model_args_pv"] = "a PV domain has no emulated devices; leave it out",
        ["device_model_stubdomain_init"] = "leave it out",
    };

    /// <summary>What an HVM machine always has.</summary>
    private static readonly string[] Always = ["acpi", "apic", "pae", "hpet", "xen_platform_pci"];

    private readonly string _file;
    private readonly Dictionary<string, XlPair> _pairs;
    private readonly HashSet<string> _seen = new(StringComparer.Ordinal);
    private readonly List<XlFlag> _flags = [];
    private readonly List<string> _notes = [];

    /// <summary>HVM, PVH or PV.</summary>
    private readonly string _kind;

    private XlDomain(string file, IReadOnlyList<XlPair> pairs)
    {
        _file = file;
        _pairs = pairs.ToDictionary(p => p.Key, StringComparer.Ordinal);
        _kind = ReadType();
        ReadMachine();
        ReadBoot();
        ReadScreen();
        ReadLines();
        ReadCpu();
        ReadDisks();
        ReadNics();
        ReadEnds();
        ReadRest();
    }

    public IReadOnlyList<XlFlag> Flags => _flags;

    /// <summary>What is in the file and has no meaning here.</summary>
    public IReadOnlyList<string> Notes => _notes;

    private bool IsHvm => _kind == "HVM";

    /// <param name="file">Its name, for messages.</param>
    /// <exception cref="ConfigurationException">Something in it is wrong, or can't be had here: with file, line and key.</exception>
    public static XlDomain Translate(string file, IReadOnlyList<XlPair> pairs) => new(file, pairs);

    public ConfigurationException Error(int line, string key, string message, Exception? inner = null) => new($"{_file}:{line}: {key}: {message}", inner!);

    private static string Quote(string value) => value.Replace(",", ",,", StringComparison.Ordinal);

    // --- reading values ---

    private XlPair? Take(string key)
    {
        _seen.Add(key);
        return _pairs.GetValueOrDefault(key);
    }

    private string? Text(string key) => Take(key) is not { } pair ? null : pair.Value.Text ?? throw Error(pair.Line, key, "a string is expected, not a list");

    private long? Number(string key)
    {
        if (Text(key) is not { } text)
            return null;
        return long.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var number)
            ? number
            : throw Error(_pairs[key].Line, key, $"\"{text}\" is no number; give one");
    }

    private bool? Flag(string key) => Number(key) is { } number ? number != 0 : null;

    private IReadOnlyList<XlValue> Items(string key)
    {
        if (Take(key) is not { } pair)
            return [];
        IReadOnlyList<XlValue> items = pair.Value.Text is null ? pair.Value.Items : [pair.Value];
        return items.FirstOrDefault(i => i.Text is null) is { } list ? throw Error(list.Line, key, "a list within the list; give strings") : items;
    }

    private void Add(string key, string flag, string value) => _flags.Add(new XlFlag(flag, value, key, _pairs.TryGetValue(key, out var pair) ? pair.Line : 1));

    /// <summary>A flag whose value is a key's.</summary>
    private void Pass(string key, string flag)
    {
        if (Text(key) is { } value)
            Add(key, flag, value);
    }

    private void Note(string key, string message) => _notes.Add($"{_file}:{_pairs[key].Line}: {key}: {message}");

    // --- what the keys mean ---

    private string ReadType()
    {
        var (type, builder) = (Text("type"), Text("builder"));
        var key = type is not null ? "type" : builder is not null ? "builder" : null;
        var kind = type ?? (builder is "hvm" ? "hvm" : "pv");
        switch (kind)
        {
            case "hvm":
                Add(key!, "machine", "xenfv");
                return "HVM";
            case "pvh":
                Add(key!, "machine", "xenpvh");
                return "PVH";
            case "pv":
                Add(key ?? "type", "machine", "xenpv"); // also of files that say nothing, as xl has it
                return "PV";
            default:
                throw Error(_pairs[key!].Line, key!, $"\"{kind}\" is unknown; give \"hvm\", \"pvh\" or \"pv\"");
        }
    }

    private void ReadMachine()
    {
        if (Text("name") is { } name)
            Add("name", "name", name.Contains(',', StringComparison.Ordinal) ? throw Error(_pairs["name"].Line, "name", "has a comma; give another one") : name);
        Pass("uuid", "uuid");
        Pass("domid", "xen-domid");

        var (memory, most) = (Number("memory"), Number("maxmem"));
        if ((memory ?? most) is { } size)
            Add(memory is null ? "maxmem" : "memory", "m", size.ToString(CultureInfo.InvariantCulture));
        if (most < memory)
            throw Error(_pairs["maxmem"].Line, "maxmem", $"is less than memory={memory}; give that or more");
        if (most > memory)
            Note("maxmem", $"memory is not added later: the guest has {memory} MiB");

        var (processors, mostProcessors) = (Number("vcpus"), Number("maxvcpus"));
        if (processors is { } count)
            Add("vcpus", "smp", count.ToString(CultureInfo.InvariantCulture));
        if (mostProcessors < (processors ?? 1))
            throw Error(_pairs["maxvcpus"].Line, "maxvcpus", $"is less than vcpus={processors ?? 1}; give that or more");
        if (mostProcessors > (processors ?? 1))
            Note("maxvcpus", $"processors are not added later: the guest has {processors ?? 1}");
    }

    private void ReadBoot()
    {
        Pass("kernel", "kernel");
        Pass("ramdisk", "initrd");
        var (line, root, extra) = (Text("cmdline"), Text("root"), Text("extra"));
        if (line is not null)
        {
            Add("cmdline", "append", line);
            foreach (var ignored in new[] { "root", "extra" }.Where(_pairs.ContainsKey))
                Note(ignored, "cmdline= says all");
        }
        else if (root is not null || extra is not null)
        {
            Add(extra is null ? "root" : "extra", "append", string.Join(' ', new[] { root is null ? null : $"root={root}", extra }.OfType<string>()));
        }

        if (Text("boot") is { } order)
        {
            // Letters one after the other, or a list in one string in old files.
            if (IsHvm)
                Add("boot", "boot", $"order={order}");
            else
                Note("boot", $"a {_kind} domain starts its kernel");
        }

        var overridden = new[] { "firmware_override", "bios_path_override" }.FirstOrDefault(k => Text(k) is not null);
        foreach (var key in new[] { "firmware", "bios" })
        {
            switch (Text(key))
            {
                case null or "bios" or "seabios":
                    break;
                case "uefi" or "ovmf" when overridden is not null:
                    break;
                case "uefi" or "ovmf":
                    throw Error(_pairs[key].Line, key, "there is no UEFI firmware in this version; give its file as firmware_override=\"FILE\", or \"seabios\"");
                case ['/', ..] path:
                    Add(key, "bios", path);
                    break;
                case var other:
                    throw Error(_pairs[key].Line, key, $"\"{other}\" is not in this version; give \"seabios\" or the path of a file");
            }
        }

        if (overridden is not null)
            Pass(overridden, "bios");
        if (!IsHvm && !_pairs.ContainsKey("kernel"))
            throw Error(_pairs.TryGetValue("type", out var type) ? type.Line : 1, "kernel", $"is missing: a {_kind} domain starts a kernel");
    }

    private void ReadScreen()
    {
        var standard = Flag("stdvga");
        var vga = Text("vga");
        var isNone = vga == "none";
        if (vga is "stdvga" || (standard == true && vga is null))
            Add(vga is null ? "stdvga" : "vga", "vga", "std");
        else if (isNone)
            Add("vga", "vga", "none");
        else if (vga is "cirrus")
            Note("vga", "there is no Cirrus in this version: the screen is a standard VGA");
        else if (vga is not null)
            throw Error(_pairs["vga"].Line, "vga", $"\"{vga}\" is not in this version; give \"stdvga\" or \"none\"");

        var isShown = Flag("vnc") == true;
        var (listen, display, password) = (Text("vnclisten"), Number("vncdisplay"), Text("vncpasswd"));
        if (!isShown)
            return;
        if (!IsHvm)
            throw Error(_pairs["vnc"].Line, "vnc", $"a {_kind} domain has no screen; leave it out, or give type=\"hvm\"");
        listen ??= "127.0.0.1";
        var colon = listen.LastIndexOf(':') is var last && last > listen.LastIndexOf(']') ? last : -1; // an address of IPv6 is in brackets
        var host = (colon < 0 ? listen : listen[..colon]) is var address && address is "0.0.0.0" ? "" : address;
        var number = colon >= 0 ? listen[(colon + 1)..] : (display ?? 0).ToString(CultureInfo.InvariantCulture);
        var search = colon < 0 && display is null ? ",to=99" : "";
        if (password is { Length: > 0 })
            Add("vncpasswd", "object", $"secret,id=xl-vnc,format=base64,data={Convert.ToBase64String(Encoding.UTF8.GetBytes(password))}"); // it may have a comma
        Add("vnc", "vnc", $"{host}:{number}{search}{(password is { Length: > 0 } ? ",password-secret=xl-vnc" : "")}");
    }

    private void ReadLines()
    {
        foreach (var line in Items("serial"))
            _flags.Add(new XlFlag("serial", line.Text!, "serial", line.Line));
        foreach (var key in new[] { "device_model_args", "device_model_args_hvm" })
        {
            foreach (var part in Items(key))
                _flags.Add(new XlFlag("", part.Text!, key, part.Line)); // of QEMU's own language, which is spoken here
        }
    }

    private void ReadCpu()
    {
        var features = new List<string>();
        if (Flag("nx") == false)
            features.Add("-nx");
        if (Items("cpuid") is [{ Text: { } text } value])
        {
            var parts = text.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries);
            foreach (var part in parts.Where(p => p is not "host"))
            {
                features.Add(part.Split('=') switch
                {
                    [var name, "1"] when !name.Contains(':', StringComparison.Ordinal) => $"+{name}",
                    [var name, "0"] when !name.Contains(':', StringComparison.Ordinal) => $"-{name}",
                    [_, "x" or "k" or "s"] => "", // as it is anyway
                    _ => throw Error(value.Line, "cpuid", $"\"{part}\" is not in this version; give FEATURE=0 or FEATURE=1, or -cpu beside --xl"),
                });
            }
        }
        else if (_pairs.TryGetValue("cpuid", out var pair))
        {
            throw Error(pair.Line, "cpuid", "leaves are not set one by one; give \"host,FEATURE=0\", or -cpu beside --xl");
        }

        var list = string.Join(',', features.Where(f => f.Length > 0));
        if (list.Length > 0)
            Add(_pairs.ContainsKey("cpuid") ? "cpuid" : "nx", "cpu", $"sharp64,{list}");
    }

    private void ReadDisks()
    {
        var disks = new List<(XlDisk Disk, int Line)>();
        foreach (var item in Items("disk"))
        {
            try
            {
                disks.Add((XlDisk.Parse(item.Text!), item.Line));
            }
            catch (ConfigurationException e)
            {
                throw Error(item.Line, "disk", $"'{item.Text}': {e.Message}", e);
            }
        }

        foreach (var (disk, line) in disks)
        {
            foreach (var note in disk.Notes)
                _notes.Add($"{_file}:{line}: disk: {note} says nothing here");
            _flags.Add(new XlFlag("drive", Drive(disk, line), "disk", line));
        }
    }

    private string Drive(XlDisk disk, int line)
    {
        const int emulated = 4;
        var file = disk.Target.Length > 0 ? $"file={Quote(disk.Target)},format={disk.Format}," : "";
        if (IsHvm && disk.Place < emulated)
            return $"{file}if=ide,index={disk.Place}" + (disk.IsCdrom ? ",media=cdrom" : $"{(disk.IsReadOnly ? ",readonly=on" : "")}{(disk.Discards ? ",discard=unmap" : "")}");
        if (IsHvm && !disk.IsXvd)
            throw Error(line, "disk", $"{disk.Device}: there are four places on IDE, hda to hdd; give xvd{disk.Device[2..]}");
        if (disk.Target.Length == 0)
            throw Error(line, "disk", $"{disk.Device}: an empty drive is for IDE; give a file, or leave it out");
        return $"{file}if=xen,index={disk.Place}{(disk.IsCdrom ? ",media=cdrom" : disk.IsReadOnly ? ",readonly=on" : "")}{(disk.Discards && !disk.IsCdrom ? ",discard=unmap" : "")}";
    }

    private void ReadNics()
    {
        var nics = Items("vif");
        foreach (var item in nics)
            _flags.Add(new XlFlag("nic", Nic(item), "vif", item.Line));
        if (nics.Count == 0)
            _flags.Add(new XlFlag("nic", "none", "vif", 1)); // xl's domains have what they name
    }

    private string Nic(XlValue item)
    {
        var (model, address) = ("xen", "");
        var isEmulated = IsHvm;
        List<string> ignored = [];
        foreach (var part in item.Text!.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries))
        {
            var equals = part.IndexOf('=', StringComparison.Ordinal);
            var (key, value) = equals < 0 ? (part, "") : (part[..equals], part[(equals + 1)..]);
            switch (key)
            {
                case "mac":
                    address = $",mac={value}";
                    break;
                case "type":
                    isEmulated = value is "ioemu" ? IsHvm : value is "vif" ? false : throw Error(item.Line, "vif", $"type={value}: give ioemu or vif");
                    break;
                case "model":
                    model = value;
                    break;
                case "bridge" or "gatewaydev" or "vifname" or "script" or "ip" or "backend" or "rate" or "devid" or "mtu" or "trusted":
                    ignored.Add(part);
                    break;
                default:
                    throw Error(item.Line, "vif", $"\"{part}\" is unknown; there are mac=, type=, model= and bridge=");
            }
        }

        if (ignored.Count > 0)
            _notes.Add($"{_file}:{item.Line}: vif: {string.Join(", ", ignored)}: the NIC is on a user network; -nic tap beside --xl is the host's");
        if (!isEmulated || model == "xen")
            return $"user,model=xen{address}";
        if (model is not ("e1000" or "virtio" or "virtio-net" or "virtio-net-pci"))
            throw Error(item.Line, "vif", $"model={model}: is not in this version; give model=e1000, or leave it out for Xen's own");
        _notes.Add($"{_file}:{item.Line}: vif: model={model} is emulated: a guest that has Xen's drivers takes it away, unless its kernel has xen_emul_unplug=never");
        return $"user,model={(model == "e1000" ? model : "virtio-net-pci")}{address}";
    }

    private void ReadEnds()
    {
        const string withCore = "coredump-";
        foreach (var (key, flag, otherwise) in new[] { ("on_poweroff", "on-poweroff", "destroy"), ("on_reboot", "on-reboot", "restart"), ("on_crash", "on-crash", "destroy") })
        {
            var action = Text(key) ?? otherwise;
            if (action == "rename-restart")
                throw Error(_pairs[key].Line, key, "a machine is not kept beside a new one; give \"preserve\" or \"restart\"");
            if (action.StartsWith(withCore, StringComparison.Ordinal) && key != "on_crash")
                throw Error(_pairs[key].Line, key, $"cores are written of crashes; give \"{action[withCore.Length..]}\"");
            if (action == "soft-reset")
                throw Error(_pairs[key].Line, key, "is what a domain asks for itself; give \"restart\"");
            Add(key, flag, action);
        }

        if (Text("on_watchdog") is not null)
            Note("on_watchdog", "there is no watchdog of Xen's that could run out");
        if (Text("on_soft_reset") is not (null or "soft-reset"))
            throw Error(_pairs["on_soft_reset"].Line, "on_soft_reset", "a domain that asks for a soft reset gets one; give \"soft-reset\", or leave it out");
    }

    private void ReadRest()
    {
        foreach (var key in Always)
        {
            if (Flag(key) == false && IsHvm)
                throw Error(_pairs[key].Line, key, $"an HVM machine always has it; give {key}=1, or leave it out");
        }

        if (Flag("acpi_s3") == false)
            Add("acpi_s3", "global", "PIIX4_PM.disable_s3=1");
        if (Flag("acpi_s4") == false)
            Add("acpi_s4", "global", "PIIX4_PM.disable_s4=1");
        Flag("nographic");
        if (Flag("usb") == true)
            Note("usb", "there is no USB in this version; the mouse tells positions by VMware's port");
        if (Items("usbdevice").Count > 0)
            Note("usbdevice", "there is no USB in this version; the mouse tells positions by VMware's port");
        if (Text("soundhw") is not null)
            Note("soundhw", "there is no sound in this version");
        foreach (var pair in _pairs.Values.Where(p => !_seen.Contains(p.Key)))
        {
            var isEmpty = pair.Value is { Text: null, Items.Count: 0 } or { Text: "0" or "" };
            if (Missing.TryGetValue(pair.Key, out var advice))
            {
                if (!isEmpty)
                    throw Error(pair.Line, pair.Key, advice);
            }
            else if (Hosts.Contains(pair.Key))
            {
                Note(pair.Key, "says nothing here");
            }
            else if (!pair.Key.StartsWith("vnc", StringComparison.Ordinal) && !pair.Key.StartsWith("spice", StringComparison.Ordinal))
            {
                throw Error(pair.Line, pair.Key, $"is unknown; the nearest is {Nearest.Of(pair.Key, _seen.Concat(Hosts).Concat(Missing.Keys))}");
            }
        }
    }
}
