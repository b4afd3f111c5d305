using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Net.Links;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Cli.Parsing;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Cli.Tests.Parsing;

public sealed class NetFlagsTests
{
    [Theory]
    [InlineData("-nic", "none")]
    [InlineData("-net", "none")]
    [InlineData("-nodefaults")]
    public void No_NIC(params string[] args)
    {
        var settings = RunFlags.Parse(args);
        Assert.Empty(settings.Nics);
        Assert.Empty(settings.Netdevs);
    }

    [Theory]
    [InlineData("-m", "512")]
    [InlineData("-nic", "user")]
    [InlineData("-nic", "user,model=virtio-net-pci")]
    [InlineData("-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n")]
    [InlineData("-device", "virtio-net-pci,netdev=n", "-netdev", "user,id=n")]
    [InlineData("-net", "user", "-net", "nic,model=virtio")]
    [InlineData("-net", "nic,model=virtio", "-net", "user")]
    [InlineData("-net", "user")]
    [InlineData("-netdev", "user,id=n", "-net", "nic,netdev=n")]
    public async Task One_virtio_NIC_on_a_network(params string[] args)
    {
        var settings = RunFlags.Parse(args);
        var nic = Assert.Single(settings.Nics);
        var netdev = Assert.Single(settings.Netdevs);
        Assert.Equal(netdev.Id, nic.NetdevId);
        await using var network = netdev.Open("n", null, NullLogger.Instance);
        var device = Assert.IsType<VirtioNic>(nic.Create(network, MacAddress.Default(0), null));
        Assert.Equal(MacAddress.Default(0), device.Options.Address);
        Assert.Equal("10.0.2.0/24", Assert.IsType<UserNetwork>(network).Options.Network);
    }

    [Theory]
    [InlineData("-nic", "user,model=e1000")]
    [InlineData("-netdev", "user,id=n", "-device", "e1000,netdev=n")]
    [InlineData("-net", "user", "-net", "nic,model=e1000")]
    public void An_e1000(params string[] args) => Assert.IsType<E1000Card>(Create(Assert.Single(RunFlags.Parse(args).Nics)));

    [Fact]
    public void The_line_of_the_mission_is_understood()
    {
        var settings = RunFlags.Parse(["-bootp", "http://10.0.2.2/x.gpxe", "-no-kvm", "-net", "user", "-net", "nic,model=virtio", "stick.usb"]);
        Assert.Equal("http://10.0.2.2/x.gpxe", settings.BootFile);
        Assert.Single(settings.Nics);
        Assert.Equal("stick.usb", Assert.Single(settings.PlacedDrives).Drive.File);
    }

    [Theory]
    [InlineData("socket,listen=127.0.0.1:0", typeof(StreamLink))]
    [InlineData("socket,mcast=230.0.0.1:21234,localaddr=127.0.0.1", typeof(DatagramLink))]
    [InlineData("socket,udp=127.0.0.1:9,localaddr=127.0.0.1:0", typeof(DatagramLink))]
    [InlineData("stream,server=on,addr.type=inet,addr.host=localhost,addr.port=0", typeof(StreamLink))]
    [InlineData("stream,addr.type=unix,addr.path=/no/such/path,reconnect=1", typeof(StreamLink))]
    [InlineData("dgram,local.type=inet,local.host=127.0.0.1,local.port=0,remote.type=inet,remote.host=localhost,remote.port=9", typeof(DatagramLink))]
    [InlineData("dgram,local.type=inet,local.host=127.0.0.1,remote.type=inet,remote.host=230.0.0.1,remote.port=21235", typeof(DatagramLink))]
    public async Task A_link(string value, Type kind)
    {
        var settings = RunFlags.Parse(["-nic", value]);
        await using var link = Assert.Single(settings.Netdevs).Open("n", null, NullLogger.Instance);
        Assert.IsType(kind, link);
        Assert.False(link.TakesOffloads);
        Assert.Equal("-nic " + value, link.Name);
        Assert.Equal(settings.Netdevs[0].Id, Assert.Single(settings.Nics).NetdevId);
    }

    [Fact]
    public void All_of_net_is_on_one_hub()
    {
        var settings = RunFlags.Parse(["-net", "nic", "-net", "nic,model=e1000", "-net", "user", "-net", "socket,mcast=230.0.0.1:1234"]);
        Assert.Equal([0, 0], settings.Nics.Select(n => n.Hub));
        Assert.Equal([0, 0], settings.Netdevs.Select(n => n.Hub));
        settings = RunFlags.Parse(["-net", "user", "-net", "socket,mcast=230.0.0.1:1234"]);
        Assert.Equal(0, Assert.Single(settings.Nics).Hub);
        // Two ends are a cable, without a hub.
        settings = RunFlags.Parse(["-net", "user", "-net", "nic"]);
        Assert.Null(settings.Nics[0].Hub);
        Assert.Equal(settings.Netdevs[0].Id, settings.Nics[0].NetdevId);
    }

