using System.Net.Sockets;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Servers.Endpoints;

/// <summary>Listening sockets of the file system.</summary>
internal static class UnixListener
{
    /// <param name="text">Flag and value that asked for it, for messages.</param>
    /// <exception cref="ConfigurationException">Somebody listens there, something else lies there, or it can't be made.</exception>
    public static Socket Open(string text, string path, int backlog)
    {
        var end = UnixSocketPath.Claim(text, path);
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            socket.Bind(end);
            socket.Listen(backlog);
            return socket;
        }
        catch (Exception e) when (e is SocketException or IOException or UnauthorizedAccessException)
        {
            socket.Dispose();
            throw new ConfigurationException($"{text}: cannot listen on {path}: {e.Message.TrimEnd('.')}; check the path", e);
        }
    }

    /// <summary>When the server has closed it.</summary>
    public static void Remove(string path)
    {
        try
        {
            File.Delete(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Its folder is gone or closed to us: nothing that a next start would stumble over.
        }
    }
}
