using System.Text;
using Sharpvisor.Core.Block;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Testing.Virtio;

namespace Sharpvisor.Devices.Tests.Virtio;

public sealed class VirtioBlkTests
{
    private const uint In = 0, Out = 1, Flush = 4, GetId = 8, Discard = 11, WriteZeroes = 13;
    private const byte Ok = 0, IoError = 1, Unsupported = 2;
    private const int FlushFeature = 9, ConfigWce = 11;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Reads_and_writes_move_data(bool legacy)
    {
        using var bench = Start(out var drive, legacy);
        var data = bench.Driver.Put(Enumerable.Range(0, 1536).Select(i => (byte)(i * 3)).ToArray());
        Assert.Equal(Ok, bench.Request(Out, 5, [data with { Length = 1000 }, new(data.Address + 1000, 536)], []));
        Assert.Equal(bench.Driver.Get(data), drive.Copy(5 * 512, 1536));
        var back = new GuestBuffer(bench.Driver.Allocator.Allocate(1536), 1536);
        Assert.Equal(Ok, bench.Request(In, 5, [], [back with { Length = 1 }, new(back.Address + 1, 1535)]));
        Assert.Equal(bench.Driver.Get(data), bench.Driver.Get(back));
        Assert.Equal(Ok, bench.Request(Out | (1u << 31), 5, [data], [])); // with a barrier, as before 1.0
    }

    [Fact]
    public void A_header_may_lie_anywhere_in_the_chain()
    {
        using var bench = Start(out var drive);
        var all = bench.Driver.Put([.. BitConverter.GetBytes(Out), .. new byte[4], .. BitConverter.GetBytes(7ul), .. Enumerable.Repeat((byte)0xA5, 512)]);
        var status = bench.Driver.Put([0xEE]);
        bench.Driver.Rings[0].Add([all with { Length = 3 }, new(all.Address + 3, 100), new(all.Address + 103, all.Length - 103)], [status]);
        bench.Driver.Notify(0);
        Assert.Equal(Ok, bench.Driver.Get(status)[0]);
        Assert.All(drive.Copy(7 * 512, 512), b => Assert.Equal(0xA5, b));
    }

    [Theory]
    [InlineData(In, 4095, 1024)]
    [InlineData(In, 4096, 512)]
    [InlineData(In, ulong.MaxValue, 512)]
    [InlineData(In, 1UL << 55, 512)]
    [InlineData(In, 0, 511)]
    [InlineData(Out, 4096, 512)]
    [InlineData(Out, 0, 513)]
    public void What_lies_behind_the_end_or_is_no_whole_sector_is_an_error(uint type, ulong sector, uint length)
    {
        using var bench = Start(out var drive);
        var data = new GuestBuffer(bench.Driver.Allocator.Allocate(length), length);
        Assert.Equal(IoError, bench.Request(type, sector, type == Out ? [data] : [], type == In ? [data] : []));
        Assert.Empty(drive.Requests);
    }

    [Fact]
    public void Blocks_larger_than_sectors_are_not_cut()
    {
        using var bench = Start(out _, options: new() { LogicalBlockSize = 4096, PhysicalBlockSize = 16384, MinimumIoSize = 16384, OptimalIoSize = 65536 });
        var data = new GuestBuffer(bench.Driver.Allocator.Allocate(4096), 4096);
        Assert.Equal(Ok, bench.Request(In, 8, [], [data]));
        Assert.Equal(IoError, bench.Request(In, 1, [], [data]));
        Assert.Equal(IoError, bench.Request(In, 8, [], [data with { Length = 512 }]));
        Assert.Equal(4096u, bench.Driver.ReadDeviceConfig(20, 4));
        Assert.Equal(2u, bench.Driver.ReadDeviceConfig(24, 1));
        Assert.Equal(4u, bench.Driver.ReadDeviceConfig(26, 2));
        Assert.Equal(16u, bench.Driver.ReadDeviceConfig(28, 4));
        Assert.Equal(8u, bench.Driver.ReadDeviceConfig(44, 4)); // alignment of discards, in sectors
    }

