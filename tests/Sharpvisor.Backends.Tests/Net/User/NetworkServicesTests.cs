using System.Net;
using System.Text;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Backends.Net.User.Services.Content;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Tests.Net.User;

/// <summary>That the servers sit where a guest looks for them. What they do is tested beside them.</summary>
public sealed class NetworkServicesTests
{
    private static readonly IPEndPoint _from = new(GuestStack.Address, 5000);

    [Fact]
    public async Task DHCP_gives_the_first_address()
    {
        await using var guest = new GuestStack(services: true);
        var discover = new byte[244];
        (discover[0], discover[1], discover[2], discover[4]) = (1, 1, 6, 0x77);
        Packets.Bytes(Packets.Guest).CopyTo(discover, 28);
        ((byte[])[99, 130, 83, 99, 53, 1, 1, 255]).CopyTo(discover, 236);
        guest.Send(Packets.Udp(new IPEndPoint(0, 68), new IPEndPoint(IPAddress.Broadcast, 67), discover));
        var offer = guest.Expect(p => p.Protocol == 17);
        Assert.Equal((GuestStack.Gateway, 67, 68), (offer.From.Address, offer.From.Port, offer.To.Port));
        Assert.Equal(GuestStack.Address, new IPAddress(offer.Payload[24..28]));
    }

    [Fact]
    public async Task TFTP_serves_from_a_port_of_its_own()
    {
        var data = FarEnd.Bytes(700, 1);
        var content = new MemoryContent();
        content.Set("boot/file", data);
        await using var guest = new GuestStack(new UserNetworkOptions { Files = content, Restrict = true }, services: true);
        guest.Send(Packets.Udp(_from, new IPEndPoint(GuestStack.Gateway, 69), [0, 1, .. "boot/file\0octet\0"u8]));
        var first = guest.Expect(p => p.Protocol == 17);
        Assert.NotEqual(69, first.From.Port);
        Assert.Equal<byte>([0, 3, 0, 1, .. data[..512]], first.Payload[8..]);
        guest.Send(Packets.Udp(_from, first.From, [0, 4, 0, 1]));
        Assert.Equal<byte>([0, 3, 0, 2, .. data[512..]], guest.Expect(p => p.Protocol == 17).Payload[8..]);
    }

    [Fact]
    public async Task HTTP_serves_megabytes()
    {
        var data = FarEnd.Bytes(3_000_000, 2);
        var content = new MemoryContent();
        content.Set("vmlinuz", data);
        await using var guest = new GuestStack(new UserNetworkOptions { Files = content }, services: true);
        var connection = guest.Connect(new IPEndPoint(GuestStack.Gateway, 80));
        connection.Write("GET /vmlinuz HTTP/1.0\r\n\r\n"u8.ToArray());
        guest.Run(() => connection.PeerHasEnded);
        var received = connection.Received;
        Assert.StartsWith("HTTP/1.1 200 ", Encoding.ASCII.GetString(received.AsSpan(0, 20)), StringComparison.Ordinal);
        Assert.Equal(data, received[^data.Length..]);
    }

    [Fact]
    public async Task A_resolver_of_the_host_answers_over_the_networks_name_server_or_says_that_it_can_not()
    {
        await using var guest = new GuestStack(services: true);
        byte[] query = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9, .. "localhost"u8, 0, 0, 1, 0, 1];
        guest.Send(Packets.Udp(_from, new IPEndPoint(IPAddress.Parse("10.0.2.3"), 53), query));
        var answer = guest.Expect(p => p.Protocol == 17);
        Assert.Equal(new IPEndPoint(IPAddress.Parse("10.0.2.3"), 53), answer.From);
        Assert.Equal<byte>([0x12, 0x34], answer.Payload[8..10]);
        Assert.Equal(0x80, answer.Payload[10] & 0x80);
    }

    [Fact]
    public void A_name_that_does_not_fit_is_one_line() => Assert.StartsWith(
        "hostname=", Assert.Throws<ConfigurationException>(() => new GuestStack(new UserNetworkOptions { HostName = new string('x', 300) }, services: true)).Message, StringComparison.Ordinal);
}
