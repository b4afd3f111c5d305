using System.Diagnostics;
using System.Net;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.User;

/// <summary>A guest's network stack, on the thread of the test: what comes, goes to connections or into a list.</summary>
internal sealed class GuestStack : IAsyncDisposable
{
    public static readonly IPAddress Address = IPAddress.Parse("10.0.2.15"), Gateway = IPAddress.Parse("10.0.2.2");

    private readonly Dictionary<(int Port, IPEndPoint Remote), GuestTcp> _connections = [];
    private readonly Random _random;
    private Exception? _fault;
    private byte[]? _heldBack;
    private ushort _nextPort = 20000;

    public GuestStack(UserNetworkOptions? options = null, ReceiveOffloads offloads = default, int seed = 1, SocketPoller? poller = null, ILogger? logger = null, Action<UserNetwork>? prepare = null, bool services = false)
    {
        _random = new Random(seed);
        Nic = new FakeNic { ReceiveOffloads = offloads };
        (options, logger) = (options ?? new UserNetworkOptions(), logger ?? NullLogger.Instance);
        Network = services ? new UserNetwork("user", options, logger) : new UserNetwork("user", options, logger, poller ?? SocketPoller.Create());
        Network.Faulted += e => _fault = e;
        Nic.Network = Network;
        prepare?.Invoke(Network);
        Network.Attach(Nic);
    }

    public FakeNic Nic { get; }

    public UserNetwork Network { get; }

    /// <summary>All that belongs to no connection.</summary>
    public List<ReceivedPacket> Others { get; } = [];

    /// <summary>Of a hundred frames, in either direction.</summary>
    public int LossPercent { get; set; }

    /// <summary>Of a hundred sent frames: come twice, or later than the next.</summary>
    public int DisorderPercent { get; set; }

    /// <summary>Takes connections from hostfwd.</summary>
    public Func<ReceivedPacket, GuestTcp?>? OnSyn { get; set; }

    public void Send(byte[] frame, FrameOffload offload = default)
    {
        if (_random.Next(100) < LossPercent)
            return;
        if (DisorderPercent > 0)
        {
            if (_heldBack is null && offload == default && _random.Next(100) < DisorderPercent)
            {
                _heldBack = frame;
                return;
            }

            if (_random.Next(100) < DisorderPercent)
                Nic.Send([.. frame], offload);
        }

        Nic.Send(frame, offload);
        if (_heldBack is not null)
            Nic.Send(_heldBack);
        _heldBack = null;
    }

    public GuestTcp Open(IPEndPoint remote, Action<GuestTcp>? configure = null, ushort port = 0)
    {
        var connection = new GuestTcp(this, new IPEndPoint(Address, port != 0 ? port : _nextPort++), remote);
        configure?.Invoke(connection);
        Add(connection);
        connection.SendSyn();
        return connection;
    }

    public GuestTcp Connect(IPEndPoint remote, Action<GuestTcp>? configure = null)
    {
        var connection = Open(remote, configure);
        Run(() => connection.IsEstablished || connection.WasReset);
        Assert.False(connection.WasReset, "refused");
        return connection;
    }

    public void Add(GuestTcp connection) => _connections.Add((connection.Local.Port, connection.Remote), connection);

    public void Forget(GuestTcp connection) => _connections.Remove((connection.Local.Port, connection.Remote));

    /// <summary>Lives until something is so. The limit is for a hang only.</summary>
    public void Run(Func<bool> until, int seconds = 60)
    {
        var watch = Stopwatch.StartNew();
        var quiet = Stopwatch.StartNew();
        while (!until())
        {
            Assert.True(_fault is null, _fault?.ToString());
            Assert.True(watch.Elapsed.TotalSeconds < seconds, $"hangs: {Network.Figures} {string.Join(' ', Network.Figures.Drops)}");
            if (Nic.TryTake(out var frame, out var offload, 5))
                OnFrame(frame, offload);
            if (quiet.ElapsedMilliseconds < 20)
                continue;
            quiet.Restart();
            if (_heldBack is not null)
                Nic.Send(_heldBack);
            _heldBack = null;
            foreach (var connection in _connections.Values.ToArray())
                connection.OnTick();
        }
    }

    /// <summary>Waits for the next packet that belongs to no connection and is of this kind.</summary>
    public ReceivedPacket Expect(Func<ReceivedPacket, bool> kind)
    {
        ReceivedPacket? found = null;
        Run(() => (found = Others.FirstOrDefault(kind)) is not null);
        Others.Remove(found!);
        return found!;
    }

    /// <summary>Has the network's thread gone through all that was sent before.</summary>
    public void Settle()
    {
        for (var i = 0; i < 3; i++)
        {
            var done = false;
            Network.Post(() => Volatile.Write(ref done, true));
            Run(() => Volatile.Read(ref done));
        }

        while (Nic.TryTake(out var frame, out var offload, 0))
            OnFrame(frame, offload);
    }

    public async ValueTask DisposeAsync()
    {
        await Network.DisposeAsync();
        Assert.True(_fault is null, _fault?.ToString());
    }

    private void OnFrame(byte[] frame, FrameOffload offload)
    {
        var packet = ReceivedPacket.Parse(frame, offload);
        if (packet.EtherType == 0x0806 && packet.Payload[7] == 1 && packet.Payload.AsSpan(24, 4).SequenceEqual(Address.GetAddressBytes()))
        {
            Nic.Send(Packets.Ethernet(0x0806, [0, 1, 8, 0, 6, 4, 0, 2, .. Packets.Bytes(Packets.Guest), .. Address.GetAddressBytes(), .. packet.Payload[8..18]]));
            return;
        }

        if (LossPercent > 0 && _random.Next(100) < LossPercent)
            return;
        if (packet.Protocol == 6)
        {
            if (!_connections.TryGetValue((packet.To.Port, packet.From), out var connection) && packet.Flags == Packets.Syn && OnSyn?.Invoke(packet) is { } accepted)
                Add(connection = accepted);
            if (connection is not null)
            {
                connection.OnSegment(packet);
                return;
            }
        }

        Others.Add(packet);
    }
}
