// A cable as a stream of bytes to another process: -netdev stream, and -netdev socket with listen= or connect=.
// Follows: QEMU's wire format: before each frame its length, 32 bits, the highest byte first. So the other side may be
// a QEMU, passt, or another machine of ours.
// As a server it has one peer at a time, and takes the next one when that has gone.
// Leaves out: virtio_net_hdr before frames, descriptors that are inherited, vsock.
using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.Links;

/// <summary>Many frames go out, and come in, by one call of the host.</summary>
public sealed class StreamLink : LinkBackend, ISocketHandler
{
    private const int LengthSize = 4, LongestRecord = LengthSize + EthernetFrame.MaximumLength;
    private const int BufferSize = 256 << 10;

    private readonly PacketBuffer _packet = new();
    private readonly byte[] _out = GC.AllocateUninitializedArray<byte>(BufferSize), _in = GC.AllocateUninitializedArray<byte>(BufferSize);
    private readonly CancellationTokenSource _ended = new();
    private readonly EndPoint _end;
    private readonly TimeSpan? _reconnect;
    private readonly Socket? _listener;
    private Socket? _peer;
    private Task<Socket?>? _connecting;
    private long _connectDueMs = long.MaxValue;
    private int _registration;
    private int _outStart, _outEnd; // records; the first one begins at 0
    private int _inStart, _inEnd; // what has come and not gone to the guest
    private bool _mayAccept = true, _mayRead, _mayWrite;

    private StreamLink(string name, EndPoint end, Socket? listener, Socket? peer, TimeSpan? reconnect, ILogger logger) : base(name, logger)
    {
        (_end, _listener, _reconnect) = (end, listener, reconnect);
        if (listener is not null)
            Poller.Add(listener, new Accepting(this));
        if (peer is not null)
            Begin(peer);
        else if (reconnect is not null)
            _connectDueMs = 0;
    }

    /// <summary>Where a server listens: its port may have been chosen by the host.</summary>
    public EndPoint? LocalEndPoint => _listener?.LocalEndPoint;

    /// <summary>Whether somebody has the other end. Any thread.</summary>
    public bool IsConnected => Volatile.Read(ref _peer) is not null;

    private protected override int WaitMs => _connectDueMs == long.MaxValue ? -1 : (int)Math.Clamp(_connectDueMs - Environment.TickCount64, 0, int.MaxValue);

    /// <summary>Waits for a peer, while the machine runs.</summary>
    /// <param name="end">A <see cref="UnixDomainSocketEndPoint"/>, whose path must be free, an <see cref="IPEndPoint"/> or a <see cref="DnsEndPoint"/>.</param>
    /// <exception cref="ConfigurationException">It can't listen there.</exception>
    public static StreamLink Listen(string name, EndPoint end, ILogger logger)
    {
        Socket? listener = null;
        try
        {
            if (end is UnixDomainSocketEndPoint)
                end = UnixSocketPath.Claim(name, end.ToString()!);
            else if (end is DnsEndPoint host)
                end = new IPEndPoint(Dns.GetHostAddresses(host.Host).OrderBy(a => a.AddressFamily).First(), host.Port);
            listener = Create(end);
            listener.Bind(end);
            listener.Listen(1);
            listener.Blocking = false;
            return new StreamLink(name, end, listener, null, null, logger);
        }
        catch (SocketException e)
        {
            listener?.Dispose();
            throw LinkError.Make(name, end, e);
        }
    }

    /// <summary>Connects to a peer.</summary>
    /// <param name="reconnect">How long after a failure, or the end of a connection, it tries again. Null: not at all; the peer must be there now.</param>
    /// <exception cref="ConfigurationException">The peer is not there.</exception>
    public static StreamLink Connect(string name, EndPoint end, TimeSpan? reconnect, ILogger logger)
    {
        if (reconnect is not null)
            return new StreamLink(name, end, null, null, reconnect, logger);
        var peer = Create(end);
        try
        {
            peer.Connect(end);
            return new StreamLink(name, end, null, peer, null, logger);
        }
        catch (SocketException e)
        {
            peer.Dispose();
            throw LinkError.Make(name, end, e);
        }
    }

    void ISocketHandler.OnSocketEvent(SocketEvents events)
    {
        _mayRead |= (events & (SocketEvents.Readable | SocketEvents.Failed)) != 0;
        _mayWrite |= (events & (SocketEvents.Writable | SocketEvents.Failed)) != 0;
    }

    private protected override bool Work()
    {
        if (_peer is null)
            FindPeer();
        if (_peer is null)
            return DropFrames() || (_listener is not null && _mayAccept);
        var hasMore = Send();
        return Receive() || hasMore;
    }

    private protected override void Close()
    {
        _ended.Cancel();
        _listener?.Dispose();
        _peer?.Dispose();
        _connecting?.ContinueWith(t => t.Result?.Dispose(), CancellationToken.None, TaskContinuationOptions.OnlyOnRanToCompletion, TaskScheduler.Default);
    }