    [Fact]
    public void A_flush_goes_to_the_drive()
    {
        using var bench = Start(out var drive);
        Assert.Equal(Ok, bench.Request(Flush, 0, [], []));
        Assert.Equal((BlockOperation.Flush, 0L, 0L, false), Assert.Single(drive.Requests));
    }

    [Fact]
    public void The_serial_number_is_the_id()
    {
        using var bench = Start(out _, options: new() { Serial = "a serial number that is too long" });
        var id = bench.Driver.Put(Enumerable.Repeat((byte)0xEE, 24).ToArray());
        Assert.Equal(Ok, bench.Request(GetId, 0, [], [id with { Length = 20 }]));
        Assert.Equal("a serial number that", Encoding.ASCII.GetString(bench.Driver.Get(id)[..20]));
        Assert.Equal(Ok, bench.Request(GetId, 0, [], [id]));
        Assert.Equal(0xEE, bench.Driver.Get(id)[20]);
        Assert.Equal(Ok, bench.Request(GetId, 0, [], [id with { Length = 8 }]));
        Assert.Equal(Ok, bench.Request(GetId, 0, [], []));
    }

    [Theory]
    [InlineData(Discard, 10, 4, 0, Ok, BlockOperation.Discard, false)]
    [InlineData(WriteZeroes, 10, 4, 0, Ok, BlockOperation.WriteZeroes, false)]
    [InlineData(WriteZeroes, 10, 4, 1, Ok, BlockOperation.WriteZeroes, true)]
    [InlineData(Discard, 10, 4, 1, Unsupported, null, false)]
    [InlineData(WriteZeroes, 10, 4, 2, Unsupported, null, false)]
    [InlineData(Discard, 4095, 2, 0, IoError, null, false)]
    [InlineData(WriteZeroes, ulong.MaxValue, 1, 0, IoError, null, false)]
    [InlineData(Discard, 0, uint.MaxValue, 0, IoError, null, false)]
    public void Ranges_are_discarded_and_zeroed(uint type, ulong sector, uint count, uint flags, byte status, BlockOperation? operation, bool flag)
    {
        using var bench = Start(out var drive);
        var range = bench.Driver.Put([.. BitConverter.GetBytes(sector), .. BitConverter.GetBytes(count), .. BitConverter.GetBytes(flags)]);
        Assert.Equal(status, bench.Request(type, 0, [range], []));
        if (operation is { } expected)
            Assert.Equal((expected, (long)sector * 512, count * 512L, flag), Assert.Single(drive.Requests));
        else
            Assert.Empty(drive.Requests);
        Assert.Equal(Unsupported, bench.Request(type, 0, [range, range], [])); // one at a time, as the configuration says
        Assert.Equal(Unsupported, bench.Request(type, 0, [], []));
    }

    [Fact]
    public void Unknown_requests_are_unsupported()
    {
        using var bench = Start(out var drive);
        foreach (var type in new uint[] { 2, 3, 5, 7, 9, 10, 12, 14, 100 })
            Assert.Equal(Unsupported, bench.Request(type, 0, [], []));
        Assert.Empty(drive.Requests);
        Assert.Empty(bench.Errors.Counts);
    }

    [Fact]
    public void A_read_only_disk_says_so_and_is_not_written()
    {
        using var bench = VirtioBench.Disk(out var drive, readOnly: true);
        bench.Driver.Start(VirtioBench.AllFeatures);
        Assert.NotEqual(0u, bench.Driver.OfferedFeatures & (1 << 5));
        var data = new GuestBuffer(bench.Driver.Allocator.Allocate(512), 512);
        Assert.Equal(IoError, bench.Request(Out, 0, [data], []));
        Assert.Equal(IoError, bench.Request(WriteZeroes, 0, [bench.Driver.Put(new byte[16])], []));
        Assert.Empty(drive.Requests);
        Assert.Equal(Ok, bench.Request(In, 0, [], [data]));
        Assert.Equal(Ok, bench.Request(Flush, 0, [], []));
    }

