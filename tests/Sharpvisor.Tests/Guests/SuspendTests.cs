using Sharpvisor.Backends.Char;
using Sharpvisor.Core.Input;

namespace Sharpvisor.Tests.Guests;

/// <summary>Debian's kernel sleeps (ACPI S3) and goes on, with what it had in RAM.</summary>
[Trait("Category", "Guest")]
public sealed class SuspendTests
{
    private const string Kernel = "cloud/vmlinuz", Initrd = "demo/initrd.img", Bios = "seabios/bios-256k.bin", VgaBios = "seabios/vgabios-stdvga.bin";
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(5);

    /// <summary>By its alarm, twice in a row; then by a key.</summary>
    [GuestTheory(Kernel, Initrd, Bios, VgaBios)]
    [EngineData(2, true)]
    [InlineData("translator", 1, false)]
    public async Task Linux_sleeps_and_goes_on(string engine, int processors, bool hasFirmware)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var log = new MemoryCharBackend();
        var builder = Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open(Kernel))
            .WithInitrd(GuestCache.Open(Initrd))
            .WithVga(GuestCache.Open(VgaBios))
            .WithCommandLine("console=tty0 console=ttyS0 quiet no_console_suspend")
            .WithoutReboot();
        if (hasFirmware)
            builder.WithFirmware(GuestCache.Open(Bios)).WithDebugConsole(log, 0x402);
        await using var machine = await builder.StartAsync(limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        Assert.Contains("deep", await Run("cat /sys/power/mem_sleep"), StringComparison.Ordinal);
        await Run("head -c 10000000 /dev/urandom >/tmp/data; sha1sum /tmp/data >/tmp/sum");
        for (var i = 1; i <= 2; i++)
        {
            await Run("echo 0 >/sys/class/rtc/rtc0/wakealarm; echo +5 >/sys/class/rtc/rtc0/wakealarm");
            Assert.Contains("slept 0", await Run("echo mem >/sys/power/state; echo slept $?"), StringComparison.Ordinal);
            await CheckAsync(i);
        }

        await machine.Serial.WriteLineAsync("echo mem >/sys/power/state; echo slept $?", limit.Token);
        while (!machine.IsSuspended)
            await Task.Delay(10, limit.Token);
        using (machine.Gate.Enter())
            machine.Keyboard.Device.OnKey(Key.Space, true);
        Assert.Contains("slept 0", await machine.Serial.ExpectAsync(":~# ", limit.Token), StringComparison.Ordinal);
        await CheckAsync(3);
        // SeaBIOS leaves it to the guest's driver to set a mode, as on QEMU. Without firmware the text screen is there again.
        await Run("echo on the screen >/dev/tty0");
        if (!hasFirmware)
            await machine.Screen!.ExpectTextAsync("on the screen", limit.Token);
        await machine.Serial.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);

        async Task CheckAsync(int sleeps)
        {
            Assert.Contains("/tmp/data: OK", await Run("sha1sum -c /tmp/sum"), StringComparison.Ordinal);
            Assert.Contains($"success: {sleeps}", await Run("echo success: $(cat /sys/power/suspend_stats/success)"), StringComparison.Ordinal);
            Assert.Contains($"processors: {processors}", await Run("echo processors: $(nproc)"), StringComparison.Ordinal);
            if (hasFirmware)
                await log.ExpectAsync("Jump to resume vector", limit.Token);
        }

        async Task<string> Run(string command)
        {
            await machine.Serial.WriteLineAsync(command, limit.Token);
            return await machine.Serial.ExpectAsync(":~# ", limit.Token);
        }
    }
}
