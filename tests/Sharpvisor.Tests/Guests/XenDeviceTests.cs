using Sharpvisor.Backends.Char;

namespace Sharpvisor.Tests.Guests;

/// <summary>Linux's own drivers of a Xen domain's disks and NICs; the host compares.</summary>
[Trait("Category", "Guest")]
public sealed class XenDeviceTests : IDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    private readonly DomainDevices _devices = new();

    public void Dispose() => _devices.Dispose();

    [GuestTheory("cloud/vmlinuz", "xen/initrd.img")]
    [EngineData(1, MachineKind.XenHvm, "", false)]
    [InlineData("translator", 2, MachineKind.XenPvh, "xen-blkfront=max_ring_page_order=4,max_indirect_segments=256", false)]
    [InlineData("translator", 2, MachineKind.XenHvm, "", true)]
    [InlineData("translator", 2, MachineKind.XenPv, "", false)]
    public async Task Linux_drives_a_disk_and_a_nic(string engine, int processors, MachineKind kind, string arguments, bool isPersistent)
    {
        using var limit = new CancellationTokenSource(Limit);
        var console = new MemoryCharBackend();
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithXen(7, console, kind)
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("xen/initrd.img"))
            .WithCommandLine($"console=hvc0 {arguments}")
            .WithXenDevice(new XenDisk(_devices.OpenDisk()) { OffersPersistentGrants = isPersistent })
            .WithXenDevice(new XenNic(_devices.OpenNetwork()))
            .WithoutReboot()
            .StartAsync(limit.Token);
        var shell = new DomainShell(machine, console, _devices, limit.Token);
        await shell.AwaitPromptAsync();
        var hash = await shell.FillDiskAsync("/dev/xvda");

        await shell.ExpectAsync("inet 10.0.2.15/24", "ip -4 addr show eth0");
        await shell.ExpectAsync("0% packet loss", "ping -c 2 10.0.2.2");
        await shell.ExpectAsync("hello from the network", "wget -q -O- http://10.0.2.2/hello");
        if (engine != "interpreter")
            await shell.MoveDataAsync();

        await shell.ExpectAsync($"persistent grants: {(isPersistent ? "enabled" : "disabled")}; indirect descriptors: enabled", "dmesg | grep blkfront:");
        // A device that is bound is a use of its driver's module.
        await shell.ExpectAsync("gone", "echo vif-0 >/sys/bus/xen/drivers/vif/unbind; rmmod xen_netfront && echo g''one");
        await shell.RunAsync("insmod /modules/xen-netfront.ko; sleep 1; ip link set eth0 up; udhcpc -i eth0 -q -n -t 5 -T 1 -s /etc/dhcp >/dev/null");
        await shell.ExpectAsync("hello from the network", "wget -q -O- http://10.0.2.2/hello");
        await shell.TakeOutAndInAsync(d => d.Kind == "vbd", "/dev/xvda");

        await shell.ExpectAsync("\r\n0\r\n", "dmesg | grep -ci -e 'i/o error' -e 'xen.*fail' -e timeout -e warning");
        await shell.PowerOffAsync();
        Assert.DoesNotContain(machine.Errors.Counts, c => c.Key.StartsWith("xen v", StringComparison.Ordinal));
        await machine.DisposeAsync();
        _devices.AssertImageHolds(hash);
    }
}