    [Fact]
    public void Ports_of_hubs_may_come_before_what_they_connect()
    {
        var settings = RunFlags.Parse(["-netdev", "hubport,id=a,hubid=3,netdev=n", "-device", "e1000,netdev=b", "-netdev", "hubport,id=b,hubid=3", "-netdev", "user,id=n",
            "-object", "filter-dump,id=f,netdev=b,file=/tmp/x", "-net", "nic", "-netdev", "hubport,id=c,hubid=0,netdev=m", "-netdev", "user,id=m"]);
        Assert.Equal([3, 0], settings.Nics.Select(n => n.Hub));
        Assert.Equal([3, 0], settings.Netdevs.Select(n => n.Hub));
    }

    [Fact]
    public async Task What_a_network_is_told_gets_there()
    {
        var settings = RunFlags.Parse([
            "-bootp", "pxelinux.0", "-nic",
            "user,net=192.168.7.0/24,host=192.168.7.1,dns=192.168.7.3,dhcpstart=192.168.7.50,restrict=on,hostname=h,domainname=d,dnssearch=a,dnssearch=b,tftp=/tmp,http=/usr,"
            + "hostfwd=tcp:127.0.0.1:0-:22,hostfwd=udp::0-192.168.7.9:53,guestfwd=tcp:192.168.7.4:80-tcp:127.0.0.1:8080,bootindex=3,mac=02:00:00:00:00:07",
        ]);
        var nic = Assert.IsType<VirtioNic>(Create(settings.Nics[0]));
        Assert.Equal(3, nic.BootIndex);
        Assert.Equal("02:00:00:00:00:07", settings.Nics[0].Address.ToString());
        await using var network = settings.Netdevs[0].Open("n", settings.BootFile, NullLogger.Instance) as UserNetwork;
        var options = network!.Options;
        Assert.Equal(("192.168.7.0/24", "192.168.7.1", "192.168.7.3", "192.168.7.50"), (options.Network, options.Host?.ToString(), options.Dns?.ToString(), options.DhcpStart?.ToString()));
        Assert.Equal((true, "h", "d", "/tmp", "/usr", "pxelinux.0"), (options.Restrict, options.HostName, options.DomainName, options.TftpFolder, options.HttpFolder, options.BootFile));
        Assert.Equal(["a", "b"], options.DnsSearch);
        Assert.Equal(2, options.HostForwards.Count);
        Assert.Equal((false, "127.0.0.1", 22), (options.HostForwards[0].IsUdp, options.HostForwards[0].HostAddress?.ToString(), options.HostForwards[0].GuestPort));
        Assert.Equal((true, null, "192.168.7.9"), (options.HostForwards[1].IsUdp, options.HostForwards[1].HostAddress, options.HostForwards[1].GuestAddress?.ToString()));
        Assert.Equal(8080, options.GuestForwards[0].Target.Port);
    }

    [Fact]
    public void What_a_NIC_is_told_gets_there()
    {
        var settings = RunFlags.Parse(["-netdev", "user,id=n", "-device",
            "virtio-net-pci,netdev=n,queues=4,host_mtu=1400,rx_queue_size=512,addr=7,packed=on,mrg_rxbuf=off,disable-legacy=on,romfile="]);
        var nic = Assert.IsType<VirtioNic>(Create(settings.Nics[0]));
        Assert.Equal((4, 1400, 512), (nic.Options.QueuePairs, nic.Options.Mtu, nic.Options.QueueSize));
        Assert.Equal((7, true, true, 1UL << 15), (nic.Slot, nic.OffersPackedRings, nic.Pci.DisableLegacy, nic.WithheldFeatures));
        Assert.Equal("", settings.Nics[0].RomFile);
    }

