using System.Security.Cryptography;
using System.Text;
using Sharpvisor.Backends.Char;

namespace Sharpvisor.Tests.Guests;

/// <summary>Linux's own driver of virtio consoles: a shell on hvc0, and a channel between programs of guest and host.</summary>
[Trait("Category", "Guest")]
public sealed class VirtioConsoleTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    [GuestTheory("cloud/vmlinuz", "virtio/initrd.img")]
    [EngineData(1, "")]
    [InlineData("translator", 2, "")]
    [InlineData("translator", 1, "virtio.legacy")]
    [InlineData("translator", 1, "pci=nomsi")]
    public async Task A_shell_on_a_console_and_a_named_port(string engine, int processors, string arguments)
    {
        using var limit = new CancellationTokenSource(Limit);
        MemoryCharBackend console = new(), channel = new(), second = new();
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("virtio/initrd.img"))
            .WithCommandLine($"console=hvc0 quiet {arguments}")
            .WithSerial(null)
            .WithVirtioDevice(new VirtioSerialBus(
            [
                new VirtioSerialPort(channel) { Name = "org.sharpvisor.test" },
                new VirtioSerialPort(console) { IsConsole = true },
                new VirtioSerialPort(second) { IsConsole = true },
                new VirtioSerialPort(null) { Name = "nowhere", Number = 7 },
            ]))
            .StartAsync(limit.Token);
        await console.ExpectAsync(":~# ", limit.Token);
        Assert.Contains("/dev/hvc0", await Run("tty"), StringComparison.Ordinal);
        await Run("cd /sys/class/virtio-ports; for p in *; do eval \"$(tr -c 'a-z\\n' _ <$p/name)=/dev/$p\"; done; cd");
        Assert.Contains("p7", await Run("echo $nowhere; echo gone >$nowhere"), StringComparison.Ordinal);

        // To the guest: much more than it has buffers for.
        var text = string.Concat(Enumerable.Range(0, 60_000).Select(i => $"{i:x8}\n"));
        await channel.WriteAsync(text, limit.Token); // before anyone has it open
        await Run("exec 3<>$org_sharpvisor_test");
        Assert.Contains(Convert.ToHexStringLower(SHA256.HashData(Encoding.ASCII.GetBytes(text))), await Run($"head -c {text.Length} <&3 | sha256sum"), StringComparison.Ordinal);

        // And from it, with a question in between.
        await Run("seq 100000 299999 >&3; echo e''nd >&3");
        await channel.ExpectAsync("\nend", limit.Token);
        Assert.Equal(string.Concat(Enumerable.Range(100_000, 200_000).Select(i => $"{i}\n")) + "end\n", channel.Output);
        await channel.WriteAsync("question\n", limit.Token);
        await Run("read -r line <&3; echo $line answered >&3");
        await channel.ExpectAsync("question answered", limit.Token);

        await console.WriteLineAsync("echo second >/dev/hvc1; exec 3>&-; poweroff", limit.Token);
        await second.ExpectAsync("second", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
        Assert.DoesNotContain(machine.Errors.Counts, c => c.Key.StartsWith("virtio", StringComparison.Ordinal));

        async Task<string> Run(string command)
        {
            await console.WriteLineAsync(command, limit.Token);
            return await console.ExpectAsync(":~# ", limit.Token);
        }
    }
}
