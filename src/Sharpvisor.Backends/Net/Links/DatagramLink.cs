// A cable whose frames travel as datagrams, one in each: -netdev dgram, and -netdev socket with udp= or mcast=.
// Follows: QEMU's wire format, which is the frame and nothing else; IPv4 multicast (RFC 1112) joins any number of
// machines, of this host and others, to one segment; unix(7).
// Leaves out: IPv6, descriptors that are inherited. Whether anybody gets a datagram is not known; the other side's
// protocols take care of that.
using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.Links;

/// <summary>Does not care who sends: whatever arrives at its address is a frame.</summary>
public sealed class DatagramLink : LinkBackend, ISocketHandler
{
    private const int RetryMs = 100;
    private const int WantedBuffer = 1 << 20;

    private readonly PacketBuffer _packet = new();
    private readonly byte[] _in = GC.AllocateUninitializedArray<byte>(EthernetFrame.MaximumLength + 1); // one more tells of those that are longer
    private readonly Socket _receiving;
    private readonly IPv4EndPoint? _to; // null: the sending socket is connected
    private readonly IPv4EndPoint? _own; // what it sends to a group comes back
    private readonly UnixDomainSocketEndPoint? _unixPeer;
    private readonly int _receivingRegistration;
    private Socket? _sending;
    private int _sendingRegistration = -1;
    private bool _hasPacket, _mayRead = true, _mayWrite = true;
    private int _inLength = -1; // a frame for which the guest had no room
    private long _retryMs;

    private DatagramLink(string name, Socket receiving, Socket? sending, IPv4EndPoint? to, IPv4EndPoint? own, UnixDomainSocketEndPoint? unixPeer, ILogger logger)
        : base(name, logger)
    {
        (_receiving, _sending, _to, _own, _unixPeer) = (receiving, sending, to, own, unixPeer);
        receiving.Blocking = false;
        receiving.ReceiveBufferSize = WantedBuffer; // or as much as the host allows
        _receivingRegistration = Poller.Add(receiving, this);
        if (sending == receiving)
            _sendingRegistration = _receivingRegistration;
        else if (sending is not null)
            Watch(sending);
    }

    /// <summary>Where frames are awaited.</summary>
    public EndPoint LocalEndPoint => _receiving.LocalEndPoint!;

    /// <summary>While the host does not take a frame; in case that the poller does not tell about its end.</summary>
    private protected override int WaitMs => _hasPacket ? RetryMs : -1;

    /// <summary>Between two addresses.</summary>
    /// <exception cref="ConfigurationException">The local one can't be used.</exception>
    public static DatagramLink Udp(string name, IPEndPoint local, IPEndPoint remote, ILogger logger)
    {
        var socket = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        Bind(name, socket, local);
        return new DatagramLink(name, socket, socket, IPv4EndPoint.From(remote), null, null, logger);
    }

