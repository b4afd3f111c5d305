using System.Net.Sockets;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Servers.Endpoints;

/// <summary>Listening sockets of the file system.</summary>
internal static class UnixListener
{
    /// <param name="text">Flag and value that asked for it, for messages.</param>
    /// <exception cref="ConfigurationException">Somebody listens there, something else lies there, or it can't be made.</exception>
    public static Socket Open(string text, string path, int backlog)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            var end = new UnixDomainSocketEndPoint(path);
            RemoveStale(text, path, end);
            socket.Bind(end);
            socket.Listen(backlog);
            return socket;
        }
        catch (Exception e) when (e is SocketException or ArgumentException or IOException or UnauthorizedAccessException)
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

    /// <summary>A socket that nobody listens on any more goes; anything else stays, and is an error.</summary>
    private static void RemoveStale(string text, string path, UnixDomainSocketEndPoint end)
    {
        if (!File.Exists(path))
            return;
        using var probe = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            probe.Connect(end);
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.ConnectionRefused && new FileInfo(path) is { Length: 0, LinkTarget: null })
        {
            File.Delete(path);
            return;
        }

        throw new ConfigurationException($"{text}: {path} is in use; give another path");
    }
}
