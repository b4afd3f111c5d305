// What -netdev user says, as qemu(1) has it; beside that http= and limits.
using System.Net;
using Sharpvisor.Backends.Net.User.Services.Content;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User;

/// <summary>A user-mode network, as after <c>-netdev user,</c>.</summary>
public sealed record UserNetworkOptions
{
    /// <summary>An IPv4 network: address/prefix or address/mask.</summary>
    public string Network { get; init; } = "10.0.2.0/24";

    /// <summary>The gateway, behind which the host's loopback is; null: the network's second address.</summary>
    public IPAddress? Host { get; init; }

    /// <summary>The name server; null: the network's third address.</summary>
    public IPAddress? Dns { get; init; }

    /// <summary>The address that the first guest gets; null: the network's 15th.</summary>
    public IPAddress? DhcpStart { get; init; }

    /// <summary>Nothing leaves the network but by its services, <see cref="HostForwards"/> and <see cref="GuestForwards"/>.</summary>
    public bool Restrict { get; init; }

    public IReadOnlyList<HostForward> HostForwards { get; init; } = [];

    public IReadOnlyList<GuestForward> GuestForwards { get; init; } = [];

    /// <summary>The guest's name, by DHCP.</summary>
    public string? HostName { get; init; }

    /// <summary>The guest's domain, by DHCP.</summary>
    public string? DomainName { get; init; }

    /// <summary>Domains in which the guest looks up names, by DHCP.</summary>
    public IReadOnlyList<string> DnsSearch { get; init; } = [];

    /// <summary>A folder that TFTP serves.</summary>
    public string? TftpFolder { get; init; }

    /// <summary>The TFTP server's name, by DHCP.</summary>
    public string? TftpServerName { get; init; }

    /// <summary>What a boot ROM loads: a file of the TFTP server, or a URL.</summary>
    public string? BootFile { get; init; }

    /// <summary>A folder that HTTP serves.</summary>
    public string? HttpFolder { get; init; }

    /// <summary>What TFTP and HTTP serve, instead of folders: in memory, for example.</summary>
    public INamedContent? Files { get; init; }

    /// <summary>Data that may be on its way at a time, in bytes.</summary>
    public long PoolLimit { get; init; } = 64 << 20;

    /// <summary>Connections of the guest to the host at a time; some of the process's descriptors are left for everything else.</summary>
    public int MostSockets { get; init; } = Math.Max(16, HostLimits.OpenFiles - HostLimits.OpenFiles / 6 - 32);
}

/// <summary>hostfwd=[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport.</summary>
/// <param name="HostAddress">Null: all of the host's.</param>
/// <param name="HostPort">0: any that is free, see <see cref="UserNetwork.HostForwardPorts"/>.</param>
/// <param name="GuestAddress">Null: the first guest's.</param>
public sealed record HostForward(bool IsUdp, IPAddress? HostAddress, int HostPort, IPAddress? GuestAddress, int GuestPort);

/// <summary>guestfwd=tcp:server:port-tcp:host:port.</summary>
/// <param name="ServerAddress">In the network.</param>
/// <param name="Target">Of the host.</param>
public sealed record GuestForward(IPAddress ServerAddress, int ServerPort, IPEndPoint Target);
