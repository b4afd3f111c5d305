using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Char;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Backends.Net.User.Services.Content;

namespace Sharpvisor.Tests.Guests;

/// <summary>Linux's stock virtio drivers over guest/virtio_xenbus; the host compares, and counts grants.</summary>
[Trait("Category", "Guest")]
public sealed class VirtioXenbusTests : IDisposable
{
    private const string Unbind = "for d in /sys/bus/xen/drivers/virtio/virtio-*; do echo ${d##*/} >${d%/*}/unbind; done";
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-xenbus-").FullName;
    private readonly MemoryContent _files = new();
    private readonly byte[] _data = new byte[24 << 20];

    public VirtioXenbusTests()
    {
        new Random(1).NextBytes(_data);
        _files.Set("data", _data);
    }

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [GuestTheory("cloud/vmlinuz", "xen/initrd.img")]
    [EngineData(1, MachineKind.XenPvh, false)]
    [InlineData("translator", 2, MachineKind.XenPvh, true)]
    [InlineData("translator", 2, MachineKind.XenHvm, false)]
    public async Task Linux_drives_all_devices(string engine, int processors, MachineKind kind, bool foreign)
    {
        using var limit = new CancellationTokenSource(Limit);
        var path = Path.Combine(_directory, "disk.img");
        File.WriteAllBytes(path, _data);
        var drive = BlockDrive.Open("disk", path, new DriveOptions { Format = "raw", Discard = true }, NullLogger.Instance);
        var network = new UserNetwork("user", new UserNetworkOptions { Files = _files }, NullLogger.Instance);
        var (console, channel) = (new MemoryCharBackend(), new MemoryCharBackend());
        var builder = Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithXen(7, console, kind)
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("xen/initrd.img"))
            .WithCommandLine($"console=hvc0 {(foreign ? "virtio_xenbus=foreign=1" : "virtio_xenbus")} {(kind == MachineKind.XenHvm ? "xen_emul_unplug=never" : "")}")
            .WithVirtioDevice(new VirtioDisk(drive) { Connection = VirtioConnection.Xenbus, OffersForeignMap = foreign, OffersPackedRings = processors == 2 })
            .WithVirtioDevice(new VirtioNic(network) { Connection = VirtioConnection.Xenbus, OffersForeignMap = foreign })
            .WithVirtioDevice(new VirtioEntropy { Connection = VirtioConnection.Xenbus })
            .WithVirtioDevice(new VirtioMemoryBalloon { Connection = VirtioConnection.Xenbus, Options = new() { ReportsFreePages = true } })
            .WithVirtioDevice(new VirtioSerialBus([new VirtioSerialPort(channel) { Name = "channel" }]) { Connection = VirtioConnection.Xenbus })
            .WithoutReboot();
        var pciPath = Path.Combine(_directory, "pci.img");
        if (kind == MachineKind.XenHvm)
        {
            File.WriteAllBytes(pciPath, _data);
            builder.WithVirtioDevice(new VirtioDisk(BlockDrive.Open("pci", pciPath, new DriveOptions { Format = "raw" }, NullLogger.Instance)));
        }

        await using var machine = await builder.StartAsync(limit.Token);
        await console.ExpectAsync(":~# ", limit.Token);
        var disk = "/dev/vda";
        if (kind == MachineKind.XenHvm)
        {
            disk = "/dev/vdb"; // the other one's driver was there first
            Assert.Matches("PCI-MSI.*virtio0-req.0", await Run("grep virtio0 /proc/interrupts"));
            Assert.Contains(Hash(_data), await Run("sha256sum /dev/vda"), StringComparison.Ordinal);
        }

        Assert.Matches("xen-dyn.*-event +virtio.-req.0", await Run("grep req.0 /proc/interrupts"));
        Assert.Contains(Hash(_data), await Run($"sha256sum {disk}"), StringComparison.Ordinal);
        await Run($"mkfs.ext4 -q {disk} && mount -t ext4 {disk} /root && dd if=/dev/urandom of=/root/random bs=64k count=4 iflag=fullblock; cp -r /modules /root/m; sync; rm -r /root/m; fstrim -v /root");
        var hash = (await Run("sha256sum /root/random")).Split("sum /root/random", 2)[1].Trim()[..64];
        Assert.Contains("0 errors", await Run($"umount /root; e2fsck -fn {disk}; echo $? errors"), StringComparison.Ordinal);

