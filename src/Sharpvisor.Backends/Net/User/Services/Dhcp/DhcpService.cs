// The DHCP server of the user-mode network, and BOOTP's for clients without the message type option.
// Follows: RFC 2131 (DHCP), RFC 2132 (options), RFC 951 and RFC 1534 (BOOTP), RFC 3396 (long options), RFC 3397 (domain
// search), RFC 4578 (PXE), RFC 6842 (the client identifier is sent back), UEFI 2.10 24.7.3 (HTTP boot).
// Like QEMU's it answers with all that it knows, whatever the client's list of parameters says, so that boot ROMs with an
// odd list work; what QEMU does not send (MTU, broadcast address, boot file as an option) only to those that ask.
// Leaves out: relay agents (a request that came through one is dropped), option overload, authentication, a test whether
// an address is in use, a PXE boot menu (a PXE client takes the boot file from the DHCP answer, without option 60).
using System.Net;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.User.Services.Dhcp;

internal sealed class DhcpService : IUdpService
{
    public const int Port = 67;

    private const int ClientPort = 68, HeadersLength = 28; // of IP and UDP
    private const int EveryClientTakes = 576, LongestMessage = 1500; // of a datagram (RFC 2131, 2)
    private const long OfferMs = 60_000, DeclinedMs = 600_000;

    private readonly DhcpSettings _settings;
    private readonly DhcpLeases _leases;
    private readonly RequestLog _log;
    private readonly Func<long> _nowMs;
    private readonly IPEndPoint _server;
    private readonly uint _serverNumber;
    private readonly byte[] _domainSearch;
    private readonly byte[] _buffer = new byte[LongestMessage];

    /// <param name="nowMs">The clock; for tests.</param>
    /// <exception cref="ConfigurationException">A setting that can't be told to a guest.</exception>
    public DhcpService(DhcpSettings settings, ILogger logger, Func<long>? nowMs = null)
    {
        settings.Check();
        _settings = settings;
        _leases = new DhcpLeases(settings);
        _nowMs = nowMs ?? (() => Environment.TickCount64);
        _log = new RequestLog(logger, "dhcp", _nowMs);
        _server = new IPEndPoint(settings.Server, Port);
        _serverNumber = IPv4EndPoint.ToUInt32(settings.Server);
        _domainSearch = DomainSearchList.Encode(settings.DomainSearch);
    }

    public long NextDeadlineMs => long.MaxValue;

    public void OnDatagram(IPEndPoint from, IPEndPoint to, ReadOnlySpan<byte> data, IUdpSender sender)
    {
        if (!DhcpRequest.TryRead(data, out var request) || request.RelayAddress != 0)
            return;
        switch (request.Type)
        {
            case DhcpMessageType.Discover:
                Offer(request, sender);
                break;
            case DhcpMessageType.Request:
                Grant(request, sender);
                break;
            case DhcpMessageType.Bootp:
                GrantBootp(request, sender);
                break;
            case DhcpMessageType.Decline:
                if (_leases.Decline(request.Mac, request.RequestedAddress, _nowMs() + DeclinedMs))
                    _log.Write($"{IPv4EndPoint.ToIPAddress(request.RequestedAddress)} is in use by somebody else, says {request.Mac}");
                break;
            case DhcpMessageType.Release:
                if (_leases.Release(request.Mac, request.ClientAddress, _nowMs()))
                    _log.Write($"{IPv4EndPoint.ToIPAddress(request.ClientAddress)} released by {request.Mac}");
                break;
            case DhcpMessageType.Inform when request.ClientAddress != 0:
                Answer(request, DhcpMessageType.Ack, 0, sender);
                break;
        }
    }

    public void OnTime(long nowMs, IUdpSender sender)
    {
        // Leases that have ended are found when somebody needs an address.
    }

    private void Offer(in DhcpRequest request, IUdpSender sender)
    {
        var now = _nowMs();
        var address = _leases.Choose(request.Mac, request.RequestedAddress, now);
        if (address == 0)
        {
            _log.Write($"no address left for {request.Mac}");
            return;
        }

        _leases.Offer(request.Mac, address, now + OfferMs);
        Answer(request, DhcpMessageType.Offer, address, sender);
    }

