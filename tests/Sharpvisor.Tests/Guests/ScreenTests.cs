using Sharpvisor.Core.Display;

namespace Sharpvisor.Tests.Guests;

/// <summary>Guests that are looked at and typed to like a person does.</summary>
[Trait("Category", "Guest")]
public sealed class ScreenTests
{
    private const string Bios = "seabios/bios-256k.bin", VgaBios = "seabios/vgabios-stdvga.bin";
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    [GuestTheory("generic/vmlinuz", "demo/initrd.img", VgaBios)]
    [EngineData]
    public async Task A_kernel_writes_on_the_screen_and_reads_the_keyboard(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Machine.CreateBuilder()
            .WithEngine(GuestEngines.Create(engine))
            .WithVga(GuestCache.Open(VgaBios))
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

    [GuestTheory(Bios, VgaBios)]
    [EngineData]
    public async Task SeaBIOS_finds_nothing_to_boot(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await WithScreen(engine).StartAsync(limit.Token);
        var text = await machine.Screen!.ExpectTextAsync("No bootable device", limit.Token);
        Capture(machine.Screen, $"seabios-{engine}");
        Assert.StartsWith("SeaBIOS", text.Line(0), StringComparison.Ordinal);
        var picture = new Framebuffer();
        machine.Screen.Capture(picture);
        Assert.Equal((720, 400), (picture.Width, picture.Height));
        Assert.Contains(0xAAAAAAu, picture.Pixels.ToArray());
    }

    /// <summary>A boot sector sets a mode by INT 10h, sets a pixel, and writes an A.</summary>
    [GuestTheory(Bios, VgaBios)]
    [EngineData(0x0D, 640, 400, 2, 0xFF5555u)]
    [EngineData(0x12, 640, 480, 1, 0xFF5555u)]
    [EngineData(0x13, 640, 400, 2, 0xFF5555u)]
    [EngineData(0x04, 640, 400, 2, 0xFF55FFu)]
    [EngineData(0x06, 640, 400, 1, 0xFFFFFFu)]
    [EngineData(0x4102, 800, 600, 1, 0xFF5555u)]
    [EngineData(0x4105, 1024, 768, 1, 0xFF5555u)]
    [EngineData(0x4118, 1024, 768, 1, 0xFF5555u)]
    public async Task The_VGA_BIOS_draws_in_every_mode(string engine, int mode, int width, int height, int dotsPerPixel, uint color)
    {
        const int x = 100, y = 40; // in the first bank of video memory, as this BIOS switches none
        const byte lightRed = 12;
        var linesPerPixel = height == 400 ? 2 : 1;
        byte[] setMode = mode > 0xFF
            ? [0xB8, 0x02, 0x4F, 0xBB, (byte)mode, (byte)(mode >> 8), 0xCD, 0x10] // mov ax,4f02h; mov bx,mode; int 10h
            : [0xB8, (byte)mode, 0x00, 0xCD, 0x10]; // mov ax,mode; int 10h
        byte[] code =
        [
            .. setMode,
            0xB8, mode is 4 ? (byte)2 : mode is 6 ? (byte)1 : lightRed, 0x0C, // mov ax,0c00h + colour
            0xB7, 0x00, 0xB9, x, 0x00, 0xBA, y, 0x00, 0xCD, 0x10, // mov bh,0; mov cx,x; mov dx,y; int 10h
            0xB8, (byte)'A', 0x0E, 0xBB, mode is 4 ? (byte)3 : (byte)15, 0x00, 0xCD, 0x10, // mov ax,0e41h; mov bx,15; int 10h
            0xB0, 0x5A, 0xE6, 0x80, 0xF4, 0xEB, 0xFD, // mov al,5ah; out 80h,al; L: hlt; jmp L
        ];
        var sector = new byte[512];
        code.CopyTo(sector, 0);
        (sector[510], sector[511]) = (0x55, 0xAA);
        var disk = Path.GetTempFileName();
        try
        {
            await File.WriteAllBytesAsync(disk, [.. sector, .. new byte[(1 << 20) - 512]]);
            using var limit = new CancellationTokenSource(Limit);
            await using var machine = await WithScreen(engine).WithDisk(disk).StartAsync(limit.Token);
            while (machine.Ports.Read(0x80, 1) != 0x5A)
                await Task.Delay(20, limit.Token);
            Capture(machine.Screen!, $"mode{mode:x}-{engine}");
            var picture = new Framebuffer();
            machine.Screen!.Capture(picture);
            Assert.Equal((width, height), (picture.Width, picture.Height));
            Assert.Equal(color, picture.Row(y * linesPerPixel)[x * dotsPerPixel]);
            Assert.Equal(0u, picture.Row(y * linesPerPixel)[(x - 1) * dotsPerPixel]);
            // Of the A some of the dots of its cell, and none of the next one's.
            Assert.InRange(Lit(0), 14 * dotsPerPixel, 60 * dotsPerPixel * dotsPerPixel);
            Assert.Equal(0, Lit(8 * dotsPerPixel));

            int Lit(int left) => Enumerable.Range(0, 16).Sum(row => picture.Row(row)[left..(left + (8 * dotsPerPixel))].ToArray().Count(p => p != 0));
        }
        finally
        {
            File.Delete(disk);
        }
    }

    private static MachineBuilder WithScreen(string engine) => Machine.CreateBuilder()
        .WithMemory(64 << 20)
        .WithEngine(GuestEngines.Create(engine))
        .WithFirmware(GuestCache.Open(Bios))
        .WithVga(GuestCache.Open(VgaBios));

    /// <summary>For a person to look at: SHARPVISOR_TEST_PICTURES names a directory.</summary>
    internal static void Capture(Sharpvisor.Display.GuestScreen screen, string name)
    {
        if (Environment.GetEnvironmentVariable("SHARPVISOR_TEST_PICTURES") is { Length: > 0 } directory)
            screen.CapturePng(Path.Combine(directory, name + ".png"));
    }
}