        Assert.Contains("inet 10.0.2.15/24", await Run("ip -4 addr show eth0"), StringComparison.Ordinal);
        if (engine != "interpreter")
        {
            Assert.Contains(Hash(_data), await Run("wget -q -O /tmp/data http://10.0.2.2/data; sha256sum /tmp/data"), StringComparison.Ordinal);
            using var listener = new TcpListener(IPAddress.Loopback, 0);
            listener.Start();
            var received = ReceiveAsync(listener, limit.Token);
            await Run($"nc 10.0.2.2 {((IPEndPoint)listener.LocalEndpoint).Port} </tmp/data; rm /tmp/data");
            Assert.Equal(_data, await received);
        }

        Assert.Contains("512 total", await Run("head -c 512 /dev/hwrng | wc -c | sed 's/$/ total/'"), StringComparison.Ordinal);
        await Run("for p in /dev/vport*p1; do echo through the channel >$p; done");
        await channel.ExpectAsync("through the channel", limit.Token);
        machine.Balloon!.SetTarget(200 << 20);
        while (machine.Balloon.Actual != 200 << 20)
            await Task.Delay(20, limit.Token);

        // The module goes, and with it every grant; then it comes again.
        var grants = await Run("cat /sys/bus/xen/devices/virtio-0/grants");
        Assert.Matches(foreign ? @"grants\r\n1\r\n" : @"grants\r\n[0-9]+\r\n", grants);
        Assert.InRange(GrantsInUse(), 5, 3000);
        var before = await Run($"{Unbind}; rmmod virtio_xenbus && lsmod | grep -c xenbus");
        Assert.Contains("\r\n0\r\n", before, StringComparison.Ordinal);
        Assert.Equal(0, GrantsInUse());
        Assert.Contains("No such file", await Run($"ls {disk}"), StringComparison.Ordinal);
        await Run("insmod /modules/virtio_xenbus.ko");
        Assert.Contains("0 errors", await Run(WaitForDisk()), StringComparison.Ordinal);
        Assert.Contains("512 total", await Run("head -c 512 /dev/hwrng | wc -c | sed 's/$/ total/'"), StringComparison.Ordinal);

        // The disk is taken out, and put in again.
        var bus = machine.Parts.XenBus!;
        var device = bus.Devices.Single(d => d is { Kind: "virtio", Number: 0 });
        var isOut = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        device.Forgotten = isOut.SetResult;
        using (machine.Gate.Enter())
            bus.Remove(device);
        await isOut.Task.WaitAsync(limit.Token);
        Assert.Contains("No such file", await Run($"ls {disk}"), StringComparison.Ordinal);
        using (machine.Gate.Enter())
            bus.Add(device);
        Assert.Contains("0 errors", await Run(WaitForDisk()), StringComparison.Ordinal);

        Assert.Contains("\r\n0\r\n", await Run("dmesg | grep -ci -e 'i/o error' -e 'virtio[-0-9].*fail' -e 'virtio.*error' -e 'not returned' -e 'still in use' -e timeout -e 'warning'"), StringComparison.Ordinal);
        await console.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
        Assert.DoesNotContain(machine.Errors.Counts, c => c.Key.Contains("virtio", StringComparison.Ordinal) || c.Key.Contains("grant", StringComparison.Ordinal));
        await machine.DisposeAsync();
        var bytes = File.ReadAllBytes(path);
        Assert.Equal([0x53, 0xEF], bytes[1080..1082]); // the magic number of ext4
        Assert.Contains(hash, Enumerable.Range(0, (bytes.Length - (256 << 10)) / 1024).Select(at => Hash(bytes.AsSpan(at * 1024, 256 << 10))));

        string WaitForDisk() => $"for i in 1 2 3 4 5 6 7 8 9; do [ -b {disk} ] || sleep 0.3; done; e2fsck -fn {disk}; echo $? errors";

        int GrantsInUse()
        {
            using (machine.Gate.Enter())
                return machine.Xen!.Grants.UseCount;
        }

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
