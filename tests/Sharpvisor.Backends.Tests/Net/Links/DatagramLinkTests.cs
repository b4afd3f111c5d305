using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Net.Links;
using Sharpvisor.Backends.Tests.Net.User.Services;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.Links;

public sealed class DatagramLinkTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("links").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task A_frame_is_a_datagram_without_anything_else()
    {
        using var peer = Peer(out var there);
        var link = Udp(there);
        await using var nic = new LinkedNic(link);
        nic.Send(LinkedNic.Frame(1514, 1));
        var got = new byte[3000];
        var from = await peer.ReceiveFromAsync(got, SocketFlags.None, new IPEndPoint(IPAddress.Any, 0));
        Assert.Equal(LinkedNic.Frame(1514, 1), got[..from.ReceivedBytes]);
        Assert.Equal(link.LocalEndPoint, from.RemoteEndPoint);
        await peer.SendToAsync(LinkedNic.Frame(14, 2), link.LocalEndPoint);
        Assert.Equal(LinkedNic.Frame(14, 2), nic.Take());
    }

    [Fact]
    public async Task Frames_that_nobody_gets_or_that_are_too_long_are_counted()
    {
        var peer = Peer(out var there);
        var link = Udp(there);
        await using var nic = new LinkedNic(link);
        nic.Send(new byte[EthernetFrame.MaximumLength]); // longer than IPv4 has
        LinkedNic.Until(() => link.Figures.Dropped == 1);
        peer.Dispose();
        for (var i = 0; i < 10; i++)
            nic.Send(new byte[60]);
        LinkedNic.Until(() => link.Figures.FramesFromGuest == 11);
        using var again = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        again.Bind(there);
        nic.Send(LinkedNic.Frame(60, 3));
        var got = new byte[100];
        Assert.Equal(60, await again.ReceiveAsync(got));
        Assert.Equal(LinkedNic.Frame(60, 3), got[..60]);
    }

    [Fact]
    public async Task Unix_paths_may_come_and_go()
    {
        var (a, b) = (Path.Combine(_folder, "a"), Path.Combine(_folder, "b"));
        var link = DatagramLink.Unix("a", a, b, NullLogger.Instance);
        await using var one = new LinkedNic(link);
        one.Send(LinkedNic.Frame(60, 1));
        LinkedNic.Until(() => link.Figures.Dropped == 1); // nobody there
        for (var round = 0; round < 2; round++)
        {
            await using var other = new LinkedNic(DatagramLink.Unix("b", b, a, NullLogger.Instance));
            // It looks for the other side now and then only.
            LinkedNic.Until(() =>
            {
                one.Send(LinkedNic.Frame(60, 2));
                return other.Nic.TryTake(out _, out _, 10);
            });
            while (other.Nic.TryTake(out _, out _, 0))
            {
            }

            other.Nic.SetRoom(0);
            for (var i = 0; i < 2000; i++)
                one.Send(LinkedNic.Frame(1514, i));
            other.Nic.SetRoom(int.MaxValue);
            for (var i = 0; i < 2000;)
                i += other.Take().Length == 1514 ? 1 : 0; // none is lost: who sends waits
            other.Send(LinkedNic.Frame(60, 4));
            Assert.Equal(LinkedNic.Frame(60, 4), one.Take());
        }
    }

    [Fact]
    public async Task A_group_is_a_segment_and_nobody_hears_himself()
    {
        var group = new IPEndPoint(IPAddress.Parse("230.0.0.1"), Random.Shared.Next(20000, 60000));
        var links = Enumerable.Range(0, 3).Select(i => DatagramLink.Multicast($"m{i}", group, IPAddress.Loopback, NullLogger.Instance)).ToArray();
        await using var one = new LinkedNic(links[0]);
        await using var two = new LinkedNic(links[1]);
        await using var three = new LinkedNic(links[2]);
        for (var i = 0; i < 20; i++)
        {
            one.Send(LinkedNic.Frame(100, i));
            Assert.Equal(LinkedNic.Frame(100, i), two.Take());
            Assert.Equal(LinkedNic.Frame(100, i), three.Take());
        }

        two.Send(LinkedNic.Frame(100, 1000));
        Assert.Equal(LinkedNic.Frame(100, 1000), one.Take());
        Assert.Equal(LinkedNic.Frame(100, 1000), three.Take());
        Assert.True(one.IsQuiet() && two.IsQuiet() && three.IsQuiet());
    }

    [Fact]
    public async Task A_mistake_is_one_line_that_says_what()
    {
        using var peer = Peer(out var there);
        Assert.Contains("in use", Assert.Throws<ConfigurationException>(() => DatagramLink.Udp("u", there, there, NullLogger.Instance)).Message, StringComparison.Ordinal);
        var path = Path.Combine(_folder, "a");
        await using var first = DatagramLink.Unix("a", path, path + "b", NullLogger.Instance);
        Assert.Contains("in use", Assert.Throws<ConfigurationException>(() => DatagramLink.Unix("a", path, path + "b", NullLogger.Instance)).Message, StringComparison.Ordinal);
        Assert.Contains("too long", Assert.Throws<ConfigurationException>(() => DatagramLink.Unix("a", path, new string('x', 200), NullLogger.Instance)).Message, StringComparison.Ordinal);
    }

    /// <summary>SHARPVISOR_NET_FUZZ times: datagrams of any length.</summary>
    [Fact]
    public async Task Whatever_a_peer_sends_the_link_goes_on()
    {
        using var peer = Peer(out var there);
        var link = Udp(there);
        await using var nic = new LinkedNic(link);
        var sent = 0;
        FuzzSettings.ForEachSeed(random =>
        {
            nic.Nic.SetRoom(random.Next(4) == 0 ? random.Next(2) : int.MaxValue);
            for (var i = random.Next(20); i > 0; i--)
            {
                var length = random.Next(3) switch { 0 => random.Next(20), 1 => random.Next(2000), _ => random.Next(65508) };
                peer.SendTo(LinkedNic.Frame(length, random.Next()), link.LocalEndPoint);
                sent++;
            }

            while (nic.Nic.TryTake(out var got, out _, 0))
                Assert.InRange(got.Length, EthernetFrame.HeaderLength, EthernetFrame.MaximumLength);
        });
        Assert.True(sent > 0);
        nic.Nic.SetRoom(int.MaxValue);
        byte[] sign = [.. "still here, is it"u8];
        // Others may have filled what the host keeps.
        LinkedNic.Until(() =>
        {
            peer.SendTo(sign, link.LocalEndPoint);
            return nic.Nic.TryTake(out var got, out _, 1) && got.SequenceEqual(sign);
        });
    }

    private static DatagramLink Udp(IPEndPoint there) => DatagramLink.Udp("u", new IPEndPoint(IPAddress.Loopback, 0), there, NullLogger.Instance);

    private static Socket Peer(out IPEndPoint there)
    {
        var peer = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        peer.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        there = (IPEndPoint)peer.LocalEndPoint!;
        return peer;
    }
}
