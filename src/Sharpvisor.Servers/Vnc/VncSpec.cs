// The values of QEMU's -vnc: HOST:DISPLAY, :DISPLAY, unix:PATH or none, and options. Refused by name are those for what
// there is not here: TLS, SASL, connections to a listening viewer.
using System.Globalization;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Servers.Vnc;

/// <summary>Who may be connected at a time.</summary>
public enum VncShare
{
    /// <summary>A client says whether it wants to be alone; if so, the others have to go.</summary>
    AllowExclusive,

    /// <summary>Clients that want to be alone are refused.</summary>
    ForceShared,

    /// <summary>All stay, whatever they say.</summary>
    Ignore,
}

/// <summary>A parsed value of <c>-vnc</c>.</summary>
public sealed record VncSpec
{
    private const int FirstPort = 5900, FirstWebSocketPort = 5700;

    private const string Form = "give HOST:DISPLAY, :DISPLAY, unix:PATH or none";

    /// <summary>As written, for messages.</summary>
    public required string Text { get; init; }

    /// <summary>Empty: on all addresses.</summary>
    public string Host { get; init; } = "";

    /// <summary>The TCP port; 0 takes any that is free.</summary>
    public int Port { get; init; }

    /// <summary>The last port to try when others are taken.</summary>
    public int LastPort { get; init; }

    /// <summary>Instead of TCP.</summary>
    public string? UnixPath { get; init; }

    /// <summary>Null: none. 0 takes any that is free.</summary>
    public int? WebSocketPort { get; init; }

    /// <summary>Added to the WebSocket's port when another display is taken than the first.</summary>
    public bool WebSocketFollows { get; init; }

    public bool PasswordRequired { get; init; }

    /// <summary>The id of a <see cref="Secrets.Secret"/>.</summary>
    public string? PasswordSecret { get; init; }

    public VncShare Share { get; init; }

    /// <summary>Clients at a time.</summary>
    public int Connections { get; init; } = 32;

    /// <summary>Between two keys; null: as usual.</summary>
    public TimeSpan? KeyDelay { get; init; }

    public bool IPv4 { get; init; } = true;

    public bool IPv6 { get; init; } = true;

    /// <returns>Null for <c>none</c>.</returns>
    /// <exception cref="ConfigurationException">Unknown or malformed.</exception>
    public static VncSpec? Parse(string value)
    {
        var parts = value.Split(',');
        if (parts[0] == "none")
            return parts.Length == 1 ? null : throw Wrong(value, "none has no options");
        var spec = parts[0].StartsWith("unix:", StringComparison.Ordinal) ? ParseUnix(value, parts[0]["unix:".Length..]) : ParseDisplay(value, parts[0]);
        foreach (var part in parts.Skip(1))
            spec = spec.With(part);
        return spec.Check();
    }

    private static VncSpec ParseUnix(string value, string path) =>
        path.Length > 0 ? new VncSpec { Text = value, UnixPath = path } : throw Wrong(value, "no path; give unix:PATH");

    private static VncSpec ParseDisplay(string value, string address)
    {
        var colon = address.LastIndexOf(':');
        if (colon < 0)
            throw Wrong(value, $"no display; {Form}");
        var host = address[..colon];
        if (host.StartsWith('[') && host.EndsWith(']'))
            host = host[1..^1];
        else if (host.Contains(':', StringComparison.Ordinal))
            throw Wrong(value, "an IPv6 address goes in brackets: [::1]:0");
        var port = FirstPort + Number(value, "display", address[(colon + 1)..], 0, 65535 - FirstPort);
        return new VncSpec { Text = value, Host = host, Port = port, LastPort = port };
    }

    private VncSpec With(string option)
    {
        var equals = option.IndexOf('=', StringComparison.Ordinal);
        var name = equals < 0 ? option : option[..equals];
        var text = equals < 0 ? "on" : option[(equals + 1)..];
        switch (name)
        {
            case "password":
                return this with { PasswordRequired = IsOn(option, text) };
            case "password-secret" when text.Length > 0 && equals > 0:
                return this with { PasswordSecret = text };
            case "to" when UnixPath is null:
                return this with { LastPort = FirstPort + Number(Text, "to", text, 0, 65535 - FirstPort) };
            case "websocket" when UnixPath is not null:
                throw Wrong(Text, "a WebSocket needs TCP; give HOST:DISPLAY");
            case "websocket" when text == "off":
                return this with { WebSocketPort = null };
            case "websocket" when text == "on":
                return this with { WebSocketPort = Port - FirstPort + FirstWebSocketPort, WebSocketFollows = true };
            case "websocket":
                return this with { WebSocketPort = Number(Text, "websocket", text, 1, 65535), WebSocketFollows = false };
            case "share":
                return this with
                {
                    Share = text switch
                    {
                        "allow-exclusive" => VncShare.AllowExclusive,
                        "force-shared" => VncShare.ForceShared,
                        "ignore" => VncShare.Ignore,
                        _ => throw Wrong(Text, $"share={text} is unknown; give allow-exclusive, force-shared or ignore"),
                    },
                };
            case "connections":
                return this with { Connections = Number(Text, name, text, 1, 1000) };
            case "key-delay-ms":
                return this with { KeyDelay = TimeSpan.FromMilliseconds(Number(Text, name, text, 0, 1000)) };
            case "ipv4":
                return this with { IPv4 = IsOn(option, text) };
            case "ipv6":
                return this with { IPv6 = IsOn(option, text) };
            case "lossy" or "non-adaptive" or "lock-key-sync":
                // Permissions to do something to the picture or the keys that is never done here.
                IsOn(option, text);
                return this;
            case "id":
                return this;
            case "tls-creds" or "tls-authz" or "tls" or "x509" or "x509verify" or "sasl" or "sasl-authz" or "acl":
                throw Wrong(Text, $"{name} is not in this version; listen on localhost or unix:PATH, and come by ssh");
            case "reverse" or "audiodev" or "display" or "head" or "power-control":
                throw Wrong(Text, $"{name} is not in this version; leave it out");
            default:
                throw Wrong(Text, $"unknown option \"{option}\"; there are password=on|off, password-secret=ID, to=DISPLAY, websocket=on|PORT, share=, connections=, key-delay-ms=, ipv4=, ipv6=, lossy=");
        }
    }

    private VncSpec Check()
    {
        if (PasswordSecret is not null && PasswordRequired)
            throw Wrong(Text, "password says nothing more where password-secret is given; leave one out");
        if (LastPort < Port)
            throw Wrong(Text, "to= is less than the display; give a larger one");
        if (!IPv4 && !IPv6)
            throw Wrong(Text, "neither ipv4 nor ipv6: nothing to listen on; leave one out");
        return this with { PasswordRequired = PasswordRequired || PasswordSecret is not null };
    }

    private bool IsOn(string option, string text) => text switch
    {
        "on" or "yes" or "true" => true,
        "off" or "no" or "false" => false,
        _ => throw Wrong(Text, $"{option}: give on or off"),
    };

    private static int Number(string value, string what, string text, int minimum, int maximum) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number >= minimum && number <= maximum
            ? number
            : throw Wrong(value, $"{what} \"{text}\" is not a number from {minimum} to {maximum}");

    private static ConfigurationException Wrong(string value, string problem) => new($"-vnc {value}: {problem}");
}
