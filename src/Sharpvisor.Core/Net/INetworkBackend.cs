namespace Sharpvisor.Core.Net;

/// <summary>
/// The host end of a network cable: a user-mode network, a tap, a link to another machine, a hub. It drives the cable:
/// on its own thread it takes what the guest wants to send, and gives it what has come.
/// </summary>
public interface INetworkBackend : IAsyncDisposable
{
    /// <summary>For messages: "user", "tap:tap0".</summary>
    string Name { get; }

    /// <summary>
    /// Takes frames whose checksum is still to be made and segments that are still to be cut (<see cref="FrameOffload"/>).
    /// Without it the device has the guest do both.
    /// </summary>
    bool TakesOffloads { get; }

    /// <summary>Connects the device. Called once, before the machine starts.</summary>
    void Attach(INetworkDevice device);

    /// <summary>The guest has something to send, after a <see cref="INetworkDevice.TryTransmit"/> that found nothing. Only wakes the backend's thread: the gate may be held.</summary>
    void OnTransmitReady();

    /// <summary>The guest has room again, after a <see cref="INetworkDevice.TryReceive"/> that found none. Only wakes the backend's thread: the gate may be held.</summary>
    void OnReceiveReady();
}

/// <summary>The guest end of a network cable: a NIC. Called by the backend's thread, without locks; takes the machine's gate itself.</summary>
public interface INetworkDevice
{
    /// <summary>The address that the host gave it; a guest may choose another.</summary>
    MacAddress Address { get; }

    /// <summary>What may be given to the guest unfinished.</summary>
    ReceiveOffloads ReceiveOffloads { get; }

    /// <summary>Takes the next frame that the guest sends.</summary>
    /// <param name="packet">Is overwritten.</param>
    /// <returns>False: there is none; <see cref="INetworkBackend.OnTransmitReady"/> follows.</returns>
    bool TryTransmit(PacketBuffer packet);

    /// <summary>Gives the guest a frame. One that it does not want (another address, link down, too long) counts as given.</summary>
    /// <returns>False: no room; <see cref="INetworkBackend.OnReceiveReady"/> follows.</returns>
    bool TryReceive(in EthernetFrame frame);
}

/// <summary>What a guest accepts unfinished.</summary>
/// <param name="Checksum">TCP and UDP checksums that cover the pseudo header only.</param>
/// <param name="Tcp4">TCP segments over IPv4 that are longer than the MTU.</param>
/// <param name="Tcp6">The same over IPv6.</param>
public readonly record struct ReceiveOffloads(bool Checksum, bool Tcp4, bool Tcp6);
