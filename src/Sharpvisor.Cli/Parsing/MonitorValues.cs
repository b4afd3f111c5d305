// -monitor, -qmp, -qmp-pretty and -mon as qemu(1) describes them.
using Sharpvisor.Backends.Char;
using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Cli.Parsing;

/// <summary>A monitor or a QMP server.</summary>
/// <param name="What">Flag and value, for messages.</param>
internal sealed record MonitorSpec(string What, CharSpec Where, ControlProtocol Protocol);

internal static class MonitorValues
{
    /// <summary>-monitor stdio|tcp:…|unix:…|pty|null|none.</summary>
    public static void Monitor(RunSettings settings, string value)
    {
        settings.HasMonitorFlag = true;
        Add(settings, "-monitor", value, ControlProtocol.Monitor);
    }

    public static void Qmp(RunSettings settings, string flag, string value, ControlProtocol protocol) => Add(settings, flag, value, protocol);

    /// <summary>-mon [chardev=]ID[,mode=readline|control][,pretty=on].</summary>
    public static void Mon(RunSettings settings, string value)
    {
        var keys = new KeyValues("-mon", value, implied: "chardev", ["chardev", "mode", "pretty", "id"]);
        var id = keys["chardev"] is { Length: > 0 } given ? given : throw keys.Error("chardev= is missing; give the id of a -chardev");
        var isPretty = keys.OnOff("pretty", false);
        var protocol = keys.Word("mode", ("readline", ControlProtocol.Monitor), ("control", isPretty ? ControlProtocol.QmpPretty : ControlProtocol.Qmp)) ?? ControlProtocol.Monitor;
        if (isPretty && protocol == ControlProtocol.Monitor)
            throw keys.Error("pretty= is for mode=control; leave it out");
        settings.HasMonitorFlag |= protocol == ControlProtocol.Monitor;
        settings.Monitors.Add(new MonitorSpec($"-mon {value}", new CharSpec.Named(id), protocol));
    }

    /// <summary>Gives each what its chardev says. One of stdio with mux=on stays for the serial port, too.</summary>
    /// <param name="take">Takes the chardev that a place names.</param>
    public static void Resolve(RunSettings settings, Func<string, CharSpec, CharSpec> take)
    {
        for (var i = settings.Monitors.Count - 1; i >= 0; i--)
        {
            var (what, where, protocol) = settings.Monitors[i];
            var isShared = where is CharSpec.Named { Id: var id } && settings.Chardevs.Exists(c => c.Id == id && c.Where is CharSpec.Stdio { HasMonitor: true })
                && settings.Serial.Exists(s => s is CharSpec.Named other && other.Id == id);
            if (isShared && protocol != ControlProtocol.Monitor)
                throw new ConfigurationException($"{what}: QMP shares no terminal; give it a chardev of its own");
            if (isShared)
                settings.Monitors.RemoveAt(i);
            else
                settings.Monitors[i] = new MonitorSpec(what, take(what, where), protocol);
        }
    }

    private static void Add(RunSettings settings, string flag, string value, ControlProtocol protocol) =>
        settings.Monitors.Add(new MonitorSpec($"{flag} {value}", CharSpec.Parse(value, flag), protocol));
}
