using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Net.User.Ip;
using Sharpvisor.Backends.Net.User.Services.Content;
using Sharpvisor.Backends.Net.User.Services.Dhcp;
using Sharpvisor.Backends.Net.User.Services.Dns;
using Sharpvisor.Backends.Net.User.Services.Http;
using Sharpvisor.Backends.Net.User.Services.Tftp;
using Sharpvisor.Backends.Net.User.Tcp;
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
            Reserved = [host, dns],
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
        _dns = new DnsForwarder(new ResolvConf(), new SocketWatch(network.Loop));
        if (!options.Restrict)
        {
            network.AddUdpService(dns, DnsForwarder.Port, _dns);
            if (_dns.StreamResolver is { AddressFamily: AddressFamily.InterNetwork } resolver)
                network.Tcp.AddGuestForward(IPv4EndPoint.From(new IPEndPoint(dns, DnsForwarder.Port)), IPv4EndPoint.From(resolver));
        }

        if (files is not null)
        {
            _tftp = new TftpService(files, host, dhcp.Mtu, logger);
            network.AddUdpService(host, TftpService.Port, _tftp);
        }

        if (pages is null)
            return;
        var http = new HttpService(pages, logger);
        network.AddStreamService(host, HttpService.Port, owner => http.Accept(((TcpConnection)owner).Flow.Guest, owner) ?? new RefusingPeer());
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

    /// <summary>The guest's connection is reset: the service has too many.</summary>
    private sealed class RefusingPeer : IStreamPeer
    {
        public int Write(ReadOnlySpan<byte> data) => -1;

        public void EndOfInput()
        {
        }

        public int Read(Span<byte> buffer) => -2;

        public void Reset()
        {
        }

        public void Dispose()
        {
        }
    }

    /// <summary>Calls services back on the network's thread for as long as there is something to read.</summary>
    private sealed class SocketWatch(NetworkLoop loop) : ISocketWatch
    {
        private readonly Dictionary<Socket, Watched> _watched = [];

        public void Watch(Socket socket, Action onReadable)
        {
            var watched = new Watched(loop, socket, onReadable);
            watched.Registration = loop.Poller.Add(socket, watched);
            _watched.Add(socket, watched);
        }

        public void Unwatch(Socket socket)
        {
            if (!_watched.Remove(socket, out var watched))
                return;
            watched.IsOver = true;
            loop.Poller.Remove(watched.Registration);
        }
    }

    private sealed class Watched(NetworkLoop loop, Socket socket, Action onReadable) : NetworkTask, ISocketHandler
    {
        public int Registration { get; set; }

        public bool IsOver { get; set; }

        public void OnSocketEvent(SocketEvents events) => loop.Schedule(this);

        public override void Work()
        {
            if (IsOver)
                return;
            onReadable();
            if (IsOver)
                return;
            if (socket.Poll(0, SelectMode.SelectRead))
                loop.Schedule(this);
            else
                loop.Poller.Await(Registration, SocketEvents.Readable);
        }

        public override void OnTime(long nowMs)
        {
        }
    }
}
