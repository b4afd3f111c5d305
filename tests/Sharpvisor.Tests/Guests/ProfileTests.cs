using Sharpvisor.Backends.Char;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Tests.Guests;

/// <summary>A profile of Linux while it works.</summary>
[Trait("Category", "Guest")]
public sealed class ProfileTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    [GuestTheory("cloud/vmlinuz", "newer/vmlinuz", "demo/initrd.img")]
    [InlineData("cloud/vmlinuz", false)]
    [InlineData("newer/vmlinuz", false)]
    [InlineData("cloud/vmlinuz", true)]
    public async Task Stacks_lead_from_the_task_to_where_it_works(string kernel, bool isParavirtual)
    {
        using var limit = new CancellationTokenSource(Limit);
        var builder = Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithProcessors(2)
            .WithKernel(GuestCache.Open(kernel))
            .WithInitrd(GuestCache.Open("demo/initrd.img"))
            .WithCommandLine($"console={(isParavirtual ? "hvc0" : "ttyS0")} quiet");
        if (isParavirtual)
            builder.WithXen(kind: MachineKind.XenPv, console: new MemoryCharBackend());
        await using var machine = await builder.StartAsync(limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        await machine.Serial.WriteLineAsync("dd if=/dev/zero of=/dev/null bs=1M &", limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        await using var profiler = machine.StartProfile(200);
        Assert.Throws<ConfigurationException>(() => machine.StartProfile());
        var text = "";
        while (!text.Contains("dd;", StringComparison.Ordinal) || !text.Contains("ksys_read", StringComparison.Ordinal))
        {
            await Task.Delay(50, limit.Token);
            text = profiler.Fold();
        }

        await profiler.DisposeAsync();
        text = profiler.Fold();
        var lines = text.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Contains(lines, l => l.StartsWith("dd;[user];entry_SYSCALL_64_after_hwframe;do_syscall_64;", StringComparison.Ordinal) && l.Contains(";ksys_read;vfs_read;", StringComparison.Ordinal));
        Assert.Equal(profiler.Count, lines.Sum(l => long.Parse(l[(l.LastIndexOf(' ') + 1)..])));
        await using var second = machine.StartProfile();
        await machine.Serial.WriteLineAsync("kill %1; echo a''live", limit.Token);
        await machine.Serial.ExpectAsync("alive", limit.Token);
    }
}
