using System.Net;
using System.Text;
using Sharpvisor.Backends.Net.User.Services.Dhcp;
using Sharpvisor.Backends.Tests.Char;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.User.Services.Dhcp;

public sealed class DhcpServiceTests
{
    private static readonly DhcpSettings Default = new()
    {
        Server = IPAddress.Parse("10.0.2.2"),
        Mask = IPAddress.Parse("255.255.255.0"),
        First = IPAddress.Parse("10.0.2.15"),
        Reserved = [IPAddress.Parse("10.0.2.2"), IPAddress.Parse("10.0.2.3")],
        Router = IPAddress.Parse("10.0.2.2"),
        Dns = IPAddress.Parse("10.0.2.3"),
    };

    private readonly ListLogger _log = new();
    private long _now = 1000;

    [Fact]
    public void A_client_gets_the_first_address_and_what_the_network_is()
    {
        var client = new DhcpClient(Serve(Default));
        var offer = client.Ask(client.Message(1));
        Assert.Equal((2, "10.0.2.15", "10.0.2.2", ""), (offer.Type, offer.Your, offer.Next, offer.File));
        Assert.Equal((new IPEndPoint(IPAddress.Parse("10.0.2.2"), 67), new IPEndPoint(IPAddress.Parse("10.0.2.15"), 68)), (offer.Datagram.From, offer.Datagram.To));
        Assert.Equal(client.Mac, offer.Datagram.ToAddress);
        Assert.Equal(0xCA, offer.Datagram.Data[4]);
        var lease = client.Ask(client.Message(3, "10.0.2.15", "10.0.2.2"));
        Assert.Equal((5, "10.0.2.15"), (lease.Type, lease.Your));
        Assert.Equal(("255.255.255.0", "10.0.2.2", "10.0.2.3", "10.0.2.2"), (lease.Address(1), lease.Address(3), lease.Address(6), lease.Address(54)));
        Assert.Equal([0, 1, 0x51, 0x80], lease.Options[51]);
        Assert.Equal([1, 3, 6, 51, 53, 54], lease.Options.Keys.Select(k => (int)k).Order());
        Assert.Equal(["dhcp: 10.0.2.15 leased to 52:54:00:12:34:56"], _log.Lines);
    }

    [Fact]
    public void With_restrict_no_way_out_is_told()
    {
        var client = new DhcpClient(Serve(Default with { Router = null, Dns = null }));
        Assert.Equal([1, 51, 53, 54], client.Lease().Options.Keys.Select(k => (int)k).Order());
    }

    [Fact]
    public void Names_are_told_to_all_and_the_MTU_to_those_that_ask()
    {
        var settings = Default with { HostName = "guest", DomainName = "example.org", DomainSearch = ["example.org", "a.example.org", "b.c"], TftpServerName = "10.0.2.2", Mtu = 9000 };
        var client = new DhcpClient(Serve(settings));
        var lease = client.Lease();
        Assert.Equal(("guest", "example.org", "10.0.2.2"), (lease.Text(12), lease.Text(15), lease.Text(66)));
        Assert.Equal([7, .. "example"u8, 3, .. "org"u8, 0, 1, (byte)'a', 0xC0, 0, 1, (byte)'b', 1, (byte)'c', 0], lease.Options[119]);
        Assert.DoesNotContain((byte)26, lease.Options.Keys);
        lease = client.Lease((55, [26, 28, 58, 59]));
        Assert.Equal([0x23, 0x28], lease.Options[26]);
        Assert.Equal("10.0.2.255", lease.Address(28));
        Assert.Equal([0, 0, 0xA8, 0xC0], lease.Options[58]);
        Assert.Equal([0, 1, 0x27, 0x50], lease.Options[59]);
    }

    [Fact]
    public void Each_guest_gets_an_address_of_its_own_and_keeps_it()
    {
        var service = Serve(Default);
        var clients = Enumerable.Range(0, 20).Select(i => new DhcpClient(service, i)).ToArray();
        foreach (var round in new[] { 0, 1 })
        {
            var addresses = clients.Select(c => c.Lease().Your).ToArray();
            Assert.Equal(Enumerable.Range(15, 20).Select(i => $"10.0.2.{i}"), addresses);
            _now += 90_000_000 * (1 - round); // a day and an hour: all leases have ended
        }
    }

