using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Net;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Backends.Net.User.Services.Content;
using Sharpvisor.Devices.Virtio.Transports;

namespace Sharpvisor.Tests.Guests;

/// <summary>Linux's drivers of NICs and its network stack, and boot ROMs, on the user-mode network.</summary>
[Trait("Category", "Guest")]
public sealed class NetworkTests
{
    private const string Bios = "seabios/bios-256k.bin", VgaBios = "seabios/vgabios-stdvga.bin", VirtioRom = "ipxe-roms/pxe-virtio.rom", E1000Rom = "ipxe-roms/pxe-e1000.rom";
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    private readonly MemoryContent _files = new();
    private readonly byte[] _data = new byte[24 << 20];

    public NetworkTests()
    {
        new Random(1).NextBytes(_data);
        _files.Set("hello", "hello from the network"u8.ToArray());
        _files.Set("data", _data);
    }

    [GuestTheory("cloud/vmlinuz", "virtio/initrd.img")]
    [EngineData(1, "", "")]
    [InlineData("translator", 2, "queues", "")]
    [InlineData("translator", 2, "packed", "")]
    [InlineData("translator", 1, "legacy", "pci=nomsi")]
    [InlineData("translator", 1, "mmio", "")]
    [InlineData("translator", 1, "plain", "")]
    public async Task Linux_gets_an_address_and_moves_data_both_ways(string engine, int processors, string kind, string arguments)
    {
        using var limit = new CancellationTokenSource(Limit);
        var network = Network(new UserNetworkOptions { Files = _files, HostForwards = [new HostForward(false, IPAddress.Loopback, 0, null, 80)] });
        var nic = new VirtioNic(network)
        {
            Connection = kind == "mmio" ? VirtioConnection.Mmio : VirtioConnection.Pci,
            OffersPackedRings = kind == "packed",
            Pci = new VirtioPciOptions { DisableModern = kind == "legacy" },
            Options = new() { QueuePairs = kind == "queues" ? 2 : 1 },
            WithheldFeatures = kind == "plain" ? (1UL << 15) | 0x7F83UL : 0, // neither merged buffers nor offloads
        };
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("virtio/initrd.img"))
            .WithCommandLine($"console=ttyS0 quiet {arguments}")
            .WithVirtioDevice(nic)
            .WithoutReboot()
            .StartAsync(limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        Assert.Contains("inet 10.0.2.15/24", await Run("ip -4 addr show eth0"), StringComparison.Ordinal);
        Assert.Contains("0% packet loss", await Run("ping -c 2 10.0.2.2"), StringComparison.Ordinal);
        Assert.Contains("hello from the network", await Run("wget -q -O- http://10.0.2.2/hello"), StringComparison.Ordinal);

        var isSlow = engine == "interpreter";
        var hash = Convert.ToHexStringLower(SHA256.HashData(_data));
        if (!isSlow)
            Assert.Contains(hash, await Run("wget -q -O /tmp/data http://10.0.2.2/data; sha256sum /tmp/data"), StringComparison.Ordinal);
        Assert.Contains(Convert.ToHexStringLower(SHA256.HashData("hello from the network"u8)), await Run("tftp -g -r hello -l /tmp/hello 10.0.2.2; sha256sum /tmp/hello"), StringComparison.Ordinal);

        // To a server of the host's, and, by hostfwd, to one of the guest's.
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        var file = isSlow ? "/tmp/hello" : "/tmp/data";
        var received = ReceiveAsync(listener, limit.Token);
        await Run($"nc 10.0.2.2 {((IPEndPoint)listener.LocalEndpoint).Port} <{file}");
        Assert.Equal(isSlow ? Encoding.ASCII.GetBytes("hello from the network") : _data, await received);
        await Run("httpd -h /tmp");
        using var client = new HttpClient();
        var got = await client.GetByteArrayAsync($"http://127.0.0.1:{network.HostForwardPorts[0].Port}{file["/tmp".Length..]}", limit.Token);
        Assert.Equal(isSlow ? Encoding.ASCII.GetBytes("hello from the network") : _data, got);

        await machine.Serial.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
        Assert.DoesNotContain(machine.Errors.Counts, c => c.Key.StartsWith("virtio", StringComparison.Ordinal));

        async Task<string> Run(string command)
        {
            await machine.Serial.WriteLineAsync(command, limit.Token);
            return await machine.Serial.ExpectAsync(":~# ", limit.Token);
        }
    }

