using System.Net;
using System.Net.NetworkInformation;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Backends.Tests.Char;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Tests.Net.User;

public sealed class UserNetworkTests
{
    private static readonly IPAddress _guest = GuestStack.Address, _gateway = GuestStack.Gateway, _dns = IPAddress.Parse("10.0.2.3");

    [Theory]
    [InlineData("10.0.2.2")]
    [InlineData("10.0.2.3")]
    public async Task ARP_tells_the_address_of_the_gateway_and_the_name_server(string address)
    {
        await using var guest = new GuestStack();
        guest.Send(Packets.ArpRequest(_guest, IPAddress.Parse(address)));
        var reply = guest.Expect(p => p.EtherType == 0x0806);
        Assert.Equal<byte>([0, 1, 8, 0, 6, 4, 0, 2, 0x52, 0x55, 10, 0, 2, 2, .. IPAddress.Parse(address).GetAddressBytes(), .. Packets.Bytes(Packets.Guest), 10, 0, 2, 15], reply.Payload[..28]);
    }

    [Fact]
    public async Task ARP_is_silent_about_addresses_that_nobody_has()
    {
        await using var guest = new GuestStack();
        guest.Send(Packets.ArpRequest(_guest, IPAddress.Parse("10.0.2.77")));
        guest.Send(Packets.ArpRequest(_guest, _guest)); // announces itself
        guest.Settle();
        Assert.Empty(guest.Others);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(57)]
    [InlineData(8000)]
    public async Task The_gateway_answers_a_ping(int length)
    {
        await using var guest = new GuestStack();
        var data = Enumerable.Range(0, length).Select(i => (byte)i).ToArray();
        SendInFragments(guest, _gateway, data);
        var reply = ReceiveWhole(guest, 1, 8 + length);
        Assert.Equal<byte>([0, 0, 0x12, 0x34, 0, 7, .. data], [.. reply[..2], .. reply[4..]]);
    }

    [Fact]
    public async Task A_ping_of_nobody_in_the_network_is_unreachable_and_one_that_travels_too_far_has_exceeded_its_time()
    {
        await using var guest = new GuestStack();
        guest.Send(Packets.Echo(_guest, IPAddress.Parse("10.0.2.99"), 1, 1, [1, 2, 3]));
        var error = guest.Expect(p => p.Protocol == 1);
        Assert.Equal<byte>([3, 1], error.Payload[..2]);
        Assert.Equal(20 + 8, error.Payload.Length - 8);
        guest.Send(Packets.Echo(_guest, IPAddress.Parse("192.0.2.1"), 1, 1, [1, 2, 3], timeToLive: 1));
        error = guest.Expect(p => p.Protocol == 1);
        Assert.Equal<byte>([11, 0], error.Payload[..2]);
        Assert.Equal(_gateway, error.From.Address);
    }

    [Fact]
    public async Task A_ping_of_another_host_is_answered_or_refused_with_one_line()
    {
        var log = new ListLogger();
        await using var guest = new GuestStack(logger: log);
        var other = OwnAddress();
        if (other is null)
            return;
        guest.Send(Packets.Echo(_guest, other, 0x77, 1, [1, 2, 3]));
        guest.Run(() => guest.Others.Count > 0 || guest.Network.Figures.Drops.ContainsKey(DropReason.Host));
        if (guest.Others.Count == 0)
        {
            guest.Send(Packets.Echo(_guest, other, 0x77, 2, [1, 2, 3]));
            guest.Run(() => guest.Network.Figures.Drops[DropReason.Host] == 2);
            Assert.Contains("net.ipv4.ping_group_range", Assert.Single(log.Lines), StringComparison.Ordinal);
            return;
        }

        var reply = guest.Expect(p => p.Protocol == 1);
        Assert.Equal(other, reply.From.Address);
        Assert.Equal<byte>([0, 0, 0, 0x77, 0, 1, 1, 2, 3], [.. reply.Payload[..2], .. reply.Payload[4..]]);
    }

    [Fact]
    public async Task Figures_count_frames_bytes_and_why_something_was_dropped()
    {
        await using var guest = new GuestStack();
        var good = Packets.Echo(_guest, _gateway, 1, 1, new byte[100]);
        guest.Send(good);
        guest.Expect(p => p.Protocol == 1);
        var badHeader = (byte[])good.Clone();
        badHeader[24] ^= 1;
        guest.Send(badHeader);
        var badMessage = (byte[])good.Clone();
        badMessage[60] ^= 1;
        guest.Send(badMessage);
        guest.Send(good[..30]);
        guest.Send(good[..13]);
        guest.Send(Packets.Ethernet(0x86DD, new byte[60])); // IPv6
        guest.Send(Packets.Echo(_guest, _gateway, 1, 1, [], timeToLive: 0)[..]);
        guest.Send(Packets.Echo(IPAddress.Parse("192.0.2.9"), _gateway, 1, 1, []));
        guest.Send(Packets.Echo(_gateway, _gateway, 1, 1, []));
        guest.Send([2, 2, 3, 4, 5, 6, .. good[6..]]);
        guest.Run(() => guest.Network.Figures.FramesFromGuest == 10);
        guest.Settle();
        var figures = guest.Network.Figures;
        Assert.Equal(2 * good.Length, figures.BytesToGuest + good.Length - (guest.Others.Sum(p => p.Frame.Length)));
        Assert.Equal(2, figures.Drops[DropReason.Checksum]);
        Assert.Equal(2, figures.Drops[DropReason.Malformed]);
        Assert.Equal(1, figures.Drops[DropReason.Protocol]);
        Assert.Equal(2, figures.Drops[DropReason.Source]);
        Assert.Equal(1, figures.Drops[DropReason.OtherStation]);
    }

