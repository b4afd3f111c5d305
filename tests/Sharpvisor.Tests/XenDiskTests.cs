using Sharpvisor.Backends.Block;
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu;
using Sharpvisor.Devices.Xen.Store;
using Sharpvisor.Tests.Boot;

namespace Sharpvisor.Tests;

/// <summary>Which disks a Xen domain finds in its store.</summary>
public sealed class XenDiskTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("sharpvisor-xen-").FullName;

    [Fact]
    public async Task Disks_have_the_places_that_they_name_and_others_what_is_left()
    {
        await using var machine = Builder().WithXenDevice(new XenDisk(Open("a"))).WithXenDevice(new XenDisk(Open("b")) { Place = 0 }).WithXenDevice(new XenDisk(Open("c"))).Build();
        Assert.Equal(["51712", "51728", "51744"], Disks(machine));
        Assert.Equal(["b", "a", "c"], machine.Drives.Select(d => d.Name).OrderBy(n => n == "b" ? 0 : 1));
    }

    [Fact]
    public async Task An_IDE_disk_may_be_the_domains_too()
    {
        var drive = Open("ide0-hd1");
        await using var machine = Builder().WithIdeDrive(new IdeDrive(drive, 0, 1)).WithXenDevice(new XenDisk(drive) { Place = 1 }).Build();
        Assert.Equal(["51728"], Disks(machine));
        Assert.Same(drive, Assert.Single(machine.Drives));
        Assert.Equal("ide-hd", Assert.Single(machine.Parts.Disks).Kind);
    }

    [Fact]
    public void A_place_is_taken_once()
    {
        var builder = Builder().WithXenDevice(new XenDisk(Open("a")) { Place = 3 }).WithXenDevice(new XenDisk(Open("b")) { Place = 3 });
        Assert.Contains("b: another disk is xvdd already", Assert.Throws<ConfigurationException>(builder.Build).Message, StringComparison.Ordinal);
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private static MachineBuilder Builder() => Machine.CreateBuilder()
        .WithEngine(new ScriptedEngine(_ => VcpuExit.Halted))
        .WithMemory(64 << 20)
        .WithKernel(BootSource.FromBytes(SyntheticKernel.BzImage(), "kernel"))
        .WithXen(5);

    private static IEnumerable<string> Disks(Machine machine)
    {
        using (machine.Gate.Enter())
        {
            machine.Xen!.Store.List(XenStore.PrivilegedDomain, 0, "/local/domain/5/device/vbd", out var names, out _);
            return [.. names.Order(StringComparer.Ordinal)];
        }
    }

    private BlockDrive Open(string name)
    {
        var path = Path.Combine(_folder, name);
        File.WriteAllBytes(path, new byte[1 << 20]);
        return BlockDrive.Open(name, path, new DriveOptions { Format = "raw" }, Microsoft.Extensions.Logging.Abstractions.NullLogger.Instance);
    }
}
