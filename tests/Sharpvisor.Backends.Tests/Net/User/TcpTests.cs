using System.Net;
using System.Net.Sockets;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Backends.Tests.Char;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.User;

public sealed class TcpTests
{
    private static readonly ReceiveOffloads _all = new(Checksum: true, Tcp4: true, Tcp6: false);

    [Fact]
    public async Task A_connection_is_accepted_when_the_host_has_accepted_it_and_closes_in_order()
    {
        await using var guest = new GuestStack();
        using var host = new FarEnd();
        var connection = guest.Connect(host.FromGuest);
        using var far = host.Accept();
        connection.Write("hello"u8.ToArray());
        Assert.Equal("hello"u8.ToArray(), FarEnd.Read(guest, far, 5));
        far.Send("world"u8.ToArray());
        guest.Run(() => connection.ReceivedCount == 5);
        Assert.Equal("world"u8.ToArray(), connection.Received);
        connection.End();
        Assert.True(FarEnd.IsAtEnd(guest, far));
        far.Close();
        guest.Run(() => connection.PeerHasEnded && connection.EndIsAcknowledged);
        guest.Run(() => guest.Network.Figures.Connections == 0);
        Assert.Equal(0, guest.Network.Figures.Pool.InUse);
    }

    [Fact]
    public async Task Nobody_listens_is_a_reset()
    {
        await using var guest = new GuestStack();
        int port;
        using (var closed = new FarEnd())
            port = closed.FromGuest.Port;
        var connection = guest.Open(new IPEndPoint(GuestStack.Gateway, port));
        guest.Run(() => connection.WasReset);
        var reset = connection.Segments[^1];
        Assert.Equal((Packets.Rst | Packets.Ack, 0U, GuestTcp.InitialSequence + 1), (reset.Flags, reset.Sequence, reset.Acknowledgment));
        Assert.Equal(1, guest.Network.Figures.ConnectionsRefused);
        Assert.Equal(0, guest.Network.Figures.Connections);
    }

    [Theory]
    [InlineData(1460, 1460, false, -1, 65535)]
    [InlineData(1460, 60_000, true, 7, 8192)]
    [InlineData(1460, 60_000, true, 0, 65535)]
    [InlineData(536, 536, false, 3, 3000)]
    [InlineData(9000, 5000, true, 14, 65535)]
    public async Task Megabytes_go_both_ways_byte_by_byte(int segment, int frame, bool offloads, int scale, int window)
    {
        await using var guest = new GuestStack(offloads: offloads ? _all : default);
        using var host = new FarEnd();
        var connection = guest.Connect(host.FromGuest, c =>
        {
            (c.SegmentSize, c.FrameData, c.Scale, c.Window) = (segment, frame, scale, (ushort)window);
        });
        await ExchangeAsync(guest, connection, host, 3_000_000, 3_333_333);
    }

    [Theory]
    [InlineData(1, 3, 0)]
    [InlineData(2, 0, 5)]
    [InlineData(3, 10, 10)]
    [InlineData(4, 3, 3)]
    public async Task Nothing_is_missing_when_frames_get_lost_come_twice_or_in_disorder(int seed, int loss, int disorder)
    {
        await using var guest = new GuestStack(offloads: seed % 2 == 0 ? _all : default, seed: seed);
        using var host = new FarEnd();
        (guest.LossPercent, guest.DisorderPercent) = (loss, disorder);
        var connection = guest.Connect(host.FromGuest, c => (c.Scale, c.Window) = (2, 10_000));
        await ExchangeAsync(guest, connection, host, 200_000, 400_000);
        if (loss >= 10) // of some hundred
            Assert.NotEqual(0, guest.Network.Figures.Retransmissions);
    }

    [Fact]
    public async Task The_same_works_where_the_host_has_select_only()
    {
        await using var guest = new GuestStack(poller: SocketPoller.CreateSelect());
        using var host = new FarEnd();
        await ExchangeAsync(guest, guest.Connect(host.FromGuest), host, 1_000_000, 1_000_000);
        int port;
        using (var closed = new FarEnd())
            port = closed.FromGuest.Port;
        var refused = guest.Open(new IPEndPoint(GuestStack.Gateway, port));
        guest.Run(() => refused.WasReset);
    }

    [Fact]
    public async Task A_guest_that_does_not_read_gets_probes_and_later_everything()
    {
        await using var guest = new GuestStack();
        using var host = new FarEnd();
        var connection = guest.Connect(host.FromGuest, c => c.Window = 5000);
        using var far = host.Accept();
        var data = FarEnd.Bytes(100_000, 5);
        var sending = far.SendAsync(data);
        guest.Run(() => connection.ReceivedCount >= 5000);
        connection.Window = 0;
        connection.SendAck();
        guest.Settle();
        var before = guest.Network.Figures.FramesToGuest;
        // Probes go on as long as it says that there is no room.
        guest.Run(() => guest.Network.Figures.FramesToGuest > before + 2);
        Assert.False(connection.WasReset);
        var come = connection.ReceivedCount;
        connection.Window = 65535;
        connection.SendAck();
        guest.Run(() => connection.ReceivedCount == data.Length);
        Assert.True(come < data.Length);
        Assert.Equal(data, connection.Received);
        await sending;
    }

