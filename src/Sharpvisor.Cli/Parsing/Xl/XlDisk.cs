// One DISKSPEC of disk=[…], xl-disk-configuration(5): positional and named parameters, and the deprecated form
// [FORMAT:][TARGET],VDEV[:DEVTYPE],ACCESS with its prefixes; vdevs as in xen-vbd-interface(7).
// Leaves out: partitions as vdevs, numbers and dNpM as names of disks, SCSI disks (sdX), what COLO needs.
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Parsing.Xl;

/// <summary>A disk. Mistakes are exceptions with the reason and the advice; who reads the file says where.</summary>
internal sealed record XlDisk
{
    private static readonly string[] Positions = ["target", "format", "vdev", "access"];
    private static readonly string[] Prefixes = ["tapdisk", "tap2", "tap", "aio", "ioemu", "file", "phy"];
    private static readonly string[] Formats = ["raw", "qcow2", "vhd"];

    private readonly Dictionary<string, string> _values = new(StringComparer.Ordinal);

    /// <summary>A path; empty: a CD-ROM drive without a medium.</summary>
    public string Target { get; private set; } = "";

    public string Format { get; private set; } = "raw";

    /// <summary>As written: hda, xvdb.</summary>
    public string Device { get; private set; } = "";

    /// <summary>0 for hda and xvda.</summary>
    public int Place { get; private set; }

    /// <summary>xvdX rather than hdX: of a PVH domain it says nothing, an HVM domain has the first four by IDE, too.</summary>
    public bool IsXvd { get; private set; }

    public bool IsCdrom { get; private set; }

    public bool IsReadOnly { get; private set; }

    public bool Discards { get; private set; } = true;

    /// <summary>Parameters that say nothing here.</summary>
    public IReadOnlyList<string> Notes { get; private set; } = [];

    /// <exception cref="ConfigurationException">It is none, or asks for what there is not.</exception>
    public static XlDisk Parse(string spec)
    {
        var disk = new XlDisk();
        disk.Split(spec);
        disk.Understand();
        return disk;
    }

    private void Split(string spec)
    {
        for (var rest = spec; rest.Length > 0;)
        {
            rest = rest.TrimStart();
            if (rest.StartsWith("target=", StringComparison.Ordinal))
            {
                Set("target", rest["target=".Length..]); // takes all that is left
                return;
            }

            var comma = rest.IndexOf(',', StringComparison.Ordinal);
            var part = (comma < 0 ? rest : rest[..comma]).Trim();
            rest = comma < 0 ? "" : rest[(comma + 1)..];
            var equals = part.IndexOf('=', StringComparison.Ordinal);
            if (equals > 0)
                Set(part[..equals], part[(equals + 1)..]);
            else if (part is "cdrom" or "discard" or "no-discard" or "direct-io-safe" or "colo")
                Set(part == "cdrom" ? "devtype" : part, part == "cdrom" ? part : "");
            else
                SetNext(part);
        }
    }

    private void SetNext(string part)
    {
        // The deprecated form has no place for a format: its second part is a device.
        if (!_values.ContainsKey("format") && _values.ContainsKey("target") && IsDevice(part))
            _values["format"] = "";
        var position = Positions.FirstOrDefault(p => !_values.ContainsKey(p)) ?? throw new ConfigurationException($"\"{part}\" is one too many; give TARGET,FORMAT,VDEV,ACCESS");
        if (position == "vdev" && part.Split(':') is [var device, var type])
        {
            part = device;
            Set("devtype", type);
        }

        _values[position] = part;
    }

    private static bool IsDevice(string part) => part.Split(':')[0] is [.., >= 'a' and <= 'z'] device && (device.StartsWith("hd", StringComparison.Ordinal) || device.StartsWith("xvd", StringComparison.Ordinal) || device.StartsWith("sd", StringComparison.Ordinal));

    private void Set(string key, string value)
    {
        if (!_values.TryAdd(key, value) && _values[key].Length > 0)
            throw new ConfigurationException($"{key} is there twice; give it once");
        _values[key] = value;
    }

    private void Understand()
    {
        List<string> notes = [];
        foreach (var (key, value) in _values)
        {
            switch (key)
            {
                case "target" or "format" or "vdev" or "access" or "direct-io-safe":
                    break;
                case "devtype":
                    IsCdrom = value is "cdrom" ? true : value is "" or "disk" ? false : throw new ConfigurationException($"devtype={value}: there is cdrom");
                    break;
                case "discard" or "no-discard":
                    Discards = key == "discard";
                    break;
                case "backendtype":
                    notes.Add($"backendtype={value}");
                    break;
                case "backend" when value is "" or "0" or "Domain-0":
                    break;
                case "backend":
                    throw new ConfigurationException($"backend={value}: there are no other domains; leave it out");
                case "script":
                    throw new ConfigurationException($"script={value}: no script is run; give the file or the block device itself");
                default:
                    throw new ConfigurationException($"{key}: is not in this version; there are target, format, vdev, access, devtype and discard");
            }
        }

        Notes = notes;
        UnderstandTarget(_values.GetValueOrDefault("target", ""));
        UnderstandDevice(_values.GetValueOrDefault("vdev", ""));
        IsReadOnly = _values.GetValueOrDefault("access", "") switch
        {
            "" => IsCdrom,
            "ro" or "r" => true,
            "rw" or "w" => false,
            var other => throw new ConfigurationException($"access {other}: give r or w"),
        };
        if (Target.Length == 0 && !IsCdrom)
            throw new ConfigurationException("no target; only a CD-ROM drive can be empty");
    }

    private void UnderstandTarget(string target)
    {
        var format = _values.GetValueOrDefault("format", "");
        while (target.IndexOf(':', StringComparison.Ordinal) is > 0 and var colon && !target.StartsWith('/'))
        {
            var prefix = target[..colon];
            if (Formats.Contains(prefix))
                format = prefix;
            else if (prefix is "iscsi" or "nbd" or "enbd" or "drbd")
                throw new ConfigurationException($"{prefix}: no script is run; give the block device itself");
            else if (!Prefixes.Contains(prefix))
                break;
            target = target[(colon + 1)..];
        }

        if (format.Length > 0 && !Formats.Contains(format))
            throw new ConfigurationException($"format {format}: is not in this version; there are {string.Join(", ", Formats)}");
        Format = format.Length > 0 ? format : "raw";
        Target = target.Length == 0 || target.StartsWith('/') ? target : $"/dev/{target}";
    }

    private void UnderstandDevice(string device)
    {
        Device = device;
        if (device.Length == 0)
            throw new ConfigurationException("no vdev; give one such as xvda or hda");
        if (device.StartsWith("sd", StringComparison.Ordinal))
            throw new ConfigurationException($"{device}: there are no SCSI disks in this version; give xvd{device[2..]}");
        IsXvd = device.StartsWith("xvd", StringComparison.Ordinal);
        var letters = IsXvd ? device[3..] : device.StartsWith("hd", StringComparison.Ordinal) ? device[2..] : "";
        if (letters.Length is 0 or > 2 || !letters.All(char.IsAsciiLetterLower))
            throw new ConfigurationException($"vdev {device}: give a whole disk, such as xvda or hda");
        foreach (var letter in letters)
            Place = Place * 26 + (letter - 'a' + 1);
        Place--;
    }
}
