using System.Buffers.Binary;
using System.Diagnostics;
using System.Net;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.User;

/// <summary>What no honest guest does.</summary>
public sealed class HostileTests
{
    [Fact]
    public async Task Segments_outside_of_the_window_change_nothing()
    {
        await using var guest = new GuestStack();
        using var host = new FarEnd();
        var connection = guest.Connect(host.FromGuest);
        using var far = host.Accept();
        var (sequence, acknowledged) = (connection.SndNxt, connection.RcvNxt);
        connection.Raw(Packets.Rst, sequence + 1000, 0, []); // in the window, but not at its edge
        connection.Raw(Packets.Rst, sequence - 1000, 0, []);
        connection.Raw(Packets.Rst, sequence + 0x4000_0000, 0, []);
        connection.Raw(Packets.Syn, sequence + 5, 0, []);
        connection.Raw(Packets.Ack, sequence + 0x4000_0000, acknowledged, [1, 2, 3]);
        connection.Raw(Packets.Ack, sequence, acknowledged + 1000, [1, 2, 3]); // of what was never sent
        connection.Raw(Packets.Ack, sequence, acknowledged - 0x4000_0000, [1, 2, 3]);
        connection.Raw(0, sequence, acknowledged, [1, 2, 3]);
        connection.Raw(Packets.Ack, sequence + 10, acknowledged, [1, 2, 3]); // behind a gap
        connection.Raw(Packets.Fin | Packets.Ack, sequence + 10, acknowledged, []);
        guest.Settle();
        Assert.False(connection.WasReset);
        Assert.Equal(0, far.Available);
        connection.Write([7, 8, 9]);
        Assert.Equal<byte>([7, 8, 9], FarEnd.Read(guest, far, 3));
        Assert.Equal(6, guest.Network.Figures.Drops[DropReason.Sequence]);
        Assert.Equal(2, guest.Network.Figures.Drops[DropReason.OutOfOrder]);
    }

    [Fact]
    public async Task Segments_that_overlap_what_came_count_once()
    {
        await using var guest = new GuestStack();
        using var host = new FarEnd();
        var connection = guest.Connect(host.FromGuest);
        using var far = host.Accept();
        var start = connection.SndNxt;
        connection.Raw(Packets.Ack, start, connection.RcvNxt, [0, 1, 2, 3]);
        connection.Raw(Packets.Ack, start + 2, connection.RcvNxt, [2, 3, 4, 5]);
        connection.Raw(Packets.Ack, start + 1, connection.RcvNxt, [1, 2]);
        connection.Raw(Packets.Ack | Packets.Fin, start + 4, connection.RcvNxt, [4, 5, 6]);
        connection.Raw(Packets.Ack | Packets.Fin, start + 4, connection.RcvNxt, [4, 5, 6]);
        Assert.Equal<byte>([0, 1, 2, 3, 4, 5, 6], FarEnd.Read(guest, far, 7));
        Assert.True(FarEnd.IsAtEnd(guest, far));
        guest.Settle();
        Assert.Equal(start + 8, connection.Segments[^1].Acknowledgment);
    }

    [Fact]
    public async Task Data_with_a_wrong_checksum_is_not_passed_on()
    {
        await using var guest = new GuestStack();
        using var host = new FarEnd();
        var connection = guest.Connect(host.FromGuest);
        using var far = host.Accept();
        var frame = Packets.Tcp(connection.Local, connection.Remote, Packets.Ack, connection.SndNxt, connection.RcvNxt, 1000, [1, 2, 3]);
        frame[^1] ^= 0x40;
        guest.Send(frame);
        guest.Run(() => guest.Network.Figures.Drops.ContainsKey(DropReason.Checksum));
        Assert.Equal(0, far.Available);
    }

    [Fact]
    public async Task A_window_of_one_byte_gets_no_stream_of_tiny_segments()
    {
        await using var guest = new GuestStack();
        using var host = new FarEnd();
        var connection = guest.Connect(host.FromGuest);
        using var far = host.Accept();
        connection.Window = 1;
        connection.SendAck();
        guest.Settle();
        var before = guest.Network.Figures.FramesToGuest;
        far.Send(new byte[100_000]);
        guest.Run(() => connection.ReceivedCount >= 2);
        // Only the timer sends such: nothing else has come.
        Assert.InRange(guest.Network.Figures.FramesToGuest - before, 2, 20);
        connection.Window = 65535;
        connection.SendAck();
        guest.Run(() => connection.ReceivedCount == 100_000);
    }