    [Fact]
    public async Task A_host_that_does_not_read_closes_the_window_and_opens_it_again()
    {
        await using var guest = new GuestStack(offloads: _all);
        using var host = new FarEnd();
        var connection = guest.Connect(host.FromGuest, c => (c.Scale, c.FrameData) = (7, 60_000));
        using var far = host.Accept();
        var data = FarEnd.Bytes(16_000_000, 6);
        connection.Write(data);
        guest.Run(() => connection.PeerWindow < 1460 && connection.SndNxt == connection.SndUna);
        var held = guest.Network.Figures.Pool;
        Assert.InRange(held.InUse, 500_000, 1_200_000);
        Assert.Equal(data, FarEnd.Read(guest, far, data.Length));
        guest.Run(() => connection.IsAllAcknowledged);
        Assert.Equal(0, guest.Network.Figures.Pool.InUse);
    }

    [Fact]
    public async Task The_guest_ends_its_direction_and_still_gets_data()
    {
        await using var guest = new GuestStack();
        using var host = new FarEnd();
        var connection = guest.Connect(host.FromGuest);
        using var far = host.Accept();
        connection.Write("request"u8.ToArray());
        connection.End();
        Assert.Equal("request"u8.ToArray(), FarEnd.Read(guest, far, 7));
        Assert.True(FarEnd.IsAtEnd(guest, far));
        var data = FarEnd.Bytes(500_000, 7);
        var sending = far.SendAsync(data);
        guest.Run(() => connection.ReceivedCount == data.Length);
        await sending;
        Assert.Equal(data, connection.Received);
        far.Close();
        guest.Run(() => connection.PeerHasEnded && guest.Network.Figures.Connections == 0);
    }

    [Fact]
    public async Task The_host_ends_its_direction_and_still_gets_data()
    {
        await using var guest = new GuestStack();
        using var host = new FarEnd();
        var connection = guest.Connect(host.FromGuest);
        using var far = host.Accept();
        far.Shutdown(SocketShutdown.Send);
        guest.Run(() => connection.PeerHasEnded);
        var data = FarEnd.Bytes(500_000, 8);
        connection.Write(data);
        connection.End();
        Assert.Equal(data, FarEnd.Read(guest, far, data.Length));
        Assert.True(FarEnd.IsAtEnd(guest, far));
        guest.Run(() => connection.EndIsAcknowledged && guest.Network.Figures.Connections == 0);
    }

    [Fact]
    public async Task Both_end_at_once()
    {
        await using var guest = new GuestStack();
        using var host = new FarEnd();
        var connection = guest.Connect(host.FromGuest, c => c.Acknowledges = false);
        using var far = host.Accept();
        far.Shutdown(SocketShutdown.Send);
        guest.Run(() => connection.Segments.Any(s => s.Has(Packets.Fin)));
        connection.End(); // does not acknowledge the other's FIN yet
        guest.Run(() => connection.EndIsAcknowledged);
        connection.Acknowledges = true;
        guest.Run(() => connection.PeerHasEnded && guest.Network.Figures.Connections == 0);
        Assert.True(FarEnd.IsAtEnd(guest, far));
    }

    [Fact]
    public async Task A_reset_of_the_guest_resets_the_host()
    {
        await using var guest = new GuestStack();
        using var host = new FarEnd();
        var connection = guest.Connect(host.FromGuest);
        using var far = host.Accept();
        connection.Reset();
        guest.Run(() => guest.Network.Figures.Connections == 0);
        var error = Assert.Throws<SocketException>(() => far.Receive(new byte[10]));
        Assert.Equal(SocketError.ConnectionReset, error.SocketErrorCode);
    }

    [Fact]
    public async Task A_reset_of_the_host_resets_the_guest()
    {
        await using var guest = new GuestStack();
        using var host = new FarEnd();
        var connection = guest.Connect(host.FromGuest);
        var far = host.Accept();
        far.LingerState = new LingerOption(true, 0);
        far.Dispose();
        guest.Run(() => connection.WasReset);
        Assert.Equal(connection.RcvNxt, connection.Segments[^1].Sequence);
        guest.Run(() => guest.Network.Figures.Connections == 0);
    }

