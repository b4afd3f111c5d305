// How a service waits for the host.
using System.Net.Sockets;

namespace Sharpvisor.Backends.Net.User.Services;

/// <summary>What a service that asks the host needs of the network's thread: to be called when there is an answer.</summary>
internal interface ISocketWatch
{
    /// <summary>
    /// Calls back on the network's thread, and not from within this call, as long as there is something to read (level-triggered) or an
    /// error to fetch.
    /// </summary>
    void Watch(Socket socket, Action onReadable);

    /// <summary>Calls back no more. The socket is closed right after.</summary>
    void Unwatch(Socket socket);
}
