using Sharpvisor.Cpu;
using Sharpvisor.Debugging.Cores;
using Sharpvisor.Servers.Tests.Control;
using Sharpvisor.Tests.Guests;

namespace Sharpvisor.Servers.Tests.Guests;

/// <summary>Linux crashes, and its own drivers of pvpanic say so.</summary>
[Trait("Category", "Guest")]
public sealed class CrashedGuestTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    [GuestTheory("cloud/vmlinuz", "disk/initrd.img")]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_crash_is_told_and_the_guest_is_preserved(bool onPci)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await ControlledMachine.StartAsync(Machine.CreateBuilder()
            .WithEngine(CpuEngines.CreateDefault())
            .WithMemory(256 << 20)
            .WithProcessors(2)
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("disk/initrd.img"))
            .WithCommandLine("console=ttyS0 quiet")
            .WithPanicDevice(onPci)
            .WithActions(new MachineActions { Panic = PanicAction.Pause }));
        await machine.Machine.Serial.ExpectAsync(":~# ", limit.Token);
        using var client = await RawClient.ConnectAsync(machine);

        // A monitor looks at it while it runs, many times, and it does not notice.
        for (var i = 0; i < 50; i++)
            Assert.Contains("CS64", await machine.Monitor.ExecuteAsync("info registers", i % 2, limit.Token), StringComparison.Ordinal);
        Assert.Contains("ffffffff", await machine.Monitor.ExecuteAsync("info mem", 0, limit.Token), StringComparison.Ordinal);
        await machine.Machine.Serial.WriteLineAsync("echo 4''2; echo c >/proc/sysrq-trigger", limit.Token);
        await machine.Machine.Serial.ExpectAsync("42", limit.Token);

        Assert.Equal("pause", (await client.WaitForAsync("GUEST_PANICKED")).GetProperty("data").GetProperty("action").GetString());
        await client.WaitForAsync("STOP");
        var status = (await client.ExecuteAsync("query-status")).Result!.Value;
        Assert.Equal(("guest-panicked", false), (status.GetProperty("status").GetString(), status.GetProperty("running").GetBoolean()));
        Assert.Contains("sysrq: Trigger a crash", machine.Machine.Serial.Output, StringComparison.Ordinal);
        Assert.Equal("", (await client.ExecuteAsync("dump-guest-memory", $"{{\"paging\":false,\"protocol\":\"file:{machine.Folder}/core\"}}")).Text);
        using (var core = GuestCore.Open($"{machine.Folder}/core"))
            Assert.Equal(2, core.ProcessorCount);
        Assert.Equal("", (await client.ExecuteAsync("quit")).Text);
        await client.WaitForAsync("SHUTDOWN");
        Assert.Equal(MachineExitReason.Stopped, (await machine.Machine.WaitForExitAsync(limit.Token)).Reason);
    }

    [GuestTheory("cloud/vmlinuz", "disk/initrd.img")]
    [InlineData("A.TXT")]
    public async Task A_disc_is_changed_from_the_monitor(string name)
    {
        using var limit = new CancellationTokenSource(Limit);
        var folder = Directory.CreateTempSubdirectory("sharpvisor-disc-").FullName;
        var (first, second) = (Path.Combine(folder, "1.iso"), Path.Combine(folder, "2.iso"));
        await File.WriteAllBytesAsync(first, TinyIso.Make([(name, "the first disc\n"u8.ToArray())]), limit.Token);
        await File.WriteAllBytesAsync(second, TinyIso.Make([(name, "the second disc\n"u8.ToArray())]), limit.Token);
        await using var machine = await ControlledMachine.StartAsync(Machine.CreateBuilder()
            .WithEngine(CpuEngines.CreateDefault())
            .WithMemory(256 << 20)
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("disk/initrd.img"))
            .WithCommandLine("console=ttyS0 quiet")
            .WithCdrom(first));
        var serial = machine.Machine.Serial;
        await serial.ExpectAsync(":~# ", limit.Token);
        Assert.Contains("the first disc", await Run("mount -t iso9660 /dev/sr0 /tmp && cat /tmp/a.txt"), StringComparison.Ordinal);
        Assert.Contains("is locked", await machine.Monitor.ExecuteAsync($"change ide1-cd0 {second}"), StringComparison.Ordinal); // it is mounted
        await Run("umount /tmp");
        Assert.Equal("", await machine.Monitor.ExecuteAsync($"change ide1-cd0 {second}"));
        Assert.Contains("the second disc", await Run("mount -t iso9660 /dev/sr0 /tmp && cat /tmp/a.txt; umount /tmp"), StringComparison.Ordinal);
        Assert.Equal("", await machine.Monitor.ExecuteAsync("eject ide1-cd0"));
        Assert.Contains("[not inserted]", await machine.Monitor.ExecuteAsync("info block"), StringComparison.Ordinal);
        Assert.Contains("read=1", await Run("head -c1 /dev/sr0 >/dev/null; echo read=$?"), StringComparison.Ordinal);
        Directory.Delete(folder, recursive: true);

        async Task<string> Run(string command)
        {
            await serial.WriteLineAsync(command, limit.Token);
            return await serial.ExpectAsync(":~# ", limit.Token);
        }
    }
}
