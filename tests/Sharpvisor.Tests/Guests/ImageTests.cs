using System.Security.Cryptography;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Block;

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

    private void Make(string name, string format, ImageOptions options) => ImageCreate.Run(PathOf(name), format, options, NullLogger.Instance);

    private string PathOf(string name) => Path.Combine(_directory, name);
}
