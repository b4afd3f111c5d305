// The other side of a guest's TCP connection: the user's calls of RFC 9293, 3.9.1, as our TCP makes them.
namespace Sharpvisor.Backends.Net.User;

/// <summary>
/// What a TCP connection of the guest leads to: a socket of the host, or a service of the network itself (HTTP, a
/// guestfwd). On the network's thread only; nothing here waits.
/// </summary>
internal interface IStreamPeer : IDisposable
{
    /// <summary>Takes what the guest has sent, as much as there is room for now.</summary>
    /// <returns>How many bytes; fewer than given: <see cref="IStreamOwner.OnWritable"/> follows. -1: broken, the guest gets a reset.</returns>
    int Write(ReadOnlySpan<byte> data);

    /// <summary>The guest sends no more (its FIN).</summary>
    void EndOfInput();

    /// <summary>Gives bytes for the guest.</summary>
    /// <returns>How many; 0: none now, <see cref="IStreamOwner.OnReadable"/> follows; -1: none ever (FIN); -2: broken, the guest gets a reset.</returns>
    int Read(Span<byte> buffer);

    /// <summary>The guest reset the connection: the other side should see that, too.</summary>
    void Reset();
}

/// <summary>The connection that a peer belongs to.</summary>
internal interface IStreamOwner
{
    void OnReadable();

    void OnWritable();
}