    [Fact]
    public async Task A_flood_of_SYNs_is_bounded()
    {
        await using var guest = new GuestStack();
        using var host = new FarEnd();
        for (var i = 0; i < 6000; i++)
            guest.Send(Packets.Tcp(new IPEndPoint(GuestStack.Address, 1024 + i), host.FromGuest, Packets.Syn, 1, 0, 1000, []));
        guest.Run(() => guest.Network.Figures.FramesFromGuest == 6000);
        Assert.InRange(guest.Network.Figures.Connections, 1, 4096);
        Assert.True(guest.Network.Figures.Drops[DropReason.Limit] > 0);
        for (var i = 0; i < 6000; i++)
            guest.Send(Packets.Tcp(new IPEndPoint(GuestStack.Address, 1024 + i), host.FromGuest, Packets.Rst, 2, 0, 0, []));
        guest.Run(() => guest.Network.Figures.Connections == 0);
    }

    [Fact]
    public async Task Resets_of_connections_that_do_not_exist_are_not_answered()
    {
        await using var guest = new GuestStack();
        for (var i = 0; i < 1000; i++)
            guest.Send(Packets.Tcp(new IPEndPoint(GuestStack.Address, 1024 + i), new IPEndPoint(GuestStack.Gateway, 80), Packets.Rst, 1, 0, 0, []));
        guest.Run(() => guest.Network.Figures.FramesFromGuest == 1000);
        guest.Settle();
        Assert.Equal(0, guest.Network.Figures.FramesToGuest);
        guest.Send(Packets.Tcp(new IPEndPoint(GuestStack.Address, 1024), new IPEndPoint(GuestStack.Gateway, 80), Packets.Ack, 5, 77, 0, [1, 2]));
        var reset = guest.Expect(p => p.Protocol == 6);
        Assert.Equal((Packets.Rst, 77U), (reset.Flags, reset.Sequence));
    }

    [Fact]
    public async Task A_guest_that_is_gone_leaves_nothing_behind_when_the_network_ends()
    {
        var guest = new GuestStack();
        using var host = new FarEnd();
        var connection = guest.Connect(host.FromGuest);
        var far = host.Accept();
        var sending = Task.Run(() =>
        {
            try
            {
                while (true)
                    far.Send(new byte[65536]);
            }
            catch (System.Net.Sockets.SocketException)
            {
                return true;
            }
        });
        guest.Run(() => connection.ReceivedCount > 100_000);
        await guest.DisposeAsync();
        Assert.True(await sending);
        Assert.Equal(0, guest.Network.Figures.Connections);
        Assert.Equal(0, guest.Network.Figures.Pool.InUse);
        guest.Nic.Send([1, 2, 3]); // the device does not know yet
    }

