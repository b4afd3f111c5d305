using System.Net.Sockets;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Core.Host;

/// <summary>The place of a Unix socket (unix(7)) in the file system. A process that was killed leaves its own behind.</summary>
public static class UnixSocketPath
{
    /// <summary>
    /// Makes room at a path for a socket that is to be bound: one that nobody has any more goes. Whatever else is there
    /// stays, and is an error.
    /// </summary>
    /// <param name="what">Begins the message.</param>
    /// <exception cref="ConfigurationException">Somebody has it, there is something else, or the path can't be one of a socket.</exception>
    public static UnixDomainSocketEndPoint Claim(string what, string path, SocketType type = SocketType.Stream)
    {
        var end = Parse(what, path);
        if (!File.Exists(path))
        {
            if (Directory.Exists(path))
                throw new ConfigurationException($"{what}: {path} is a folder; give another path");
            return end;
        }

        using var probe = new Socket(AddressFamily.Unix, type, ProtocolType.Unspecified);
        try
        {
            probe.Connect(end);
            throw new ConfigurationException($"{what}: {path} is in use; give another path");
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.ConnectionRefused && !File.GetAttributes(path).HasFlag(FileAttributes.ReparsePoint) && new FileInfo(path).Length == 0)
        {
            File.Delete(path);
        }
        catch (SocketException e)
        {
            throw new ConfigurationException($"{what}: there is something else at {path}; remove it, or give another path", e);
        }

        return end;
    }

    /// <exception cref="ConfigurationException">It is too long, or empty.</exception>
    public static UnixDomainSocketEndPoint Parse(string what, string path)
    {
        try
        {
            return new UnixDomainSocketEndPoint(path);
        }
        catch (ArgumentException e)
        {
            throw new ConfigurationException($"{what}: {(path.Length == 0 ? "an empty path" : $"{path} is too long for a socket")}; give one of at most 107 bytes", e);
        }
    }
}