    [Theory]
    [InlineData("there is no -netdev with id=n", "-device", "virtio-net-pci,netdev=n")]
    [InlineData("no NIC uses it", "-netdev", "user,id=n")]
    [InlineData("id= is missing", "-netdev", "user")]
    [InlineData("another -netdev with id=n", "-netdev", "user,id=n", "-netdev", "user,id=n")]
    [InlineData("another NIC has netdev=n", "-netdev", "user,id=n", "-device", "e1000,netdev=n", "-device", "e1000,netdev=n")]
    [InlineData("no network of the kind tup", "-netdev", "tup,id=n")]
    [InlineData("the nearest is hostfwd", "-nic", "user,hostfw=x")]
    [InlineData("hostfwd=tcp:22", "-nic", "user,hostfwd=tcp:22")]
    [InlineData("hostfwd=tcp::99999-:22", "-nic", "user,hostfwd=tcp::99999-:22")]
    [InlineData("guestfwd=", "-nic", "user,guestfwd=tcp:1.2.3.4:5-cmd:nc")]
    [InlineData("is no IPv4 address", "-nic", "user,dns=::1")]
    [InlineData("no address of a NIC", "-nic", "user,mac=01:00:00:00:00:00")]
    [InlineData("no address of a NIC", "-nic", "user,mac=02:00:00:00:00")]
    [InlineData("the nearest is e1000", "-nic", "user,model=e100")]
    [InlineData("give one of listen=", "-nic", "socket")]
    [InlineData("give one of listen=", "-nic", "socket,listen=:1,connect=:1")]
    [InlineData("give a host and a port", "-nic", "socket,listen=1234x")]
    [InlineData("give a host and a port", "-nic", "socket,connect=host:0")]
    [InlineData("leave it out", "-nic", "socket,listen=:1234,localaddr=127.0.0.1")]
    [InlineData("no multicast address", "-nic", "socket,mcast=10.0.0.1:1234")]
    [InlineData("needs localaddr=", "-nic", "socket,udp=127.0.0.1:1234")]
    [InlineData("addr.type= is missing", "-nic", "stream,server=on")]
    [InlineData("the nearest is inet", "-nic", "stream,addr.type=init")]
    [InlineData("addr.path= is missing", "-nic", "stream,addr.type=unix")]
    [InlineData("leave reconnect= out", "-nic", "stream,server=on,addr.type=inet,addr.host=,addr.port=1,reconnect=1")]
    [InlineData("not the same", "-nic", "dgram,local.type=unix,local.path=/x,remote.type=inet,remote.host=127.0.0.1,remote.port=1")]
    [InlineData("local.type= is missing", "-nic", "dgram,remote.type=inet,remote.host=127.0.0.1,remote.port=1")]
    [InlineData("an IPv4 address", "-nic", "dgram,remote.type=inet,remote.host=::1,remote.port=1")]
    [InlineData("vhost=on is not", "-nic", "tap,vhost=on")]
    [InlineData("leave ifname=", "-nic", "tap,fd=3,ifname=tap0")]
    [InlineData("made by -netdev", "-nic", "hubport,hubid=0")]
    [InlineData("hubid= is missing", "-netdev", "hubport,id=h")]
    [InlineData("nothing is connected to it", "-netdev", "hubport,id=h,hubid=1")]
    [InlineData("there is no -netdev with id=n", "-netdev", "hubport,id=h,hubid=1,netdev=n")]
    [InlineData("no NIC is on hub 1", "-netdev", "user,id=n", "-netdev", "hubport,id=h,hubid=1,netdev=n")]
    [InlineData("something else has netdev=n", "-netdev", "user,id=n", "-netdev", "hubport,id=h,hubid=1,netdev=n", "-netdev", "hubport,id=g,hubid=1,netdev=n")]
    [InlineData("that is free", "-netdev", "user,id=n", "-netdev", "hubport,id=h,hubid=1,netdev=n", "-device", "e1000,netdev=h")]
    [InlineData("another -netdev with id=n", "-netdev", "user,id=n", "-netdev", "hubport,id=n,hubid=1")]
    [InlineData("no network to load it from", "-bootp", "x", "-nic", "socket,mcast=230.0.0.1:1")]
    [InlineData("no network to load it from", "-bootp", "x", "-nic", "none")]
    [InlineData("there is no -netdev with id=n", "-object", "filter-dump,id=f,netdev=n,file=/tmp/x")]
    [InlineData("queues=4 and mq=off", "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,queues=4,mq=off")]
    public void A_mistake_is_one_line_that_says_what(string expected, params string[] args)
    {
        var e = Assert.Throws<ConfigurationException>(() => RunFlags.Parse(args));
        Assert.Contains(expected, e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', e.Message);
    }

    private static PciDevice Create(NicSpec nic) => (PciDevice)nic.Create(null, nic.Address ?? MacAddress.Default(0), null);
}
