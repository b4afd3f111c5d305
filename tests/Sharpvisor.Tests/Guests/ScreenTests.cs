using Sharpvisor.Boot;
using Sharpvisor.Core.Display;

namespace Sharpvisor.Tests.Guests;

/// <summary>Guests that are looked at and typed to like a person does.</summary>
[Trait("Category", "Guest")]
public sealed class ScreenTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    [GuestTheory("generic/vmlinuz", "demo/initrd.img")]
    [EngineData]
    public async Task A_kernel_writes_on_the_screen_and_reads_the_keyboard(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Machine.CreateBuilder()
            .WithEngine(GuestEngines.Create(engine))
            .WithVga()
            .WithKernel(GuestCache.Open("generic/vmlinuz"))
            .WithInitrd(GuestCache.Open("demo/initrd.img"))
            .WithCommandLine("console=tty0")
            .WithoutReboot()
            .StartAsync(limit.Token);
        var screen = machine.Screen!;
        await screen.ExpectTextAsync(":~#", limit.Token);
        await Type("dmesg | grep -iE 'i8042|input:|AT.*keyboard|console' | cut -c 16-79\n");
        await Type("echo $((6*7))-typed\n");
        var text = (await screen.ExpectTextAsync("42-typed", limit.Token)).ToString();
        Capture(screen, $"kernel-{engine}");
        Assert.Contains("VGA+ 80x25", text, StringComparison.Ordinal);
        Assert.Contains("AT Translated Set 2 keyboard", text, StringComparison.Ordinal);
        Assert.Contains("i8042 AUX port", text, StringComparison.Ordinal);
        await Type("poweroff\n");
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);

        Task Type(string line) => machine.Keyboard.TypeAsync(line, limit.Token);
    }

    [GuestTheory]
    [EngineData]
    public async Task SeaBIOS_finds_nothing_to_boot(string engine)
    {
        if (FirmwareFiles.Find(FirmwareFiles.SeaBios) is null)
            return;
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Machine.CreateBuilder()
            .WithEngine(GuestEngines.Create(engine))
            .WithFirmware()
            .WithVga()
            .StartAsync(limit.Token);
        var text = await machine.Screen!.ExpectTextAsync("No bootable device", limit.Token);
        Capture(machine.Screen, $"seabios-{engine}");
        Assert.StartsWith("SeaBIOS", text.Line(0), StringComparison.Ordinal);
        var picture = new Framebuffer();
        machine.Screen.Capture(picture);
        Assert.Equal((720, 400), (picture.Width, picture.Height));
        Assert.Contains(0xAAAAAAu, picture.Pixels.ToArray());
    }

    /// <summary>For a person to look at: SHARPVISOR_TEST_PICTURES names a directory.</summary>
    private static void Capture(Sharpvisor.Display.GuestScreen screen, string name)
    {
        if (Environment.GetEnvironmentVariable("SHARPVISOR_TEST_PICTURES") is { Length: > 0 } directory)
            screen.CapturePng(Path.Combine(directory, name + ".png"));
    }
}
