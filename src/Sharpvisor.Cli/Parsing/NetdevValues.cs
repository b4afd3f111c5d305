// -netdev, of which user is here, and -object filter-dump, as qemu(1) describes them. Ours beside QEMU's: http=FOLDER of a user network.
using System.Globalization;
using System.Net;
using Sharpvisor.Backends.Net;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Parsing;

internal static class NetdevValues
{
    public const string UserKind = "user";

    private const string HubPortKind = "hubport";

    private static readonly string[] UserKeys =
    [
        "ipv4", "net", "host", "dns", "dhcpstart", "restrict", "hostname", "domainname", "dnssearch*", "tftp", "tftp-server-name", "bootfile",
        "http", "hostfwd*", "guestfwd*",
    ];

    private static readonly Dictionary<string, (string[] Keys, Func<KeyValues, string, NetdevOpener> Parse)> Kinds = new(StringComparer.Ordinal)
    {
        [UserKind] = (UserKeys, (keys, _) => UserOpener(User(keys))),
        ["socket"] = (LinkValues.SocketKeys, LinkValues.Socket),
        ["stream"] = (LinkValues.StreamKeys, LinkValues.Stream),
        ["dgram"] = (LinkValues.DatagramKeys, LinkValues.Datagram),
        ["tap"] = (LinkValues.TapKeys, LinkValues.Tap),
    };

    public static IReadOnlyList<string> KeysOf(string kind) => Kinds[kind].Keys;

    public static void Netdev(RunSettings settings, string value)
    {
        const string type = "type=";
        value = value.StartsWith(type, StringComparison.Ordinal) ? value[type.Length..] : value; // as libxl writes it
        var isHubPort = value.Split(',')[0] == HubPortKind;
        var kind = isHubPort ? HubPortKind : KindOf("-netdev", value);
        var keys = new KeyValues("-netdev", value, "type", [.. isHubPort ? LinkValues.HubPortKeys : KeysOf(kind), "type", "id"]);
        if (keys["id"] is not { Length: > 0 } id)
            throw keys.Error("id= is missing; give it a name, and the NIC netdev= with that");
        if (settings.Netdevs.Exists(n => n.Id == id) || settings.HubPorts.Exists(p => p.Id == id))
            throw keys.Error($"there is another -netdev with id={id}; give each its own");
        if (isHubPort)
            LinkValues.HubPort(settings, keys, $"-netdev {value}", id);
        else
            settings.Netdevs.Add(Create(kind, keys, $"-netdev {value}", id));
    }

    /// <summary>The kind that a value begins with, which must be one that there is.</summary>
    public static string KindOf(string flag, string value) => value.Split(',')[0] switch
    {
        var kind when Kinds.ContainsKey(kind) => kind,
        HubPortKind => throw new ConfigurationException($"{flag} {value}: a port of a hub is made by -netdev {value}"),
        var kind => throw new ConfigurationException($"{flag} {value}: there is no network of the kind {kind} in this version; the nearest is {Nearest.Of(kind, Kinds.Keys)} of {string.Join(", ", Kinds.Keys)}"),
    };

    /// <param name="keys">Parsed with <see cref="KeysOf"/>, and maybe more.</param>
    public static NetdevSpec Create(string kind, KeyValues keys, string what, string id) => new(what, id, kind, Kinds[kind].Parse(keys, what));

    /// <summary>-object filter-dump,id=ID,netdev=ID,file=PATH[,maxlen=N].</summary>
    public static void Dump(RunSettings settings, string value)
    {
        var keys = new KeyValues("-object", value, "qom-type", ["qom-type", "id", "netdev", "file", "maxlen"]);
        if (keys["netdev"] is not { } netdev || keys["file"] is not { } file)
            throw keys.Error("give it netdev= and file=");
        settings.Dumps.Add(new DumpSpec($"-object {value}", netdev, file, keys.Number("maxlen", 64, int.MaxValue) ?? PcapDump.DefaultFrameLimit));
    }

