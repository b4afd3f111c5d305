// Servers inside the user-mode network that speak TCP (RFC 9293).
using System.Net;

namespace Sharpvisor.Backends.Net.User.Services;

/// <summary>A service of the network itself that speaks TCP. On the network's thread only.</summary>
internal interface IStreamService
{
    /// <summary>A guest has connected.</summary>
    /// <param name="owner">Is called from within the peer's methods as well.</param>
    /// <returns>Null: not now; the guest gets a reset.</returns>
    IStreamPeer? Accept(IPEndPoint from, IStreamOwner owner);
}
