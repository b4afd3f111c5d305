using Sharpvisor.Backends.Char;

namespace Sharpvisor.Tests.Guests;

/// <summary>Linux's stock virtio drivers over guest/virtio_xenbus; the host compares, and counts grants.</summary>
[Trait("Category", "Guest")]
public sealed class VirtioXenbusTests : IDisposable
{
    private const string Unbind = "for d in /sys/bus/xen/drivers/virtio/virtio-*; do echo ${d##*/} >${d%/*}/unbind; done";
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    private readonly DomainDevices _devices = new();

    public void Dispose() => _devices.Dispose();

    [GuestTheory("cloud/vmlinuz", "xen/initrd.img")]
    [EngineData(1, MachineKind.XenPvh, false)]
    [InlineData("translator", 2, MachineKind.XenPvh, true)]
    [InlineData("translator", 2, MachineKind.XenHvm, false)]
    [InlineData("translator", 2, MachineKind.XenPv, false)]
    public async Task Linux_drives_all_devices(string engine, int processors, MachineKind kind, bool foreign)
    {
        using var limit = new CancellationTokenSource(Limit);
        var (console, channel) = (new MemoryCharBackend(), new MemoryCharBackend());
        var builder = Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithXen(7, console, kind)
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("xen/initrd.img"))
            .WithCommandLine($"console=hvc0 {(foreign ? "virtio_xenbus=foreign=1" : "virtio_xenbus")} {(kind == MachineKind.XenHvm ? "xen_emul_unplug=never" : "")}")
            .WithVirtioDevice(new VirtioDisk(_devices.OpenDisk()) { Connection = VirtioConnection.Xenbus, OffersForeignMap = foreign, OffersPackedRings = processors == 2 })
            .WithVirtioDevice(new VirtioNic(_devices.OpenNetwork()) { Connection = VirtioConnection.Xenbus, OffersForeignMap = foreign })
            .WithVirtioDevice(new VirtioEntropy { Connection = VirtioConnection.Xenbus })
            .WithVirtioDevice(new VirtioSerialBus([new VirtioSerialPort(channel) { Name = "channel" }]) { Connection = VirtioConnection.Xenbus })
            .WithoutReboot();
        if (kind != MachineKind.XenPv)
            builder.WithVirtioDevice(new VirtioMemoryBalloon { Connection = VirtioConnection.Xenbus, Options = new() { ReportsFreePages = true } });
        if (kind == MachineKind.XenHvm)
            builder.WithVirtioDevice(new VirtioDisk(_devices.OpenSecondDisk()));

        await using var machine = await builder.StartAsync(limit.Token);
        var shell = new DomainShell(machine, console, _devices, limit.Token);
        await shell.AwaitPromptAsync();
        var disk = "/dev/vda";
        if (kind == MachineKind.XenHvm)
        {
            disk = "/dev/vdb"; // the other one's driver was there first
            Assert.Matches("PCI-MSI.*virtio0-req.0", await shell.RunAsync("grep virtio0 /proc/interrupts"));
            await shell.ExpectAsync(_devices.DataHash, "sha256sum /dev/vda");
        }

        Assert.Matches("xen-dyn.*-event +virtio.-req.0", await shell.RunAsync("grep req.0 /proc/interrupts"));
        var hash = await shell.FillDiskAsync(disk);
        await shell.ExpectAsync("inet 10.0.2.15/24", "ip -4 addr show eth0");
        if (engine != "interpreter")
            await shell.MoveDataAsync();

        await shell.ExpectAsync("512 total", "head -c 512 /dev/hwrng | wc -c | sed 's/$/ total/'");
        await shell.RunAsync("for p in /dev/vport*p1; do echo through the channel >$p; done");
        await channel.ExpectAsync("through the channel", limit.Token);
        machine.Balloon?.SetTarget(200 << 20);
        while (machine.Balloon is not null && machine.Balloon.Actual != 200 << 20)
            await Task.Delay(20, limit.Token);

        // The module goes, and with it every grant; then it comes again.
        var grants = await shell.RunAsync("cat /sys/bus/xen/devices/virtio-0/grants");
        Assert.Matches(foreign ? @"grants\r\n1\r\n" : @"grants\r\n[0-9]+\r\n", grants);
        Assert.InRange(GrantsInUse(), 5, 3000);
        await shell.ExpectAsync("\r\n0\r\n", $"{Unbind}; rmmod virtio_xenbus && lsmod | grep -c xenbus");
        Assert.Equal(0, GrantsInUse());
        await shell.ExpectAsync("No such file", $"ls {disk}");
        await shell.RunAsync("insmod /modules/virtio_xenbus.ko");
        await shell.ExpectDiskAsync(disk);
        await shell.ExpectAsync("512 total", "head -c 512 /dev/hwrng | wc -c | sed 's/$/ total/'");

        await shell.TakeOutAndInAsync(d => d is { Kind: "virtio", Number: 0 }, disk);

        var complaints = await shell.RunAsync("dmesg | grep -i -e 'i/o error' -e 'virtio[-0-9].*fail' -e 'virtio.*error' -e 'not returned' -e 'still in use' -e timeout -e 'warning'; echo f''ound $?");
        Assert.True(complaints.Contains("found 1", StringComparison.Ordinal), complaints);
        await shell.PowerOffAsync();
        Assert.DoesNotContain(machine.Errors.Counts, c => c.Key.Contains("virtio", StringComparison.Ordinal) || c.Key.Contains("grant", StringComparison.Ordinal));
        await machine.DisposeAsync();
        _devices.AssertImageHolds(hash);

        int GrantsInUse()
        {
            using (machine.Gate.Enter())
                return machine.Xen!.Grants.UseCount;
        }
    }
}
