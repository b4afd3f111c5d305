// Servers inside the user-mode network that speak UDP (RFC 768).
using System.Net;

namespace Sharpvisor.Backends.Net.User;

/// <summary>A service of the network itself that speaks UDP: DHCP, TFTP, DNS. On the network's thread only.</summary>
internal interface IUdpService
{
    /// <summary>A datagram came for the service.</summary>
    /// <param name="to">Where it was sent to: an address of the service or a broadcast address.</param>
    void OnDatagram(IPEndPoint from, IPEndPoint to, ReadOnlySpan<byte> data, IUdpSender sender);

    /// <summary>Whether a port of the service's address, besides the one that it is registered for, is its own for now: TFTP's transfers have one each.</summary>
    bool HasPort(int port) => false;

    /// <summary>When <see cref="OnTime"/> is to be called, on the clock of <see cref="Environment.TickCount64"/>; <see cref="long.MaxValue"/>: never.</summary>
    long NextDeadlineMs { get; }

    /// <summary>The deadline has come: what is to be sent again, or is too old to be kept.</summary>
    void OnTime(long nowMs, IUdpSender sender);
}

/// <summary>Sends datagrams to the guest, from addresses of the network.</summary>
internal interface IUdpSender
{
    /// <param name="toAddress">Its Ethernet address, where ARP can't tell yet; null: ARP's.</param>
    void Send(IPEndPoint from, IPEndPoint to, ReadOnlySpan<byte> data, Core.Net.MacAddress? toAddress = null);
}
