// The errors of bind(2) and listen(2), for hostfwd.
using System.Net.Sockets;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Net.User;

/// <summary>Why a port of the host can't be listened on, in one line.</summary>
internal static class HostPortError
{
    public static ConfigurationException Make(string option, SocketException e)
    {
        var (reason, advice) = e.SocketErrorCode switch
        {
            SocketError.AddressAlreadyInUse => ("the host's port is in use", "give another port"),
            SocketError.AddressNotAvailable => ("the host has no such address", "give one of its own, or none"),
            SocketError.AccessDenied => ("the host does not allow this port", "give one from 1024 on"),
            _ => (e.Message, "check address and port"),
        };
        return new ConfigurationException($"{option}: {reason}; {advice}", e);
    }
}
