using Sharpvisor.Core;
using Sharpvisor.Core.Block;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Testing.Char;
using Sharpvisor.Testing.Virtio;

namespace Sharpvisor.Devices.Tests.Virtio;

/// <summary>Whatever a guest writes to registers and rings: nothing throws, hangs, or asks the drive for what it has not.</summary>
public sealed class VirtioRobustnessTests
{
    private static readonly int[] Sizes = [1, 2, 4, 8];
    private static readonly int Rounds = int.TryParse(Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_COUNT"), out var count) && count > 500 ? count : 500;

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void Random_accesses_to_all_registers(int seed)
    {
        using var bench = VirtioBench.Disk(out var drive, options: new() { QueueCount = 2, QueueSize = 8 }, sectors: 100);
        var random = new Random(seed);
        for (var i = 0; i < 40_000; i++)
        {
            var size = Sizes[random.Next(4)];
            var value = random.Next(3) switch { 0 => (ulong)random.Next(32), 1 => (ulong)random.NextInt64(), _ => 1UL << random.Next(64) };
            var bar = bench.Function.Bars[random.Next(bench.Function.Bars.Count)];
            // A page for each part: most accesses shall hit registers.
            var offset = bar.Size > 0x1000 ? (uint)((random.Next(4) * 0x1000) + random.Next(random.Next(2) == 0 ? 0x40 : 0x1000)) : (uint)random.Next((int)bar.Size);
            switch (random.Next(6))
            {
                case 0 or 1:
                    bar.Device.Write(offset, size, value);
                    break;
                case 2:
                    bar.Device.Read(offset, size);
                    break;
                case 3:
                    var at = random.Next(4) == 0 ? random.Next(256) : 0x40 + random.Next(0x80);
                    bench.Function.WriteConfig(at, Math.Min(size, 4), (uint)value);
                    bench.Function.ReadConfig(at, Math.Min(size, 4));
                    break;
                case 4:
                    bench.Memory.TryWrite((ulong)random.Next(0x100), (ulong)random.NextInt64());
                    break;
                default:
                    drive.HoldsRequests = random.Next(2) == 0;
                    if (drive.HeldRequests > 0)
                        drive.CompleteNext();
                    break;
            }
        }

        bench.Function.Reset();
        Assert.Equal(0, drive.HeldRequests);
    }

    [Fact]
    public void Every_register_takes_all_sizes_and_all_ones()
    {
        using var bench = VirtioBench.Disk(out _);
        foreach (var bar in bench.Function.Bars)
        {
            for (var offset = 0u; offset < bar.Size; offset++)
            {
                foreach (var size in Sizes)
                {
                    bar.Device.Write(offset, size, ulong.MaxValue);
                    bar.Device.Read(offset, size);
                    bar.Device.Write(offset, size, 0);
                }
            }
        }
    }

    /// <summary>
    /// Rings that are valid but for a few bits, and a driver that goes on with whatever comes: 500 of them, or
    /// SHARPVISOR_FUZZ_COUNT.
    /// </summary>
    [Theory]
    [InlineData(1, false)]
    [InlineData(2, false)]
    [InlineData(3, false)]
    [InlineData(1, true)]
    [InlineData(2, true)]
    [InlineData(3, true)]
    public void Random_rings(int seed, bool packed)
    {
        var packedBit = 1UL << VirtioPciDriver.PackedRing;
        var random = new Random(seed);
        using var bench = VirtioBench.Disk(out var drive, options: new() { QueueSize = 64 }, sectors: 100);
        long broken = 0, served = 0;
        for (var round = 0; round < Rounds; round++)
        {
            // Old rings are forgotten with each round: the allocator starts anew by a new driver.
            var driver = new ModernPciDriver(bench.Pci.Ports, bench.Pci.Mmio, bench.Memory, VirtioBench.Slot) { UsesMsix = random.Next(2) == 0 };
            driver.Start(packed ? ulong.MaxValue : ~packedBit);
            drive.Requests.Clear();
            var ring = driver.Rings[0];
            for (var i = 0; i < 60; i++)
            {
                switch (random.Next(5))
                {
                    case 0 when ring.FreeDescriptors > 4:
                        bench.Memory.TryWrite(0x10_0000, (ulong)random.Next(16));
                        bench.Memory.TryWrite(0x10_0008, (ulong)random.Next(120));
                        ring.Add([new(0x10_0000, 16), new(0x11_0000, 512)], [new(0x12_0000, 512), new(0x13_0000, 1)], random.Next(3) == 0);
                        break;
                    case 1:
                        var area = random.Next(3) switch { 0 => ring.DescriptorArea, 1 => ring.DriverArea, _ => ring.DeviceArea };
                        bench.Memory.TryWrite(area + (ulong)random.Next(160), (byte)(random.Next(2) == 0 ? random.Next(256) : 1 << random.Next(8)));
                        break;
                    case 2:
                        drive.HoldsRequests = random.Next(3) == 0;
                        drive.Error = random.Next(8) == 0 ? BlockError.Io : BlockError.None;
                        break;
                    case 3 when drive.HeldRequests > 0:
                        drive.CompleteNext(random.Next(drive.HeldRequests));
                        break;
                    default:
                        driver.Notify(0);
                        break;
                }
            }

            broken += (driver.Status & VirtioPciDriver.NeedsReset) != 0 ? 1 : 0;
            served += drive.Requests.Count;
        }

        // Otherwise this would show nothing.
        Assert.InRange(broken, Rounds / 25, Rounds - 50);
        Assert.InRange(served, 100, long.MaxValue);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_flood_of_notifications_does_no_work_twice(bool packed)
    {
        using var bench = VirtioBench.Disk(out var drive);
        bench.Driver.Start(packed ? ulong.MaxValue : ~(1UL << VirtioPciDriver.PackedRing));
        drive.HoldsRequests = true;
        bench.AddRequest(4, 0, [], []);
        for (var i = 0; i < 10_000; i++)
            bench.Driver.Notify(0);
        Assert.Equal(1, drive.HeldRequests);
        drive.CompleteNext();
        Assert.Equal(1, bench.TakeMessages());
    }

    [Fact]
    public void A_random_number_request_of_the_whole_memory_is_bounded()
    {
        long filled = 0;
        using var bench = new VirtioBench(errors => new VirtioRng(part => filled += part.Length, errors));
        bench.Driver.Start(~(1UL << VirtioPciDriver.PackedRing));
        var table = bench.Driver.Allocator.Allocate(16 * 1000);
        for (var i = 0; i < 1000; i++)
            bench.Memory.TryWrite(table + (16 * (ulong)i), [.. BitConverter.GetBytes(0x100000ul), .. BitConverter.GetBytes(0x100000u), .. BitConverter.GetBytes((ushort)(i < 999 ? 3 : 2)), .. BitConverter.GetBytes((ushort)(i + 1))]);
        var ring = (SplitDriverRing)bench.Driver.Rings[0];
        bench.Memory.TryWrite(ring.DescriptorArea, [.. BitConverter.GetBytes(table), .. BitConverter.GetBytes(16000u), 4, 0, 0, 0]);
        ring.AddHead(0);
        bench.Driver.Notify(0);
        Assert.Equal(0x10000, filled);
    }

    /// <summary>Whatever lists of pages, reports, statistics and control messages hold, in queues that are all in use.</summary>
    [Theory]
    [InlineData(1, "balloon")]
    [InlineData(2, "balloon")]
    [InlineData(1, "console")]
    [InlineData(2, "console")]
    public void Random_buffers_in_all_queues(int seed, string kind)
    {
        var random = new Random(seed);
        LimitedCharBackend console = new(), channel = new();
        VirtioConsolePortOptions[] ports = [new(0) { IsConsole = true, Backend = console }, new(1) { Name = "channel", Backend = channel }];
        using var bench = kind == "balloon"
            ? new VirtioBench(errors => new VirtioBalloon(new VirtioBalloonOptions { ReportsFreePages = true }, errors) { OffersPackedRings = true })
            : new VirtioBench(errors => new VirtioConsole(ports, 2, new MachineGate(), errors) { OffersPackedRings = true });
        var queues = bench.Function.Device.Queues.Count;
        long used = 0;
        for (var round = 0; round < Rounds / 10; round++)
        {
            var driver = new ModernPciDriver(bench.Pci.Ports, bench.Pci.Mmio, bench.Memory, VirtioBench.Slot) { UsesMsix = random.Next(2) == 0 };
            driver.Start(random.Next(2) == 0 ? ulong.MaxValue : ~(1UL << VirtioPciDriver.PackedRing), queues);
            for (var i = 0; i < 200; i++)
            {
                var queue = random.Next(queues);
                var ring = driver.Rings[queue];
                switch (random.Next(6))
                {
                    case 0 or 1 when ring.FreeDescriptors > 4:
                        // Rings lie in the upper half; what may be given away is the lower one.
                        var buffer = new GuestBuffer((ulong)random.Next(0x40) << 12, (uint)random.Next(1, 0x2000));
                        var content = random.Next(2) == 0
                            ? BitConverter.GetBytes((ulong)random.NextInt64())
                            : [.. BitConverter.GetBytes(random.Next(3)), .. BitConverter.GetBytes((ushort)random.Next(9)), .. BitConverter.GetBytes((ushort)random.Next(2))];
                        bench.Memory.TryWrite(buffer.Address, content);
                        var isWritable = random.Next(8) == 0 ? random.Next(2) == 0 : kind == "balloon" ? queue == 3 : queue % 2 == 0;
                        ring.Add(isWritable ? [] : [random.Next(2) == 0 ? buffer : buffer with { Length = 8 }], isWritable ? [buffer] : []);
                        break;
                    case 2:
                        driver.WriteDeviceConfig((uint)random.Next(16), 4, (ulong)random.Next(3));
                        break;
                    case 3:
                        console.MakeRoom(random.Next(100));
                        channel.MakeRoom(random.Next(10000));
                        channel.Type(1, 2, 3);
                        (bench.Function.Device as VirtioBalloon)?.RequestStatistics(_ => { });
                        break;
                    case 4:
                        while (ring.TakeUsed() is not null)
                            used++;
                        break;
                    default:
                        driver.Notify(queue);
                        break;
                }
            }

            channel.OnReceiveReady();
        }

        Assert.InRange(used, 100, long.MaxValue);
    }
}
