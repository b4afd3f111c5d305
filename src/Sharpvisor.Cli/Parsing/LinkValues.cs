// -netdev socket, stream, dgram, tap and hubport, as qemu(1) describes them.
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Net.Links;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Cli.Parsing;

/// <summary>Opens a network: its name for messages, the file that -bootp names, the log.</summary>
internal delegate INetworkBackend NetdevOpener(string name, string? bootFile, ILogger logger);

internal static class LinkValues
{
    public static readonly string[] SocketKeys = ["listen", "connect", "mcast", "udp", "localaddr"];
    public static readonly string[] StreamKeys = ["server", "addr.type", "addr.host", "addr.port", "addr.path", "reconnect", "reconnect-ms"];
    public static readonly string[] DatagramKeys = ["local.type", "local.host", "local.port", "local.path", "remote.type", "remote.host", "remote.port", "remote.path"];
    public static readonly string[] TapKeys = ["ifname", "fd", "script", "downscript", "vnet_hdr", "vhost"];
    public static readonly string[] HubPortKeys = ["hubid", "netdev"];

    private const int FirstGroup = 224, LastGroup = 239; // of an IPv4 address: multicast

    /// <summary>socket,listen=[HOST]:PORT | connect=HOST:PORT | mcast=GROUP:PORT[,localaddr=A] | udp=HOST:PORT,localaddr=[HOST]:PORT.</summary>
    public static NetdevOpener Socket(KeyValues keys, string what)
    {
        if (((string[])["listen", "connect", "mcast", "udp"]).Count(k => keys[k] is not null) != 1)
            throw keys.Error("give one of listen=, connect=, mcast= and udp=");
        var local = keys["localaddr"];
        if (local is not null && (keys["listen"] ?? keys["connect"]) is not null)
            throw keys.Error("localaddr= goes with mcast= or udp=; leave it out");
        if (keys["listen"] is { } listen)
        {
            var end = HostPort(keys, "listen", listen, isLocal: true);
            return (_, _, logger) => StreamLink.Listen(what, end, logger);
        }

        if (keys["connect"] is { } connect)
        {
            var end = HostPort(keys, "connect", connect, isLocal: false);
            return (_, _, logger) => StreamLink.Connect(what, end, null, logger);
        }

        if (keys["mcast"] is { } group)
        {
            var end = Ipv4(keys, "mcast", group, isLocal: false);
            if (!IsGroup(end.Address))
                throw keys.Error($"mcast={group}: is no multicast address; give one such as 230.0.0.1:1234");
            var address = local is null ? null : Ipv4(keys, "localaddr", local.Contains(':', StringComparison.Ordinal) ? local : $"{local}:0", isLocal: true).Address;
            return (_, _, logger) => DatagramLink.Multicast(what, end, address, logger);
        }

        var remote = Ipv4(keys, "udp", keys["udp"]!, isLocal: false);
        if (local is null)
            throw keys.Error("udp= needs localaddr=, where frames are awaited; give it, such as localaddr=:1235");
        var here = Ipv4(keys, "localaddr", local, isLocal: true);
        return (_, _, logger) => DatagramLink.Udp(what, here, remote, logger);
    }

    /// <summary>stream[,server=on],addr.type=inet,addr.host=H,addr.port=P | addr.type=unix,addr.path=F[,reconnect=SECONDS].</summary>
    public static NetdevOpener Stream(KeyValues keys, string what)
    {
        var isServer = keys.OnOff("server", false);
        var path = IsUnix(keys, "addr") ? Path(keys, "addr") : null;
        var end = path is null ? HostPort(keys, "addr.host", $"{keys["addr.host"]}:{keys["addr.port"]}", isServer) : null;
        var seconds = keys.Number("reconnect", 0, int.MaxValue / 1000) ?? 0;
        var milliseconds = keys.Number("reconnect-ms", 0, int.MaxValue) ?? seconds * 1000;
        if (isServer && milliseconds > 0)
            throw keys.Error("a server does not connect: leave reconnect= out");
        TimeSpan? reconnect = milliseconds > 0 ? TimeSpan.FromMilliseconds(milliseconds) : null;
        return (_, _, logger) =>
        {
            var there = end ?? UnixSocketPath.Parse(what, path!);
            return isServer ? StreamLink.Listen(what, there, logger) : StreamLink.Connect(what, there, reconnect, logger);
        };
    }