    [Fact]
    public async Task Datagrams_wait_for_a_guest_without_room_and_too_many_are_dropped()
    {
        await using var guest = new GuestStack();
        guest.Nic.SetRoom(0);
        const int few = 10, many = 1000;
        for (var i = 0; i < few; i++)
            guest.Send(Packets.Echo(_guest, _gateway, 1, (ushort)i, new byte[1000]));
        guest.Run(() => guest.Network.Figures.FramesFromGuest == few);
        guest.Settle();
        Assert.Empty(guest.Others);
        guest.Nic.SetRoom(int.MaxValue);
        guest.Run(() => guest.Others.Count == few);
        Assert.Equal(Enumerable.Range(0, few), guest.Others.Select(p => p.Payload[6] << 8 | p.Payload[7]));
        guest.Nic.SetRoom(0);
        for (var i = 0; i < many; i++)
            guest.Send(Packets.Echo(_guest, _gateway, 1, (ushort)i, new byte[1000]));
        guest.Run(() => guest.Network.Figures.Drops.ContainsKey(DropReason.NoRoom));
    }

    [Theory]
    [InlineData("10.0.2.0/24", "10.0.3.1", null, null, "host=10.0.3.1: not an address of the network 10.0.2.0/24; give one that is, or change net=")]
    [InlineData("10.0.2.0/24", "10.0.2.9", "10.0.2.9", null, "user network: host and dns are both 10.0.2.9; give them different addresses")]
    [InlineData("10.0.2.0/24", null, null, "10.0.2.2", "user network: dhcpstart=10.0.2.2 is the address of the host or of dns; give another")]
    [InlineData("nonsense", null, null, null, "net=nonsense: not a network; give an IPv4 address and the length of its prefix, 4 to 28, as in 10.0.2.0/24")]
    [InlineData("10.0.2.0/255.0.255.0", null, null, null, "net=10.0.2.0/255.0.255.0: not a network; give an IPv4 address and the length of its prefix, 4 to 28, as in 10.0.2.0/24")]
    [InlineData("127.0.0.0/8", null, null, null, "net=127.0.0.0/8: not a network; give an IPv4 address and the length of its prefix, 4 to 28, as in 10.0.2.0/24")]
    public void Addresses_that_do_not_fit_are_refused(string network, string? host, string? dns, string? start, string message)
    {
        var options = new UserNetworkOptions { Network = network, Host = Parse(host), Dns = Parse(dns), DhcpStart = Parse(start) };
        Assert.Equal(message, Assert.Throws<ConfigurationException>(() => new UserNetwork("user", options, NullLogger.Instance)).Message);
    }

    [Theory]
    [InlineData("192.168.76.0/24", "192.168.76.2", "192.168.76.3", "192.168.76.15")]
    [InlineData("172.16.0.0/255.240.0.0", "172.16.0.2", "172.16.0.3", "172.16.0.15")]
    public async Task A_network_has_its_addresses_where_slirp_has_them(string network, string host, string dns, string first)
    {
        await using var made = new UserNetwork("user", new UserNetworkOptions { Network = network }, NullLogger.Instance);
        Assert.Equal(
            [host, dns, first],
            new[] { made.Addresses.Host, made.Addresses.Dns, made.Addresses.FirstGuest }.Select(a => Sharpvisor.Core.Host.IPv4EndPoint.ToIPAddress(a).ToString()));
    }

    private static IPAddress? Parse(string? address) => address is null ? null : IPAddress.Parse(address);

    private static IPAddress? OwnAddress() => NetworkInterface.GetAllNetworkInterfaces()
        .Where(n => n.NetworkInterfaceType != NetworkInterfaceType.Loopback && n.OperationalStatus == OperationalStatus.Up)
        .SelectMany(n => n.GetIPProperties().UnicastAddresses).Select(a => a.Address)
        .FirstOrDefault(a => a.AddressFamily == System.Net.Sockets.AddressFamily.InterNetwork && !a.ToString().StartsWith("10.0.2.", StringComparison.Ordinal));

    private static void SendInFragments(GuestStack guest, IPAddress to, byte[] data)
    {
        var message = Packets.Echo(_guest, to, 0x1234, 7, data)[34..];
        const int piece = 1480;
        for (var i = 0; i < message.Length; i += piece)
        {
            var isLast = i + piece >= message.Length;
            var fragment = (ushort)(i / 8 | (isLast ? 0 : 0x2000));
            guest.Send(Packets.Ipv4(_guest, to, 1, message[i..Math.Min(message.Length, i + piece)], fragment: fragment));
        }
    }

    private static byte[] ReceiveWhole(GuestStack guest, byte protocol, int length)
    {
        var frames = new List<byte[]>();
        guest.Nic.SetRoom(int.MaxValue);
        var whole = new byte[length];
        var come = 0;
        while (come < length)
        {
            Assert.True(guest.Nic.TryTake(out var frame, out _, 60_000));
            Assert.Equal(protocol, frame[23]);
            var offset = ((frame[20] << 8 | frame[21]) & 0x1FFF) * 8;
            frame.AsSpan(34).CopyTo(whole.AsSpan(offset));
            come += frame.Length - 34;
        }

        return whole;
    }
}