    [Fact]
    public void Addresses_of_the_network_are_given_to_nobody_and_the_last_ones_run_out()
    {
        var service = Serve(Default with { Mask = IPAddress.Parse("255.255.255.240"), First = IPAddress.Parse("10.0.2.1") });
        for (var i = 0; i < 12; i++)
            Assert.Equal($"10.0.2.{(i == 0 ? 1 : i + 3)}", new DhcpClient(service, i).Lease().Your);
        var late = new DhcpClient(service, 12);
        late.Say(late.Message(1));
        Assert.Empty(late.Sender.Sent);
        Assert.Equal("dhcp: no address left for 52:54:00:12:34:62", _log.Lines[^1]);
        var fifth = new DhcpClient(service, 5);
        fifth.Say(fifth.Message(7, client: "10.0.2.8"));
        Assert.Equal("10.0.2.8", late.Lease().Your);
    }

    [Fact]
    public void An_offer_that_nobody_took_is_free_after_a_minute()
    {
        var service = Serve(Default);
        var (one, two) = (new DhcpClient(service, 1), new DhcpClient(service, 2));
        one.Ask(one.Message(1));
        Assert.Equal("10.0.2.17", two.Ask(two.Message(1, "10.0.2.17")).Your);
        _now += 61_000;
        Assert.Equal(5, new DhcpClient(service, 3).Ask(two.Message(3, "10.0.2.15")).Type);
        Assert.Equal(6, one.Ask(one.Message(3, "10.0.2.15", "10.0.2.2")).Type);
    }

    [Fact]
    public void A_new_discovery_does_not_shorten_a_lease()
    {
        var service = Serve(Default);
        var (one, two) = (new DhcpClient(service, 1), new DhcpClient(service, 2));
        one.Lease();
        one.Ask(one.Message(1));
        _now += 100_000;
        Assert.Equal(6, two.Ask(two.Message(3, "10.0.2.15")).Type);
    }

    [Fact]
    public void A_client_that_remembers_an_address_gets_it_if_it_is_free()
    {
        var service = Serve(Default);
        var (one, two) = (new DhcpClient(service, 1), new DhcpClient(service, 2));
        Assert.Equal((5, "10.0.2.20"), (one.Ask(one.Message(3, "10.0.2.20")) is var r ? r.Type : 0, r.Your));
        var refused = two.Ask(two.Message(3, "10.0.2.20"));
        Assert.Equal((6, "0.0.0.0"), (refused.Type, refused.Your));
        Assert.Equal((new IPEndPoint(IPAddress.Broadcast, 68), MacAddress.Broadcast), (refused.Datagram.To, refused.Datagram.ToAddress));
        foreach (var elsewhere in new[] { "192.168.1.5", "10.0.2.2", "10.0.2.3", "10.0.2.14", "10.0.2.255", "255.255.255.255" })
            Assert.Equal(6, two.Ask(two.Message(3, elsewhere)).Type);
        Assert.Equal("dhcp: 255.255.255.255 refused to 52:54:00:12:34:58", _log.Lines[^1]);
    }

    [Fact]
    public void A_lease_is_renewed_by_its_owner_and_answered_to_its_address()
    {
        var service = Serve(Default);
        var (one, two) = (new DhcpClient(service, 1), new DhcpClient(service, 2));
        one.Lease();
        var renewed = one.Ask(one.Message(3, client: "10.0.2.15", broadcast: true));
        Assert.Equal((5, "10.0.2.15", "10.0.2.15"), (renewed.Type, renewed.Your, renewed.Client));
        Assert.Equal(new IPEndPoint(IPAddress.Parse("10.0.2.15"), 68), renewed.Datagram.To);
        Assert.Equal(6, two.Ask(two.Message(3, client: "10.0.2.15")).Type);
        // Windows may ask for nothing in particular.
        Assert.Equal((5, "10.0.2.15"), (one.Ask(one.Message(3)) is var again ? again.Type : 0, again.Your));
    }

    [Fact]
    public void Who_wants_a_broadcast_gets_one()
    {
        var client = new DhcpClient(Serve(Default));
        var offer = client.Ask(client.Message(1, broadcast: true));
        Assert.Equal((new IPEndPoint(IPAddress.Broadcast, 68), MacAddress.Broadcast), (offer.Datagram.To, offer.Datagram.ToAddress));
        Assert.Equal(0x80, offer.Datagram.Data[10]);
    }

    [Fact]
    public void A_client_of_another_server_gets_no_answer()
    {
        var client = new DhcpClient(Serve(Default));
        client.Ask(client.Message(1));
        client.Say(client.Message(3, "10.0.2.15", "10.0.2.77"));
        Assert.Empty(client.Sender.Sent);
    }

