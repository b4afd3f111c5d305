using System.Security.Cryptography;
using Iced.Intel;
using Sharpvisor.Backends.Block;
using Sharpvisor.Boot;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Tests.Guests;

/// <summary>Linux and SeaBIOS read and write IDE disks and CD-ROMs; the host compares.</summary>
[Trait("Category", "Guest")]
public sealed class IdeTests : IDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-ide-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [GuestTheory("cloud/vmlinuz", "disk/initrd.img")]
    [EngineData(1, "")]
    [InlineData("translator", 2, "")]
    [InlineData("translator", 1, "disk.pio")]
    public async Task Linux_reads_and_writes_what_the_host_sees(string engine, int processors, string arguments)
    {
        using var limit = new CancellationTokenSource(Limit);
        var disk = Write("disk.img", 8 << 20);
        var other = Write("other.img", 3 << 20);
        var file = new byte[700_001];
        new Random(1).NextBytes(file);
        var cd = Path.Combine(_directory, "cd.iso");
        File.WriteAllBytes(cd, TinyIso.Make([("DATA.BIN", file), ("HELLO.TXT", "hello from a disc\n"u8.ToArray())]));
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("disk/initrd.img"))
            .WithCommandLine($"console=ttyS0 quiet {arguments}")
            .WithDisk(disk)
            .WithDisk(other)
            .WithCdrom(cd)
            .WithoutReboot()
            .StartAsync(limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        Assert.Contains(arguments == "disk.pio" ? "XFER_PIO_4" : "DMA", await Run("cat /sys/class/ata_device/dev1.0/xfer_mode"), StringComparison.Ordinal);
        // Linux names disks as it finds them, several at a time.
        await Run("for i in sda sdb; do case $(cat /sys/block/$i/size) in 16384) disk=/dev/$i ;; *) other=/dev/$i ;; esac; done");
        Assert.Contains(Hash(disk), await Run("sha256sum $disk"), StringComparison.Ordinal);
        Assert.Contains(Hash(other), await Run("sha256sum $other"), StringComparison.Ordinal);
        Assert.Contains(Hash(cd), await Run("sha256sum /dev/sr0"), StringComparison.Ordinal);
        Assert.Contains("hello from a disc", await Run("mount -t iso9660 /dev/sr0 /tmp && cat /tmp/hello.txt"), StringComparison.Ordinal);
        Assert.Contains(Convert.ToHexStringLower(SHA256.HashData(file)), await Run("sha256sum /tmp/data.bin"), StringComparison.Ordinal);

        await Run("dd if=/tmp/data.bin of=$disk bs=3000 seek=1000 conv=notrunc; dd if=$other of=$disk bs=64k seek=60; sync");
        var copy = Hash(disk); // flushed by sync: the host's file has it all
        Assert.Contains(copy, await Run("echo 3 >/proc/sys/vm/drop_caches; sha256sum $disk"), StringComparison.Ordinal);
        Assert.Contains("\r\n0\r\n", await Run("dmesg | grep -ci -e 'ata.*exception' -e 'i/o error' -e timeout"), StringComparison.Ordinal);
        await machine.Serial.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
        await machine.DisposeAsync();
        var bytes = File.ReadAllBytes(disk);
        Assert.Equal(file, bytes[3_000_000..(3_000_000 + file.Length)]);
        Assert.Equal(File.ReadAllBytes(other), bytes[(60 << 16)..((60 << 16) + (3 << 20))]);

        async Task<string> Run(string command)
        {
            await machine.Serial.WriteLineAsync(command, limit.Token);
            return await machine.Serial.ExpectAsync(":~# ", limit.Token);
        }
    }

    [GuestTheory("cloud/vmlinuz", "disk/initrd.img")]
    [InlineData("translator")]
    public async Task A_change_of_the_disc_is_seen(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        var first = Path.Combine(_directory, "1.iso");
        var second = Path.Combine(_directory, "2.iso");
        File.WriteAllBytes(first, TinyIso.Make([("A.TXT", "the first disc\n"u8.ToArray())]));
        File.WriteAllBytes(second, TinyIso.Make([("A.TXT", "the second disc\n"u8.ToArray()), ("B.BIN", new byte[100_000])]));
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("disk/initrd.img"))
            .WithCommandLine("console=ttyS0 quiet")
            .WithCdrom(first)
            .StartAsync(limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        const string read = "mount -t iso9660 /dev/sr0 /tmp && cat /tmp/a.txt; umount /tmp";
        await machine.Serial.WriteLineAsync(read, limit.Token);
        Assert.Contains("the first disc", await machine.Serial.ExpectAsync(":~# ", limit.Token), StringComparison.Ordinal);
        var drive = machine.Drives.Single();
        await drive.ChangeMediumAsync(null);
        await machine.Serial.WriteLineAsync(read, limit.Token);
        Assert.Contains("mount: ", await machine.Serial.ExpectAsync(":~# ", limit.Token), StringComparison.Ordinal);
        var options = new DriveOptions { Format = "raw", IsReadOnly = true };
        await drive.ChangeMediumAsync(ImageFormat.Open(second, options, Microsoft.Extensions.Logging.Abstractions.NullLogger.Instance, out _));
        await machine.Serial.WriteLineAsync(read, limit.Token);
        Assert.Contains("the second disc", await machine.Serial.ExpectAsync(":~# ", limit.Token), StringComparison.Ordinal);
    }

    [GuestTheory("seabios/bios-256k.bin")]
    [EngineData("disk")]
    [EngineData("cd")]
    public async Task SeaBIOS_starts_what_is_on_it(string engine, string what)
    {
        using var limit = new CancellationTokenSource(Limit);
        var path = Path.Combine(_directory, what);
        var builder = Machine.CreateBuilder().WithMemory(64 << 20).WithEngine(GuestEngines.Create(engine)).WithFirmware(GuestCache.Open("seabios/bios-256k.bin"));
        if (what == "disk")
        {
            // The first sector loads the second one, of the second track by its CHS address.
            var image = new byte[4 << 20];
            BootSector(a =>
            {
                a.mov(ax, 0x0201);
                a.mov(cx, 0x0001);
                a.mov(dh, 1);
                a.xor(bx, bx);
                a.mov(es, bx);
                a.mov(bx, 0x8000);
                a.@int(0x13);
                a.mov(si, 0x8000);
            }).CopyTo(image, 0);
            "started from disk\0"u8.CopyTo(image.AsSpan(63 * 512));
            File.WriteAllBytes(path, image);
            builder.WithDisk(path);
        }
        else
        {
            var boot = new byte[2048];
            BootSector(a => a.mov(si, 0x7C00 + 512)).CopyTo(boot, 0);
            "started from cd\0"u8.CopyTo(boot.AsSpan(512));
            File.WriteAllBytes(path, TinyIso.Make([], boot));
            builder.WithCdrom(path);
        }

        await using var machine = await builder.StartAsync(limit.Token);
        Assert.EndsWith($"started from {what}", await machine.Serial.ExpectAsync($"started from {what}", limit.Token), StringComparison.Ordinal);
    }

    /// <summary>Code at 7C00h that runs <paramref name="body"/> and writes the text at DS:SI to COM1.</summary>
    private static byte[] BootSector(Action<Assembler> body)
    {
        var a = new Assembler(16);
        var next = a.CreateLabel();
        var end = a.CreateLabel();
        a.xor(ax, ax);
        a.mov(ds, ax);
        a.cld();
        body(a);
        a.mov(dx, 0x3F8);
        a.Label(ref next);
        a.lodsb();
        a.test(al, al);
        a.je(end);
        a.@out(dx, al);
        a.jmp(next);
        a.Label(ref end);
        a.hlt();
        a.jmp(end);
        using var code = new MemoryStream();
        a.Assemble(new StreamCodeWriter(code), 0x7C00);
        var sector = new byte[512];
        code.ToArray().CopyTo(sector, 0);
        sector[510] = 0x55;
        sector[511] = 0xAA;
        return sector;
    }

    private string Write(string name, int length)
    {
        var data = new byte[length];
        new Random(length).NextBytes(data);
        var path = Path.Combine(_directory, name);
        File.WriteAllBytes(path, data);
        return path;
    }

    private static string Hash(string path) => Convert.ToHexStringLower(SHA256.HashData(File.ReadAllBytes(path)));
}
