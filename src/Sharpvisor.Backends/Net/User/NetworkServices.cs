using System.Net;
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Net.User.Services.Dhcp;
using Sharpvisor.Backends.Net.User.Services.Dns;
using Sharpvisor.Backends.Net.User.Services.Http;
using Sharpvisor.Backends.Net.User.Services.Tftp;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User;

/// <summary>Who sits where in a network: DHCP, TFTP and HTTP at the gateway's address, DNS at its own.</summary>
internal sealed class NetworkServices : IDisposable
{
    private const int DnsPort = DnsForwarder.Port;

    private readonly DnsForwarder? _dns;
    private readonly TftpService? _tftp;

    /// <exception cref="Core.Guests.ConfigurationException">An option that can't be told to a guest.</exception>
    public NetworkServices(UserNetwork network, ILogger logger)
    {
        var (options, addresses) = (network.Options, network.Addresses);
        var host = IPv4EndPoint.ToIPAddress(addresses.Host);
        var dns = IPv4EndPoint.ToIPAddress(addresses.Dns);
        network.AddUdpService(
            host,
            DhcpService.Port,
            new DhcpService(
                new DhcpSettings
                {
                    Server = host,
                    Mask = IPv4EndPoint.ToIPAddress(addresses.Mask),
                    First = IPv4EndPoint.ToIPAddress(addresses.FirstGuest),
                    Reserved = [host, dns, .. options.GuestForwards.Select(f => f.ServerAddress)],
                    // Under restrict the guest is not told of ways that lead nowhere.
                    Router = options.Restrict ? null : host,
                    Dns = options.Restrict ? null : dns,
                    NextServer = host,
                    HostName = options.HostName,
                    DomainName = options.DomainName,
                    DomainSearch = options.DnsSearch,
                    TftpServerName = options.TftpServerName,
                    BootFile = options.BootFile,
                    HttpServer = options.Http is null ? null : new IPEndPoint(host, HttpService.Port),
                },
                logger));
        if (options.Tftp is not null)
            network.AddUdpService(host, TftpService.Port, _tftp = new TftpService(options.Tftp, host, Ip.Ipv4Sender.MaximumUnit, logger));
        if (options.Http is not null)
            network.AddStreamService(host, HttpService.Port, new HttpService(options.Http, logger));
        if (options.Restrict)
            return; // a name can carry data out
        _dns = new DnsForwarder(new ResolvConf(), network.SocketWatch);
        network.AddUdpService(dns, DnsPort, _dns);
        network.Tcp.AddGuestForward(
            new IPv4EndPoint(addresses.Dns, DnsPort),
            () => _dns.StreamResolver is { AddressFamily: System.Net.Sockets.AddressFamily.InterNetwork } resolver ? IPv4EndPoint.From(resolver) : null);
    }

    public void Dispose()
    {
        _dns?.Dispose();
        _tftp?.Dispose();
    }
}
