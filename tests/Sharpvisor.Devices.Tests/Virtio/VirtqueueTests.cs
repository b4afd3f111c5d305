using Sharpvisor.Testing.Virtio;

namespace Sharpvisor.Devices.Tests.Virtio;

/// <summary>Rings as a correct driver uses them: a disk serves as the device, as its answers show what arrived.</summary>
public sealed class VirtqueueTests
{
    private const ulong Packed = 1UL << VirtioPciDriver.PackedRing, Event = 1UL << VirtioPciDriver.EventIndex;

    public static TheoryData<bool, bool, bool, bool, bool> Ways()
    {
        var ways = new TheoryData<bool, bool, bool, bool, bool>();
        for (var i = 0; i < 32; i++)
        {
            var (legacy, packed, eventIndex, indirect, msix) = ((i & 1) != 0, (i & 2) != 0, (i & 4) != 0, (i & 8) != 0, (i & 16) != 0);
            if (!(legacy && packed))
                ways.Add(legacy, packed, eventIndex, indirect, msix);
        }

        return ways;
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public void Requests_go_around_the_ring_many_times_and_end_in_any_order(bool legacy, bool packed, bool eventIndex, bool indirect, bool msix)
    {
        using var bench = VirtioBench.Disk(out var drive, legacy, msix, new() { QueueSize = 16 });
        bench.Driver.Start(VirtioBench.AllFeatures & ~(packed ? 0 : Packed) & ~(eventIndex ? 0 : Event));
        drive.HoldsRequests = true;
        var expected = drive.Copy(0, drive.Bytes.Length);
        var random = new Random(1);
        var ring = bench.Driver.Rings[0];
        Dictionary<int, (GuestBuffer Status, GuestBuffer[] Data, long Offset)> reads = [];
        var done = 0;
        for (var round = 0; round < 200 || reads.Count > 0; round++)
        {
            while (round < 200 && ring.FreeDescriptors > 4 && random.Next(4) != 0)
            {
                var sector = random.Next(4000);
                GuestBuffer[] data = [new(bench.Driver.Allocator.Allocate(512), 512), new(bench.Driver.Allocator.Allocate(512), 512)];
                var (id, status) = bench.AddRequest(0, (ulong)sector, [], data, indirect: indirect);
                reads.Add(id, (status, data, sector * 512L));
                bench.Driver.NotifyIfNeeded(0);
            }

            Assert.Equal(reads.Count, drive.HeldRequests);
            for (var i = random.Next(drive.HeldRequests + 1); i > 0; i--)
                drive.CompleteNext(random.Next(drive.HeldRequests));
            while (ring.TakeUsed() is { } used)
            {
                Assert.True(reads.Remove(used.Id, out var read));
                Assert.Equal(1025u, used.Written);
                Assert.Equal(0, bench.Driver.Get(read.Status)[0]);
                Assert.Equal(expected[(int)read.Offset..((int)read.Offset + 1024)], bench.Driver.Get(read.Data[0]).Concat(bench.Driver.Get(read.Data[1])));
                done++;
            }

            Assert.Equal(0, bench.Driver.Status & VirtioPciDriver.NeedsReset);
        }

        Assert.InRange(done, 200, 2000);
        Assert.Empty(bench.Errors.Counts);
        if (msix)
            Assert.NotEqual(0, bench.TakeMessages());
        else
            Assert.True(bench.IsIntxAsserted);
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void An_interrupt_comes_when_the_driver_wants_it(bool packed, bool eventIndex)
    {
        using var bench = VirtioBench.Disk(out _);
        bench.Driver.Start(VirtioBench.AllFeatures & ~(packed ? 0 : Packed) & ~(eventIndex ? 0 : Event), size: 8);
        var ring = bench.Driver.Rings[0];
        bench.Request(4, 0, [], []); // of the first one the driver is told in any case
        for (var i = 0; i < 40; i++)
        {
            ring.SuppressInterrupts(true);
            bench.TakeMessages();
            bench.Request(4, 0, [], []);
            bench.Request(4, 0, [], []);
            Assert.Equal(0, bench.TakeMessages());
            ring.SuppressInterrupts(false);
            bench.Request(4, 0, [], []);
            Assert.Equal(1, bench.TakeMessages());
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void With_an_event_index_one_notification_serves_many_buffers(bool packed)
    {
        using var bench = VirtioBench.Disk(out var drive);
        bench.Driver.Start(VirtioBench.AllFeatures & ~(packed ? 0 : Packed), size: 16);
        drive.HoldsRequests = true;
        var ring = bench.Driver.Rings[0];
        for (var round = 0; round < 10; round++)
        {
            for (var i = 0; i < 4; i++)
                bench.AddRequest(4, 0, [], []);
            Assert.True(ring.NeedsNotification());
            bench.AddRequest(4, 0, [], []);
            Assert.False(ring.NeedsNotification()); // it has been told, and has not looked yet
            bench.Driver.Notify(0);
            Assert.Equal(5, drive.HeldRequests);
            while (drive.HeldRequests > 0)
                drive.CompleteNext();
            for (var i = 0; i < 5; i++)
                Assert.NotNull(ring.TakeUsed());
        }
    }

    [Fact]
    public void A_legacy_driver_that_suppresses_interrupts_gets_one_when_the_ring_is_empty_if_it_asked_for_that()
    {
        const ulong notifyOnEmpty = 1 << 24;
        foreach (var wanted in new[] { false, true })
        {
            using var bench = VirtioBench.Disk(out var drive, legacy: true);
            bench.Driver.Start(VirtioBench.AllFeatures & ~Event & ~(wanted ? 0 : notifyOnEmpty));
            bench.Driver.Rings[0].SuppressInterrupts(true);
            drive.HoldsRequests = true;
            bench.AddRequest(4, 0, [], []);
            bench.AddRequest(4, 0, [], []);
            bench.Driver.Notify(0);
            drive.CompleteNext();
            Assert.Equal(0, bench.TakeMessages());
            drive.CompleteNext();
            Assert.Equal(wanted ? 1 : 0, bench.TakeMessages());
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void What_the_device_writes_is_marked_as_written(bool packed)
    {
        using var bench = VirtioBench.Disk(out _);
        bench.Driver.Start(VirtioBench.AllFeatures & ~(packed ? 0 : Packed));
        var data = new GuestBuffer(bench.Driver.Allocator.Allocate(8192, 4096), 8192);
        List<ulong> written = [];
        for (var page = data.Address; page < data.Address + data.Length; page += 4096)
            bench.Memory.CodeLines(page) = 1UL << 63;
        bench.Memory.CodeWritten += (page, lines) => written.Add(page);
        Assert.Equal(0, bench.Request(0, 0, [], [data]));
        Assert.Equal([data.Address / 4096, (data.Address / 4096) + 1], written);
    }

    [Fact]
    public void Nothing_is_taken_while_the_function_is_no_bus_master()
    {
        using var bench = VirtioBench.Disk(out var drive);
        bench.Driver.Start(VirtioBench.AllFeatures);
        drive.HoldsRequests = true;
        bench.AddRequest(4, 0, [], []);
        bench.Driver.Notify(0);
        bench.Driver.WriteConfig(4, 2, 3);
        bench.AddRequest(4, 0, [], []);
        bench.Driver.Notify(0);
        Assert.Equal(1, drive.HeldRequests);
        drive.CompleteNext();
        Assert.Null(bench.Driver.Rings[0].TakeUsed());
        Assert.Empty(bench.Errors.Counts);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_reset_leaves_nothing_under_way_and_nothing_is_written_afterwards(bool legacy)
    {
        using var bench = VirtioBench.Disk(out var drive, legacy);
        bench.Driver.Start(VirtioBench.AllFeatures & ~Packed);
        drive.HoldsRequests = true;
        var data = new GuestBuffer(bench.Driver.Allocator.Allocate(512), 512);
        var (_, status) = bench.AddRequest(0, 0, [], [data]);
        bench.Driver.Notify(0);
        Assert.Equal(1, drive.HeldRequests);
        var old = bench.Driver.Rings[0];
        bench.Memory.CodeLines(data.Address) = ulong.MaxValue;
        var isMarked = false;
        bench.Memory.CodeWritten += (_, _) => isMarked = true;
        bench.Driver.Status = 0;
        Assert.Equal(0, drive.HeldRequests);
        Assert.True(isMarked); // the drive may have moved a part
        Assert.Equal(0, bench.Driver.Status);
        Assert.Equal(0xEE, bench.Driver.Get(status)[0]);
        Assert.Null(old.TakeUsed());
        Assert.Equal(0, bench.TakeMessages());
        drive.HoldsRequests = false;
        bench.Driver.Start(VirtioBench.AllFeatures);
        Assert.Equal(0, bench.Request(0, 0, [], [data]));
        Assert.Equal(drive.Copy(0, 512), bench.Driver.Get(data));
    }

    [Fact]
    public void A_request_allocates_nothing()
    {
        using var bench = VirtioBench.Disk(out var drive);
        bench.Driver.Start(VirtioBench.AllFeatures & ~Packed, size: 256);
        var ring = (SplitDriverRing)bench.Driver.Rings[0];
        var data = new GuestBuffer(bench.Driver.Allocator.Allocate(4096), 4096);
        var (head, _) = bench.AddRequest(0, 0, [], [data]);
        void Again()
        {
            // The same chain, over and over: the ring's memory is the driver's.
            bench.Driver.Notify(0);
            drive.Requests.Clear();
            bench.Pci.Messages.Clear();
            ring.AddHead((ushort)head);
        }

        for (var i = 0; i < 100; i++)
            Again();
        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var i = 0; i < 1000; i++)
            Again();
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }
}
