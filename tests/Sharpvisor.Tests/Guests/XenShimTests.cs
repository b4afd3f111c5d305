using System.Security.Cryptography;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Char;
using Sharpvisor.Backends.Net.User;

namespace Sharpvisor.Tests.Guests;

/// <summary>
/// Xen itself as the kernel of a PVH domain ("PV shim"), with a PV domain inside: it uses all that a PVH domain is offered, and
/// is what a PV domain of ours can be compared with.
/// </summary>
[Trait("Category", "Guest")]
public sealed class XenShimTests : IDisposable
{
    private const string Xen = "xen-shim/xen-shim", Shell = ":~# ";
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-shim-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [GuestTheory(Xen, "cloud/vmlinuz", "xen/initrd.img")]
    [InlineData("translator", 2)]
    public async Task Linux_runs_in_Xen_with_disk_and_NIC(string engine, int processors)
    {
        using var limit = new CancellationTokenSource(Limit);
        var console = new MemoryCharBackend();
        var data = RandomNumberGenerator.GetBytes(1 << 20);
        var path = Path.Combine(_directory, "disk.img");
        File.WriteAllBytes(path, data);
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithXen(7, console, MachineKind.XenPvh)
            .WithKernel(GuestCache.Open(Xen))
            .WithCommandLine("pv-shim console=pv")
            .WithModule(GuestCache.Open("cloud/vmlinuz"), "console=hvc0 quiet")
            .WithModule(GuestCache.Open("xen/initrd.img"))
            .WithXenDevice(new XenDisk(BlockDrive.Open("disk", path, new DriveOptions { Format = "raw" }, NullLogger.Instance)))
            .WithXenDevice(new XenNic(new UserNetwork("user", new UserNetworkOptions(), NullLogger.Instance)))
            .WithoutReboot()
            .StartAsync(limit.Token);
        await console.ExpectAsync("(XEN) Running on Xen", limit.Token);
        await console.ExpectAsync(Shell, limit.Token);
        Assert.Contains("\nPV\n", await Run("cat /proc/cmdline /sys/hypervisor/guest_type"), StringComparison.Ordinal);
        Assert.DoesNotContain("sharpvisor", (await Run("cat /sys/hypervisor/version/extra")).Split('\n')[1], StringComparison.Ordinal); // as Xen says it
        Assert.Contains($"\n{processors}\n", await Run("nproc"), StringComparison.Ordinal);
        Assert.Contains(Convert.ToHexStringLower(SHA256.HashData(data)), await Run("sha256sum /dev/xvda"), StringComparison.Ordinal);
        Assert.Contains("0% packet loss", await Run("ping -c 1 10.0.2.2"), StringComparison.Ordinal);
        await console.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
        Assert.DoesNotContain(machine.Errors.Counts.Keys, k => k.StartsWith("xen v", StringComparison.Ordinal));

        async Task<string> Run(string command)
        {
            await console.WriteLineAsync(command, limit.Token);
            return (await console.ExpectAsync(Shell, limit.Token)).Replace("\r", "", StringComparison.Ordinal); // Xen's console adds some
        }
    }
}