    /// <summary>restrict=on: the network's own services, what is forwarded, and no more.</summary>
    [GuestTheory("cloud/vmlinuz", "virtio/initrd.img")]
    [InlineData("translator")]
    public async Task A_restricted_guest_reaches_what_it_is_given_and_no_more(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        var port = ((IPEndPoint)listener.LocalEndpoint).Port;
        var network = Network(new UserNetworkOptions
        {
            Files = _files,
            Restrict = true,
            HostForwards = [new HostForward(false, IPAddress.Loopback, 0, null, 80)],
            GuestForwards = [new GuestForward(IPAddress.Parse("10.0.2.100"), 80, (IPEndPoint)listener.LocalEndpoint)],
        });
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("virtio/initrd.img"))
            .WithCommandLine("console=ttyS0 quiet")
            .WithVirtioDevice(new VirtioNic(network))
            .StartAsync(limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        // What it has.
        Assert.Contains("inet 10.0.2.15/24", await Run("ip -4 addr show eth0"), StringComparison.Ordinal);
        Assert.Contains("hello from the network", await Run("wget -q -O- http://10.0.2.2/hello"), StringComparison.Ordinal);
        Assert.Contains("0% packet loss", await Run("ping -c 1 10.0.2.2"), StringComparison.Ordinal);
        var received = ReceiveAsync(listener, limit.Token);
        await Run("echo forwarded | nc 10.0.2.100 80");
        Assert.Equal("forwarded\n"u8.ToArray(), await received);
        await Run("httpd -h /etc");
        using var client = new HttpClient();
        Assert.Contains("root:x:0:0", await client.GetStringAsync($"http://127.0.0.1:{network.HostForwardPorts[0].Port}/passwd", limit.Token), StringComparison.Ordinal);
        // What it has not: the host's loopback, by TCP and UDP; other hosts; names.
        using var udp = new UdpClient(new IPEndPoint(IPAddress.Loopback, 0));
        var datagram = udp.ReceiveAsync(limit.Token).AsTask();
        await Run($"echo no | nc -w 2 10.0.2.2 {port}; echo ended $?");
        await Run($"echo no | nc -u -w 1 10.0.2.2 {((IPEndPoint)udp.Client.LocalEndPoint!).Port}");
        Assert.DoesNotContain("ended 0", await Run("nc -w 2 192.0.2.1 80 </dev/null; echo ended $?"), StringComparison.Ordinal);
        Assert.DoesNotContain("Name:", await Run("nslookup localhost. 10.0.2.3 2>&1 | grep Name"), StringComparison.Ordinal);
        Assert.False(listener.Pending());
        Assert.False(datagram.IsCompleted);

        async Task<string> Run(string command)
        {
            await machine.Serial.WriteLineAsync(command, limit.Token);
            return await machine.Serial.ExpectAsync(":~# ", limit.Token);
        }
    }

