using Sharpvisor.Backends.Char;

namespace Sharpvisor.Tests.Guests;

/// <summary>Debian's unmodified kernel in a domain of Xen's, without Xen.</summary>
[Trait("Category", "Guest")]
public sealed class XenTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    [GuestTheory("cloud/vmlinuz", "demo/initrd.img")]
    [EngineData(MachineKind.XenHvm, 1)]
    [EngineData(MachineKind.XenHvm, 2)]
    [EngineData(MachineKind.XenPvh, 1)]
    [EngineData(MachineKind.XenPvh, 4)]
    public async Task The_kernel_finds_itself_on_Xen(string engine, MachineKind kind, int processors)
    {
        using var limit = new CancellationTokenSource(Limit);
        var console = new MemoryCharBackend();
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(512 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithXen(7, console, kind)
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("demo/initrd.img"))
            .WithCommandLine("console=hvc0 quiet")
            .WithoutReboot()
            .StartAsync(limit.Token);
        await console.ExpectAsync(":~# ", limit.Token);
        Assert.Contains(kind == MachineKind.XenPvh ? "xen\r\nPVH\r\n" : "xen\r\nHVM\r\n", await Run("cat /sys/hypervisor/type /sys/hypervisor/guest_type"), StringComparison.Ordinal);
        Assert.Contains($"{processors}\r\n", await Run("nproc"), StringComparison.Ordinal);
        var messages = await Run("dmesg");
        Assert.Contains(kind == MachineKind.XenPvh ? "Booting kernel on Xen PVH" : "Booting paravirtualized kernel on Xen HVM", messages, StringComparison.Ordinal);
        Assert.Contains("Grant tables using version 1 layout", messages, StringComparison.Ordinal);
        Assert.Contains("Switched to clocksource xen", messages, StringComparison.Ordinal);
        Assert.DoesNotContain("Call Trace", messages, StringComparison.Ordinal);

        // Between processors, interrupts are event channels.
        var work = "for i in $(seq $(nproc)); do (n=0; while [ $n -lt 2000 ]; do n=$((n+1)); done; echo done-$n) & done; wait";
        Assert.Equal(processors, (await Run(work)).Split("done-2000").Length - 1);
        Assert.Matches(processors > 1 ? @"xen-percpu.*resched\d" : @"hvc_console", await Run("cat /proc/interrupts"));
        await console.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);

        async Task<string> Run(string command)
        {
            await console.WriteLineAsync(command, limit.Token);
            return await console.ExpectAsync(":~# ", limit.Token);
        }
    }
}
