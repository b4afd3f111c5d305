using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Virtio;

namespace Sharpvisor.Tests.Guests;

/// <summary>Linux's balloon driver; the host counts its pages.</summary>
[Trait("Category", "Guest")]
public sealed class BalloonTests
{
    private const ulong MiB = 1 << 20;
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    [GuestTheory("cloud/vmlinuz", "virtio/initrd.img")]
    [InlineData("")]
    [InlineData("virtio.legacy")]
    public async Task Memory_goes_to_the_host_and_back(string arguments)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = Build(arguments, new VirtioBalloonOptions());
        await Assert.ThrowsAsync<InvalidOperationException>(() => machine.Balloon!.ReadStatisticsAsync(limit.Token)); // no driver yet
        Assert.Throws<ConfigurationException>(() => machine.Balloon!.SetTarget(513 * MiB));
        await machine.StartAsync(limit.Token);
        var balloon = machine.Balloon!;
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        await Run("dd if=/dev/zero of=/tmp/x bs=1M count=200; rm /tmp/x");
        var before = machine.Memory.ResidentSize;
        Assert.InRange(before, 200 * MiB, 512 * MiB);

        balloon.SetTarget(200 * MiB);
        while (balloon.Actual != 200 * MiB)
            await Task.Delay(20, limit.Token);
        Assert.InRange(machine.Memory.ResidentSize, 1u, Math.Min(before - (80 * MiB), 240 * MiB));
        var small = await balloon.ReadStatisticsAsync(limit.Token);
        Assert.InRange(small.FreeMemory!.Value, 1u, 200 * MiB);
        Assert.NotNull(small.MinorFaults);

        balloon.SetTarget(512 * MiB);
        while (balloon.Actual != 512 * MiB)
            await Task.Delay(20, limit.Token);
        Assert.InRange((await balloon.ReadStatisticsAsync(limit.Token)).FreeMemory!.Value, 300 * MiB, 512 * MiB);
        Assert.Contains("alive", await Run("dd if=/dev/zero of=/tmp/x bs=1M count=200 && cmp /tmp/x /dev/zero; rm /tmp/x; echo a''live"), StringComparison.Ordinal);
        Assert.DoesNotContain(machine.Errors.Counts, c => c.Key.StartsWith("virtio", StringComparison.Ordinal));

        async Task<string> Run(string command)
        {
            await machine.Serial.WriteLineAsync(command, limit.Token);
            return await machine.Serial.ExpectAsync(":~# ", limit.Token);
        }
    }

    [GuestTheory("cloud/vmlinuz", "virtio/initrd.img")]
    [InlineData(1)]
    [InlineData(2)]
    public async Task Free_pages_go_to_the_host_by_themselves(int processors)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = Build("", new VirtioBalloonOptions { ReportsFreePages = true }, processors);
        await machine.StartAsync(limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        await machine.Serial.WriteLineAsync("dd if=/dev/zero of=/tmp/x bs=1M count=250; echo f''ull", limit.Token);
        await machine.Serial.ExpectAsync("full", limit.Token);
        var full = machine.Memory.ResidentSize;
        Assert.InRange(full, 250 * MiB, 512 * MiB);
        await machine.Serial.WriteLineAsync("rm /tmp/x", limit.Token);
        while (machine.Memory.ResidentSize > full - (200 * MiB))
            await Task.Delay(50, limit.Token);
        Assert.InRange(machine.Balloon!.Reported, 200 * MiB, ulong.MaxValue);
        await machine.Serial.WriteLineAsync("dd if=/dev/zero of=/tmp/x bs=1M count=250 && cmp /tmp/x /dev/zero; echo a''live", limit.Token);
        await machine.Serial.ExpectAsync("alive", limit.Token);
        Assert.DoesNotContain(machine.Errors.Counts, c => c.Key.StartsWith("virtio", StringComparison.Ordinal));
    }

    private static Machine Build(string arguments, VirtioBalloonOptions options, int processors = 1) => Machine.CreateBuilder()
        .WithMemory(512 * MiB)
        .WithProcessors(processors)
        .WithKernel(GuestCache.Open("cloud/vmlinuz"))
        .WithInitrd(GuestCache.Open("virtio/initrd.img"))
        .WithCommandLine($"console=ttyS0 quiet {arguments}")
        .WithVirtioDevice(new VirtioMemoryBalloon { Options = options })
        .Build();
}