    /// <summary>dgram,local.type=inet,local.host=H,local.port=P,remote.… | local.type=unix,local.path=F,remote.… | remote.host=GROUP.</summary>
    public static NetdevOpener Datagram(KeyValues keys, string what)
    {
        if (keys["remote.type"] is null)
            throw keys.Error("remote.type= is missing; give remote.type=inet with remote.host= and remote.port=, or remote.type=unix with remote.path=");
        var isUnix = IsUnix(keys, "remote");
        var hasLocal = keys["local.type"] is not null;
        if (hasLocal && IsUnix(keys, "local") != isUnix)
            throw keys.Error("local.type= and remote.type= are not the same; give two of a kind");
        if (isUnix)
        {
            if (!hasLocal)
                throw keys.Error("local.type= is missing; give local.type=unix with local.path=, where frames are awaited");
            var (from, to) = (Path(keys, "local"), Path(keys, "remote"));
            return (_, _, logger) => DatagramLink.Unix(what, from, to, logger);
        }

        var remote = Ipv4(keys, "remote.host", $"{keys["remote.host"]}:{keys["remote.port"]}", isLocal: false);
        var local = hasLocal ? Ipv4(keys, "local.host", $"{keys["local.host"]}:{keys["local.port"] ?? (IsGroup(remote.Address) ? "0" : "")}", isLocal: true) : null;
        if (IsGroup(remote.Address))
            return (_, _, logger) => DatagramLink.Multicast(what, remote, local?.Address, logger);
        if (local is null)
            throw keys.Error("local.type= is missing; give local.type=inet with local.host= and local.port=, where frames are awaited");
        return (_, _, logger) => DatagramLink.Udp(what, local, remote, logger);
    }

    /// <summary>tap[,ifname=I][,script=F|no][,downscript=F|no][,vnet_hdr=off] | tap,fd=N.</summary>
    public static NetdevOpener Tap(KeyValues keys, string what)
    {
        if (keys.OnOff("vhost", false))
            throw keys.Error("vhost=on is not in this version; leave it out");
        bool? header = keys["vnet_hdr"] is null ? null : keys.OnOff("vnet_hdr", true);
        if (keys.Number("fd", 0, int.MaxValue) is { } descriptor)
        {
            if (keys["ifname"] is not null || Script(keys, "script") is not null || Script(keys, "downscript") is not null)
                throw keys.Error("fd= is open already: leave ifname=, script= and downscript= out");
            return (_, _, logger) => TapLink.FromDescriptor(what, descriptor, logger);
        }

        return (_, _, logger) => TapLink.Open(what, keys["ifname"], header, Script(keys, "script"), Script(keys, "downscript"), logger);
    }

    /// <summary>hubport,id=ID,hubid=N[,netdev=ID].</summary>
    public static void HubPort(RunSettings settings, KeyValues keys, string what, string id)
    {
        if (keys.Number("hubid", 0, int.MaxValue) is not { } hub)
            throw keys.Error("hubid= is missing; give the number of a hub, the same to all that it joins");
        settings.HubPorts.Add(new HubPortSpec(what, id, hub, keys["netdev"]));
    }

    private static string? Script(KeyValues keys, string key) => keys[key] is { } script and not "no" ? script : null;

    private static bool IsGroup(IPAddress address) => address.GetAddressBytes()[0] is >= FirstGroup and <= LastGroup;

    private static bool IsUnix(KeyValues keys, string side) =>
        keys.Word<bool>($"{side}.type", ("inet", false), ("unix", true)) ?? throw keys.Error($"{side}.type= is missing; give {side}.type=inet or {side}.type=unix");

    private static string Path(KeyValues keys, string side) =>
        keys[$"{side}.path"] is { Length: > 0 } path ? path : throw keys.Error($"{side}.path= is missing; give the path of a socket");

    /// <summary>An address, or a name that is looked up when it is opened. Without one: all of the host's, or its loopback.</summary>
    private static EndPoint HostPort(KeyValues keys, string key, string text, bool isLocal)
    {
        var colon = text.LastIndexOf(':');
        if (colon < 0 || !int.TryParse(text.AsSpan(colon + 1), NumberStyles.None, CultureInfo.InvariantCulture, out var port) || port > IPEndPoint.MaxPort || (port == 0 && !isLocal))
            throw keys.Error($"{key}={text}: give a host and a port, such as 127.0.0.1:1234");
        var host = text[..colon].Trim('[', ']');
        if (host.Length == 0)
            return new IPEndPoint(isLocal ? IPAddress.Any : IPAddress.Loopback, port);
        return IPAddress.TryParse(host, out var address) ? new IPEndPoint(address, port) : new DnsEndPoint(host, port);
    }

    private static IPEndPoint Ipv4(KeyValues keys, string key, string text, bool isLocal)
    {
        var end = HostPort(keys, key, text, isLocal);
        if (end is DnsEndPoint { Host: "localhost" } name)
            return new IPEndPoint(IPAddress.Loopback, name.Port);
        return end is IPEndPoint { AddressFamily: AddressFamily.InterNetwork } found ? found : throw keys.Error($"{key}={text}: give an IPv4 address and a port, such as 127.0.0.1:1234");
    }
}
