using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Backends.Net.User.Services;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Tests.Net.User;

public sealed class ForwardTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_port_of_the_host_leads_to_the_guest(bool restrict)
    {
        await using var guest = new GuestStack(new UserNetworkOptions { HostForwards = [Forward(80)], Restrict = restrict });
        var accepted = AcceptOn(guest, 80);
        using var client = new TcpClient();
        await client.ConnectAsync(IPAddress.Loopback, guest.Network.HostForwardPorts[0].Port);
        guest.Run(() => accepted.Count == 1 && accepted[0].IsEstablished);
        var connection = accepted[0];
        Assert.Equal(GuestStack.Gateway, connection.Remote.Address);
        var data = FarEnd.Bytes(300_000, 3);
        var sending = Task.Run(async () =>
        {
            await client.Client.SendAsync(data);
            client.Client.Shutdown(SocketShutdown.Send);
        });
        guest.Run(() => connection.PeerHasEnded);
        await sending;
        Assert.Equal(data, connection.Received);
        connection.Write(data);
        connection.End();
        Assert.Equal(data, FarEnd.Read(guest, client.Client, data.Length));
        Assert.True(FarEnd.IsAtEnd(guest, client.Client));
        guest.Run(() => guest.Network.Figures.Connections == 0);
    }

    [Fact]
    public async Task A_guest_that_refuses_resets_the_client()
    {
        await using var guest = new GuestStack(new UserNetworkOptions { HostForwards = [Forward(80)] });
        using var client = new TcpClient();
        await client.ConnectAsync(IPAddress.Loopback, guest.Network.HostForwardPorts[0].Port);
        var syn = guest.Expect(p => p.Protocol == 6 && p.Flags == Packets.Syn);
        guest.Send(Packets.Tcp(syn.To, syn.From, Packets.Rst | Packets.Ack, 0, syn.Sequence + 1, 0, []));
        var reading = Task.Run(() => client.Client.Receive(new byte[1]));
        guest.Run(() => reading.IsCompleted);
        var e = await Assert.ThrowsAsync<SocketException>(() => reading);
        Assert.Equal(SocketError.ConnectionReset, e.SocketErrorCode);
    }

    [Fact]
    public async Task A_connection_waits_for_a_guest_that_is_not_there_yet()
    {
        await using var guest = new GuestStack(new UserNetworkOptions { HostForwards = [Forward(80)] });
        guest.LossPercent = 100;
        using var client = new TcpClient();
        await client.ConnectAsync(IPAddress.Loopback, guest.Network.HostForwardPorts[0].Port);
        guest.Run(() => guest.Network.Figures.FramesToGuest >= 3);
        guest.LossPercent = 0;
        var accepted = AcceptOn(guest, 80);
        guest.Run(() => accepted.Count == 1 && accepted[0].IsEstablished);
    }

    [Fact]
    public async Task Both_sides_open_at_once()
    {
        await using var guest = new GuestStack(new UserNetworkOptions { HostForwards = [Forward(80)] });
        using var client = new TcpClient();
        await client.ConnectAsync(IPAddress.Loopback, guest.Network.HostForwardPorts[0].Port);
        var syn = guest.Expect(p => p.Protocol == 6 && p.Flags == Packets.Syn);
        guest.Send(Packets.Tcp(syn.To, syn.From, Packets.Syn, 100, 0, 1000, []));
        var answer = guest.Expect(p => p.Protocol == 6 && p.Has(Packets.Ack));
        Assert.Equal((Packets.Syn | Packets.Ack, syn.Sequence, 101U), (answer.Flags, answer.Sequence, answer.Acknowledgment));
        guest.Send(Packets.Tcp(syn.To, syn.From, Packets.Ack, 101, syn.Sequence + 1, 1000, [65]));
        Assert.Equal<byte>([65], FarEnd.Read(guest, client.Client, 1));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Datagrams_come_in_and_their_answers_go_out(bool restrict)
    {
        await using var guest = new GuestStack(new UserNetworkOptions { HostForwards = [Forward(53) with { IsUdp = true }], Restrict = restrict });
        guest.Send(Packets.ArpRequest(GuestStack.Address, GuestStack.Gateway));
        guest.Expect(p => p.EtherType == 0x0806);
        using var client = new UdpClient(new IPEndPoint(IPAddress.Loopback, 0));
        client.Send([1, 2, 3], new IPEndPoint(IPAddress.Loopback, guest.Network.HostForwardPorts[0].Port));
        var query = guest.Expect(p => p.Protocol == 17);
        Assert.Equal((GuestStack.Gateway, ((IPEndPoint)client.Client.LocalEndPoint!).Port, 53), (query.From.Address, query.From.Port, query.To.Port));
        guest.Send(Packets.Udp(query.To, query.From, [4, 5]));
        var answer = await client.ReceiveAsync();
        Assert.Equal<byte>([4, 5], answer.Buffer);
        Assert.Equal(guest.Network.HostForwardPorts[0].Port, answer.RemoteEndPoint.Port);
        if (restrict)
            return;
        // Whom the guest itself asks from there, sees another port.
        using var server = new UdpClient(new IPEndPoint(IPAddress.Loopback, 0));
        guest.Send(Packets.Udp(query.To, new IPEndPoint(GuestStack.Gateway, ((IPEndPoint)server.Client.LocalEndPoint!).Port), [6]));
        var question = await server.ReceiveAsync();
        Assert.NotEqual(guest.Network.HostForwardPorts[0].Port, question.RemoteEndPoint.Port);
    }

    [Fact]
    public async Task An_address_of_the_network_leads_to_a_server_of_the_host_also_under_restrict()
    {
        using var host = new FarEnd();
        var server = IPAddress.Parse("10.0.2.100");
        await using var guest = new GuestStack(new UserNetworkOptions
        {
            Restrict = true,
            GuestForwards = [new GuestForward(server, 80, new IPEndPoint(IPAddress.Loopback, host.FromGuest.Port))],
        });
        guest.Send(Packets.ArpRequest(GuestStack.Address, server));
        guest.Expect(p => p.EtherType == 0x0806);
        var connection = guest.Connect(new IPEndPoint(server, 80));
        using var far = host.Accept();
        connection.Write([1, 2, 3]);
        Assert.Equal<byte>([1, 2, 3], FarEnd.Read(guest, far, 3));
    }

    [Fact]
    public async Task A_service_of_the_network_is_the_other_side_of_a_connection()
    {
        await using var guest = new GuestStack(prepare: n => n.AddStreamService(GuestStack.Gateway, 80, new EchoService()));
        var connection = guest.Connect(new IPEndPoint(GuestStack.Gateway, 80));
        var data = FarEnd.Bytes(200_000, 4);
        connection.Write(data);
        connection.End();
        guest.Run(() => connection.PeerHasEnded && connection.EndIsAcknowledged);
        Assert.Equal(data, connection.Received);
        guest.Run(() => guest.Network.Figures.Connections == 0);
    }

    [Fact]
    public void A_port_that_is_in_use_is_one_line()
    {
        using var taken = new FarEnd();
        using var takenUdp = new UdpClient(new IPEndPoint(IPAddress.Loopback, 0));
        var port = taken.FromGuest.Port;
        var udpPort = ((IPEndPoint)takenUdp.Client.LocalEndPoint!).Port;
        Assert.Equal($"hostfwd=tcp:127.0.0.1:{port}: the host's port is in use; give another port", Refusal(Forward(80) with { HostPort = port }));
        Assert.Equal($"hostfwd=udp:127.0.0.1:{udpPort}: the host's port is in use; give another port", Refusal(Forward(80) with { HostPort = udpPort, IsUdp = true }));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Two_machines_do_not_share_a_port(bool isUdp)
    {
        await using var first = new UserNetwork("user", new UserNetworkOptions { HostForwards = [Forward(80) with { IsUdp = isUdp }] }, NullLogger.Instance);
        var port = first.HostForwardPorts[0].Port;
        Assert.Contains("the host's port is in use", Refusal(Forward(80) with { HostPort = port, IsUdp = isUdp }), StringComparison.Ordinal);
    }

    [Fact]
    public async Task What_is_left_of_connections_does_not_hold_a_port()
    {
        int port;
        using (var listener = new TcpListener(IPAddress.Loopback, 0))
        {
            listener.Start();
            port = ((IPEndPoint)listener.LocalEndpoint).Port;
            using var client = new TcpClient();
            client.Connect(IPAddress.Loopback, port);
            using var accepted = listener.AcceptTcpClient();
            accepted.Close(); // the first to close: TIME_WAIT is here
            Assert.Equal(0, client.GetStream().Read(new byte[1]));
        }

        await using var network = new UserNetwork("user", new UserNetworkOptions { HostForwards = [Forward(80) with { HostPort = port }] }, NullLogger.Instance);
        Assert.Equal(port, network.HostForwardPorts[0].Port);
    }

    [Fact]
    public void Forwards_that_make_no_sense_are_one_line()
    {
        Assert.Equal("hostfwd=tcp:127.0.0.1:0-:0: a port is out of range; give one from 1 to 65535", Refusal(Forward(0)));
        Assert.Equal(
            "hostfwd=tcp:127.0.0.1:0-192.168.1.1:80: no address of a guest; give one of the network 10.0.2.0", Refusal(Forward(80) with { GuestAddress = IPAddress.Parse("192.168.1.1") }));
        Assert.Equal("hostfwd=tcp:192.0.2.1:0: the host has no such address; give one of its own, or none", Refusal(Forward(80) with { HostAddress = IPAddress.Parse("192.0.2.1") }));
    }

    private static HostForward Forward(int guestPort) => new(IsUdp: false, IPAddress.Loopback, 0, null, guestPort);

    private static string Refusal(HostForward forward) =>
        Assert.Throws<ConfigurationException>(() => new UserNetwork("user", new UserNetworkOptions { HostForwards = [forward] }, NullLogger.Instance)).Message;

    private static List<GuestTcp> AcceptOn(GuestStack guest, int port)
    {
        var accepted = new List<GuestTcp>();
        guest.OnSyn = syn =>
        {
            if (syn.To.Port != port)
                return null;
            var connection = new GuestTcp(guest, syn.To, syn.From);
            connection.Answer(syn);
            accepted.Add(connection);
            return connection;
        };
        return accepted;
    }

    private sealed class EchoService : IStreamService
    {
        public IStreamPeer? Accept(IPEndPoint from, IStreamOwner owner) => new Echo(owner);
    }

    /// <summary>Takes little at a time.</summary>
    private sealed class Echo(IStreamOwner owner) : IStreamPeer
    {
        private readonly Queue<byte> _bytes = new();
        private bool _ended;

        public int Write(ReadOnlySpan<byte> data)
        {
            var count = Math.Min(data.Length, 700 - _bytes.Count);
            foreach (var b in data[..count])
                _bytes.Enqueue(b);
            owner.OnReadable();
            return count;
        }

        public void EndOfInput()
        {
            _ended = true;
            owner.OnReadable();
        }

        public int Read(Span<byte> buffer)
        {
            var count = Math.Min(buffer.Length, _bytes.Count);
            for (var i = 0; i < count; i++)
                buffer[i] = _bytes.Dequeue();
            if (count > 0)
                owner.OnWritable();
            return count > 0 ? count : _ended ? -1 : 0;
        }

        public void Reset()
        {
        }

        public void Dispose()
        {
        }
    }
}