    /// <summary>SHARPVISOR_FUZZ_COUNT frames (100,000), SHARPVISOR_FUZZ_SEED.</summary>
    [Fact]
    public async Task Random_and_mutated_frames_neither_end_nor_stop_the_network()
    {
        var count = int.Parse(Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_COUNT") ?? "100000");
        var seed = int.Parse(Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_SEED") ?? "1");
        var random = new Random(seed);
        // Restricted, so that nothing leaves the test; the host's side of connections is a service.
        using var host = new FarEnd();
        var server = IPAddress.Parse("10.0.2.100");
        await using var guest = new GuestStack(
            new UserNetworkOptions
            {
                Restrict = true,
                PoolLimit = 1 << 20,
                GuestForwards = [new GuestForward(server, 80, new IPEndPoint(IPAddress.Loopback, host.FromGuest.Port))],
            },
            prepare: n => n.AddUdpService(GuestStack.Gateway, 53, new Mirror()));
        uint next = 1000, acknowledged = 0;
        var port = 1024;
        for (var i = 0; i < count; i++)
        {
            while (guest.Nic.TryTake(out var reply, out _, 0))
            {
                // Speak to living connections: take what they say.
                if (reply.Length >= 54 && reply[23] == 6 && (reply[47] & Packets.Syn) != 0)
                    (acknowledged, next) = (BinaryPrimitives.ReadUInt32BigEndian(reply.AsSpan(38)) + 1, BinaryPrimitives.ReadUInt32BigEndian(reply.AsSpan(42)));
                else if (reply.Length >= 54 && reply[23] == 6)
                    acknowledged = BinaryPrimitives.ReadUInt32BigEndian(reply.AsSpan(38)) + (uint)reply.Length - 54;
            }

            if (i % 500 == 0)
            {
                port = 1024 + i / 500 % 60000;
                guest.Nic.Send(Packets.Tcp(new IPEndPoint(GuestStack.Address, port), new IPEndPoint(server, 80), Packets.Syn, next, 0, 1000, []));
                guest.Settle();
            }

            var from = new IPEndPoint(GuestStack.Address, port);
            var frame = random.Next(7) switch
            {
                0 => FarEnd.Bytes(random.Next(0, 1600), random.Next()),
                1 => Packets.Echo(GuestStack.Address, random.Next(2) == 0 ? GuestStack.Gateway : server, 1, 1, new byte[random.Next(100)]),
                2 => Packets.Udp(from, new IPEndPoint(GuestStack.Gateway, 53), new byte[random.Next(600)]),
                3 => Packets.ArpRequest(GuestStack.Address, GuestStack.Gateway),
                4 => Packets.Ipv4(GuestStack.Address, GuestStack.Gateway, 17, new byte[8 * random.Next(1, 180)], identification: (ushort)random.Next(4), fragment: (ushort)(random.Next(0x4000) & (random.Next(2) == 0 ? 0x200F : 0x3FFF))),
                _ => Packets.Tcp(
                    from,
                    new IPEndPoint(server, 80),
                    (byte)(random.Next(4) == 0 ? random.Next(64) : Packets.Ack),
                    next + (uint)random.Next(-3, 4),
                    acknowledged - (uint)random.Next(4),
                    (ushort)random.Next(65536),
                    new byte[random.Next(40)],
                    random.Next(3) == 0 ? FarEnd.Bytes(4 * random.Next(1, 10), random.Next()) : null),
            };
            for (var changes = random.Next(4); changes > 0 && frame.Length > 14; changes--)
                frame[random.Next(random.Next(3) == 0 ? 0 : 12, frame.Length)] = (byte)random.Next(256);
            if (random.Next(8) == 0)
                frame = frame[..random.Next(frame.Length + 1)];
            // Half of them say that nobody has to look at the checksum, so that the damage goes deeper.
            var offload = random.Next(2) == 0
                ? default
                : new FrameOffload { IsValid = true, Segmentation = (Segmentation)random.Next(6), SegmentSize = (ushort)random.Next(3), NeedsChecksum = random.Next(2) == 0 };
            if (random.Next(2) == 0 && frame.Length >= 34)
                BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(24), RightChecksum(frame));
            guest.Nic.Send(frame, offload);
            if (i % 64 == 0)
                guest.Nic.SetRoom(random.Next(4) == 0 ? random.Next(3) : int.MaxValue);
        }

        guest.Nic.SetRoom(int.MaxValue);
        guest.Settle();
        guest.Others.Clear();
        // It still lives.
        guest.Nic.Send(Packets.Echo(GuestStack.Address, GuestStack.Gateway, 0x7777, 1, [1]));
        guest.Expect(p => p.Protocol == 1 && p.Payload[0] == 0 && p.Payload[4] == 0x77);
        Assert.InRange(guest.Network.Figures.Pool.Peak, 0, 1 << 20);
    }

    private static ushort RightChecksum(byte[] frame)
    {
        var header = frame.AsSpan(14, Math.Min(frame.Length - 14, Math.Max(20, (frame[14] & 15) * 4))).ToArray();
        header.AsSpan(10, 2).Clear();
        return Packets.Checksum(header);
    }

    private sealed class Mirror : IUdpService
    {
        public long NextDeadlineMs => long.MaxValue;

        public void OnDatagram(IPEndPoint from, IPEndPoint to, ReadOnlySpan<byte> data, IUdpSender sender) => sender.Send(to, from, data);

        public void OnTime(long nowMs, IUdpSender sender) => throw new UnreachableException();
    }
}
