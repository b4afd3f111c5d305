using System.Diagnostics;
using System.Security.Cryptography;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Char;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Boot;

namespace Sharpvisor.Tests.Guests;

/// <summary>GRUB as the kernel of a domain: it drives console, store and disks by itself, and starts the Linux that it finds on one.</summary>
[Trait("Category", "Guest")]
public sealed class XenGrubTests(XenGrubTests.Disk disk) : IClassFixture<XenGrubTests.Disk>
{
    private const string Pv = "grub-xen/grub-x86_64-xen.bin", Pvh = "grub-xen/grub-i386-xen_pvh.bin";
    private const string Menu = "previous menu.", Prompt = "grub> ", Shell = ":~# ", DownKey = "\u001b[B";
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    [GuestTheory(Pv, Pvh, "cloud/vmlinuz", "xen/initrd.img", "e2fs/mke2fs")]
    [InlineData("translator", 2, MachineKind.XenPv)]
    [InlineData("translator", 1, MachineKind.XenPvh)]
    public async Task It_starts_Linux(string engine, int processors, MachineKind kind)
    {
        using var limit = new CancellationTokenSource(Limit);
        var console = new MemoryCharBackend();
        await using var machine = await Builder(engine, processors, kind, console)
            .WithXenDevice(new XenDisk(OpenDisk(disk.File)))
            .WithXenDevice(new XenDisk(OpenDisk(disk.DataFile)))
            .WithXenDevice(new XenNic(new UserNetwork("user", new UserNetworkOptions(), NullLogger.Instance)))
            .WithoutReboot()
            .StartAsync(limit.Token);
        await console.ExpectAsync(Menu, limit.Token);
        await console.WriteAsync(DownKey + "\r", limit.Token);
        await console.ExpectAsync(Shell, limit.Token);
        Assert.Contains($"\r\n{(kind == MachineKind.XenPv ? "PV" : "PVH")}\r\n", await Run("cat /proc/cmdline /sys/hypervisor/guest_type"), StringComparison.Ordinal);
        Assert.Contains("quiet second", await Run("cat /proc/cmdline"), StringComparison.Ordinal);
        Assert.Contains($"\r\n{processors}\r\n", await Run("nproc"), StringComparison.Ordinal);

        // What GRUB has had before, Linux' own drivers have now.
        Assert.Contains(disk.DataHash, await Run("mount -t ext4 -o ro /dev/xvda /root && sha256sum /root/data"), StringComparison.Ordinal);
        Assert.Contains(disk.DataHash, await Run("sha256sum /dev/xvdb"), StringComparison.Ordinal);
        Assert.Contains("0% packet loss", await Run("ping -c 1 10.0.2.2"), StringComparison.Ordinal);
        await CheckTables(machine, kind, processors);
        await console.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
        Assert.DoesNotContain(machine.Errors.Counts.Keys, k => k.StartsWith("xen v", StringComparison.Ordinal) || k.StartsWith("xen-pv", StringComparison.Ordinal));

        async Task<string> Run(string command)
        {
            await console.WriteLineAsync(command, limit.Token);
            return await console.ExpectAsync(Shell, limit.Token);
        }
    }

