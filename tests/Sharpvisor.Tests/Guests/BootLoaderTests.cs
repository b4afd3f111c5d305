using Sharpvisor.Boot;

namespace Sharpvisor.Tests.Guests;

/// <summary>Boot loaders and what they start, from disks and CDs, as a person at screen and keyboard sees them.</summary>
[Trait("Category", "Guest")]
public sealed class BootLoaderTests : IDisposable
{
    private const string Bios = "seabios/bios-256k.bin", VgaBios = "seabios/vgabios-stdvga.bin";
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-boot-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [GuestTheory(Bios, VgaBios, "grub-disk/disk.img", "ipxe/ipxe.iso")]
    [InlineData("translator")]
    public async Task The_boot_menu_starts_what_is_chosen(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        var disk = Path.Combine(_directory, "disk.img");
        File.Copy(GuestCache.PathOf("grub-disk/disk.img"), disk);
        await using var machine = await Builder(engine)
            .WithDisk(disk)
            .WithCdrom(GuestCache.PathOf("ipxe/ipxe.iso"))
            .WithBoot(new BootOptions { Menu = true })
            .StartAsync(limit.Token);
        await machine.Screen!.ExpectTextAsync("Press ESC for boot menu.", limit.Token);
        await machine.Keyboard.SendKeysAsync("esc", limit.Token);
        var menu = (await machine.Screen.ExpectTextAsync("2. DVD/CD", limit.Token)).ToString();
        ScreenTests.Capture(machine.Screen, $"menu-{engine}");
        Assert.Contains("1. ata0-0: SHARPVISOR HARDDISK", menu, StringComparison.OrdinalIgnoreCase);
        await machine.Keyboard.TypeAsync("2", limit.Token);
        await machine.Screen.ExpectTextAsync("iPXE initialising devices", limit.Token);
    }

    [GuestTheory(Bios, VgaBios, "grub-disk/disk.img")]
    [InlineData("translator")]
    public async Task GRUB_starts_Linux_from_a_disk(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        var disk = Path.Combine(_directory, "disk.img");
        File.Copy(GuestCache.PathOf("grub-disk/disk.img"), disk);
        await using var machine = await Builder(engine).WithDisk(disk).WithoutReboot().StartAsync(limit.Token);
        var menu = await machine.Screen!.ExpectTextAsync("Debian, with all its messages", limit.Token);
        ScreenTests.Capture(machine.Screen, $"grub-{engine}");
        Assert.Contains("GNU GRUB  version 2", menu.ToString(), StringComparison.Ordinal);
        await machine.Keyboard.TypeAsync("\n", limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        var answer = await Run(machine, "cat /proc/cmdline /proc/partitions", limit.Token);
        Assert.Contains("BOOT_IMAGE=/boot/vmlinuz console=tty0", answer, StringComparison.Ordinal);
        Assert.Contains("64512 sda1", answer, StringComparison.Ordinal);
        await machine.Serial.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
    }

    /// <summary>A hybrid image, as distributions publish them: the same file is a CD and a USB stick.</summary>
    [GuestTheory(Bios, VgaBios, "isolinux/isolinux.bin", "cloud/vmlinuz", "disk/initrd.img")]
    [InlineData("translator", false)]
    [InlineData("translator", true)]
    public async Task Isolinux_starts_Linux_from_a_CD_or_a_stick(string engine, bool isStick)
    {
        using var limit = new CancellationTokenSource(Limit);
        var image = Path.Combine(_directory, "debian.iso");
        File.WriteAllBytes(image, TinyIso.Make(
            [
                ("ISOLINUX.CFG", "SAY from an ISO\nDEFAULT linux\nLABEL linux\nLINUX VMLINUZ\nINITRD INITRD.IMG\nAPPEND console=tty0 console=ttyS0 quiet\n"u8.ToArray()),
                ("LDLINUX.C32", Read("isolinux/ldlinux.c32")),
                ("VMLINUZ", Read("cloud/vmlinuz")),
                ("INITRD.IMG", Read("disk/initrd.img")),
            ],
            Read("isolinux/isolinux.bin"),
            isIsolinux: true,
            Read("isolinux/isohdpfx.bin")));
        var builder = Builder(engine).WithoutReboot();
        await using var machine = await (isStick ? builder.WithDisk(image) : builder.WithCdrom(image)).StartAsync(limit.Token);
        await machine.Screen!.ExpectTextAsync("from an ISO", limit.Token);
        ScreenTests.Capture(machine.Screen, $"isolinux-{(isStick ? "stick" : "cd")}-{engine}");
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        Assert.Contains("BOOT_IMAGE=VMLINUZ", await Run(machine, "cat /proc/cmdline", limit.Token), StringComparison.Ordinal);
        var device = isStick ? "/dev/sda" : "/dev/sr0";
        Assert.Contains("from an ISO", await Run(machine, $"mount -t iso9660 {device} /tmp && cat /tmp/isolinux.cfg", limit.Token), StringComparison.Ordinal);

        static byte[] Read(string file) => File.ReadAllBytes(GuestCache.PathOf(file));
    }

    [GuestTheory(Bios, VgaBios, "ipxe/ipxe.iso")]
    [InlineData("translator")]
    public async Task IPXE_starts_from_its_CD(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Builder(engine).WithCdrom(GuestCache.PathOf("ipxe/ipxe.iso")).StartAsync(limit.Token);
        await machine.Screen!.ExpectTextAsync("Press Ctrl-B for the iPXE command line", limit.Token);
        await machine.Keyboard.SendKeysAsync("ctrl-b", limit.Token);
        await machine.Screen.ExpectTextAsync("iPXE>", limit.Token);
        await machine.Keyboard.TypeAsync("show version\n", limit.Token);
        await machine.Screen.ExpectTextAsync("version:string", limit.Token);
        ScreenTests.Capture(machine.Screen, $"ipxe-{engine}");
    }

    [GuestTheory(Bios, VgaBios, "memtest/memtest86+x64.iso")]
    [InlineData("translator")]
    public async Task Memtest_tests_from_its_CD(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Builder(engine).WithMemory(32 << 20).WithCdrom(GuestCache.PathOf("memtest/memtest86+x64.iso")).StartAsync(limit.Token);
        await machine.Screen!.ExpectTextAsync("#4", limit.Token); // its fifth test
        ScreenTests.Capture(machine.Screen, $"memtest-{engine}");
        var text = machine.Screen.ReadText()!.ToString();
        Assert.Contains("Memtest86+", text, StringComparison.Ordinal);
        Assert.Contains("Errors: 0", text, StringComparison.Ordinal);
    }

    private static MachineBuilder Builder(string engine) => Machine.CreateBuilder()
        .WithMemory(256 << 20)
        .WithEngine(GuestEngines.Create(engine))
        .WithFirmware(GuestCache.Open(Bios))
        .WithVga(GuestCache.Open(VgaBios));

    private static async Task<string> Run(Machine machine, string command, CancellationToken cancellation)
    {
        await machine.Serial.WriteLineAsync(command, cancellation);
        return await machine.Serial.ExpectAsync(":~# ", cancellation);
    }
}