    [Fact]
    public void An_error_of_the_drive_is_one_of_the_request()
    {
        using var bench = Start(out var drive);
        drive.Error = BlockError.Io;
        var data = new GuestBuffer(bench.Driver.Allocator.Allocate(512), 512);
        Assert.Equal(IoError, bench.Request(In, 0, [], [data]));
        Assert.Equal(IoError, bench.Request(Flush, 0, [], []));
        drive.Error = BlockError.None;
        Assert.Equal(Ok, bench.Request(In, 0, [], [data]));
    }

    [Fact]
    public void The_write_cache_is_the_drivers_to_choose()
    {
        using var bench = Start(out var drive);
        Assert.True(drive.WriteCache);
        Assert.Equal(1u, bench.Driver.ReadDeviceConfig(32, 1));
        bench.Driver.WriteDeviceConfig(32, 1, 0);
        Assert.False(drive.WriteCache);
        Assert.Equal(0u, bench.Driver.ReadDeviceConfig(32, 1));
        bench.Driver.Status = 0;
        Assert.True(drive.WriteCache);
        bench.Driver.Start(VirtioBench.AllFeatures & ~(1UL << ConfigWce) & ~(1UL << FlushFeature));
        Assert.False(drive.WriteCache); // who can't flush must not need to
        bench.Driver.Start(VirtioBench.AllFeatures & ~(1UL << ConfigWce));
        Assert.True(drive.WriteCache);
    }

    [Fact]
    public void The_configuration_describes_the_disk()
    {
        using var bench = Start(out _, options: new() { QueueCount = 4, QueueSize = 128 });
        Assert.Equal(4096u, bench.Driver.ReadDeviceConfig(0, 8));
        Assert.Equal(126u, bench.Driver.ReadDeviceConfig(12, 4));
        Assert.Equal(4096u / (16 * 63), bench.Driver.ReadDeviceConfig(16, 2));
        Assert.Equal(0x3F10u, bench.Driver.ReadDeviceConfig(18, 2));
        Assert.Equal(512u, bench.Driver.ReadDeviceConfig(20, 4));
        Assert.Equal(4u, bench.Driver.ReadDeviceConfig(34, 2));
        Assert.Equal(4194303u, bench.Driver.ReadDeviceConfig(36, 4));
        Assert.Equal(0xFFFFFF01u, bench.Driver.ReadDeviceConfig(56, 4) | 0xFFFFFF00u);
        Assert.Equal(ulong.MaxValue, bench.Driver.ReadDeviceConfig(60, 8)); // behind the end
        bench.Driver.WriteDeviceConfig(0, 8, 0);
        Assert.Equal(4096u, bench.Driver.ReadDeviceConfig(0, 8)); // can't be written
    }

    [Fact]
    public void Each_queue_has_a_message_of_its_own()
    {
        using var bench = VirtioBench.Disk(out _, options: new() { QueueCount = 4 });
        bench.Driver.Start(VirtioBench.AllFeatures, queues: 4);
        for (var queue = 3; queue >= 0; queue--)
        {
            var (id, status) = bench.AddRequest(Flush, 0, [], [], queue);
            bench.Driver.Notify(queue);
            Assert.Equal(Ok, bench.Driver.Get(status)[0]);
            Assert.Equal(id, bench.Driver.Rings[queue].TakeUsed()?.Id);
            Assert.Equal(VirtioPciDriver.FirstMessage + (uint)queue, Assert.Single(bench.Pci.Messages).Data);
            bench.Pci.Messages.Clear();
        }
    }

    private static VirtioBench Start(out Testing.Block.MemoryDrive drive, bool legacy = false, VirtioBlkOptions? options = null)
    {
        var bench = VirtioBench.Disk(out drive, legacy, options: options);
        bench.Driver.Start(VirtioBench.AllFeatures);
        return bench;
    }
}