    /// <summary>Among all that have joined a group.</summary>
    /// <param name="interfaceAddress">The host's address on the network where the group is; null: the host chooses.</param>
    /// <exception cref="ConfigurationException">It can't be joined.</exception>
    public static DatagramLink Multicast(string name, IPEndPoint group, IPAddress? interfaceAddress, ILogger logger)
    {
        const int socketLevel = 1, reuseAddress = 2; // SOL_SOCKET, SO_REUSEADDR
        var receiving = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        // A socket of its own tells what comes back from what others send: they may be on this host, too.
        var sending = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        try
        {
            if (OperatingSystem.IsLinux())
                receiving.SetRawSocketOption(socketLevel, reuseAddress, [1, 0, 0, 0]); // what QEMU sets; .NET's sets SO_REUSEPORT, too
            else
                receiving.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.ReuseAddress, true);
            receiving.Bind(group);
            receiving.SetSocketOption(SocketOptionLevel.IP, SocketOptionName.AddMembership, interfaceAddress is null ? new MulticastOption(group.Address) : new MulticastOption(group.Address, interfaceAddress));
            if (interfaceAddress is not null)
                sending.SetSocketOption(SocketOptionLevel.IP, SocketOptionName.MulticastInterface, interfaceAddress.GetAddressBytes());
            sending.SetSocketOption(SocketOptionLevel.IP, SocketOptionName.MulticastLoopback, true);
            sending.Connect(group);
            return new DatagramLink(name, receiving, sending, null, IPv4EndPoint.From((IPEndPoint)sending.LocalEndPoint!), null, logger);
        }
        catch (SocketException e)
        {
            receiving.Dispose();
            sending.Dispose();
            throw LinkError.Make(name, group, e);
        }
    }

    /// <summary>Between two paths of the host. The other one may come later, go, and come again.</summary>
    /// <exception cref="ConfigurationException">The local path can't be used.</exception>
    public static DatagramLink Unix(string name, string localPath, string remotePath, ILogger logger)
    {
        var remote = UnixSocketPath.Parse(name, remotePath);
        var local = UnixSocketPath.Claim(name, localPath, SocketType.Dgram);
        var socket = new Socket(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        Bind(name, socket, local);
        return new DatagramLink(name, socket, null, null, null, remote, logger);
    }

    void ISocketHandler.OnSocketEvent(SocketEvents events)
    {
        // Of either socket: an attempt too many does no harm.
        _mayRead |= (events & (SocketEvents.Readable | SocketEvents.Failed)) != 0;
        _mayWrite |= (events & (SocketEvents.Writable | SocketEvents.Failed)) != 0;
    }

    private protected override bool Work()
    {
        var hasMore = Send();
        return Receive() || hasMore;
    }

    private protected override void Close()
    {
        _sending?.Dispose();
        _receiving.Dispose();
    }

    private static void Bind(string name, Socket socket, EndPoint local)
    {
        try
        {
            socket.Bind(local);
        }
        catch (SocketException e)
        {
            socket.Dispose();
            throw LinkError.Make(name, local, e);
        }
    }

    private void Watch(Socket sending)
    {
        sending.Blocking = false;
        _sendingRegistration = Poller.Add(sending, this);
    }

    private bool Send()
    {
        var isDue = Environment.TickCount64 >= _retryMs;
        for (var i = 0; i < AtOnce; i++)
        {
            if (_hasPacket && !_mayWrite && !isDue)
                return false;
            if (!_hasPacket && !TryTake(_packet))
                return false;
            _hasPacket = true;
            if (_sending is null && !(isDue && TryConnect()))
            {
                isDue = _hasPacket = false;
                CountDropped();
                continue;
            }

            var error = SendPacket();
            if (error == SocketError.WouldBlock)
            {
                _mayWrite = false;
                _retryMs = Environment.TickCount64 + RetryMs;
                Poller.Await(_sendingRegistration, SocketEvents.Writable);
                return false;
            }

            _hasPacket = false;
            _mayWrite = true;
            if (error == SocketError.Success)
                continue;
            // Nobody has that address, or the frame is longer than a datagram of the host's.
            CountDropped();
            if (_unixPeer is not null && error != SocketError.MessageSize)
                Disconnect();
        }

        return true;
    }

    private SocketError SendPacket()
    {
        SocketError error;
        if (_to is { } to)
            IPv4Socket.SendTo(_sending!, _packet.Frame, to, out error);
        else
            _sending!.Send(_packet.Frame, SocketFlags.None, out error);
        return error;
    }

    /// <summary>A connected socket becomes writable when the peer has read; one that names the peer each time does not.</summary>
    private bool TryConnect()
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        try
        {
            socket.Connect(_unixPeer!);
            Watch(socket);
            _sending = socket;
            return true;
        }
        catch (SocketException)
        {
            socket.Dispose();
            _retryMs = Environment.TickCount64 + RetryMs;
            return false;
        }
    }

    private void Disconnect()
    {
        Poller.Remove(_sendingRegistration);
        _sendingRegistration = -1;
        _sending!.Dispose();
        _sending = null;
        _retryMs = Environment.TickCount64 + RetryMs;
    }

    private bool Receive()
    {
        for (var i = 0; i < AtOnce; i++)
        {
            if (_inLength >= 0 && !TryGive(new EthernetFrame(_in.AsSpan(0, _inLength))))
                return false;
            _inLength = -1;
            if (!_mayRead)
                return false;
            var count = IPv4Socket.ReceiveFrom(_receiving, _in, out var from, out var error);
            if (error == SocketError.WouldBlock)
            {
                _mayRead = false;
                Poller.Await(_receivingRegistration, SocketEvents.Readable);
                return false;
            }

            // An error is about a datagram that was sent before.
            if (error == SocketError.Success && from != _own)
                _inLength = count;
        }

        return true;
    }
}
