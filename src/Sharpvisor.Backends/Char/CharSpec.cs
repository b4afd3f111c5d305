// The values of QEMU's -serial: stdio, mon:stdio, null, none, file:PATH, pty, tcp:HOST:PORT[,server][,wait=off],
// unix:PATH[,server][,wait=off], chardev:ID.
using System.Globalization;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Char;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Char;

/// <summary>A parsed value of <c>-serial</c>.</summary>
public abstract record CharSpec
{
    private const string Known = "stdio, null, none, file:PATH, pty, tcp:HOST:PORT[,server=on][,wait=off], unix:PATH[,server=on][,wait=off], chardev:ID";

    private CharSpec()
    {
    }

    /// <summary>No device at all.</summary>
    public bool IsNone => this is NoDevice;

    public bool IsStdio => this is Stdio;

    /// <param name="flag">The flag that it is the value of, for messages.</param>
    /// <exception cref="ConfigurationException">Unknown or malformed.</exception>
    public static CharSpec Parse(string value, string flag = "-serial")
    {
        var colon = value.IndexOf(':', StringComparison.Ordinal);
        var kind = colon < 0 ? value : value[..colon];
        var rest = colon < 0 ? "" : value[(colon + 1)..];
        switch (kind)
        {
            case "stdio" when colon < 0:
                return new Stdio();
            case "mon" when rest == "stdio":
                return new Stdio { HasMonitor = true };
            case "null" when colon < 0:
                return new Null();
            case "none" when colon < 0:
                return new NoDevice();
            case "pty" when colon < 0:
                return new Pty();
            case "file" when rest.Length > 0:
                return new FileOutput(rest);
            case "file":
                throw new ConfigurationException($"{flag} {value}: no path; give file:PATH");
            case "chardev" when rest.Length > 0:
                return new Named(rest);
            case "tcp":
                return ParseTcp(value, rest, flag);
            case "unix":
                return ParseUnix(value, rest, flag);
            default:
                throw new ConfigurationException($"{flag} {value}: unknown; give one of {Known}");
        }
    }

    /// <summary>Opens the host's end.</summary>
    /// <param name="quit">Ctrl-A x on a terminal.</param>
    /// <exception cref="ConfigurationException">It can't be opened.</exception>
    public abstract ICharBackend Open(ILogger logger, Action quit);

    private static Tcp ParseTcp(string value, string rest, string flag)
    {
        var parts = rest.Split(',');
        var separator = parts[0].LastIndexOf(':');
        if (separator < 0 || !int.TryParse(parts[0].AsSpan(separator + 1), NumberStyles.None, CultureInfo.InvariantCulture, out var port) || port > 65535)
            throw new ConfigurationException($"{flag} {value}: no port; give tcp:HOST:PORT with a port of 1 to 65535");
        var (server, wait) = ParseSocketOptions(value, parts, flag);
        if (!server && port == 0)
            throw new ConfigurationException($"{flag} {value}: nobody listens on port 0; give 1 to 65535");
        return new Tcp(parts[0][..separator].Trim('[', ']'), port, server, wait);
    }

    private static Unix ParseUnix(string value, string rest, string flag)
    {
        var parts = rest.Split(',');
        if (parts[0].Length == 0)
            throw new ConfigurationException($"{flag} {value}: no path; give unix:PATH");
        var (server, wait) = ParseSocketOptions(value, parts, flag);
        return new Unix(parts[0], server, wait);
    }

    private static (bool Server, bool Wait) ParseSocketOptions(string value, string[] parts, string flag)
    {
        bool server = false, wait = true;
        foreach (var option in parts.Skip(1))
        {
            switch (option)
            {
                case "server" or "server=on":
                    server = true;
                    break;
                case "server=off" or "nodelay" or "nodelay=on":
                    break;
                case "wait" or "wait=on":
                    wait = true;
                    break;
                case "nowait" or "wait=off":
                    wait = false;
                    break;
                default:
                    throw new ConfigurationException($"{flag} {value}: unknown option \"{option}\"; there are server=on|off and wait=on|off");
            }
        }

        return (server, wait);
    }

    public sealed record Stdio : CharSpec
    {
        /// <summary>Ctrl-A c leads to the monitor, from a pipe, too.</summary>
        public bool HasMonitor { get; init; }

        /// <summary>The same where it is a terminal; from a pipe every byte goes to the guest.</summary>
        public bool SharesTerminal { get; init; }

        public override ICharBackend Open(ILogger logger, Action quit) =>
            new StdioCharBackend(logger, quit, HasMonitor || (SharesTerminal && Terminal.IsTerminal(0)));
    }

    public sealed record Null : CharSpec
    {
        public override ICharBackend Open(ILogger logger, Action quit) => new NullCharBackend();
    }

    public sealed record NoDevice : CharSpec
    {
        public override ICharBackend Open(ILogger logger, Action quit) => throw new InvalidOperationException("none is no device");
    }

    /// <summary>What a -chardev of this id says: whoever knows those puts it here instead.</summary>
    public sealed record Named(string Id) : CharSpec
    {
        public override ICharBackend Open(ILogger logger, Action quit) => throw new InvalidOperationException($"nobody has looked for chardev {Id}");
    }

    public sealed record Pty : CharSpec
    {
        public override ICharBackend Open(ILogger logger, Action quit) => new PtyCharBackend(logger);
    }

    public sealed record FileOutput(string Path) : CharSpec
    {
        public override ICharBackend Open(ILogger logger, Action quit) => new FileCharBackend(Path, logger);
    }

    public sealed record Tcp(string Host, int Port, bool Server, bool Wait) : CharSpec
    {
        public override ICharBackend Open(ILogger logger, Action quit) => SocketCharBackend.Tcp(Host, Port, Server, Wait, logger);
    }
    public sealed record Unix(string Path, bool Server, bool Wait) : CharSpec
    {
        public override ICharBackend Open(ILogger logger, Action quit) => SocketCharBackend.Unix(Path, Server, Wait, logger);
    }
}
