using System.Net;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Net.Links;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Backends.Tests.Net.User;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.Links;

public sealed class NetworkHubTests
{
    [Fact]
    public async Task A_frame_goes_to_all_others()
    {
        await using var hub = new NetworkHub("hub", NullLogger.Instance);
        await using var one = new LinkedNic(hub.AddPort());
        await using var two = new LinkedNic(hub.AddPort());
        await using var three = new LinkedNic(hub.AddPort());
        for (var i = 0; i < 5000; i++)
        {
            one.Send(LinkedNic.Frame(60, i));
            Assert.Equal(LinkedNic.Frame(60, i), two.Take());
            Assert.Equal(LinkedNic.Frame(60, i), three.Take());
        }

        Assert.True(one.IsQuiet());
        Assert.Equal(0, hub.Dropped);
    }

    [Fact]
    public async Task A_slow_port_loses_frames_and_they_are_counted_the_others_lose_none()
    {
        const int count = 5000; // 7.5 MB: more than a port keeps
        await using var hub = new NetworkHub("hub", NullLogger.Instance);
        await using var one = new LinkedNic(hub.AddPort());
        await using var two = new LinkedNic(hub.AddPort());
        await using var slow = new LinkedNic(hub.AddPort());
        slow.Nic.SetRoom(0);
        for (var i = 0; i < count; i++)
            one.Send(LinkedNic.Frame(1514, i));
        for (var i = 0; i < count; i++)
            Assert.Equal(LinkedNic.Frame(1514, i), two.Take());
        slow.Nic.SetRoom(int.MaxValue);
        var got = 0;
        LinkedNic.Until(() => (got += slow.Nic.TryTake(out _, out _, 0) ? 1 : 0) + hub.Dropped == count, () => $"{got} and {hub.Dropped} of {count}");
        Assert.InRange(got, 1, count - 1);
    }

    [Fact]
    public async Task With_two_ports_who_sends_waits()
    {
        const int count = 5000;
        await using var hub = new NetworkHub("hub", NullLogger.Instance);
        await using var one = new LinkedNic(hub.AddPort());
        await using var slow = new LinkedNic(hub.AddPort());
        slow.Nic.SetRoom(0);
        for (var i = 0; i < count; i++)
            one.Send(LinkedNic.Frame(1514, i));
        for (var i = 0; i < count; i++)
        {
            if (i % 50 == 0)
                slow.Nic.SetRoom(i == count - 50 ? int.MaxValue : 50);
            Assert.Equal(LinkedNic.Frame(1514, i), slow.Take());
        }

        Assert.Equal(0, hub.Dropped);
    }

    [Fact]
    public async Task A_port_that_goes_does_not_hold_up_who_waits_for_it()
    {
        await using var hub = new NetworkHub("hub", NullLogger.Instance);
        await using var one = new LinkedNic(hub.AddPort());
        var stuck = new LinkedNic(hub.AddPort());
        stuck.Nic.SetRoom(0);
        for (var i = 0; i < 1000; i++)
            one.Send(LinkedNic.Frame(1514, i));
        await using var next = new LinkedNic(hub.AddPort());
        await stuck.DisposeAsync();
        one.Send(LinkedNic.Frame(60, 5));
        while (next.Take().Length != 60)
        {
        }
    }

    [Fact]
    public async Task Two_NICs_share_a_user_network()
    {
        await using var hub = new NetworkHub("hub", NullLogger.Instance);
        hub.Connect(new UserNetwork("user", new UserNetworkOptions(), NullLogger.Instance));
        await using var one = new LinkedNic(hub.AddPort());
        await using var two = new LinkedNic(hub.AddPort());
        foreach (var nic in new[] { one, two })
        {
            nic.Send(Packets.Echo(GuestStack.Address, GuestStack.Gateway, 7, 1, new byte[56]));
            // The answers, which the other one gets as well, follow ARP requests for the address that both claim.
            LinkedNic.Until(() =>
            {
                if (!nic.Nic.TryTake(out var frame, out _, 100))
                    return false;
                if (frame.AsSpan(12, 2).SequenceEqual<byte>([8, 6]) && frame[21] == 1)
                    nic.Send(Packets.Ethernet(0x0806, [0, 1, 8, 0, 6, 4, 0, 2, .. Packets.Bytes(Packets.Guest), .. GuestStack.Address.GetAddressBytes(), .. frame[22..32]]));
                return frame.AsSpan(12, 2).SequenceEqual<byte>([8, 0]) && frame[34] == 0;
            });
        }
    }

    [Fact]
    public async Task A_link_on_a_hub_reaches_the_NICs()
    {
        var (a, b) = (new NetworkHub("a", NullLogger.Instance), new NetworkHub("b", NullLogger.Instance));
        await using (a)
        await using (b)
        {
            await using var one = new LinkedNic(a.AddPort());
            await using var two = new LinkedNic(b.AddPort());
            var server = StreamLink.Listen("s", new IPEndPoint(IPAddress.Loopback, 0), NullLogger.Instance);
            a.Connect(server);
            b.Connect(StreamLink.Connect("c", server.LocalEndPoint!, null, NullLogger.Instance));
            LinkedNic.Until(() => server.IsConnected);
            for (var i = 0; i < 1000; i++)
                one.Send(LinkedNic.Frame(1514, i));
            for (var i = 0; i < 1000; i++)
                Assert.Equal(LinkedNic.Frame(1514, i), two.Take());
            two.Send(LinkedNic.Frame(60, 1));
            Assert.Equal(LinkedNic.Frame(60, 1), one.Take());
        }
    }
}
