using System.Security.Cryptography;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Block;
using Sharpvisor.Devices.Virtio.Transports;
using Sharpvisor.Testing.Block;

namespace Sharpvisor.Tests.Guests;

/// <summary>Linux's and SeaBIOS's own drivers of virtio devices; the host compares.</summary>
[Trait("Category", "Guest")]
public sealed class VirtioTests : IDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-virtio-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [GuestTheory("cloud/vmlinuz", "virtio/initrd.img")]
    [EngineData(1, "", "")]
    [InlineData("translator", 2, "", "")]
    [InlineData("translator", 2, "packed", "")]
    [InlineData("translator", 1, "legacy", "")]
    [InlineData("translator", 1, "modern", "pci=nomsi")]
    [InlineData("translator", 2, "legacy", "pci=nomsi")]
    [InlineData("translator", 1, "", "virtio.legacy")]
    public async Task Linux_makes_a_file_system_that_the_host_reads(string engine, int processors, string kind, string arguments)
    {
        using var limit = new CancellationTokenSource(Limit);
        var path = Path.Combine(_directory, "disk.img");
        var data = new byte[24 << 20];
        new Random(1).NextBytes(data);
        File.WriteAllBytes(path, data);
        var pci = new VirtioPciOptions { DisableModern = kind == "legacy", DisableLegacy = kind == "modern" };
        var drive = BlockDrive.Open("disk", path, new DriveOptions { Format = "raw", Discard = true }, NullLogger.Instance);
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("virtio/initrd.img"))
            .WithCommandLine($"console=ttyS0 quiet {arguments}")
            .WithVirtioDevice(new VirtioDisk(drive) { Pci = pci, OffersPackedRings = kind == "packed", Options = new() { Serial = "disk-1" } })
            .WithVirtioDevice(new VirtioEntropy { Pci = pci, OffersPackedRings = kind == "packed" })
            .WithoutReboot()
            .StartAsync(limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        var isModern = kind != "legacy" && arguments != "virtio.legacy";
        Assert.Contains($"features: {(isModern ? 1 : 0)}{(kind == "packed" ? 1 : 0)}", await Run("F=$(cat /sys/bus/virtio/devices/virtio0/features); echo features: ${F:32:1}${F:34:1}"), StringComparison.Ordinal);
        Assert.Contains(arguments == "pci=nomsi" ? "IO-APIC" : "MSI", await Run("grep virtio0 /proc/interrupts"), StringComparison.Ordinal);
        Assert.Contains("disk-1", await Run("cat /sys/block/vda/serial"), StringComparison.Ordinal);
        Assert.Contains(Hash(data), await Run("sha256sum /dev/vda"), StringComparison.Ordinal);
        Assert.Contains("512 total", await Run("dd if=/dev/hwrng bs=512 count=1 iflag=fullblock of=/tmp/r 2>&1; cat /tmp/r | wc -c | sed 's/$/ total/'"), StringComparison.Ordinal);

        await Run("mkfs.ext4 -q /dev/vda && mount -t ext4 /dev/vda /root && dd if=/dev/hwrng of=/root/random bs=64k count=4 iflag=fullblock; cp -r /modules /root/m; sync; rm -r /root/m; fstrim -v /root");
        var hash = (await Run("sha256sum /root/random")).Split("sum /root/random", 2)[1].Trim()[..64];
        Assert.Contains("\r\n0\r\n", await Run("umount /root; dmesg | grep -ci -e 'i/o error' -e 'virtio.*fail' -e timeout -e warning"), StringComparison.Ordinal);
        Assert.Contains("0 errors", await Run("e2fsck -fn /dev/vda; echo $? errors"), StringComparison.Ordinal);
        await machine.Serial.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
        Assert.DoesNotContain(machine.Errors.Counts, c => c.Key.StartsWith("virtio", StringComparison.Ordinal));
        await machine.DisposeAsync();
        var bytes = File.ReadAllBytes(path);
        Assert.Equal([0x53, 0xEF], bytes[1080..1082]); // the magic number of ext4
        Assert.Contains(hash, Hashes(bytes));

        async Task<string> Run(string command)
        {
            await machine.Serial.WriteLineAsync(command, limit.Token);
            return await machine.Serial.ExpectAsync(":~# ", limit.Token);
        }

        // The file has to lie somewhere on the disk, in one piece, at a block.
        static IEnumerable<string> Hashes(byte[] disk)
        {
            for (var at = 0; at + (256 << 10) <= disk.Length; at += 1024)
                yield return Hash(disk.AsSpan(at, 256 << 10));
        }
    }

    [GuestTheory("cloud/vmlinuz", "virtio/initrd.img")]
    [InlineData("raw")]
    [InlineData("qcow2")]
    public async Task What_a_guest_discards_the_host_gets_back(string format)
    {
        const long mib = 1 << 20;
        using var limit = new CancellationTokenSource(Limit);
        var path = Path.Combine(_directory, "disk.img");
        ImageCreate.Run(path, format, new ImageOptions { Size = 256 * mib }, NullLogger.Instance);
        var drive = BlockDrive.Open("disk", path, new DriveOptions { Format = format, Discard = true }, NullLogger.Instance);
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithEngine(GuestEngines.Create("translator"))
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("virtio/initrd.img"))
            .WithCommandLine("console=ttyS0 quiet")
            .WithVirtioDevice(new VirtioDisk(drive))
            .WithoutReboot()
            .StartAsync(limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        await Run("mkfs.ext4 -q -J size=4 /dev/vda; mount -t ext4 /dev/vda /root; dd if=/dev/urandom of=/root/data bs=1M count=100; sync");
        var full = Allocated();
        Assert.InRange(full, 100 * mib, 130 * mib);
        await Run("rm /root/data; sync; fstrim -v /root; sync");
        Assert.InRange(Allocated(), 0, full - (95 * mib));

        async Task<string> Run(string command)
        {
            await machine.Serial.WriteLineAsync(command, limit.Token);
            return await machine.Serial.ExpectAsync(":~# ", limit.Token);
        }

        long Allocated()
        {
            using var du = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo("du", ["-B1", path]) { RedirectStandardOutput = true })!;
            return long.Parse(du.StandardOutput.ReadToEnd().Split('\t')[0], System.Globalization.CultureInfo.InvariantCulture);
        }
    }

    [GuestTheory("cloud/vmlinuz", "virtio/initrd.img")]
    [EngineData(1)]
    [InlineData("translator", 2)]
    public async Task Linux_finds_devices_in_memory_by_ACPI(string engine, int processors)
    {
        using var limit = new CancellationTokenSource(Limit);
        var path = Path.Combine(_directory, "disk.img");
        var data = new byte[24 << 20];
        new Random(1).NextBytes(data);
        File.WriteAllBytes(path, data);
        var drive = BlockDrive.Open("disk", path, new DriveOptions { Format = "raw" }, NullLogger.Instance);
        var console = new Sharpvisor.Backends.Char.MemoryCharBackend();
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("virtio/initrd.img"))
            .WithCommandLine("console=hvc0 quiet")
            .WithVirtioDevice(new VirtioDisk(drive) { Connection = VirtioConnection.Mmio, OffersPackedRings = processors == 2 })
            .WithVirtioDevice(new VirtioEntropy { Connection = VirtioConnection.Mmio })
            .WithVirtioDevice(new VirtioSerialBus([new VirtioSerialPort(console) { IsConsole = true }]) { Connection = VirtioConnection.Mmio })
            .WithVirtioDevice(new VirtioMemoryBalloon { Connection = VirtioConnection.Mmio })
            .StartAsync(limit.Token);
        await console.ExpectAsync(":~# ", limit.Token);
        Assert.Contains("LNRO0005:00", await Run("readlink /sys/bus/virtio/devices/virtio0"), StringComparison.Ordinal);
        Assert.Matches("IO-APIC +16-fasteoi +virtio0", await Run("grep virtio0 /proc/interrupts"));
        Assert.Contains(Hash(data), await Run("sha256sum /dev/vda"), StringComparison.Ordinal);
        Assert.Contains("512 total", await Run("head -c 512 /dev/hwrng | wc -c | sed 's/$/ total/'"), StringComparison.Ordinal);
        Assert.Contains("0 errors", await Run("mkfs.ext4 -q /dev/vda && mount -t ext4 /dev/vda /root && cp -r /modules /root/m; umount /root; e2fsck -fn /dev/vda; echo $? errors"), StringComparison.Ordinal);
        machine.Balloon!.SetTarget(128 << 20);
        while (machine.Balloon.Actual != 128 << 20)
            await Task.Delay(20, limit.Token);
        await Run("cd /sys/bus/virtio/drivers/virtio_blk; echo virtio0 >unbind; echo virtio0 >bind; cd");
        Assert.Contains("alive", await Run("dd if=/dev/vda of=/dev/null bs=1M && echo a''live"), StringComparison.Ordinal);
        await console.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
        Assert.DoesNotContain(machine.Errors.Counts, c => c.Key.StartsWith("virtio", StringComparison.Ordinal));
        await machine.DisposeAsync();
        Assert.Equal([0x53, 0xEF], File.ReadAllBytes(path)[1080..1082]); // the magic number of ext4

        async Task<string> Run(string command)
        {
            await console.WriteLineAsync(command, limit.Token);
            return await console.ExpectAsync(":~# ", limit.Token);
        }
    }

    [GuestTheory("cloud/vmlinuz", "virtio/initrd.img")]
    [InlineData(1)]
    [InlineData(2)]
    public async Task A_reset_in_the_middle_of_transfers_starts_anew(int processors)
    {
        using var limit = new CancellationTokenSource(Limit);
        var image = new SlowImage();
        var drive = new BlockDrive("virtio0", image, new DriveOptions(), NullLogger.Instance);
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithProcessors(processors)
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("virtio/initrd.img"))
            .WithCommandLine("console=ttyS0 quiet")
            .WithVirtioDevice(new VirtioDisk(drive))
            .StartAsync(limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        for (var round = 0; round < 3; round++)
        {
            image.Delay = 5;
            var isByHost = round < 2;
            var last = isByHost ? "wait" : "sleep 1; echo b >/proc/sysrq-trigger";
            await machine.Serial.WriteLineAsync("for i in 1 2 3 4; do dd if=/dev/zero of=/dev/vda bs=64k oflag=direct 2>/dev/null & done; dd if=/dev/vda of=/dev/null bs=4k iflag=direct & " + last, limit.Token);
            var before = image.Transfers;
            while (image.Transfers < before + 20)
                await Task.Delay(10, limit.Token);
            if (isByHost)
                await machine.ResetAsync(limit.Token);
            await machine.Serial.ExpectAsync("Leave with exit", limit.Token);
            image.Delay = 0;
            await machine.Serial.ExpectAsync(":~# ", limit.Token);
            await machine.Serial.WriteLineAsync("dd if=/dev/vda of=/dev/null bs=1M && echo a''live", limit.Token);
            await machine.Serial.ExpectAsync("alive", limit.Token);
            await machine.Serial.ExpectAsync(":~# ", limit.Token);
        }
    }

    [GuestTheory("cloud/vmlinuz", "virtio/initrd.img")]
    [InlineData("")]
    [InlineData("virtio.legacy")]
    public async Task The_driver_lets_go_of_the_device_and_takes_it_again(string arguments)
    {
        using var limit = new CancellationTokenSource(Limit);
        var image = new SlowImage();
        var drive = new BlockDrive("virtio0", image, new DriveOptions(), NullLogger.Instance);
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("virtio/initrd.img"))
            .WithCommandLine($"console=ttyS0 quiet {arguments}")
            .WithVirtioDevice(new VirtioDisk(drive))
            .StartAsync(limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        image.Delay = 2;
        await machine.Serial.WriteLineAsync("cd /sys/bus/virtio/drivers/virtio_blk; for i in 1 2 3; do dd if=/dev/vda of=/dev/null bs=4k iflag=direct 2>/dev/null & sleep 0.2; echo virtio0 >unbind; wait; echo virtio0 >bind; done; dd if=/dev/vda of=/dev/null bs=1M count=1 && echo a''live", limit.Token);
        await machine.Serial.ExpectAsync("alive", limit.Token);
        Assert.DoesNotContain(machine.Errors.Counts, c => c.Key.StartsWith("virtio", StringComparison.Ordinal));
    }

    [GuestTheory("seabios/bios-256k.bin", "grub-disk/disk.img")]
    [InlineData("legacy")]
    [InlineData("modern")]
    public async Task SeaBIOS_starts_GRUB_from_a_virtio_disk(string kind)
    {
        using var limit = new CancellationTokenSource(Limit);
        var empty = Path.Combine(_directory, "empty.img");
        File.WriteAllBytes(empty, new byte[1 << 20]);
        var options = new DriveOptions { Format = "raw", IsReadOnly = true };
        var drive = BlockDrive.Open("disk", GuestCache.PathOf("grub-disk/disk.img"), options, NullLogger.Instance);
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithFirmware(GuestCache.Open("seabios/bios-256k.bin"))
            .WithVirtioDisk(empty) // SeaBIOS would try it first
            .WithVirtioDevice(new VirtioDisk(drive)
            {
                BootIndex = 0,
                Slot = 0x1E,
                Pci = new VirtioPciOptions { DisableModern = kind == "legacy", DisableLegacy = kind == "modern" },
            })
            .StartAsync(limit.Token);
        await machine.Serial.ExpectAsync("Linux 6", limit.Token);
    }

    private static string Hash(ReadOnlySpan<byte> bytes) => Convert.ToHexStringLower(SHA256.HashData(bytes));

    /// <summary>An image whose transfers take some milliseconds.</summary>
    private sealed class SlowImage() : MemoryImage(new MemoryFile(16 << 20))
    {
        private int _transfers;

        public volatile int Delay;

        public int Transfers => Volatile.Read(ref _transfers);

        public override async ValueTask ReadAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default)
        {
            await WaitAsync();
            await base.ReadAsync(offset, buffers, cancellation);
        }

        public override async ValueTask WriteAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default)
        {
            await WaitAsync();
            await base.WriteAsync(offset, buffers, cancellation);
        }

        private async ValueTask WaitAsync()
        {
            Interlocked.Increment(ref _transfers);
            if (Delay > 0)
                await Task.Delay(Delay);
        }
    }
}
