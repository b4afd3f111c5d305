using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Char;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Backends.Net.User.Services.Content;

namespace Sharpvisor.Tests.Guests;

/// <summary>Linux's own drivers of a Xen domain's disks and NICs; the host compares.</summary>
[Trait("Category", "Guest")]
public sealed class XenDeviceTests : IDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-xen-").FullName;
    private readonly MemoryContent _files = new();
    private readonly byte[] _data = new byte[24 << 20];

    public XenDeviceTests()
    {
        new Random(1).NextBytes(_data);
        _files.Set("hello", "hello from the network"u8.ToArray());
        _files.Set("data", _data);
    }

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [GuestTheory("cloud/vmlinuz", "xen/initrd.img")]
    [EngineData(1, MachineKind.XenHvm, "", false)]
    [InlineData("translator", 2, MachineKind.XenPvh, "xen-blkfront=max_ring_page_order=4,max_indirect_segments=256", false)]
    [InlineData("translator", 2, MachineKind.XenHvm, "", true)]
    [InlineData("translator", 2, MachineKind.XenPv, "", false)]
    public async Task Linux_drives_a_disk_and_a_nic(string engine, int processors, MachineKind kind, string arguments, bool isPersistent)
    {
        using var limit = new CancellationTokenSource(Limit);
        var path = Path.Combine(_directory, "disk.img");
        File.WriteAllBytes(path, _data);
        var drive = BlockDrive.Open("disk", path, new DriveOptions { Format = "raw", Discard = true }, NullLogger.Instance);
        var network = new UserNetwork("user", new UserNetworkOptions { Files = _files, HostForwards = [new HostForward(false, IPAddress.Loopback, 0, null, 80)] }, NullLogger.Instance);
        var console = new MemoryCharBackend();
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithXen(7, console, kind)
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("xen/initrd.img"))
            .WithCommandLine($"console=hvc0 {arguments}")
            .WithXenDevice(new XenDisk(drive) { OffersPersistentGrants = isPersistent })
            .WithXenDevice(new XenNic(network))
            .WithoutReboot()
            .StartAsync(limit.Token);
        await console.ExpectAsync(":~# ", limit.Token);
        Assert.Contains(Hash(_data), await Run("sha256sum /dev/xvda"), StringComparison.Ordinal);
        await Run("mkfs.ext4 -q /dev/xvda && mount -t ext4 /dev/xvda /root && dd if=/dev/urandom of=/root/random bs=64k count=4 iflag=fullblock; cp -r /modules /root/m; sync; rm -r /root/m; fstrim -v /root");
        var hash = (await Run("sha256sum /root/random")).Split("sum /root/random", 2)[1].Trim()[..64];
        Assert.Contains("0 errors", await Run("umount /root; e2fsck -fn /dev/xvda; echo $? errors"), StringComparison.Ordinal);

        Assert.Contains("inet 10.0.2.15/24", await Run("ip -4 addr show eth0"), StringComparison.Ordinal);
        Assert.Contains("0% packet loss", await Run("ping -c 2 10.0.2.2"), StringComparison.Ordinal);
        Assert.Contains("hello from the network", await Run("wget -q -O- http://10.0.2.2/hello"), StringComparison.Ordinal);
        if (engine != "interpreter")
        {
            Assert.Contains(Hash(_data), await Run("wget -q -O /tmp/data http://10.0.2.2/data; sha256sum /tmp/data"), StringComparison.Ordinal);
            using var listener = new TcpListener(IPAddress.Loopback, 0);
            listener.Start();
            var received = ReceiveAsync(listener, limit.Token);
            await Run($"nc 10.0.2.2 {((IPEndPoint)listener.LocalEndpoint).Port} </tmp/data");
            Assert.Equal(_data, await received);
        }

        Assert.Contains($"persistent grants: {(isPersistent ? "enabled" : "disabled")}; indirect descriptors: enabled", await Run("dmesg | grep blkfront:"), StringComparison.Ordinal);
        // A device that is bound is a use of its driver's module.
        Assert.Contains("gone", await Run("echo vif-0 >/sys/bus/xen/drivers/vif/unbind; rmmod xen_netfront && echo g''one"), StringComparison.Ordinal);
        await Run("insmod /modules/xen-netfront.ko; sleep 1; ip link set eth0 up; udhcpc -i eth0 -q -n -t 5 -T 1 -s /etc/dhcp >/dev/null");
        Assert.Contains("hello from the network", await Run("wget -q -O- http://10.0.2.2/hello"), StringComparison.Ordinal);

        // The disk is taken out, and put in again.
        var bus = machine.Parts.XenBus!;
        var disk = bus.Devices.Single(d => d.Kind == "vbd");
        var isOut = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        disk.Forgotten = isOut.SetResult;
        using (machine.Gate.Enter())
            bus.Remove(disk);
        await isOut.Task.WaitAsync(limit.Token);
        Assert.Contains("No such file", await Run("ls /dev/xvda"), StringComparison.Ordinal);
        using (machine.Gate.Enter())
            bus.Add(disk);
        Assert.Contains("0 errors", await Run("for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/xvda ] || sleep 0.3; done; e2fsck -fn /dev/xvda; echo $? errors"), StringComparison.Ordinal);

        Assert.Contains("\r\n0\r\n", await Run("dmesg | grep -ci -e 'i/o error' -e 'xen.*fail' -e timeout -e warning"), StringComparison.Ordinal);
        await console.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
        Assert.DoesNotContain(machine.Errors.Counts, c => c.Key.StartsWith("xen v", StringComparison.Ordinal));
        await machine.DisposeAsync();
        var bytes = File.ReadAllBytes(path);
        Assert.Equal([0x53, 0xEF], bytes[1080..1082]); // the magic number of ext4
        Assert.Contains(hash, Enumerable.Range(0, (bytes.Length - (256 << 10)) / 1024).Select(at => Hash(bytes.AsSpan(at * 1024, 256 << 10))));

        async Task<string> Run(string command)
        {
            await console.WriteLineAsync(command, limit.Token);
            return await console.ExpectAsync(":~# ", limit.Token);
        }
    }

    private static string Hash(ReadOnlySpan<byte> bytes) => Convert.ToHexStringLower(SHA256.HashData(bytes));

    private static async Task<byte[]> ReceiveAsync(TcpListener listener, CancellationToken cancellation)
    {
        using var client = await listener.AcceptTcpClientAsync(cancellation);
        using var bytes = new MemoryStream();
        await client.GetStream().CopyToAsync(bytes, cancellation);
        return bytes.ToArray();
    }
}
