using Sharpvisor.Backends.Char;
using Sharpvisor.Boot;

namespace Sharpvisor.Tests.Guests;

/// <summary>SeaBIOS from Debian's package, by its debug log.</summary>
[Trait("Category", "Guest")]
public sealed class SeaBiosTests
{
    private const string Bios = "seabios/bios-256k.bin";
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(2);

    [GuestTheory(Bios)]
    [EngineData(1, 128)]
    [EngineData(4, 6 * 1024)]
    public async Task Finds_the_whole_machine_and_nothing_to_boot(string engine, int processors, int megabytes)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var log = new MemoryCharBackend();
        await using var machine = await Builder(engine, log).WithProcessors(processors).WithMemory((ulong)megabytes << 20).StartAsync(limit.Token);
        var text = await log.ExpectAsync("No bootable device.", limit.Token);
        Assert.Contains("Running on QEMU (i440fx)", text, StringComparison.Ordinal);
        Assert.Contains("QEMU fw_cfg DMA interface supported", text, StringComparison.Ordinal);
        Assert.Contains("PIIX3/PIIX4 init: elcr=00 0c", text, StringComparison.Ordinal);
        Assert.Contains("init bdf=00:01.3 id=8086:7113", text, StringComparison.Ordinal);
        Assert.Contains($"Found {processors} cpu(s) max supported {processors} cpu(s)", text, StringComparison.Ordinal);
        Assert.Contains("Copying SMBIOS", text, StringComparison.Ordinal);
        Assert.Contains("(via xsdt)", text, StringComparison.Ordinal);
        Assert.Contains("ACPI: parse DSDT at", text, StringComparison.Ordinal);
        if (megabytes > 4096)
            Assert.Contains($"0000000100000000 - {0x1_0000_0000UL + ((ulong)(megabytes - 3072) << 20):x16} = 1 RAM", text, StringComparison.Ordinal);
        Assert.DoesNotContain("WARNING", text, StringComparison.Ordinal);
        Assert.DoesNotContain("internal error", text, StringComparison.OrdinalIgnoreCase);
    }

    /// <summary>Firmware resets the machine by itself, with all processors awake: it starts again from its ROM.</summary>
    [GuestTheory(Bios)]
    [EngineData]
    public async Task Starts_again_after_a_reset(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var log = new MemoryCharBackend();
        await using var machine = await Builder(engine, log).WithProcessors(3).WithBoot(new BootOptions { RebootTimeout = 1 }).StartAsync(limit.Token);
        for (var start = 0; start < 4; start++)
        {
            var text = await log.ExpectAsync("Attempting a hard reboot", limit.Token);
            Assert.Equal(1, text.Split("Found 3 cpu(s)").Length - 1);
            Assert.Equal(1, text.Split("BUILD:").Length - 1);
        }

        await machine.ResetAsync(limit.Token);
        await log.ExpectAsync("Found 3 cpu(s)", limit.Token);
    }

    [GuestTheory(Bios)]
    [EngineData]
    public async Task A_reset_ends_a_machine_without_reboot(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var log = new MemoryCharBackend();
        await using var machine = await Builder(engine, log).WithBoot(new BootOptions { RebootTimeout = 1 }).WithoutReboot().StartAsync(limit.Token);
        Assert.Equal(MachineExitReason.Reset, (await machine.WaitForExitAsync(limit.Token)).Reason);
    }

    [GuestTheory(Bios)]
    [EngineData]
    public async Task Reads_the_boot_menu_and_strictness(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var log = new MemoryCharBackend();
        await using var machine = await Builder(engine, log).WithBoot(new BootOptions { Menu = true, SplashTime = 1, Strict = true }).StartAsync(limit.Token);
        var text = await log.ExpectAsync("Press ESC for boot menu.", limit.Token);
        Assert.Contains("1: HALT", text, StringComparison.Ordinal);
    }

    private static MachineBuilder Builder(string engine, MemoryCharBackend log) => Machine.CreateBuilder()
        .WithMemory(64 << 20)
        .WithEngine(GuestEngines.Create(engine))
        .WithFirmware(GuestCache.Open(Bios))
        .WithDebugConsole(log, 0x402);
}
