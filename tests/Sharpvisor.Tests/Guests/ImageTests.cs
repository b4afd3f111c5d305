using System.Security.Cryptography;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Boot;
using Sharpvisor.Core.Block;
using Sharpvisor.Testing.Block;

namespace Sharpvisor.Tests.Guests;

/// <summary>Linux reads and writes disks in images of every format.</summary>
[Trait("Category", "Guest")]
public sealed class ImageTests : IDisposable
{
    private const int Size = 8 << 20;

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-images-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [GuestTheory("cloud/vmlinuz", "disk/initrd.img")]
    [InlineData("translator")]
    public async Task Linux_writes_to_images_that_check_clean_afterwards(string engine)
    {
        using var limit = new CancellationTokenSource(TimeSpan.FromMinutes(4));
        var data = new byte[Size];
        new Random(1).NextBytes(data.AsSpan(0, Size / 2));
        await File.WriteAllBytesAsync(Path.Combine(_directory, "base"), data);
        Make("over.qcow2", "qcow2", new ImageOptions { BackingFile = "base", BackingFormat = "raw" });
        Make("parent.vhd", "vhd", new ImageOptions { Size = Size });
        await using (var parent = ImageFormat.Open(PathOf("parent.vhd"), new DriveOptions(), NullLogger.Instance))
            await parent.WriteAsync(0, new BlockBuffers(data));
        Make("child.vhd", "vhd", new ImageOptions { BackingFile = "parent.vhd", HasBatmap = true });
        await using (var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("disk/initrd.img"))
            .WithCommandLine("console=ttyS0 quiet")
            .WithDisk(PathOf("over.qcow2"), new DriveOptions { Discard = true })
            .WithDisk(PathOf("child.vhd"), new DriveOptions())
            .WithDisk(PathOf("base"), new DriveOptions { Format = "raw", IsTemporary = true })
            .WithoutReboot()
            .StartAsync(limit.Token))
        {
            await Run("");
            var hash = Convert.ToHexStringLower(SHA256.HashData(data));
            Assert.Equal(3, (await Run("sha256sum /dev/sda /dev/sdb /dev/sdc")).Split(hash).Length - 1);
            await Run("for i in a b c; do dd if=/dev/sd$i of=/dev/sd$i bs=1000 count=1111 seek=5555 conv=notrunc; done; sync");
            await machine.Serial.WriteLineAsync("poweroff", limit.Token);
            Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);

