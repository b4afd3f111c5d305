using Sharpvisor.Backends.Char;

namespace Sharpvisor.Tests.Guests;

/// <summary>The page tables of Debian's kernel in a paravirtual domain, after much use.</summary>
[Trait("Category", "Guest")]
public sealed class XenPvMemoryTests
{
    /// <summary>All references of tables are those that the tables in memory have; the rest are what the hypervisor itself holds.</summary>
    [GuestTheory("cloud/vmlinuz", "demo/initrd.img")]
    [InlineData("translator", 4)]
    public async Task References_of_frames_are_right(string engine, int processors)
    {
        using var limit = new CancellationTokenSource(TimeSpan.FromMinutes(4));
        var console = new MemoryCharBackend();
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(128 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithXen(7, console, MachineKind.XenPv)
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("demo/initrd.img"))
            .WithCommandLine("console=hvc0 quiet")
            .WithoutReboot()
            .StartAsync(limit.Token);
        await console.ExpectAsync(":~# ", limit.Token);
        await console.WriteLineAsync("for w in 1 2 3 4; do (n=0; while :; do ls -l /bin | md5sum >/dev/null; n=$((n+1)); [ $n = 10 ] && echo \"ten of $w\"; done) & done", limit.Token);
        for (var i = 0; i < 4; i++)
            await console.ExpectAsync("ten of ", limit.Token);

        // In the middle of it: processes come and go on all processors.
        await machine.PauseAsync(limit.Token);
        var count = new PvRecount(machine.Memory, machine.Xen!.Paravirtual!.Mmu, processors);
        var (tables, held) = count.Check();
        Assert.InRange(tables, 50, 20_000);
        Assert.InRange(held, processors * 2, 600); // GDTs, vcpu_infos, runstates, rings, grants
        Assert.DoesNotContain(machine.Errors.Counts.Keys, k => k.StartsWith("xen-pv", StringComparison.Ordinal));
    }
}