    /// <summary>The installer's kernel has the driver as a module; a shell takes the place of its program.</summary>
    [GuestTheory("installer/linux", "installer/initrd.gz")]
    [InlineData("translator")]
    public async Task Linux_drives_an_e1000(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(512 << 20)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open("installer/linux"))
            .WithInitrd(GuestCache.Open("installer/initrd.gz"))
            .WithCommandLine("console=ttyS0 quiet rdinit=/bin/sh")
            .WithNetworkCard(new E1000Card(Network(new UserNetworkOptions { Files = _files })))
            .WithoutReboot()
            .StartAsync(limit.Token);
        await machine.Serial.ExpectAsync("# ", limit.Token);
        await machine.Serial.WriteLineAsync("mount -t sysfs s /sys; modprobe e1000; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; echo rea''dy", limit.Token);
        await machine.Serial.ExpectAsync("ready", limit.Token);
        await machine.Serial.WriteLineAsync("sleep 3; wget -q -O /data http://10.0.2.2/data; sha256sum /data; echo do''ne", limit.Token);
        Assert.Contains(Convert.ToHexStringLower(SHA256.HashData(_data)), await machine.Serial.ExpectAsync("done", limit.Token), StringComparison.Ordinal);
    }

    [GuestTheory(Bios, VgaBios, VirtioRom, E1000Rom, "cloud/vmlinuz", "virtio/initrd.img")]
    [InlineData("virtio")]
    [InlineData("e1000")]
    public async Task IPXE_boots_a_script_a_kernel_and_a_RAM_disk_by_HTTP(string model)
    {
        using var limit = new CancellationTokenSource(Limit);
        _files.Set("x.gpxe", "#!ipxe\nkernel vmlinuz console=ttyS0 quiet\ninitrd initrd.img\nboot\n"u8.ToArray());
        _files.Set("vmlinuz", File.ReadAllBytes(GuestCache.PathOf("cloud/vmlinuz")));
        _files.Set("initrd.img", File.ReadAllBytes(GuestCache.PathOf("virtio/initrd.img")));
        var network = Network(new UserNetworkOptions { Files = _files, BootFile = "http://10.0.2.2/x.gpxe" });
        var builder = Firmware();
        builder = model == "virtio"
            ? builder.WithVirtioDevice(new VirtioNic(network) { Rom = GuestCache.Open(VirtioRom), BootIndex = 0 })
            : builder.WithNetworkCard(new E1000Card(network) { Rom = GuestCache.Open(E1000Rom), BootIndex = 0 });
        await using var machine = await builder.StartAsync(limit.Token);
        await machine.Screen!.ExpectTextAsync("iPXE", limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        if (model != "virtio")
            return; // this kernel has no driver of its own
        await machine.Serial.WriteLineAsync("wget -q -O- http://10.0.2.2/hello", limit.Token);
        await machine.Serial.ExpectAsync("hello from the network", limit.Token);
    }

    [GuestTheory(Bios, VgaBios, VirtioRom, "pxelinux/pxelinux.0", "cloud/vmlinuz", "virtio/initrd.img")]
    [InlineData("translator")]
    public async Task Pxelinux_boots_by_TFTP(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        foreach (var name in new[] { "pxelinux.0", "ldlinux.c32" })
            _files.Set(name, File.ReadAllBytes(GuestCache.PathOf($"pxelinux/{name}")));
        _files.Set("pxelinux.cfg/default", "SAY from pxelinux\nDEFAULT linux\nLABEL linux\nLINUX vmlinuz\nINITRD initrd.img\nAPPEND console=ttyS0 quiet\n"u8.ToArray());
        _files.Set("vmlinuz", File.ReadAllBytes(GuestCache.PathOf("cloud/vmlinuz")));
        _files.Set("initrd.img", File.ReadAllBytes(GuestCache.PathOf("virtio/initrd.img")));
        var network = Network(new UserNetworkOptions { Files = _files, BootFile = "pxelinux.0" });
        await using var machine = await Firmware(engine)
            .WithVirtioDevice(new VirtioNic(network) { Rom = GuestCache.Open(VirtioRom), BootIndex = 0 })
            .StartAsync(limit.Token);
        await machine.Screen!.ExpectTextAsync("from pxelinux", limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
    }

    /// <summary>A recording of a guest's network, without offloads so that all checksums are there, as tcpdump sees it.</summary>
    [GuestTheory("cloud/vmlinuz", "virtio/initrd.img", "tcpdump/tcpdump")]
    [InlineData("translator")]
    public async Task A_recording_is_read_by_tcpdump(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        var path = Path.GetTempFileName();
        try
        {
            await using (var machine = await Machine.CreateBuilder()
                .WithMemory(256 << 20)
                .WithEngine(GuestEngines.Create(engine))
                .WithKernel(GuestCache.Open("cloud/vmlinuz"))
                .WithInitrd(GuestCache.Open("virtio/initrd.img"))
                .WithCommandLine("console=ttyS0 quiet")
                .WithVirtioDevice(new VirtioNic(new PcapDump(Network(new UserNetworkOptions { Files = _files }), path, NullLogger.Instance)) { WithheldFeatures = 0x7F83UL })
                .StartAsync(limit.Token))
            {
                await machine.Serial.ExpectAsync(":~# ", limit.Token);
                await machine.Serial.WriteLineAsync("ping -c 1 10.0.2.2; wget -q -O- http://10.0.2.2/hello; wget -q -O /tmp/data http://10.0.2.2/data; echo do''ne", limit.Token);
                await machine.Serial.ExpectAsync("done", limit.Token);
            }

            var start = new ProcessStartInfo(GuestCache.PathOf("tcpdump/tcpdump"), ["-Z", "root", "-nn", "-v", "-r", path]) { RedirectStandardOutput = true, RedirectStandardError = true };
            start.Environment["LD_LIBRARY_PATH"] = GuestCache.PathOf("tcpdump/lib");
            using var tcpdump = Process.Start(start)!;
            var complaints = tcpdump.StandardError.ReadToEndAsync(limit.Token);
            var text = await tcpdump.StandardOutput.ReadToEndAsync(limit.Token);
            await tcpdump.WaitForExitAsync(limit.Token);
            Assert.Equal((0, 1), (tcpdump.ExitCode, (await complaints).Trim().Split('\n').Length)); // it says what it reads
            foreach (var expected in new[] { "BOOTP/DHCP, Request", "BOOTP/DHCP, Reply", "ICMP echo reply", "GET /hello", "HTTP/1.1 200 OK" })
                Assert.Contains(expected, text, StringComparison.Ordinal);
            foreach (var complaint in new[] { "incorrect", "[bad ", "truncated", "invalid" })
                Assert.DoesNotContain(complaint, text, StringComparison.Ordinal);
        }
        finally
        {
            File.Delete(path);
        }
    }

    private static MachineBuilder Firmware(string engine = "translator") => Machine.CreateBuilder()
        .WithMemory(512 << 20)
        .WithEngine(GuestEngines.Create(engine))
        .WithFirmware(GuestCache.Open(Bios))
        .WithVga(GuestCache.Open(VgaBios))
        .WithoutReboot();

    private static UserNetwork Network(UserNetworkOptions options) => new("user", options, NullLogger.Instance);

    private static async Task<byte[]> ReceiveAsync(TcpListener listener, CancellationToken cancellation)
    {
        using var client = await listener.AcceptTcpClientAsync(cancellation);
        using var bytes = new MemoryStream();
        await client.GetStream().CopyToAsync(bytes, cancellation);
        return bytes.ToArray();
    }
}