    [Fact]
    public async Task Ports_can_be_used_again_right_after_a_close()
    {
        await using var guest = new GuestStack();
        using var host = new FarEnd();
        for (var i = 0; i < 3; i++)
        {
            var connection = guest.Open(host.FromGuest, port: 30000);
            guest.Run(() => connection.IsEstablished);
            using var far = host.Accept();
            // The host closes first: our side of the guest's connection waits for a while.
            far.Close();
            guest.Run(() => connection.PeerHasEnded);
            connection.End();
            guest.Run(() => connection.EndIsAcknowledged);
            guest.Forget(connection);
            guest.Run(() => guest.Network.Figures.Connections == 0);
        }
    }

    [Fact]
    public async Task A_full_receive_ring_loses_nothing()
    {
        await using var guest = new GuestStack(offloads: _all);
        using var host = new FarEnd();
        var connection = guest.Connect(host.FromGuest, c => c.Scale = 5);
        using var far = host.Accept();
        var data = FarEnd.Bytes(2_000_000, 9);
        var sending = far.SendAsync(data);
        var random = new Random(4);
        while (connection.ReceivedCount < data.Length)
        {
            guest.Nic.SetRoom(random.Next(0, 4));
            guest.Settle();
        }

        await sending;
        Assert.Equal(data, connection.Received);
    }

    [Fact]
    public async Task A_thousand_connections_at_once()
    {
        const int count = 1200;
        await using var guest = new GuestStack();
        using var host = new FarEnd();
        var echo = host.EchoAllAsync(count);
        var connections = Enumerable.Range(0, count).Select(_ => guest.Open(host.FromGuest)).ToArray();
        guest.Run(() => connections.All(c => c.IsEstablished));
        Assert.Equal(count, guest.Network.Figures.Connections);
        for (var i = 0; i < count; i++)
            connections[i].Write(FarEnd.Bytes(3000, i));
        guest.Run(() => connections.All(c => c.ReceivedCount == 3000));
        for (var i = 0; i < count; i++)
            Assert.Equal(FarEnd.Bytes(3000, i), connections[i].Received);
        foreach (var connection in connections)
            connection.End();
        guest.Run(() => connections.All(c => c.PeerHasEnded && c.EndIsAcknowledged));
        await echo;
        guest.Run(() => guest.Network.Figures.Connections == 0);
        Assert.Equal(0, guest.Network.Figures.Pool.InUse);
    }

    [Fact]
    public async Task More_connections_than_the_host_has_descriptors_for_are_reset_with_one_line()
    {
        var log = new ListLogger();
        await using var guest = new GuestStack(new UserNetworkOptions { MostSockets = 20 }, logger: log);
        using var host = new FarEnd();
        var connections = Enumerable.Range(0, 50).Select(_ => guest.Open(host.FromGuest)).ToArray();
        guest.Run(() => connections.All(c => c.IsEstablished || c.WasReset));
        Assert.Equal(20, connections.Count(c => c.IsEstablished));
        Assert.Equal("user network: no socket for a TCP connection: there are too many; raise the limit of open files (ulimit -n)", Assert.Single(log.Lines));
        connections.First(c => c.IsEstablished).Reset();
        guest.Run(() => guest.Network.Figures.Connections == 19);
        guest.Connect(host.FromGuest);
    }

    [Fact]
    public async Task A_small_pool_slows_down_and_loses_nothing()
    {
        const int count = 40;
        await using var guest = new GuestStack(new UserNetworkOptions { PoolLimit = 1 });
        using var host = new FarEnd();
        var echo = host.EchoAllAsync(count);
        var connections = Enumerable.Range(0, count).Select(_ => guest.Connect(host.FromGuest)).ToArray();
        for (var i = 0; i < count; i++)
            connections[i].Write(FarEnd.Bytes(30_000, i));
        guest.Run(() => connections.All(c => c.ReceivedCount == 30_000));
        for (var i = 0; i < count; i++)
            Assert.Equal(FarEnd.Bytes(30_000, i), connections[i].Received);
        foreach (var connection in connections)
            connection.End();
        await echo;
        var pool = guest.Network.Figures.Pool;
        Assert.Equal(256 << 10, pool.Limit);
        Assert.InRange(pool.Peak, 1, pool.Limit);
    }

    private static async Task ExchangeAsync(GuestStack guest, GuestTcp connection, FarEnd host, int up, int down)
    {
        using var far = host.Accept();
        var (toHost, toGuest) = (FarEnd.Bytes(up, 1), FarEnd.Bytes(down, 2));
        var sending = Task.Run(async () =>
        {
            await far.SendAsync(toGuest);
            far.Shutdown(SocketShutdown.Send);
        });
        var receiving = FarEnd.ReadToEndAsync(far);
        connection.Write(toHost);
        connection.End();
        guest.Run(() => connection.PeerHasEnded && connection.EndIsAcknowledged && receiving.IsCompleted);
        await sending;
        Assert.Equal(toHost, await receiving);
        Assert.Equal(toGuest, connection.Received);
        guest.Run(() => guest.Network.Figures.Connections == 0);
        Assert.Equal(0, guest.Network.Figures.Pool.InUse);
    }
}
