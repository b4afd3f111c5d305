// Where a server waits for its clients, as QEMU writes it for -gdb, -monitor and -qmp: tcp:[HOST]:PORT,
// unix:PATH, pty, stdio, none. Left out: telnet, TLS, and connecting to someone (server=off).
using System.Globalization;
using System.Net;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Servers.Endpoints;

/// <summary>Where a server listens.</summary>
public abstract record ServerAddress
{
    private const string Form = "give tcp:[HOST]:PORT, unix:PATH, pty, stdio or none";

    private ServerAddress(string text)
    {
        Text = text;
    }

    /// <summary>Flag and value as written, for messages.</summary>
    public string Text { get; }

    public bool IsStdio => this is Stdio;

    /// <param name="value">Without a host it is this host only, whatever QEMU does: a debugger may do anything.</param>
    /// <param name="flag">The flag that it is the value of, for messages.</param>
    /// <returns>Null for <c>none</c>.</returns>
    /// <exception cref="ConfigurationException">Unknown or malformed.</exception>
    public static ServerAddress? Parse(string value, string flag)
    {
        var text = $"{flag} {value}";
        var parts = value.Split(',');
        var colon = parts[0].IndexOf(':', StringComparison.Ordinal);
        var kind = colon < 0 ? parts[0] : parts[0][..colon];
        var rest = colon < 0 ? "" : parts[0][(colon + 1)..];
        var isSocket = colon >= 0 && kind is "tcp" or "unix";
        if (!isSocket && parts.Length > 1)
            throw Wrong(text, "options are for tcp: and unix:; leave them out");
        foreach (var option in parts.Skip(1))
            CheckOption(text, option);
        return kind switch
        {
            "tcp" when isSocket => ParseTcp(text, rest),
            "unix" when isSocket => rest.Length > 0 ? new Unix(text, rest) : throw Wrong(text, "no path; give unix:PATH"),
            "pty" when colon < 0 => new Pty(text),
            "stdio" when colon < 0 => new Stdio(text),
            "none" when colon < 0 => null,
            _ => throw Wrong(text, $"unknown; {Form}"),
        };
    }

    /// <summary>A port of this host, on loopback only.</summary>
    /// <param name="port">0 takes any that is free.</param>
    public static ServerAddress Loopback(string flag, int port) => new Tcp(flag, "", port);

    private static Tcp ParseTcp(string text, string rest)
    {
        var colon = rest.LastIndexOf(':');
        if (colon < 0 || !int.TryParse(rest.AsSpan(colon + 1), NumberStyles.None, CultureInfo.InvariantCulture, out var port) || port > ushort.MaxValue)
            throw Wrong(text, "no port; give tcp:[HOST]:PORT with a port of 0 (any that is free) to 65535");
        var host = rest[..colon];
        if (host.StartsWith('[') && host.EndsWith(']'))
            host = host[1..^1];
        else if (host.Contains(':', StringComparison.Ordinal))
            throw Wrong(text, "an IPv6 address goes in brackets: tcp:[::1]:1234");
        return new Tcp(text, host, port);
    }

    /// <summary>The options that QEMU's users write: what they ask for is so anyhow, or is refused.</summary>
    private static void CheckOption(string text, string option)
    {
        switch (option)
        {
            case "server" or "server=on" or "wait=off" or "nowait" or "nodelay" or "nodelay=on" or "nodelay=off" or "ipv4" or "ipv4=on" or "ipv6" or "ipv6=on":
                break;
            case "wait" or "wait=on":
                throw Wrong(text, $"{option} is not in this version; -S starts the machine paused, which is what one waits for");
            case "server=off":
                throw Wrong(text, "server=off is not in this version: it can't connect to someone; leave it out");
            default:
                throw Wrong(text, $"unknown option \"{option}\"; there are server=on and wait=off, which are usual here");
        }
    }

    private static ConfigurationException Wrong(string text, string problem) => new($"{text}: {problem}");

    /// <param name="Host">Empty: loopback.</param>
    /// <param name="Port">0: any that is free.</param>
    public sealed record Tcp(string Text, string Host, int Port) : ServerAddress(Text)
    {
        public bool IsLoopback => Host.Length == 0 || Host == "localhost" || (IPAddress.TryParse(Host, out var address) && IPAddress.IsLoopback(address));
    }

    public sealed record Unix(string Text, string Path) : ServerAddress(Text);

    public sealed record Pty(string Text) : ServerAddress(Text);

    public sealed record Stdio(string Text) : ServerAddress(Text);
}