    private static Socket Create(EndPoint end) => end switch
    {
        UnixDomainSocketEndPoint => new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified),
        IPEndPoint ip => new Socket(ip.AddressFamily, SocketType.Stream, ProtocolType.Tcp),
        _ => new Socket(SocketType.Stream, ProtocolType.Tcp),
    };

    private void FindPeer()
    {
        if (_listener is not null && _mayAccept)
        {
            if (_listener.Poll(0, SelectMode.SelectRead))
                TryAccept();
            else
                _mayAccept = false;
        }
        else if (_connecting is { IsCompleted: true } done)
        {
            _connecting = null;
            if (done.Result is { } peer)
                Begin(peer);
            else
                _connectDueMs = Environment.TickCount64 + (long)_reconnect!.Value.TotalMilliseconds;
        }
        else if (_connecting is null && Environment.TickCount64 >= _connectDueMs)
        {
            _connectDueMs = long.MaxValue;
            _connecting = TryConnectAsync(_ended.Token);
            _connecting.ContinueWith(_ => Poller.Wake(), CancellationToken.None, TaskContinuationOptions.None, TaskScheduler.Default);
        }
    }

    private void TryAccept()
    {
        try
        {
            Begin(_listener!.Accept());
        }
        catch (SocketException)
        {
            _mayAccept = false; // it has gone again already, or the host has no descriptor left
        }
    }

    private async Task<Socket?> TryConnectAsync(CancellationToken cancellation)
    {
        var socket = Create(_end);
        try
        {
            await socket.ConnectAsync(_end, cancellation).ConfigureAwait(false);
            return socket;
        }
        catch (Exception e) when (e is SocketException or OperationCanceledException)
        {
            socket.Dispose();
            return null;
        }
    }

    private void Begin(Socket peer)
    {
        peer.Blocking = false;
        if (peer.ProtocolType == ProtocolType.Tcp)
            peer.NoDelay = true;
        _outStart = _outEnd = _inStart = _inEnd = 0;
        _mayRead = _mayWrite = true;
        _registration = Poller.Add(peer, this);
        Volatile.Write(ref _peer, peer);
        Logger.LogInformation("{Link}: connected", Name);
    }

    private void End(string why)
    {
        for (var at = 0; at < _outEnd; at += LengthSize + BinaryPrimitives.ReadInt32BigEndian(_out.AsSpan(at)))
        {
            if (at + LengthSize + BinaryPrimitives.ReadInt32BigEndian(_out.AsSpan(at)) > _outStart)
                CountDropped();
        }

        _outStart = _outEnd = 0;
        Poller.Remove(_registration);
        _peer!.Dispose();
        Volatile.Write(ref _peer, null);
        _mayAccept = true;
        if (_reconnect is { } delay)
            _connectDueMs = Environment.TickCount64 + (long)delay.TotalMilliseconds;
        Logger.LogWarning("{Link}: {Reason}{Next}", Name, why, _listener is not null ? "; waits for the next one" : _reconnect is not null ? "; connects again" : "; the guest's frames are dropped");
    }

    /// <summary>As on a cable that is plugged into nothing.</summary>
    private bool DropFrames()
    {
        for (var i = 0; i < AtOnce && TryTake(_packet); i++)
            CountDropped();
        return MayTake;
    }

    private bool Send()
    {
        for (var i = 0; i < AtOnce; i++)
        {
            if (!_mayWrite || (_outStart == _outEnd && !Fill()))
                return false;
            var count = _peer!.Send(_out.AsSpan(_outStart, _outEnd - _outStart), SocketFlags.None, out var error);
            switch (error)
            {
                case SocketError.Success:
                    _outStart += count;
                    break;
                case SocketError.WouldBlock:
                    _mayWrite = false;
                    Poller.Await(_registration, SocketEvents.Writable);
                    return false;
                default:
                    End($"the connection has ended ({error})");
                    return true;
            }
        }

        return true;
    }

    /// <summary>Collects what the guest has to send; false: nothing.</summary>
    private bool Fill()
    {
        _outStart = _outEnd = 0;
        while (_outEnd + LongestRecord <= BufferSize && TryTake(_packet))
        {
            BinaryPrimitives.WriteInt32BigEndian(_out.AsSpan(_outEnd), _packet.Length);
            _packet.Frame.CopyTo(_out.AsSpan(_outEnd + LengthSize));
            _outEnd += LengthSize + _packet.Length;
        }

        return _outEnd > 0;
    }

    private bool Receive()
    {
        for (var i = 0; i < AtOnce && _peer is not null; i++)
        {
            if (!Deliver())
                return _peer is null;
            if (!_mayRead)
                return false;
            // What is left is less than a record.
            _in.AsSpan(_inStart, _inEnd - _inStart).CopyTo(_in);
            (_inStart, _inEnd) = (0, _inEnd - _inStart);
            var count = _peer.Receive(_in.AsSpan(_inEnd), SocketFlags.None, out var error);
            switch (error)
            {
                case SocketError.Success when count > 0:
                    _inEnd += count;
                    break;
                case SocketError.WouldBlock:
                    _mayRead = false;
                    Poller.Await(_registration, SocketEvents.Readable);
                    return false;
                default:
                    End(error == SocketError.Success ? "the other side has gone" : $"the connection has ended ({error})");
                    return true;
            }
        }

        return true;
    }

    /// <summary>Gives the guest the whole frames that are there; false: it has no room, or they are none.</summary>
    private bool Deliver()
    {
        while (_inEnd - _inStart >= LengthSize)
        {
            var length = BinaryPrimitives.ReadUInt32BigEndian(_in.AsSpan(_inStart));
            if (length > EthernetFrame.MaximumLength)
            {
                // Whatever follows, it can't be told where the next frame begins.
                CountDropped();
                End($"the other side sends a frame of {length} bytes, which can't be");
                return false;
            }

            if (_inEnd - _inStart - LengthSize < length)
                break;
            if (!TryGive(new EthernetFrame(_in.AsSpan(_inStart + LengthSize, (int)length))))
                return false;
            _inStart += LengthSize + (int)length;
        }

        return true;
    }

    private sealed class Accepting(StreamLink link) : ISocketHandler
    {
        public void OnSocketEvent(SocketEvents events) => link._mayAccept = true;
    }
}
