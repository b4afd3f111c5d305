using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.User;

public sealed class UdpTests
{
    private static readonly IPEndPoint _from = new(GuestStack.Address, 4000);

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(1472)]
    [InlineData(1473)]
    [InlineData(20_000)]
    [InlineData(65_507)]
    public async Task Datagrams_of_any_length_go_to_the_hosts_loopback_and_back(int length)
    {
        await using var guest = new GuestStack();
        using var host = Bound();
        var data = FarEnd.Bytes(length, length);
        var to = new IPEndPoint(GuestStack.Gateway, Port(host));
        SendInFragments(guest, to, data, order: length % 2 == 0);
        var buffer = new byte[70_000];
        EndPoint sender = new IPEndPoint(0, 0);
        var count = host.ReceiveFrom(buffer, ref sender);
        Assert.Equal(data, buffer[..count]);
        host.SendTo(buffer.AsSpan(0, count), sender);
        Assert.Equal(data, Whole(guest, 8 + length)[8..]);
    }

    [Fact]
    public async Task Others_see_one_port_for_all_datagrams_of_a_guests_port_and_any_of_them_may_answer()
    {
        await using var guest = new GuestStack();
        using var one = Bound();
        using var other = Bound();
        guest.Send(Packets.Udp(_from, new IPEndPoint(GuestStack.Gateway, Port(one)), [1]));
        guest.Send(Packets.Udp(_from, new IPEndPoint(GuestStack.Gateway, Port(other)), [2]));
        EndPoint first = new IPEndPoint(0, 0), second = new IPEndPoint(0, 0);
        one.ReceiveFrom(new byte[10], ref first);
        other.ReceiveFrom(new byte[10], ref second);
        Assert.Equal(first, second);
        Assert.Equal(1, guest.Network.Figures.UdpFlows);
        using var third = Bound(); // as a TFTP server does
        third.SendTo([3], first);
        var packet = guest.Expect(p => p.Protocol == 17);
        Assert.Equal((new IPEndPoint(GuestStack.Gateway, Port(third)), _from), (packet.From, packet.To));
    }

    [Fact]
    public async Task A_port_where_nobody_listens_is_unreachable()
    {
        await using var guest = new GuestStack();
        int port;
        using (var closed = Bound())
            port = Port(closed);
        guest.Send(Packets.Udp(_from, new IPEndPoint(GuestStack.Gateway, port), [1, 2, 3]));
        if (!OperatingSystem.IsLinux())
            return;
        var error = guest.Expect(p => p.Protocol == 1);
        Assert.Equal<byte>([3, 3], error.Payload[..2]);
        var quoted = error.Payload[8..];
        Assert.Equal<byte>([.. GuestStack.Address.GetAddressBytes(), .. GuestStack.Gateway.GetAddressBytes(), 4000 >> 8, 4000 & 255, (byte)(port >> 8), (byte)port], quoted[12..24]);
    }

    [Theory]
    [InlineData("127.0.0.1")]
    [InlineData("127.1.2.3")]
    [InlineData("0.0.0.0")]
    [InlineData("224.0.0.251")]
    [InlineData("255.255.255.255")]
    [InlineData("10.0.2.255")]
    public async Task Addresses_that_lead_nowhere_do_not_reach_the_host(string address)
    {
        await using var guest = new GuestStack();
        using var host = Bound();
        guest.Send(Packets.Udp(_from, new IPEndPoint(IPAddress.Parse(address), Port(host)), [1]));
        guest.Send(Packets.Tcp(_from, new IPEndPoint(IPAddress.Parse(address), Port(host)), Packets.Syn, 1, 0, 1000, []));
        guest.Run(() => guest.Network.Figures.Drops.GetValueOrDefault(DropReason.Destination) == 2);
        Assert.Equal(0, host.Available);
        Assert.Equal((0, 0), (guest.Network.Figures.UdpFlows, guest.Network.Figures.Connections));
    }

    [Fact]
    public async Task A_neighbour_that_does_not_exist_is_unreachable()
    {
        await using var guest = new GuestStack();
        guest.Send(Packets.Udp(_from, new IPEndPoint(IPAddress.Parse("10.0.2.77"), 5), [1]));
        Assert.Equal<byte>([3, 1], guest.Expect(p => p.Protocol == 1).Payload[..2]);
        guest.Send(Packets.Udp(_from, new IPEndPoint(IPAddress.Parse("10.0.2.3"), 5), [1]));
        Assert.Equal<byte>([3, 3], guest.Expect(p => p.Protocol == 1).Payload[..2]);
    }

    [Fact]
    public async Task A_service_gets_what_is_for_it_and_its_time()
    {
        var service = new Service();
        await using var guest = new GuestStack(
            new UserNetworkOptions { Restrict = true },
            prepare: n =>
            {
                n.AddUdpService(GuestStack.Gateway, 67, service);
                n.AddUdpService(IPAddress.Parse("10.0.2.3"), 53, service);
            });
        guest.Send(Packets.Udp(new IPEndPoint(0, 68), new IPEndPoint(IPAddress.Broadcast, 67), [1, 2]));
        var reply = guest.Expect(p => p.Protocol == 17);
        Assert.Equal((new IPEndPoint(GuestStack.Gateway, 67), new IPEndPoint(IPAddress.Broadcast, 68)), (reply.From, reply.To));
        Assert.Equal<byte>([2, 1], reply.Payload[8..]);
        Assert.Equal(Packets.Bytes(Packets.Guest), reply.Frame[..6]);
        guest.Send(Packets.Udp(_from, new IPEndPoint(IPAddress.Parse("10.0.2.3"), 53), [7, 8, 9]));
        Assert.Equal<byte>([9, 8, 7], guest.Expect(p => p.Protocol == 17).Payload[8..]);
        service.NextDeadlineMs = Environment.TickCount64 + 30;
        guest.Send(Packets.Udp(_from, new IPEndPoint(IPAddress.Parse("10.0.2.3"), 53), [1])); // the deadline is looked at now
        guest.Run(() => service.Times > 0);
    }

    [Fact]
    public async Task A_port_without_a_service_and_everything_else_is_closed_by_restrict()
    {
        await using var guest = new GuestStack(new UserNetworkOptions { Restrict = true });
        using var host = Bound();
        using var listener = new FarEnd();
        guest.Send(Packets.Udp(_from, new IPEndPoint(GuestStack.Gateway, Port(host)), [1]));
        guest.Send(Packets.Udp(_from, new IPEndPoint(IPAddress.Parse("192.0.2.1"), 53), [1]));
        guest.Send(Packets.Echo(GuestStack.Address, IPAddress.Parse("192.0.2.1"), 1, 1, []));
        var connection = guest.Open(listener.FromGuest);
        guest.Run(() => connection.WasReset);
        guest.Settle();
        Assert.Equal(0, host.Available);
        Assert.Equal(3, guest.Network.Figures.Drops[DropReason.Destination]);
    }

    [Fact]
    public async Task Wrong_checksums_are_dropped_none_and_unfinished_ones_are_not()
    {
        await using var guest = new GuestStack();
        using var host = Bound();
        var frame = Packets.Udp(_from, new IPEndPoint(GuestStack.Gateway, Port(host)), [1, 2, 3, 4]);
        frame[^1] ^= 0xFF;
        guest.Send(frame);
        var none = (byte[])frame.Clone();
        none.AsSpan(40, 2).Clear();
        guest.Send(none);
        guest.Send([.. frame], new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 6 });
        guest.Run(() => guest.Network.Figures.FramesFromGuest == 3);
        for (var i = 0; i < 2; i++)
        {
            var buffer = new byte[10];
            Assert.Equal(4, host.Receive(buffer));
            Assert.Equal<byte>([1, 2, 3, 4 ^ 0xFF], buffer[..4]);
        }

        guest.Settle();
        Assert.Equal(0, host.Available);
        Assert.Equal(1, guest.Network.Figures.Drops[DropReason.Checksum]);
    }

    [Fact]
    public async Task A_frame_of_many_datagrams_is_cut()
    {
        await using var guest = new GuestStack();
        using var host = Bound();
        var frame = Packets.Udp(_from, new IPEndPoint(GuestStack.Gateway, Port(host)), FarEnd.Bytes(2500, 1));
        guest.Send(frame, new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 6, Segmentation = Segmentation.UdpL4, SegmentSize = 1000 });
        Assert.Equal([1000, 1000, 500], Enumerable.Range(0, 3).Select(_ => host.Receive(new byte[3000])));
    }

    [Fact]
    public async Task Fragments_that_overlap_or_never_end_take_no_memory_for_ever()
    {
        await using var guest = new GuestStack();
        using var host = Bound();
        var to = new IPEndPoint(GuestStack.Gateway, Port(host));
        var datagram = Packets.UdpDatagram(_from, to, FarEnd.Bytes(3000, 1));
        byte[] Fragment(int start, int count, bool more, ushort id) =>
            Packets.Ipv4(_from.Address, to.Address, 17, datagram[start..(start + count)], identification: id, fragment: (ushort)(start / 8 | (more ? 0x2000 : 0)));
        guest.Send(Fragment(0, 1480, true, 5));
        guest.Send(Fragment(800, 1480, true, 5)); // overlaps
        guest.Send(Fragment(1480, 1528, false, 5)); // of a datagram that is forgotten
        for (ushort id = 100; id < 200; id++)
            guest.Send(Fragment(0, 1480, true, id));
        guest.Send(Fragment(1480, 1528, false, 199)); // of the last of them
        var buffer = new byte[5000];
        Assert.Equal(3000, host.Receive(buffer));
        Assert.Equal(FarEnd.Bytes(3000, 1), buffer[..3000]);
        guest.Run(() => guest.Network.Figures.FramesFromGuest == 104);
        Assert.InRange(guest.Network.Figures.Drops[DropReason.Fragment], 90, 104);
    }

    [Fact]
    public async Task Many_ports_are_bounded()
    {
        await using var guest = new GuestStack(new UserNetworkOptions { MostSockets = 1600 });
        using var host = Bound();
        for (var port = 1; port <= 3000; port++)
            guest.Send(Packets.Udp(new IPEndPoint(GuestStack.Address, port), new IPEndPoint(GuestStack.Gateway, Port(host)), [1]));
        guest.Run(() => guest.Network.Figures.FramesFromGuest == 3000);
        Assert.InRange(guest.Network.Figures.UdpFlows, 100, 100);
    }

    private static Socket Bound()
    {
        var socket = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp) { ReceiveTimeout = 60_000, ReceiveBufferSize = 1 << 20 };
        socket.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        return socket;
    }

    private static int Port(Socket socket) => ((IPEndPoint)socket.LocalEndPoint!).Port;

    private static void SendInFragments(GuestStack guest, IPEndPoint to, byte[] data, bool order)
    {
        const int piece = 1480;
        var datagram = Packets.UdpDatagram(_from, to, data);
        var starts = Enumerable.Range(0, (datagram.Length + piece - 1) / piece).Select(i => i * piece);
        foreach (var start in order ? starts : starts.Reverse())
        {
            var isLast = start + piece >= datagram.Length;
            guest.Send(Packets.Ipv4(_from.Address, to.Address, 17, datagram[start..Math.Min(datagram.Length, start + piece)], fragment: (ushort)(start / 8 | (isLast ? 0 : 0x2000))));
        }
    }

    /// <summary>A datagram from its fragments, its checksum checked.</summary>
    private static byte[] Whole(GuestStack guest, int length)
    {
        var whole = new byte[length];
        for (var come = 0; come < length;)
        {
            Assert.True(guest.Nic.TryTake(out var frame, out _, 60_000));
            Assert.InRange(frame.Length, 1, 1514);
            var offset = (BinaryPrimitives.ReadUInt16BigEndian(frame.AsSpan(20)) & 0x1FFF) * 8;
            frame.AsSpan(34).CopyTo(whole.AsSpan(offset));
            come += frame.Length - 34;
        }

        Assert.Equal(0, Packets.Checksum(Packets.PseudoHeader(GuestStack.Gateway, GuestStack.Address, 17, length), whole));
        return whole;
    }

    private sealed class Service : IUdpService
    {
        private long _deadline = long.MaxValue;

        public long NextDeadlineMs
        {
            get => Volatile.Read(ref _deadline);
            set => Volatile.Write(ref _deadline, value);
        }

        public int Times { get; private set; }

        public void OnDatagram(IPEndPoint from, IPEndPoint to, ReadOnlySpan<byte> data, IUdpSender sender)
        {
            var reply = data.ToArray();
            Array.Reverse(reply);
            var isBroadcast = to.Address.Equals(IPAddress.Broadcast);
            sender.Send(
                isBroadcast ? new IPEndPoint(GuestStack.Gateway, to.Port) : to,
                isBroadcast ? new IPEndPoint(IPAddress.Broadcast, from.Port) : from,
                reply,
                isBroadcast ? Packets.Guest : null);
        }

        public void OnTime(long nowMs, IUdpSender sender)
        {
            Times++;
            NextDeadlineMs = long.MaxValue;
        }
    }
}
