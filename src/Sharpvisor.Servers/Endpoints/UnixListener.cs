// Unix sockets (unix(7)) by path: made, found alive, removed.
using System.Net.Sockets;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Servers.Endpoints;

/// <summary>Listening sockets of the file system.</summary>
internal static class UnixListener
{
    /// <param name="text">Flag and value that asked for it, for messages.</param>
    /// <param name="isPrivate">Other users of the host can't connect.</param>
    /// <exception cref="ConfigurationException">Somebody listens there, something else lies there, or it can't be made.</exception>
    public static Socket Open(string text, string path, int backlog, bool isPrivate)
    {
        var end = UnixSocketPath.Claim(text, path);
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            socket.Bind(end);
            if (isPrivate && !OperatingSystem.IsWindows())
                File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite);
            socket.Listen(backlog);
            return socket;
        }
        catch (Exception e) when (e is SocketException or IOException or UnauthorizedAccessException)
        {
            socket.Dispose();
            throw new ConfigurationException($"{text}: cannot listen on {path}: {e.Message.TrimEnd('.')}; check the path", e);
        }
    }

    /// <summary>Somebody listens there.</summary>
    public static bool IsAlive(string path)
    {
        using var probe = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            probe.Connect(new UnixDomainSocketEndPoint(path));
            return true;
        }
        catch (SocketException e)
        {
            return e.SocketErrorCode is not (SocketError.ConnectionRefused or SocketError.AddressNotAvailable);
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
