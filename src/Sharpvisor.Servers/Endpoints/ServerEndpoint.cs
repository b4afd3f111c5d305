using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Servers.Endpoints;

/// <summary>Somebody who has come.</summary>
/// <param name="Stream">What is said; its end is the client's.</param>
/// <param name="Name">For messages.</param>
public sealed record ServerClient(Stream Stream, string Name);

/// <summary>An open <see cref="ServerAddress"/>: clients come one after the other, or several at once where that can be.</summary>
public abstract class ServerEndpoint : IDisposable
{
    /// <summary>Where it is, as clients write it: 127.0.0.1:1234, a path, stdio.</summary>
    public abstract string Name { get; }

    /// <summary>The TCP port, or 0.</summary>
    public virtual int Port => 0;

    /// <summary>Clients come independently of each other; otherwise the next one can only come when the one before has gone.</summary>
    public abstract bool TakesSeveral { get; }

    /// <summary>Begins to listen, and says where if that is news for the host's user.</summary>
    /// <param name="what">What it is that listens, for messages: gdb.</param>
    /// <exception cref="ConfigurationException">The port or path is taken, or there is no such address.</exception>
    public static ServerEndpoint Open(ServerAddress address, string what, ILogger logger)
    {
        switch (address)
        {
            case ServerAddress.Tcp tcp:
                var sockets = SocketEndpoint.OpenTcp(tcp);
                if (!tcp.IsLoopback)
                    logger.LogWarning("{What}: listens on {Name}, not on loopback only: whoever reaches it has this machine", what, sockets.Name);
                else if (tcp.Port == 0)
                    logger.LogInformation("{What}: listens on {Name}", what, sockets.Name);
                return sockets;
            case ServerAddress.Unix unix:
                return SocketEndpoint.OpenUnix(unix);
            case ServerAddress.Pty:
                var line = LineEndpoint.OpenPty(address);
                logger.LogInformation("char device redirected to {Path} (label {Label})", line.Name, what);
                return line;
            default:
                return new LineEndpoint("stdio", Descriptor.StandardInput(), Descriptor.StandardOutput());
        }
    }

    /// <summary>The next client.</summary>
    /// <returns>Null: there will be no more.</returns>
    /// <exception cref="IOException">This one did not make it; others may.</exception>
    public abstract Task<ServerClient?> AcceptAsync(CancellationToken cancellation);

    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    protected virtual void Dispose(bool disposing)
    {
    }
}