    [Fact]
    public void A_declined_address_is_not_offered_again_for_a_while()
    {
        var service = Serve(Default);
        var (one, two) = (new DhcpClient(service, 1), new DhcpClient(service, 2));
        one.Lease();
        two.Say(two.Message(4, "10.0.2.15", "10.0.2.2")); // not its own
        Assert.Equal("10.0.2.15", one.Lease().Your);
        one.Say(one.Message(4, "10.0.2.15", "10.0.2.2"));
        Assert.Equal("10.0.2.16", one.Lease().Your);
        Assert.Equal(6, two.Ask(two.Message(3, "10.0.2.15")).Type);
        _now += 601_000;
        Assert.Equal(5, two.Ask(two.Message(3, "10.0.2.15")).Type);
    }

    [Fact]
    public void Inform_tells_the_network_and_gives_no_address()
    {
        var client = new DhcpClient(Serve(Default));
        var reply = client.Ask(client.Message(8, client: "10.0.2.77"));
        Assert.Equal((5, "0.0.0.0"), (reply.Type, reply.Your));
        Assert.Equal("10.0.2.77", reply.Datagram.To.Address.ToString());
        Assert.DoesNotContain((byte)51, reply.Options.Keys);
        client.Say(client.Message(8));
        Assert.Empty(client.Sender.Sent);
    }

    [Fact]
    public void A_BOOTP_client_gets_an_answer_of_BOOTPs_size()
    {
        var client = new DhcpClient(Serve(Default with { BootFile = "pxelinux.0", DomainSearch = [new string('x', 60)] }));
        var reply = client.Ask(client.Message(0));
        Assert.Equal((0, "10.0.2.15", "10.0.2.2", "pxelinux.0", 300), (reply.Type, reply.Your, reply.Next, reply.File, reply.Datagram.Data.Length));
        Assert.Equal([1, 3, 6], reply.Options.Keys.Select(k => (int)k).Order());
        Assert.Contains("dhcp: options that 52:54:00:12:34:56 has no room for were left out", _log.Lines);
        // One that knows no options at all.
        var plain = client.Message(0);
        plain.AsSpan(236).Clear();
        Assert.Equal("10.0.2.15", client.Ask(plain).Your);
        Assert.Equal("10.0.2.15", client.Ask(plain[..236]).Your);
    }

    [Fact]
    public void A_PXE_client_gets_the_boot_file_and_back_who_it_is()
    {
        var settings = Default with { BootFile = "pxelinux.0", NextServer = IPAddress.Parse("10.0.2.9") };
        var client = new DhcpClient(Serve(settings));
        byte[] uuid = [0, .. Enumerable.Range(1, 16).Select(i => (byte)i)];
        (byte, byte[])[] pxe = [(60, [.. "PXEClient:Arch:00000:UNDI:002001"u8]), (93, [0, 0]), (97, uuid), (61, [1, 2, 3]), (55, [1, 3, 66, 67]), (57, [0x05, 0xC0])];
        var lease = client.Lease(pxe);
        Assert.Equal(("pxelinux.0", "pxelinux.0", "10.0.2.9"), (lease.File, lease.Text(67), lease.Next));
        Assert.Equal(uuid, lease.Options[97]);
        Assert.Equal([1, 2, 3], lease.Options[61]);
        Assert.DoesNotContain((byte)60, lease.Options.Keys);
        Assert.Equal("dhcp: 10.0.2.15 leased to 52:54:00:12:34:56 (PXEClient:Arch:00000:UNDI:002001), boot file pxelinux.0", _log.Lines[^1]);
    }

    [Theory]
    [InlineData("http://10.0.2.2/boot.ipxe", "http://10.0.2.2/boot.ipxe")]
    [InlineData("a b/boot.efi", "http://10.0.2.2/a%20b/boot.efi")]
    [InlineData("tftp://10.0.2.2/boot.efi", null)]
    public void Firmware_that_boots_by_HTTP_gets_a_URL(string bootFile, string? url)
    {
        var client = new DhcpClient(Serve(Default with { BootFile = bootFile, HttpServer = new IPEndPoint(IPAddress.Parse("10.0.2.2"), 80) }));
        var lease = client.Lease((60, [.. "HTTPClient:Arch:00016:UNDI:003001"u8]), (93, [0, 16]), (55, [67]));
        Assert.Equal(url ?? "", lease.File);
        Assert.Equal(url is not null, lease.Options.ContainsKey(60));
        if (url is null)
            return;
        Assert.Equal(("HTTPClient", url), (lease.Text(60), lease.Text(67)));
        Assert.Equal(bootFile, new DhcpClient(Serve(Default with { BootFile = bootFile })).Lease().File);
    }