            async Task<string> Run(string command)
            {
                if (command.Length > 0)
                    await machine.Serial.WriteLineAsync(command, limit.Token);
                return await machine.Serial.ExpectAsync(":~# ", limit.Token);
            }
        }

        Assert.Equal(data, await File.ReadAllBytesAsync(PathOf("base")));
        data.AsSpan(0, 1_111_000).CopyTo(data.AsSpan(5_555_000));
        foreach (var name in new[] { "over.qcow2", "child.vhd" })
        {
            Assert.Empty(ImageCheck.Run(PathOf(name), null, ImageRepair.None).Messages);
            await using var image = ImageFormat.Open(PathOf(name), new DriveOptions { IsReadOnly = true }, NullLogger.Instance);
            var read = new byte[Size];
            await image.ReadAsync(0, new BlockBuffers(read));
            Assert.Equal(Size, read.AsSpan().CommonPrefixLength(data));
        }
    }

    [GuestTheory("cloud/vmlinuz", "disk/initrd.img")]
    [InlineData("translator", "raw")]
    [InlineData("translator", "qcow2")]
    [InlineData("translator", "qcow2 child")]
    [InlineData("translator", "vhd")]
    [InlineData("translator", "vhd child")]
    public async Task A_full_host_disk_pauses_the_machine_and_nothing_is_lost(string engine, string kind)
    {
        using var limit = new CancellationTokenSource(TimeSpan.FromMinutes(4));
        using var file = MakeFile(kind);
        file.Room = file.AllocatedBytes + (1 << 20);
        var drive = Open(file, kind, new DriveOptions());
        await using (var machine = await StartAsync(engine, drive, limit.Token))
        {
            await machine.Serial.WriteLineAsync("yes 0123456789abcde | dd of=/dev/sda bs=4k count=1024 iflag=fullblock conv=fsync; dmesg | grep -ci -e 'i/o error' -e exception", limit.Token);
            for (var pauses = 0; pauses < 2; pauses++)
            {
                while (!machine.IsPaused)
                    await Task.Delay(20, limit.Token);
                Assert.NotEqual(0, drive.WaitingRequests);
                file.Room += 1 << 20;
                await machine.ResumeAsync(limit.Token);
            }

            file.Room = long.MaxValue;
            if (machine.IsPaused)
                await machine.ResumeAsync(limit.Token);
            Assert.Contains("\r\n0\r\n", await machine.Serial.ExpectAsync(":~# ", limit.Token), StringComparison.Ordinal);
        }

        await ExpectAsync(file, kind, Enumerable.Repeat("0123456789abcde\n"u8.ToArray(), (4 << 20) / 16).SelectMany(l => l).ToArray());
    }

    [GuestTheory("cloud/vmlinuz", "disk/initrd.img")]
    [InlineData("translator", "qcow2")]
    [InlineData("translator", "vhd child")]
    public async Task With_werror_report_the_guest_is_told_of_a_full_host_disk(string engine, string kind)
    {
        using var limit = new CancellationTokenSource(TimeSpan.FromMinutes(4));
        using var file = MakeFile(kind);
        var drive = Open(file, kind, new DriveOptions { WriteErrors = ErrorPolicy.Report });
        await using (var machine = await StartAsync(engine, drive, limit.Token))
        {
            Assert.Contains("= 0", await Run("yes first | dd of=/dev/sda bs=4k count=128 iflag=fullblock conv=fsync; echo = $?"), StringComparison.Ordinal);
            file.Room = file.AllocatedBytes + (1 << 20);
            Assert.Contains("= 1", await Run("yes second | dd of=/dev/sda bs=4k count=640 seek=128 iflag=fullblock conv=fsync; echo = $?"), StringComparison.Ordinal);
            Assert.DoesNotContain("\r\n0\r\n", await Run("dmesg | grep -ci 'i/o error'"), StringComparison.Ordinal);
            Assert.False(machine.IsPaused);
            file.Room = long.MaxValue;
            Assert.Contains("= 0", await Run("yes third | dd of=/dev/sda bs=4k count=640 seek=128 iflag=fullblock conv=fsync; echo = $?"), StringComparison.Ordinal);

            async Task<string> Run(string command)
            {
                await machine.Serial.WriteLineAsync(command, limit.Token);
                return await machine.Serial.ExpectAsync(":~# ", limit.Token);
            }
        }

        await ExpectAsync(file, kind, [.. Yes("first\n", 128 << 12), .. Yes("third\n", 640 << 12)]);

        static IEnumerable<byte> Yes(string line, int length) => Enumerable.Range(0, length).Select(i => (byte)line[i % line.Length]);
    }

    private static async Task<Machine> StartAsync(string engine, BlockDrive drive, CancellationToken limit)
    {
        var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("disk/initrd.img"))
            .WithCommandLine("console=ttyS0 quiet")
            .WithIdeDrive(new IdeDrive(drive, 0, 0))
            .StartAsync(limit);
        await machine.Serial.ExpectAsync(":~# ", limit);
        return machine;
    }

    /// <summary>A new disk of 4 MiB in a file for which a host may lack room.</summary>
    private SimulatedFile MakeFile(string kind)
    {
        var format = kind.Split(' ')[0];
        var hasParent = kind.EndsWith("child", StringComparison.Ordinal);
        if (hasParent)
            Make("parent", format, new ImageOptions { Size = 4 << 20 });
        Make("disk", format, new ImageOptions { Size = 4 << 20, BackingFile = hasParent ? "parent" : null });
        return new SimulatedFile(File.ReadAllBytes(PathOf("disk")));
    }

    private BlockDrive Open(SimulatedFile file, string kind, DriveOptions options)
    {
        var image = ImageFormat.Open(file, PathOf("disk"), options with { Format = kind.Split(' ')[0] }, NullLogger.Instance);
        return new BlockDrive("ide0-hd0", image, options, NullLogger.Instance);
    }

    private async Task ExpectAsync(SimulatedFile file, string kind, byte[] expected)
    {
        var options = new DriveOptions { Format = kind.Split(' ')[0], IsReadOnly = true };
        if (options.Format != ImageFormat.Raw)
            Assert.Empty(ImageCheck.Run(new ImageFile(PathOf("disk"), file, options), options.Format, ImageRepair.None).Messages);
        await using var image = ImageFormat.Open(file, PathOf("disk"), options, NullLogger.Instance);
        var read = new byte[expected.Length];
        await image.ReadAsync(0, new BlockBuffers(read));
        Assert.Equal(expected.Length, read.AsSpan().CommonPrefixLength(expected));
    }

    private void Make(string name, string format, ImageOptions options) => ImageCreate.Run(PathOf(name), format, options, NullLogger.Instance);

    private string PathOf(string name) => Path.Combine(_directory, name);
}