    [GuestTheory(Pv, Pvh, "cloud/vmlinuz", "xen/initrd.img", "e2fs/mke2fs")]
    [EngineData(MachineKind.XenPv)]
    [EngineData(MachineKind.XenPvh)]
    public async Task Its_command_line_reads_the_disks(string engine, MachineKind kind)
    {
        using var limit = new CancellationTokenSource(Limit);
        var console = new MemoryCharBackend();
        await using var machine = await Builder(engine, 1, kind, console)
            .WithXenDevice(new XenDisk(OpenDisk(disk.File)))
            .WithXenDevice(new XenDisk(OpenDisk(disk.DataFile)))
            .StartAsync(limit.Token);
        await ToCommandLine();
        Assert.Contains("(xen/xvda) (xen/xvdb)", await Run("ls"), StringComparison.Ordinal);
        Assert.Contains(disk.DataHash, await Run("sha256sum (xen/xvda)/data"), StringComparison.Ordinal);
        Assert.Contains("menuentry \"first\" {", await Run("cat (xen/xvda)/boot/grub/grub.cfg"), StringComparison.Ordinal);
        Assert.Contains(disk.DataHash, await Run($"sha256sum (xen/xvdb)0+{disk.DataSectors}"), StringComparison.Ordinal);

        await CheckTables(machine, kind, 1);

        // The rings and grants of the life before are gone with it.
        await console.WriteLineAsync("reboot", limit.Token);
        await ToCommandLine();
        Assert.Contains(disk.DataHash, await Run("sha256sum (xen/xvda)/data"), StringComparison.Ordinal);
        await console.WriteLineAsync("halt", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
        Assert.DoesNotContain(machine.Errors.Counts.Keys, k => k.StartsWith("xen v", StringComparison.Ordinal) || k.StartsWith("xen-pv", StringComparison.Ordinal));

        async Task ToCommandLine()
        {
            await console.ExpectAsync(Menu, limit.Token);
            await console.WriteAsync("c", limit.Token);
            await console.ExpectAsync(Prompt, limit.Token);
        }

        async Task<string> Run(string command)
        {
            await console.WriteLineAsync(command, limit.Token);
            return await console.ExpectAsync(Prompt, limit.Token);
        }
    }

    [GuestTheory(Pv, Pvh)]
    [InlineData("translator", MachineKind.XenPv)]
    [InlineData("translator", MachineKind.XenPvh)]
    public async Task Without_a_disk_it_asks(string engine, MachineKind kind)
    {
        using var limit = new CancellationTokenSource(Limit);
        var console = new MemoryCharBackend();
        await using var machine = await Builder(engine, 1, kind, console).StartAsync(limit.Token);
        await console.ExpectAsync("error: no such device: /boot/grub/grub.cfg.", limit.Token);
        await console.ExpectAsync(Prompt, limit.Token);
        await console.WriteLineAsync("ls", limit.Token);
        var answer = await console.ExpectAsync(Prompt, limit.Token);
        Assert.Contains("(memdisk)", answer, StringComparison.Ordinal);
        Assert.DoesNotContain("(xen/", answer, StringComparison.Ordinal);
        await console.WriteLineAsync("halt", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
    }

    /// <summary>GRUB makes page tables of its own, and others for what it starts.</summary>
    private static async Task CheckTables(Machine machine, MachineKind kind, int processors)
    {
        if (kind != MachineKind.XenPv)
            return;
        await machine.PauseAsync();
        new PvRecount(machine.Memory, machine.Xen!.Paravirtual!.Mmu, processors).Check();
        await machine.ResumeAsync();
    }

    private static MachineBuilder Builder(string engine, int processors, MachineKind kind, MemoryCharBackend console) => Machine.CreateBuilder()
        .WithMemory(256 << 20)
        .WithProcessors(processors)
        .WithEngine(GuestEngines.Create(engine))
        .WithXen(7, console, kind)
        .WithKernel(GuestCache.Open(kind == MachineKind.XenPv ? Pv : Pvh));

    private static BlockDrive OpenDisk(string path) => BlockDrive.Open(Path.GetFileName(path), path, new DriveOptions { Format = "raw", IsReadOnly = true }, NullLogger.Instance);

    /// <summary>A file system with GRUB's menu, kernels and data, and the same data as a disk. Made once, without root.</summary>
    public sealed class Disk : IDisposable
    {
        private const int DataLength = 2 << 20, SectorSize = 512;

        private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-grub-").FullName;

        public Disk()
        {
            var root = Path.Combine(_directory, "root");
            var boot = Directory.CreateDirectory(Path.Combine(root, "boot")).FullName;
            if (!new[] { "cloud/vmlinuz", "xen/initrd.img", "e2fs/mke2fs" }.All(f => System.IO.File.Exists(GuestCache.PathOf(f))))
                return; // those who need it are skipped
            var data = RandomNumberGenerator.GetBytes(DataLength);
            DataHash = Convert.ToHexStringLower(SHA256.HashData(data));
            System.IO.File.WriteAllBytes(DataFile, data);
            System.IO.File.WriteAllBytes(Path.Combine(root, "data"), data);
            System.IO.File.Copy(GuestCache.PathOf("cloud/vmlinuz"), Path.Combine(boot, "vmlinuz"));
            System.IO.File.Copy(GuestCache.PathOf("xen/initrd.img"), Path.Combine(boot, "initrd.img"));
            // As a PV kernel GRUB unpacks gzip, XZ and LZO, but not what this one is packed with.
            using (var packed = GuestCache.Open("cloud/vmlinuz"))
            using (var unpacked = KernelPayload.Unpack(packed))
                System.IO.File.WriteAllBytes(Path.Combine(boot, "vmlinux"), unpacked.Read(0, (int)unpacked.Length));
            Directory.CreateDirectory(Path.Combine(boot, "grub"));
            System.IO.File.WriteAllText(Path.Combine(boot, "grub", "grub.cfg"), $$"""
                if [ "$grub_platform" = xen ]; then set kernel=/boot/vmlinux; else set kernel=/boot/vmlinuz; fi
                set timeout=-1
                {{Entry("first")}}
                {{Entry("second")}}

                """);
            var start = new ProcessStartInfo(GuestCache.PathOf("e2fs/mke2fs"), ["-q", "-t", "ext4", "-d", root, File, "128M"]) { RedirectStandardOutput = true, RedirectStandardError = true };
            start.Environment["LD_LIBRARY_PATH"] = GuestCache.PathOf("e2fs/lib");
            using var mke2fs = Process.Start(start)!;
            var complaints = mke2fs.StandardError.ReadToEnd();
            mke2fs.WaitForExit();
            Assert.True(mke2fs.ExitCode == 0, complaints);
            Directory.Delete(root, recursive: true);

            static string Entry(string name) => $$"""
                menuentry "{{name}}" {
                  linux $kernel console=hvc0 quiet {{name}}
                  initrd /boot/initrd.img
                }
                """;
        }

        public string File => Path.Combine(_directory, "system.img");

        public string DataFile => Path.Combine(_directory, "data.img");

        public string DataHash { get; } = "";

        public int DataSectors => DataLength / SectorSize;

        public void Dispose() => Directory.Delete(_directory, recursive: true);
    }
}
