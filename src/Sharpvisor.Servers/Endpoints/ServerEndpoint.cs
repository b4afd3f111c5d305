// The one way in which servers are reached, whatever they talk: gdb, monitors, QMP, the control socket. VNC has listeners of
// its own, several at a time.
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Char;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Servers.Endpoints;

/// <summary>Somebody who has come.</summary>
/// <param name="Stream">What is said. Whoever serves it closes it.</param>
/// <param name="Name">For messages.</param>
public sealed record ServerClient(Stream Stream, string Name);

/// <summary>Where a server's clients come from, one after the other, or several at once where that can be.</summary>
public abstract class ServerEndpoint : IAsyncDisposable
{
    /// <summary>Where it is, as clients write it: 127.0.0.1:1234, a path, stdio.</summary>
    public abstract string Name { get; }

    /// <summary>The TCP port, or 0.</summary>
    public virtual int Port => 0;

    /// <summary>Clients come independently of each other; otherwise the next one can only come when the one before has gone.</summary>
    public abstract bool TakesSeveral { get; }

    /// <summary>Begins to listen, and says where if that is news for the host's user.</summary>
    /// <param name="what">What it is that listens, for messages: gdb.</param>
    /// <param name="quit">Ctrl-A x on a terminal.</param>
    /// <exception cref="ConfigurationException">The port or path is taken, or there is no such address.</exception>
    public static ServerEndpoint Open(ServerAddress address, string what, ILogger logger, Action quit)
    {
        switch (address)
        {
            case ServerAddress.Tcp tcp:
                var sockets = SocketEndpoint.OpenTcp(tcp);
                if (!tcp.IsLoopback)
                    logger.LogWarning("{What}: listens on {Name}, not on loopback only: whoever reaches it has this machine and can use files of this user", what, sockets.Name);
                else if (tcp.Port == 0)
                    logger.LogInformation("{What}: listens on {Name}", what, sockets.Name);
                return sockets;
            case ServerAddress.Unix unix:
                return SocketEndpoint.OpenUnix(unix.Text, unix.Path);
            case ServerAddress.Pty:
                var line = new LineEndpoint(OpenPty(address, logger), LineClient.WithFirstByte);
                logger.LogInformation("char device redirected to {Path} (label {Label})", line.Name, what);
                return line;
            default:
                return new LineEndpoint(new StdioCharBackend(logger, quit), LineClient.WithFirstByte);
        }
    }

    /// <summary>The next client.</summary>
    /// <returns>Null: there will be no more.</returns>
    /// <exception cref="IOException">This one did not make it; others may.</exception>
    public abstract Task<ServerClient?> AcceptAsync(CancellationToken cancellation);

    public abstract ValueTask DisposeAsync();

    private static PtyCharBackend OpenPty(ServerAddress address, ILogger logger)
    {
        try
        {
            return new PtyCharBackend(logger);
        }
        catch (ConfigurationException e)
        {
            throw new ConfigurationException($"{address.Text}: {e.Message}", e);
        }
    }
}
