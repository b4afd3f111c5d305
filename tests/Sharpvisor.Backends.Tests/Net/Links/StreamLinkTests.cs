using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Net.Links;
using Sharpvisor.Backends.Tests.Net.User.Services;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.Links;

public sealed class StreamLinkTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("links").FullName;

    private string SocketPath => Path.Combine(_folder, "s");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Frames_of_all_lengths_cross_both_ways(bool isUnix)
    {
        EndPoint end = isUnix ? new UnixDomainSocketEndPoint(SocketPath) : new IPEndPoint(IPAddress.Loopback, 0);
        var server = StreamLink.Listen("server", end, NullLogger.Instance);
        await using var one = new LinkedNic(server);
        await using var other = new LinkedNic(StreamLink.Connect("client", isUnix ? end : server.LocalEndPoint!, null, NullLogger.Instance));
        LinkedNic.Until(() => server.IsConnected);
        int[] lengths = [14, 15, 60, 1514, 9014, 65535, EthernetFrame.MaximumLength];
        for (var i = 0; i < 500; i++)
        {
            var length = lengths[i % lengths.Length];
            one.Send(LinkedNic.Frame(length, i));
            other.Send(LinkedNic.Frame(length, 1000 + i));
        }

        for (var i = 0; i < 500; i++)
        {
            var length = lengths[i % lengths.Length];
            Assert.Equal(LinkedNic.Frame(length, i), other.Take());
            Assert.Equal(LinkedNic.Frame(length, 1000 + i), one.Take());
        }

        Assert.Equal((500, 500, 0), (server.Figures.FramesFromGuest, server.Figures.FramesToGuest, server.Figures.Dropped));
    }

    [Fact]
    public async Task The_wire_is_as_QEMU_has_it_and_frames_may_come_byte_by_byte()
    {
        var link = Listen(out var port);
        await using var nic = new LinkedNic(link);
        using var peer = await ConnectAsync(port, link);
        nic.Send(LinkedNic.Frame(100, 1));
        Assert.Equal([0, 0, 0, 100, .. LinkedNic.Frame(100, 1)], await ReadAsync(peer, 104));
        foreach (var b in (byte[])[0, 0, 0, 20, .. LinkedNic.Frame(20, 2), 0, 0, 0, 14, .. LinkedNic.Frame(14, 3)])
            await peer.SendAsync(new byte[] { b });
        Assert.Equal(LinkedNic.Frame(20, 2), nic.Take());
        Assert.Equal(LinkedNic.Frame(14, 3), nic.Take());
    }

    [Fact]
    public async Task What_can_be_no_frame_is_skipped()
    {
        var link = Listen(out var port);
        await using var nic = new LinkedNic(link);
        using var peer = await ConnectAsync(port, link);
        await peer.SendAsync(new byte[] { 0, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 14, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14 });
        Assert.Equal(14, nic.Take().Length);
        Assert.Equal(2, link.Figures.Dropped);
    }

    [Theory]
    [InlineData(0xFFFF_FFFFU)]
    [InlineData(0x8000_0000U)]
    [InlineData(EthernetFrame.MaximumLength + 1U)]
    public async Task An_absurd_length_ends_the_connection_and_the_next_one_is_taken(uint length)
    {
        var link = Listen(out var port);
        await using var nic = new LinkedNic(link);
        using (var peer = await ConnectAsync(port, link))
        {
            var bytes = new byte[4];
            BinaryPrimitives.WriteUInt32BigEndian(bytes, length);
            await peer.SendAsync(bytes);
            Assert.Equal(0, await peer.ReceiveAsync(new byte[1]));
        }

        LinkedNic.Until(() => !link.IsConnected);
        using var next = await ConnectAsync(port, link);
        await next.SendAsync((byte[])[0, 0, 0, 14, .. LinkedNic.Frame(14, 1)]);
        Assert.Equal(LinkedNic.Frame(14, 1), nic.Take());
    }

    [Fact]
    public async Task Who_comes_while_somebody_is_there_waits()
    {
        var link = Listen(out var port);
        await using var nic = new LinkedNic(link);
        var first = await ConnectAsync(port, link);
        using var second = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        await second.ConnectAsync(IPAddress.Loopback, port);
        await second.SendAsync((byte[])[0, 0, 0, 14, .. LinkedNic.Frame(14, 2)]);
        await first.SendAsync((byte[])[0, 0, 0, 14, .. LinkedNic.Frame(14, 1), 0, 0]); // and gone in the middle of a frame
        first.Dispose();
        Assert.Equal(LinkedNic.Frame(14, 1), nic.Take());
        Assert.Equal(LinkedNic.Frame(14, 2), nic.Take());
    }

    [Fact]
    public async Task A_client_comes_back_to_a_server_that_was_gone()
    {
        var server = Listen(out var port);
        var client = StreamLink.Connect("client", new IPEndPoint(IPAddress.Loopback, port), TimeSpan.FromMilliseconds(20), NullLogger.Instance);
        await using var nic = new LinkedNic(client);
        await using (var one = new LinkedNic(server))
        {
            LinkedNic.Until(() => client.IsConnected && server.IsConnected);
            one.Send(LinkedNic.Frame(60, 1));
            Assert.Equal(LinkedNic.Frame(60, 1), nic.Take());
        }

        LinkedNic.Until(() => !client.IsConnected);
        nic.Send(LinkedNic.Frame(60, 2));
        LinkedNic.Until(() => client.Figures.Dropped == 1);
        server = StreamLink.Listen("server", new IPEndPoint(IPAddress.Loopback, port), NullLogger.Instance);
        await using var two = new LinkedNic(server);
        LinkedNic.Until(() => client.IsConnected && server.IsConnected);
        nic.Send(LinkedNic.Frame(60, 3));
        Assert.Equal(LinkedNic.Frame(60, 3), two.Take());
    }

    [Fact]
    public async Task A_slow_guest_holds_up_its_peer_and_nothing_is_lost()
    {
        var server = Listen(out var port);
        await using var slow = new LinkedNic(server);
        await using var fast = new LinkedNic(StreamLink.Connect("client", new IPEndPoint(IPAddress.Loopback, port), null, NullLogger.Instance));
        LinkedNic.Until(() => server.IsConnected);
        slow.Nic.SetRoom(0);
        const int frames = 20_000; // 30 MB: more than the host keeps
        for (var i = 0; i < frames; i++)
            fast.Send(LinkedNic.Frame(1514, i));
        for (var i = 0; i < frames; i++)
        {
            if (i % 100 == 0)
                slow.Nic.SetRoom(i == frames - 100 ? int.MaxValue : 100);
            Assert.Equal(LinkedNic.Frame(1514, i), slow.Take());
        }
    }

    [Fact]
    public async Task The_path_of_a_killed_process_is_taken_over_and_given_back()
    {
        using (var dead = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            dead.Bind(new UnixDomainSocketEndPoint(SocketPath));
            File.Move(SocketPath, SocketPath + "x");
        }

        File.Move(SocketPath + "x", SocketPath); // its owner would have removed it
        await using (StreamLink.Listen("s", new UnixDomainSocketEndPoint(SocketPath), NullLogger.Instance))
        {
        }

        Assert.False(File.Exists(SocketPath));
    }

    [Fact]
    public async Task A_mistake_is_one_line_that_says_what()
    {
        await using var first = Listen(out var port);
        Expect("in use; give another", () => StreamLink.Listen("a", new IPEndPoint(IPAddress.Loopback, port), NullLogger.Instance));
        Expect("no such address", () => StreamLink.Listen("a", new IPEndPoint(IPAddress.Parse("192.0.2.77"), 0), NullLogger.Instance));
        await using (StreamLink.Listen("s", new UnixDomainSocketEndPoint(SocketPath), NullLogger.Instance))
            Expect("in use; give another path", () => StreamLink.Listen("b", new UnixDomainSocketEndPoint(SocketPath), NullLogger.Instance));
        Expect("nobody listens there", () => StreamLink.Connect("c", new UnixDomainSocketEndPoint(SocketPath), null, NullLogger.Instance));
        await File.WriteAllTextAsync(SocketPath, "mine");
        Expect("something else", () => StreamLink.Listen("d", new UnixDomainSocketEndPoint(SocketPath), NullLogger.Instance));
        Assert.Equal("mine", await File.ReadAllTextAsync(SocketPath));
        await first.DisposeAsync();
        Expect("nobody listens there", () => StreamLink.Connect("c", new IPEndPoint(IPAddress.Loopback, port), null, NullLogger.Instance));

        static void Expect(string text, Func<StreamLink> open)
        {
            var e = Assert.Throws<ConfigurationException>(open);
            Assert.Contains(text, e.Message, StringComparison.Ordinal);
            Assert.DoesNotContain('\n', e.Message);
        }
    }

    /// <summary>SHARPVISOR_NET_FUZZ streams: frames, changed, cut and put together anew, in pieces of any size.</summary>
    [Fact]
    public async Task Whatever_a_peer_sends_the_link_goes_on()
    {
        var link = Listen(out var port);
        await using var nic = new LinkedNic(link);
        FuzzSettings.ForEachSeed(random =>
        {
            nic.Nic.SetRoom(random.Next(3) == 0 ? random.Next(5) : int.MaxValue);
            using var peer = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            peer.Connect(IPAddress.Loopback, port);
            var stream = new List<byte>();
            for (var frames = random.Next(1, 20); frames > 0; frames--)
            {
                var frame = LinkedNic.Frame(random.Next(random.Next(10) == 0 ? EthernetFrame.MaximumLength + 100 : 200), random.Next());
                var length = random.Next(8) == 0 ? random.Next(0x20000) : frame.Length;
                stream.AddRange([0, (byte)(length >> 16), (byte)(length >> 8), (byte)length, .. frame]);
            }

            var bytes = random.Next(2) == 0 ? FuzzSettings.Mutate(random, [.. stream]) : [.. stream];
            LinkedNic.Until(() => link.IsConnected);
            peer.Blocking = false;
            for (var at = 0; at < bytes.Length;)
            {
                if (random.Next(4) == 0)
                    nic.Send(LinkedNic.Frame(random.Next(14, 3000), at));
                var count = Math.Min(bytes.Length - at, random.Next(1, random.Next(2) == 0 ? 8 : 100_000));
                at += Math.Max(0, peer.Send(bytes.AsSpan(at, count), SocketFlags.None, out var error));
                if (error == SocketError.WouldBlock)
                    nic.Nic.SetRoom(int.MaxValue);
                else if (error != SocketError.Success)
                    break; // the link has had enough
            }

            if (random.Next(2) == 0)
                peer.LingerState = new LingerOption(true, 0); // a reset
            peer.Dispose();
            nic.Nic.SetRoom(int.MaxValue);
            LinkedNic.Until(() => !link.IsConnected);
            while (nic.Nic.TryTake(out var got, out _, 0))
                Assert.InRange(got.Length, EthernetFrame.HeaderLength, EthernetFrame.MaximumLength);
        });
        using var last = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        await last.ConnectAsync(IPAddress.Loopback, port);
        byte[] sign = [.. "still here, is it"u8];
        await last.SendAsync((byte[])[0, 0, 0, (byte)sign.Length, .. sign]);
        while (!nic.Take().SequenceEqual(sign))
        {
        }
    }

    private static StreamLink Listen(out int port)
    {
        var link = StreamLink.Listen("s", new IPEndPoint(IPAddress.Loopback, 0), NullLogger.Instance);
        port = ((IPEndPoint)link.LocalEndPoint!).Port;
        return link;
    }

    private static async Task<Socket> ConnectAsync(int port, StreamLink link)
    {
        var peer = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        await peer.ConnectAsync(IPAddress.Loopback, port);
        LinkedNic.Until(() => link.IsConnected);
        return peer;
    }

    private static async Task<byte[]> ReadAsync(Socket socket, int count)
    {
        var bytes = new byte[count];
        for (var at = 0; at < count;)
        {
            var read = await socket.ReceiveAsync(bytes.AsMemory(at));
            Assert.NotEqual(0, read);
            at += read;
        }

        return bytes;
    }
}
