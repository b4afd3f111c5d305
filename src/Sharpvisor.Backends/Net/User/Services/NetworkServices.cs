// Puts DHCP, TFTP, DNS and HTTP into a user-mode network; which addresses they have is slirp's choice.
using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Net.User.Services.Content;
using Sharpvisor.Backends.Net.User.Services.Dhcp;
using Sharpvisor.Backends.Net.User.Services.Dns;
using Sharpvisor.Backends.Net.User.Services.Http;
using Sharpvisor.Backends.Net.User.Services.Tftp;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User.Services;

/// <summary>What a user-mode network offers by itself: addresses, names, and files to boot from.</summary>
internal sealed class NetworkServices : IDisposable
{
    private readonly DnsForwarder _dns;
    private readonly TftpService? _tftp;

    /// <exception cref="ConfigurationException">A folder that is not there, or a text that does not fit into DHCP.</exception>
    public NetworkServices(UserNetwork network, ILogger logger)
    {
        var (options, addresses) = (network.Options, network.Addresses);
        var (host, dns) = (IPv4EndPoint.ToIPAddress(addresses.Host), IPv4EndPoint.ToIPAddress(addresses.Dns));
        var files = options.Files ?? Folder("tftp", options.TftpFolder);
        var pages = options.Files ?? Folder("http", options.HttpFolder);
        var dhcp = new DhcpSettings
        {
            Server = host,
            Mask = IPv4EndPoint.ToIPAddress(addresses.Mask),
            First = IPv4EndPoint.ToIPAddress(addresses.FirstGuest),
            Reserved = [host, dns, .. options.GuestForwards.Select(f => f.ServerAddress)],
            Router = options.Restrict ? null : host,
            Dns = options.Restrict ? null : dns,
            NextServer = host,
            HostName = options.HostName,
            DomainName = options.DomainName,
            DomainSearch = options.DnsSearch,
            TftpServerName = options.TftpServerName,
            BootFile = options.BootFile,
            HttpServer = pages is null ? null : new IPEndPoint(host, HttpService.Port),
        };
        dhcp.Check();
        network.AddUdpService(host, DhcpService.Port, new DhcpService(dhcp, logger));
        _dns = new DnsForwarder(new ResolvConf(), network.SocketWatch);
        if (!options.Restrict)
        {
            network.AddUdpService(dns, DnsForwarder.Port, _dns);
            // What was too long for a datagram: to whoever answered last.
            network.Tcp.AddGuestForward(
                new IPv4EndPoint(addresses.Dns, DnsForwarder.Port),
                () => _dns.StreamResolver is { AddressFamily: AddressFamily.InterNetwork } resolver ? IPv4EndPoint.From(resolver) : null);
        }

        if (files is not null)
        {
            _tftp = new TftpService(files, host, dhcp.Mtu, logger);
            network.AddUdpService(host, TftpService.Port, _tftp);
        }

        if (pages is not null)
            network.AddStreamService(host, HttpService.Port, new HttpService(pages, logger));
    }

    public void Dispose()
    {
        _dns.Dispose();
        _tftp?.Dispose();
    }

    private static FolderContent? Folder(string option, string? path)
    {
        if (path is null)
            return null;
        return Directory.Exists(path) ? new FolderContent(path) : throw new ConfigurationException($"{option}={path}: no such folder; give one");
    }
}
