// -chardev, and -device virtconsole and virtserialport, as qemu(1) and their property lists describe them.
using Sharpvisor.Backends.Char;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Parsing;

/// <summary>A character device that a -device or a -serial names by its id.</summary>
internal sealed record ChardevSpec(string What, string Id, CharSpec Where);

/// <summary>A port of a virtio-serial device.</summary>
internal sealed record SerialPortSpec(string What)
{
    public required bool IsConsole { get; init; }

    public string? Name { get; init; }

    public int? Number { get; init; }

    /// <summary>The id of its virtio-serial device; null: the first one.</summary>
    public string? Bus { get; init; }

    /// <summary>Where it leads; null: nowhere.</summary>
    public CharSpec? Where { get; init; }
}

internal static class CharValues
{
    private const string Kinds = "null, stdio, file, pty, socket";

    private static readonly string[] PortKeys = ["driver", "id", "bus", "chardev", "name", "nr"];

    public static bool KnowsPort(string driver) => driver is "virtconsole" or "virtserialport";

    /// <summary>-chardev file,id=c0,path=FILE.</summary>
    public static void Chardev(RunSettings settings, string value)
    {
        var kind = value.Split(',')[0];
        string[] own = kind switch
        {
            "null" or "pty" => [],
            "stdio" => ["signal", "mux"],
            "file" => ["path", "append"],
            "socket" => ["host", "port", "path", "server", "wait", "nowait", "nodelay", "ipv4", "ipv6", "to", "telnet", "reconnect"],
            _ => throw new ConfigurationException($"-chardev {value}: \"{kind}\" is not in this version; there are {Kinds}"),
        };
        var keys = new KeyValues("-chardev", value, implied: "backend", ["backend", "id", .. own]);
        if (keys["id"] is not { Length: > 0 } id)
            throw keys.Error("id= is missing; give one by which a -device names it");
        if (settings.Chardevs.Exists(c => c.Id == id))
            throw keys.Error($"id={id} is there twice; give each its own");
        CharSpec where = kind switch
        {
            "null" => new CharSpec.Null(),
            "pty" => new CharSpec.Pty(),
            "stdio" => Stdio(keys),
            "file" => OutputFile(keys),
            _ => Socket(keys),
        };
        settings.Chardevs.Add(new ChardevSpec($"-chardev {value}", id, where));
    }

    /// <summary>-device virtconsole,chardev=c0; -device virtserialport,chardev=c1,name=org.example.0.</summary>
    public static void Port(RunSettings settings, string value)
    {
        var keys = new KeyValues("-device", value, implied: "driver", PortKeys);
        var isConsole = keys["driver"] == "virtconsole";
        if (!isConsole && keys["chardev"] is null)
            throw keys.Error("chardev= is missing; give the id of a -chardev");
        // A bus is its device's id with a number, which is 0.
        var bus = keys["bus"] is { } name && name.EndsWith(".0", StringComparison.Ordinal) ? name[..^2] : keys["bus"];
        settings.SerialPorts.Add(new SerialPortSpec($"-device {value}")
        {
            IsConsole = isConsole,
            Name = keys.Text("name", 255),
            Number = keys.Number("nr", isConsole ? 0 : 1, 510),
            Bus = bus,
            Where = keys["chardev"] is { } id ? new CharSpec.Named(id) : null,
        });
    }

    /// <summary>Gives every -serial, -debugcon and port what its chardev says, and every port its device.</summary>
    /// <exception cref="ConfigurationException">There is none, two have the same one, or one that nobody has.</exception>
    public static void Resolve(RunSettings settings)
    {
        var free = settings.Chardevs.ToList();
        CharSpec Take(string what, CharSpec where)
        {
            if (where is not CharSpec.Named { Id: var id })
                return where;
            var chardev = free.Find(c => c.Id == id);
            if (chardev is null && settings.Chardevs.Exists(c => c.Id == id))
                throw new ConfigurationException($"{what}: chardev {id} has another device already; give each its own");
            if (chardev is null)
                throw new ConfigurationException($"{what}: there is no chardev \"{id}\"; give -chardev stdio,id={id}, or one of {Kinds}");
            free.Remove(chardev);
            return chardev.Where;
        }

        MonitorValues.Resolve(settings, Take);
        for (var i = 0; i < settings.Serial.Count; i++)
            settings.Serial[i] = Take("-serial", settings.Serial[i]);
        if (settings.DebugConsole is { } console)
            settings.DebugConsole = Take("-debugcon", console);
        if (settings.XenConsole is { Where: { } hvc } xen)
            settings.XenConsole = xen with { Where = Take(xen.What, hvc) };
        foreach (var port in settings.SerialPorts)
            VirtioValues.AddPort(settings, port with { Where = port.Where is { } where ? Take(port.What, where) : null });
        if (free is [var unused, ..])
            throw new ConfigurationException($"{unused.What}: no device uses it; give -serial chardev:{unused.Id} or -device virtconsole,chardev={unused.Id}, or leave it out");
    }

    private static CharSpec.Stdio Stdio(KeyValues keys)
    {
        // A terminal is raw here and has Ctrl-A commands, whoever uses it.
        if (keys.OnOff("signal", false))
            throw keys.Error("signal=on is not in this version: Ctrl-C goes to the guest, Ctrl-A x ends the machine; leave it out");
        return new CharSpec.Stdio { HasMonitor = keys.OnOff("mux", false) };
    }

    private static CharSpec.FileOutput OutputFile(KeyValues keys)
    {
        if (keys.OnOff("append", false))
            throw keys.Error("append=on is not in this version; leave it out and give a new file");
        return new CharSpec.FileOutput(keys["path"] is { Length: > 0 } path ? path : throw keys.Error("path= is missing"));
    }

    private static CharSpec Socket(KeyValues keys)
    {
        foreach (var key in new[] { "to", "telnet", "reconnect" })
        {
            if (keys[key] is { } text and not ("off" or "0"))
                throw keys.Error($"{key}={text} is not in this version; leave it out");
        }

        keys.OnOff("nodelay", true);
        keys.OnOff("ipv4", true);
        keys.OnOff("ipv6", true);
        var isServer = keys.OnOff("server", false);
        if (keys["wait"] is not null && keys["nowait"] is not null)
            throw keys.Error("wait= and nowait say the same; give one of them");
        var waits = keys["nowait"] is null ? keys.OnOff("wait", true) : !keys.OnOff("nowait", true); // nowait: as it was spelled once
        if (!isServer && (keys["wait"] ?? keys["nowait"]) is not null)
            throw keys.Error("wait= is for servers; add server=on or leave it out");
        if (keys["path"] is { } path)
            return keys["host"] is null && keys["port"] is null ? new CharSpec.Unix(path, isServer, waits) : throw keys.Error("path= and host= or port=: give one of them");
        if (keys.Number("port", isServer ? 0 : 1, ushort.MaxValue) is not { } port)
            throw keys.Error("port= is missing");
        return new CharSpec.Tcp((keys["host"] ?? "").Trim('[', ']'), port, isServer, waits);
    }
}