    private static NetdevOpener UserOpener(UserNetworkOptions options) =>
        (name, bootFile, logger) => new UserNetwork(name, bootFile is null ? options : options with { BootFile = bootFile }, logger);

    private static UserNetworkOptions User(KeyValues keys)
    {
        if (!keys.OnOff("ipv4", true))
            throw keys.Error("ipv4=off: there is IPv4 only in this version; leave it out");
        return new UserNetworkOptions
        {
            Network = keys["net"] ?? new UserNetworkOptions().Network,
            Host = Address(keys, "host"),
            Dns = Address(keys, "dns"),
            DhcpStart = Address(keys, "dhcpstart"),
            Restrict = keys.OnOff("restrict", false),
            HostName = keys.Text("hostname", 33),
            DomainName = keys.Text("domainname", 255),
            DnsSearch = keys.All("dnssearch"),
            TftpFolder = keys["tftp"],
            TftpServerName = keys.Text("tftp-server-name", 128),
            BootFile = keys["bootfile"],
            HttpFolder = keys["http"],
            HostForwards = [.. keys.All("hostfwd").Select(v => HostForward(keys, v))],
            GuestForwards = [.. keys.All("guestfwd").Select(v => GuestForward(keys, v))],
        };
    }

    private static IPAddress? Address(KeyValues keys, string key) => keys[key] is not { } text
        ? null
        : TryAddress(text, out var address) ? address : throw keys.Error($"{key}={text}: is no IPv4 address; give one such as 10.0.2.9");

    /// <summary>[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport.</summary>
    private static HostForward HostForward(KeyValues keys, string value)
    {
        var halves = value.Split('-');
        if (halves.Length == 2 && halves[0].Split(':') is ["" or "tcp" or "udp", var host, var hostPort] && halves[1].Split(':') is [var guest, var guestPort]
            && TryOptionalAddress(host, out var hostAddress) && TryOptionalAddress(guest, out var guestAddress)
            && TryPort(hostPort, 0, out var from) && TryPort(guestPort, 1, out var to))
        {
            return new HostForward(halves[0].StartsWith("udp", StringComparison.Ordinal), hostAddress, from, guestAddress, to);
        }

        throw keys.Error($"hostfwd={value}: give [tcp|udp]:[HOST ADDRESS]:HOST PORT-[GUEST ADDRESS]:GUEST PORT, such as hostfwd=tcp:127.0.0.1:2222-:22");
    }

    /// <summary>[tcp]:server:port-tcp:host:port.</summary>
    private static GuestForward GuestForward(KeyValues keys, string value)
    {
        var halves = value.Split('-', 2);
        if (halves.Length == 2 && halves[0].Split(':') is ["" or "tcp", var server, var serverPort] && halves[1].Split(':') is ["tcp", var host, var port]
            && TryAddress(server, out var serverAddress) && TryPort(serverPort, 1, out var at)
            && TryAddress(host.Length == 0 || host == "localhost" ? "127.0.0.1" : host, out var address) && TryPort(port, 1, out var to))
        {
            return new GuestForward(serverAddress, at, new IPEndPoint(address, to));
        }

        throw keys.Error($"guestfwd={value}: give tcp:SERVER ADDRESS:PORT-tcp:HOST ADDRESS:PORT (commands and character devices are not in this version)");
    }

    private static bool TryOptionalAddress(string text, out IPAddress? address)
    {
        address = null;
        if (text.Length == 0)
            return true;
        var isGood = TryAddress(text == "localhost" ? "127.0.0.1" : text, out var found);
        address = found;
        return isGood;
    }

    private static bool TryAddress(string text, out IPAddress address) =>
        IPAddress.TryParse(text, out address!) && address.AddressFamily == System.Net.Sockets.AddressFamily.InterNetwork && text.Count(c => c == '.') == 3;

    private static bool TryPort(string text, int minimum, out int port) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out port) && port >= minimum && port <= ushort.MaxValue;
}
