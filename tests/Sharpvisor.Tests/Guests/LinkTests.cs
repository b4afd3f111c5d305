using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Net.Links;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Tests.Guests;

/// <summary>Linux in two machines that are connected to each other.</summary>
[Trait("Category", "Guest")]
public sealed class LinkTests : IDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    private readonly string _folder = Directory.CreateTempSubdirectory("links").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [GuestTheory("cloud/vmlinuz", "virtio/initrd.img")]
    [InlineData("a stream over TCP")]
    [InlineData("a stream over a Unix socket")]
    [InlineData("datagrams over UDP")]
    [InlineData("datagrams over Unix sockets")]
    [InlineData("a hub")]
    public async Task Two_machines_reach_each_other(string kind)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var hub = new NetworkHub("hub", NullLogger.Instance);
        var (left, right) = Connect(kind, hub);
        await using var one = await StartAsync(left, 1, limit.Token);
        await using var two = await StartAsync(right, 2, limit.Token);
        foreach (var (machine, number) in new[] { (one, 1), (two, 2) })
        {
            await machine.Serial.ExpectAsync(":~# ", limit.Token);
            await Run(machine, $"ip addr add 10.1.0.{number}/24 dev eth0");
        }

        Assert.Contains("3 packets received", await Run(one, "ping -c 3 10.1.0.2"), StringComparison.Ordinal);
        Assert.Contains("3 packets received", await Run(two, "ping -c 3 10.1.0.1"), StringComparison.Ordinal);
        // Segments whose checksums nobody on the way makes: the guests have to.
        await Run(two, "dd if=/dev/urandom of=/tmp/data bs=1M count=4 2>/dev/null; httpd -h /tmp");
        var sum = await Run(two, "sha256sum </tmp/data");
        Assert.Contains(Hash(sum), await Run(one, "wget -q -O /tmp/data http://10.1.0.2/data; sha256sum </tmp/data"), StringComparison.Ordinal);

        async Task<string> Run(Machine machine, string command)
        {
            await machine.Serial.WriteLineAsync(command, limit.Token);
            return await machine.Serial.ExpectAsync(":~# ", limit.Token);
        }
    }

    /// <summary>What QEMU makes of -net user -net nic -net nic: both get an address.</summary>
    [GuestTheory("cloud/vmlinuz", "virtio/initrd.img")]
    [InlineData("translator")]
    public async Task Two_NICs_and_a_user_network_are_on_a_hub(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var hub = new NetworkHub("hub", NullLogger.Instance);
        hub.Connect(new UserNetwork("user", new UserNetworkOptions(), NullLogger.Instance));
        await using var machine = await Builder(engine)
            .WithVirtioDevice(Nic(hub.AddPort(), 1))
            .WithVirtioDevice(Nic(hub.AddPort(), 2))
            .StartAsync(limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        await machine.Serial.WriteLineAsync("ip link set eth1 up; udhcpc -i eth1 -q -n -s /etc/dhcp; ip -4 addr", limit.Token);
        var text = await machine.Serial.ExpectAsync("eth1\r\n", limit.Token);
        text += await machine.Serial.ExpectAsync(":~# ", limit.Token);
        Assert.Contains("inet 10.0.2.15/24", text, StringComparison.Ordinal);
        Assert.Contains("inet 10.0.2.16/24", text, StringComparison.Ordinal);
    }

    private static string Hash(string text) => text.Split(['\r', '\n', ' ']).First(w => w.Length == 64);

    private static VirtioNic Nic(INetworkBackend backend, int number) => new(backend) { Options = new() { Address = MacAddress.Default(number) } };

    private static MachineBuilder Builder(string engine) => Machine.CreateBuilder()
        .WithMemory(256 << 20)
        .WithEngine(GuestEngines.Create(engine))
        .WithKernel(GuestCache.Open("cloud/vmlinuz"))
        .WithInitrd(GuestCache.Open("virtio/initrd.img"))
        .WithCommandLine("console=ttyS0 quiet")
        .WithoutReboot();

    private static Task<Machine> StartAsync(INetworkBackend backend, int number, CancellationToken cancellation) =>
        Builder("translator").WithVirtioDevice(Nic(backend, number)).StartAsync(cancellation);

    private (INetworkBackend Left, INetworkBackend Right) Connect(string kind, NetworkHub hub)
    {
        var logger = NullLogger.Instance;
        var (a, b) = (Path.Combine(_folder, "a"), Path.Combine(_folder, "b"));
        switch (kind)
        {
            case "a stream over TCP":
                var server = StreamLink.Listen("one", new IPEndPoint(IPAddress.Loopback, 0), logger);
                return (server, StreamLink.Connect("two", server.LocalEndPoint!, null, logger));
            case "a stream over a Unix socket":
                var client = StreamLink.Connect("one", new UnixDomainSocketEndPoint(a), TimeSpan.FromMilliseconds(100), logger);
                return (client, StreamLink.Listen("two", new UnixDomainSocketEndPoint(a), logger));
            case "datagrams over UDP":
                var (one, two) = (FreePort(), FreePort());
                return (DatagramLink.Udp("one", one, two, logger), DatagramLink.Udp("two", two, one, logger));
            case "datagrams over Unix sockets":
                return (DatagramLink.Unix("one", a, b, logger), DatagramLink.Unix("two", b, a, logger));
            default:
                return (hub.AddPort(), hub.AddPort());
        }
    }

    private static IPEndPoint FreePort()
    {
        using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        socket.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        return (IPEndPoint)socket.LocalEndPoint!;
    }
}