    private void Grant(in DhcpRequest request, IUdpSender sender)
    {
        var now = _nowMs();
        if (request.ServerIdentifier != 0 && request.ServerIdentifier != _serverNumber)
            return; // it chose another server; the offer ends by itself
        var wanted = request.RequestedAddress != 0 ? request.RequestedAddress : request.ClientAddress;
        // Windows may say neither; it means the address that it has had.
        var address = wanted != 0 ? wanted : _leases.Choose(request.Mac, 0, now);
        // A client that this server does not know has been here before the machine was started anew: it gets what is free.
        if (!_leases.CanTake(request.Mac, address, now))
        {
            _log.Write($"{IPv4EndPoint.ToIPAddress(address)} refused to {request.Mac}");
            Refuse(request, sender);
            return;
        }

        _leases.Take(request.Mac, address, now + (long)_settings.LeaseTime.TotalMilliseconds);
        LogLease(request, address, "leased");
        Answer(request, DhcpMessageType.Ack, address, sender);
    }

    /// <summary>BOOTP knows no leases: the address is the client's until others need it.</summary>
    private void GrantBootp(in DhcpRequest request, IUdpSender sender)
    {
        var now = _nowMs();
        var address = _leases.Choose(request.Mac, request.ClientAddress, now);
        if (address == 0)
            return;
        _leases.Take(request.Mac, address, now + (long)_settings.LeaseTime.TotalMilliseconds);
        LogLease(request, address, "given by BOOTP");
        Answer(request, DhcpMessageType.Bootp, address, sender);
    }

    private void LogLease(in DhcpRequest request, uint address, string how)
    {
        var vendor = request.VendorClass.IsEmpty ? "" : $" ({request.VendorText})";
        var boot = BootFileFor(request) is { } file ? $", boot file {RequestLog.Clean(file)}" : "";
        _log.Write($"{IPv4EndPoint.ToIPAddress(address)} {how} to {request.Mac}{vendor}{boot}");
    }

    private string? BootFileFor(in DhcpRequest request) => request.IsHttpClient ? _settings.BootUrl : _settings.BootFile;

    /// <param name="address">0: it has one.</param>
    private void Answer(in DhcpRequest request, DhcpMessageType type, uint address, IUdpSender sender)
    {
        var reply = new DhcpReply(RoomFor(request), request)
        {
            YourAddress = address,
            NextServer = IPv4EndPoint.ToUInt32(_settings.NextServer ?? _settings.Server),
        };
        if (type == DhcpMessageType.Ack)
            reply.ClientAddress = request.ClientAddress;
        var file = BootFileFor(request);
        var fits = file is null || reply.TrySetFile(file);
        var complete = AddMessage(ref reply, request, type, address != 0) & AddNetwork(ref reply, request) & AddBoot(ref reply, request, file, fits);
        if (!complete)
            _log.Write($"options that {request.Mac} has no room for were left out");
        Send(request, reply.Finish(), request.ClientAddress != 0 ? request.ClientAddress : address, sender);
    }

    private bool AddMessage(ref DhcpReply reply, in DhcpRequest request, DhcpMessageType type, bool isLease)
    {
        if (type == DhcpMessageType.Bootp)
            return true;
        var complete = reply.TryAdd(DhcpOption.MessageType, [(byte)type]) & reply.TryAdd(DhcpOption.ServerIdentifier, _serverNumber);
        if (isLease)
        {
            var seconds = (uint)_settings.LeaseTime.TotalSeconds;
            complete &= reply.TryAdd(DhcpOption.LeaseTime, seconds);
            if (request.Asks(DhcpOption.RenewalTime))
                complete &= reply.TryAdd(DhcpOption.RenewalTime, seconds / 2);
            if (request.Asks(DhcpOption.RebindingTime))
                complete &= reply.TryAdd(DhcpOption.RebindingTime, (uint)(seconds * 7UL / 8));
        }

        return complete & AddIdentifiers(ref reply, request);
    }

