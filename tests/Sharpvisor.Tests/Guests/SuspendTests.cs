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
        var messages = new ListLogger();
        var builder = Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open(Kernel))
            .WithInitrd(GuestCache.Open(Initrd))
            .WithVga(GuestCache.Open(VgaBios))
            .WithCommandLine("console=tty0 console=ttyS0 quiet no_console_suspend")
            .WithLogger(messages)
            .WithoutReboot();
        if (hasFirmware)
            builder.WithFirmware(GuestCache.Open(Bios)).WithDebugConsole(log, 0x402);
        await using var machine = await builder.StartAsync(limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        Assert.Contains("deep", await Run("cat /sys/power/mem_sleep"), StringComparison.Ordinal);
        await Run("head -c 10000000 /dev/urandom >/tmp/data; sha1sum /tmp/data >/tmp/sum");
        var sleeps = 0;
        // A guest on a busy host may need longer to fall asleep than its alarm waits: it is woken, and gets more time.
        for (int alarms = 0, seconds = 3; alarms < 2;)
        {
            await Run($"echo 0 >/sys/class/rtc/rtc0/wakealarm; echo +{seconds} >/sys/class/rtc/rtc0/wakealarm");
            await SleepAsync(TimeSpan.FromSeconds(seconds + 5), machine.PressPowerButton);
            var before = alarms;
            alarms = messages.Lines.Count(l => l == "the guest wakes up (RTC alarm)");
            if (alarms == before)
                seconds *= 3;
        }

        await SleepAsync(TimeSpan.Zero, () =>
        {
            using (machine.Gate.Enter())
                machine.Keyboard.Device.OnKey(Key.Space, true);
        });
        Assert.Equal("the guest wakes up (keyboard)", messages.Lines[^1]);
        // SeaBIOS leaves it to the guest's driver to set a mode, as on QEMU. Without firmware the text screen is there again.
        await Run("echo on the screen >/dev/tty0");
        if (!hasFirmware)
            await machine.Screen!.ExpectTextAsync("on the screen", limit.Token);
        await machine.Serial.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);

        async Task SleepAsync(TimeSpan patience, Action wake)
        {
            await machine.Serial.WriteLineAsync("echo mem >/sys/power/state; echo slept $?", limit.Token);
            var awake = machine.Serial.ExpectAsync(":~# ", limit.Token);
            while (!awake.IsCompleted && !machine.IsSuspended)
                await Task.Delay(10, limit.Token);
            await Task.WhenAny(awake, Task.Delay(patience, limit.Token));
            if (machine.IsSuspended)
                wake();
            Assert.Contains("slept 0", await awake, StringComparison.Ordinal);
            sleeps++;
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