    [Fact]
    public void A_URL_too_long_for_the_field_is_an_option()
    {
        var url = "http://10.0.2.2:8080/" + new string('x', 130);
        var lease = new DhcpClient(Serve(Default with { BootFile = url })).Lease();
        Assert.Equal(("", url), (lease.File, lease.Text(67)));
    }

    [Fact]
    public void What_does_not_fit_is_left_out_unless_the_client_takes_longer_messages()
    {
        var settings = Default with { DomainName = new string('d', 200), DomainSearch = [.. Enumerable.Range(0, 9).Select(i => $"{i}{new string('x', 40)}.org")] };
        var client = new DhcpClient(Serve(settings));
        var lease = client.Lease();
        Assert.True(lease.Datagram.Data.Length <= 548);
        Assert.DoesNotContain((byte)119, lease.Options.Keys);
        lease = client.Lease((57, [0x05, 0xDC]));
        Assert.InRange(lease.Options[119].Length, 256, 500); // in two pieces
    }

    [Theory]
    [InlineData("hostname", "a\nb")]
    [InlineData("hostname", "")]
    [InlineData("domainname", "*256")]
    [InlineData("bootfile", "*256")]
    [InlineData("tftp-server-name", "*300")]
    [InlineData("dnssearch", "a..b")]
    [InlineData("dnssearch", "*64")]
    [InlineData("dnssearch", "grün.de")]
    public void Settings_that_no_option_can_tell_are_one_line(string option, string value)
    {
        var text = value.StartsWith('*') ? new string('x', int.Parse(value[1..])) : value;
        var settings = option switch
        {
            "hostname" => Default with { HostName = text },
            "domainname" => Default with { DomainName = text },
            "bootfile" => Default with { BootFile = text },
            "tftp-server-name" => Default with { TftpServerName = text },
            _ => Default with { DomainSearch = [text] },
        };
        var error = Assert.Throws<ConfigurationException>(() => Serve(settings));
        Assert.StartsWith(option, error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', error.Message);
        Assert.Contains("; give ", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void What_a_guest_calls_itself_is_no_control_sequence_in_the_log()
    {
        new DhcpClient(Serve(Default)).Lease((60, Encoding.ASCII.GetBytes("a\n\u001b[2Jb" + (char)0x7F)));
        Assert.Equal("dhcp: 10.0.2.15 leased to 52:54:00:12:34:56 (a??[2Jb?)", _log.Lines[^1]);
    }

    [Fact]
    public void What_is_no_request_of_an_Ethernet_client_gets_no_answer()
    {
        var client = new DhcpClient(Serve(Default));
        var good = client.Message(1);
        client.Say([]);
        client.Say(good[..235]);
        foreach (var (at, value) in new[] { (0, 2), (1, 6), (2, 16), (24, 10), (28, 1) }) // an answer, another hardware, a relay, a group
        {
            var bad = good.ToArray();
            bad[at] = (byte)value;
            client.Say(bad);
        }

        foreach (byte type in new byte[] { 2, 5, 6, 9, 255 })
            client.Say(client.Message(type));
        var nobody = good.ToArray();
        nobody.AsSpan(28, 6).Clear();
        client.Say(nobody);
        Assert.Empty(client.Sender.Sent);
    }

    [Fact]
    public void Mutated_messages_harm_nobody()
    {
        var settings = Default with { HostName = "guest", DomainSearch = ["example.org", "b.example.org"], BootFile = "http://10.0.2.2/x.ipxe" };
        FuzzSettings.ForEachSeed(random =>
        {
            var service = Serve(settings);
            var good = new DhcpClient(service, 200);
            good.Lease();
            for (var i = 0; i < 10; i++)
            {
                var bad = new DhcpClient(service, random.Next(4));
                var address = $"10.0.2.{random.Next(14, 20)}";
                var message = bad.Message((byte)random.Next(9), random.Next(2) == 0 ? address : null, random.Next(2) == 0 ? "10.0.2.2" : null, random.Next(2) == 0 ? address : "0.0.0.0", random.Next(2) == 0,
                    (60, [.. "HTTPClient"u8]), (57, [(byte)random.Next(256), (byte)random.Next(256)]), (55, [26, 28, 67]), (61, new byte[random.Next(200)]));
                bad.Say(FuzzSettings.Mutate(random, message));
                _now += random.Next(100_000);
                Assert.True(bad.Sender.Sent.Count <= 1);
                foreach (var sent in bad.Sender.All())
                    DhcpClient.Reply.Read(sent);
            }

            Assert.Equal("10.0.2.15", good.Lease().Your);
            _log.Lines.Clear();
        });
    }

    private DhcpService Serve(DhcpSettings settings) => new(settings, _log, () => _now);
}