    /// <summary>Who several clients in one machine are told apart by.</summary>
    private static bool AddIdentifiers(ref DhcpReply reply, in DhcpRequest request) =>
        (request.ClientIdentifier.IsEmpty || reply.TryAdd(DhcpOption.ClientIdentifier, request.ClientIdentifier)) &
        (request.MachineIdentifier.IsEmpty || reply.TryAdd(DhcpOption.MachineIdentifier, request.MachineIdentifier));

    private bool AddNetwork(ref DhcpReply reply, in DhcpRequest request)
    {
        var mask = IPv4EndPoint.ToUInt32(_settings.Mask);
        var complete = reply.TryAdd(DhcpOption.SubnetMask, mask);
        if (_settings.Router is { } router)
            complete &= reply.TryAdd(DhcpOption.Router, IPv4EndPoint.ToUInt32(router));
        if (_settings.Dns is { } dns)
            complete &= reply.TryAdd(DhcpOption.DomainNameServer, IPv4EndPoint.ToUInt32(dns));
        if (_settings.HostName is { } host)
            complete &= reply.TryAdd(DhcpOption.HostName, host);
        if (_settings.DomainName is { } domain)
            complete &= reply.TryAdd(DhcpOption.DomainName, domain);
        if (request.Asks(DhcpOption.BroadcastAddress))
            complete &= reply.TryAdd(DhcpOption.BroadcastAddress, _serverNumber | ~mask);
        if (request.Asks(DhcpOption.InterfaceMtu))
            complete &= reply.TryAdd(DhcpOption.InterfaceMtu, [(byte)(_settings.Mtu >> 8), (byte)_settings.Mtu]);
        return complete & (_domainSearch.Length == 0 || reply.TryAdd(DhcpOption.DomainSearch, _domainSearch));
    }

    /// <param name="isInField">It has been told already.</param>
    private bool AddBoot(ref DhcpReply reply, in DhcpRequest request, string? file, bool isInField)
    {
        var complete = true;
        if (file is not null && (!isInField || request.Asks(DhcpOption.BootFile)))
            complete = reply.TryAdd(DhcpOption.BootFile, file);
        // Firmware that boots by HTTP listens only to those who say that they know what that is.
        if (file is not null && request.IsHttpClient)
            complete &= reply.TryAdd(DhcpOption.VendorClass, "HTTPClient"u8);
        return complete & (_settings.TftpServerName is not { } name || reply.TryAdd(DhcpOption.TftpServerName, name));
    }

    private void Refuse(in DhcpRequest request, IUdpSender sender)
    {
        var reply = new DhcpReply(RoomFor(request), request);
        reply.TryAdd(DhcpOption.MessageType, [(byte)DhcpMessageType.Nak]);
        reply.TryAdd(DhcpOption.ServerIdentifier, _serverNumber);
        reply.TryAdd(DhcpOption.Message, "the address is not free here"u8);
        AddIdentifiers(ref reply, request);
        Send(request, reply.Finish(), 0, sender); // to all: the client may believe that it has any address
    }

    /// <summary>As much as the client takes: BOOTP's as much as it sent.</summary>
    private Span<byte> RoomFor(in DhcpRequest request)
    {
        var longest = Math.Clamp(_settings.Mtu, EveryClientTakes, LongestMessage);
        var length = request.Type == DhcpMessageType.Bootp
            ? Math.Clamp(request.Length, DhcpReply.ShortestLength, longest - HeadersLength)
            : Math.Clamp(request.MaximumMessageSize, EveryClientTakes, longest) - HeadersLength;
        return _buffer.AsSpan(0, length);
    }

    /// <summary>To the address that the client has or gets, by its Ethernet address, since it can't answer ARP; or to all.</summary>
    private void Send(in DhcpRequest request, ReadOnlySpan<byte> reply, uint address, IUdpSender sender)
    {
        var toAll = address == 0 || (request.WantsBroadcast && request.ClientAddress == 0);
        var to = new IPEndPoint(toAll ? IPAddress.Broadcast : IPv4EndPoint.ToIPAddress(address), ClientPort);
        sender.Send(_server, to, reply, toAll ? MacAddress.Broadcast : request.Mac);
    }
}
