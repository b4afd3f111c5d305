// The errors of bind(2), listen(2) and connect(2), for links.
using System.Net;
using System.Net.Sockets;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Net.Links;

/// <summary>Why a link can't be made, in one line.</summary>
internal static class LinkError
{
    private const string NobodyListens = "nobody listens there; start the other machine first, or use -netdev stream with reconnect=1";

    public static ConfigurationException Make(string link, EndPoint end, SocketException e) => new(
        $"{link}: " + e.SocketErrorCode switch
        {
            SocketError.AddressAlreadyInUse => "the address is in use; give another one",
            SocketError.AddressNotAvailable when end is UnixDomainSocketEndPoint => $"there is no such path; {NobodyListens}",
            SocketError.AddressNotAvailable => "the host has no such address; give one of its own",
            SocketError.ConnectionRefused => NobodyListens,
            SocketError.HostNotFound or SocketError.TryAgain or SocketError.NoData => "there is no such host; check its name",
            SocketError.AccessDenied => "the host does not allow this; give a port from 1024 on, or a path that you may write",
            _ => $"{e.Message}; check the address",
        },
        e);
}
