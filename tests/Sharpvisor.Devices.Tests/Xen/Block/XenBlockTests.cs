using Sharpvisor.Core.Block;
using Sharpvisor.Devices.Xen.Block;
using Sharpvisor.Devices.Xen.Bus;
using Sharpvisor.Testing.Block;

namespace Sharpvisor.Devices.Tests.Xen.Block;

public sealed class XenBlockTests : IDisposable
{
    private const byte Read = BlockFront.Read, Write = BlockFront.Write, Barrier = BlockFront.Barrier, Flush = BlockFront.Flush;
    private const short Okay = BlockFront.Okay, Error = BlockFront.Error, Unsupported = BlockFront.Unsupported;

    private readonly XenBench _bench = new();
    private readonly MemoryDrive _drive = new(4096, "xen0") { CanDiscard = true };

    public void Dispose() => _bench.Dispose();

    [Theory]
    [InlineData(0, 51712, "xvda")]
    [InlineData(1, 51728, "xvdb")]
    [InlineData(15, 51952, "xvdp")]
    [InlineData(16, 268439552, "xvdq")]
    [InlineData(25, 268441856, "xvdz")]
    [InlineData(26, 268442112, "xvdaa")]
    [InlineData(702, 268615168, "xvdaaa")]
    public void Disks_have_Xens_numbers(int index, int number, string name) => Assert.Equal((number, name), XenDiskNumber.Of(index));

    [Fact]
    public void Both_ends_are_told_of_each_other()
    {
        var disk = Add();
        var front = _bench.FrontOf(disk);
        Assert.Equal("/local/domain/0/backend/vbd/7/51712", _bench.Read(front + "/backend"));
        Assert.Equal(("0", "51712", "disk", "1"), (_bench.Read(front + "/backend-id"), _bench.Read(front + "/virtual-device"), _bench.Read(front + "/device-type"), _bench.Read(front + "/state")));
        Assert.Equal(front, _bench.BackKey(disk, "frontend"));
        Assert.Equal(("7", "1", "xvda", "w", "disk"), (_bench.BackKey(disk, "frontend-id"), _bench.BackKey(disk, "online"), _bench.BackKey(disk, "dev"), _bench.BackKey(disk, "mode"), _bench.BackKey(disk, "device-type")));
        Assert.Equal(("1", "1", "256", "4"), (_bench.BackKey(disk, "feature-flush-cache"), _bench.BackKey(disk, "feature-discard"), _bench.BackKey(disk, "feature-max-indirect-segments"), _bench.BackKey(disk, "max-ring-page-order")));
        Assert.Equal(XenbusState.InitWait, _bench.BackState(disk));
        Assert.Null(_bench.BackKey(disk, "sectors"));
        new BlockFront(_bench, disk).Connect();
        Assert.Equal(("4096", "512", "0"), (_bench.BackKey(disk, "sectors"), _bench.BackKey(disk, "sector-size"), _bench.BackKey(disk, "info")));
        Assert.NotEqual(Sharpvisor.Devices.Xen.Store.StoreError.None, _bench.Write("/local/domain/0/backend/vbd/7/51712/sectors", "1")); // the back end's word
    }

    [Fact]
    public void A_cdrom_says_so()
    {
        using var bench = new XenBench();
        var disk = new XenBlock(new MemoryDrive(64) { IsReadOnly = true }, new XenBlockOptions { IsCdrom = true, Index = 2 });
        bench.Add(disk);
        var front = new BlockFront(bench, disk);
        front.Connect();
        Assert.Equal(("cdrom", "r", "7"), (bench.BackKey(disk, "device-type"), bench.BackKey(disk, "mode"), bench.BackKey(disk, "info")));
        Assert.Null(bench.BackKey(disk, "feature-discard"));
        Assert.Equal(Error, front.Finish(front.Add(Write, 0, new Segment(bench.Grant(bench.AllocatePage()), 0, 0))));
        Assert.Equal(Unsupported, front.Finish(front.AddDiscard(0, 8)));
    }

    [Theory]
    [InlineData(null, true)]
    [InlineData(0, true)]
    [InlineData(4, true)]
    [InlineData(null, false)]
    [InlineData(1, false)]
    public void Reads_and_writes_move_data(int? order, bool is64)
    {
        var disk = Add();
        var front = new BlockFront(_bench, disk, order, is64);
        front.Connect();
        var (page, second) = (_bench.AllocatePage(), _bench.AllocatePage());
        var data = Enumerable.Range(0, 8192).Select(i => (byte)((i * 3) ^ (i >> 8))).ToArray();
        _bench.Memory.TryWrite(page, data);
        var (readable, readableToo) = (_bench.Grant(page, readOnly: true), _bench.Grant(second, readOnly: true));
        for (var round = 0; round < 600; round++) // around the ring
        {
            var id = front.Add(Write, (ulong)(round % 100), new(readable, 2, 7), new(readableToo, 0, 4));
            Assert.Equal(Okay, front.Finish(id));
            Assert.Equal(data[1024..6656], _drive.Copy(round % 100 * 512, 5632));
        }

        Assert.Equal(Error, front.Finish(front.Add(Read, 99, new Segment(readable, 0, 0)))); // granted to be read only
        var back = _bench.AllocatePage();
        var writable = _bench.Grant(back);
        Assert.Equal(Okay, front.Finish(front.Add(Read, 99, new Segment(writable, 1, 1))));
        var sector = new byte[512];
        _bench.Memory.TryRead(back + 512, sector);
        Assert.Equal(data[1024..1536], sector);
        Assert.Equal((0u, 0u), (_bench.UsesOf(writable), _bench.UsesOf(readable)));
    }

    [Fact]
    public void Many_segments_lie_in_pages_of_their_own()
    {
        var disk = Add();
        var front = new BlockFront(_bench, disk);
        front.Connect();
        const int count = 256;
        var list = _bench.AllocatePage();
        var bytes = new byte[4096];
        var data = new byte[count * 4096];
        new Random(1).NextBytes(data);
        for (var i = 0; i < count; i++)
        {
            var page = _bench.AllocatePage();
            _bench.Memory.TryWrite(page, data.AsSpan(i * 4096, 4096));
            new Segment(_bench.Grant(page), 0, 7).WriteTo(bytes.AsSpan(i * 8));
        }

        _bench.Memory.TryWrite(list, bytes);
        var reference = _bench.Grant(list, readOnly: true);
        Assert.Equal(Okay, front.Finish(front.AddIndirect(Write, 0, count, reference)));
        Assert.Equal(data, _drive.Copy(0, data.Length));
        Assert.Equal(Okay, front.Finish(front.AddIndirect(Read, 2048, 3, reference)));
        Assert.Equal(Error, front.Finish(front.AddIndirect(Write, 0, 257, reference, reference)));
        Assert.Equal(Error, front.Finish(front.AddIndirect(Write, 0, 0, reference)));
        Assert.Equal(Error, front.Finish(front.AddIndirect(Flush, 0, 1, reference)));
        Assert.Equal(Error, front.Finish(front.AddIndirect(Read, 0, 1, 4000)));
        Assert.Equal(1, _bench.Domain.Grants.UseCount); // the ring
    }

    [Fact]
    public void Flushes_and_barriers_are_safe_in_order()
    {
        var disk = Add();
        var front = new BlockFront(_bench, disk);
        front.Connect();
        Assert.Equal(Okay, front.Finish(front.Add(Flush, 0)));
        Assert.Equal([BlockOperation.Flush], _drive.Requests.Select(r => r.Operation));

        _drive.Requests.Clear();
        _drive.HoldsRequests = true;
        var reference = _bench.Grant(_bench.AllocatePage());
        var ids = new[] { front.Add(Write, 1, new Segment(reference, 0, 0)), front.Add(Barrier, 2, new Segment(reference, 0, 0)), front.Add(Write, 3, new Segment(reference, 0, 0)) };
        front.Kick();
        Assert.Equal(1, _drive.HeldRequests); // the barrier waits for what is before it, the rest for the barrier
        Complete();
        Assert.Equal((ids[0], Okay), front.Take());
        Assert.Null(front.Take());
        Assert.Equal(1, _drive.HeldRequests);
        Complete();
        Complete();
        Assert.Equal((ids[1], Okay), front.Take());
        Complete();
        Assert.Equal((ids[2], Okay), front.Take());
        Assert.Equal(
            [(BlockOperation.Write, 512L, false), (BlockOperation.Flush, 0, false), (BlockOperation.Write, 1024, true), (BlockOperation.Write, 1536, false)],
            _drive.Requests.Select(r => (r.Operation, r.Offset, r.Flag)));
    }

    [Fact]
    public void Discards_reach_the_drive()
    {
        var disk = Add();
        var front = new BlockFront(_bench, disk);
        front.Connect();
        Assert.Equal(Okay, front.Finish(front.AddDiscard(8, 16)));
        Assert.Equal((BlockOperation.Discard, 4096L, 8192L, false), Assert.Single(_drive.Requests));
        Assert.Equal(Unsupported, front.Finish(front.AddDiscard(8, 16, flag: 1)));
        foreach (var (sector, count) in new (ulong, ulong)[] { (4090, 7), (0, 0), (0, ulong.MaxValue), (ulong.MaxValue, 2), (1, 1UL << 55) })
            Assert.Equal(Error, front.Finish(front.AddDiscard(sector, count)));
        Assert.Single(_drive.Requests);
    }

    [Fact]
    public void Bad_requests_are_answered_and_the_next_one_is_served()
    {
        var disk = Add();
        var front = new BlockFront(_bench, disk);
        front.Connect();
        var good = _bench.Grant(_bench.AllocatePage());
        var elsewhere = _bench.Grant(0xFEE0_0000);
        Segment[] bad = [new(good, 3, 2), new(good, 0, 8), new(good, 9, 255), new(elsewhere, 0, 0), new(5000, 0, 0), new(uint.MaxValue, 0, 0)];
        foreach (var segment in bad)
            Assert.Equal(Error, front.Finish(front.Add(Read, 0, new(good, 0, 7), segment)));
        Assert.Equal(Error, front.Finish(front.Add(Read, 0)));
        Assert.Equal(Error, front.Finish(front.Add(Write, 0, [.. Enumerable.Repeat(new Segment(good, 0, 0), 12)])));
        Assert.Equal(Error, front.Finish(front.Add(Read, 4096, new Segment(good, 0, 0))));
        Assert.Equal(Error, front.Finish(front.Add(Read, 4095, new Segment(good, 0, 1))));
        Assert.Equal(Error, front.Finish(front.Add(Read, ulong.MaxValue, new Segment(good, 0, 0))));
        foreach (var operation in new byte[] { 4, 7, 100, 255 })
            Assert.Equal(Unsupported, front.Finish(front.Add(operation, 0)));
        Assert.Empty(_drive.Requests);
        Assert.Equal(0u, _bench.UsesOf(good));
        Assert.Equal(Okay, front.Finish(front.Add(Read, 4095, new Segment(good, 7, 7))));
        _drive.Error = BlockError.NoSpace;
        Assert.Equal(Error, front.Finish(front.Add(Write, 0, new Segment(good, 7, 7))));
        Assert.Equal(Error, front.Finish(front.Add(Barrier, 0, new Segment(good, 7, 7))));
        _drive.Error = BlockError.None;
        Assert.Equal(Okay, front.Finish(front.Add(Barrier, 0, new Segment(good, 7, 7))));
    }

    [Fact]
    public void A_persistent_grant_stays_in_use_until_the_end()
    {
        var disk = Add(new XenBlockOptions { OffersPersistentGrants = true });
        var front = new BlockFront(_bench, disk);
        _bench.SetFront(disk, "feature-persistent", 1);
        front.Connect();
        var reference = _bench.Grant(_bench.AllocatePage());
        for (var i = 0; i < 3; i++)
            Assert.Equal(Okay, front.Finish(front.Add(i == 0 ? Write : Read, 0, new Segment(reference, 0, 7), new Segment(reference, 0, 0))));
        Assert.Equal((0x18u, 2), (_bench.UsesOf(reference), _bench.Domain.Grants.UseCount));
        Close(disk);
        Assert.Equal((0u, 0), (_bench.UsesOf(reference), _bench.Domain.Grants.UseCount));
    }

    [Fact]
    public void Events_come_when_they_are_wanted()
    {
        var disk = Add();
        var front = new BlockFront(_bench, disk);
        front.Connect();
        _drive.HoldsRequests = true;
        var reference = _bench.Grant(_bench.AllocatePage());
        for (var i = 0ul; i < 3; i++)
            front.Add(Read, i, new Segment(reference, 0, 0));
        front.Kick();
        Complete();
        Assert.True(_bench.TakeEvent(front.Port));
        Complete();
        Assert.False(_bench.TakeEvent(front.Port)); // the front end has not looked since
        while (front.Take() is not null)
        {
        }

        Complete();
        Assert.True(_bench.TakeEvent(front.Port));
    }

    [Fact]
    public void The_end_waits_for_what_the_drive_has()
    {
        var disk = Add();
        var front = new BlockFront(_bench, disk);
        front.Connect();
        _drive.HoldsRequests = true;
        var reference = _bench.Grant(_bench.AllocatePage());
        front.Add(Read, 0, new Segment(reference, 0, 0));
        front.Kick();
        _bench.SetState(disk, XenbusState.Closing);
        Assert.Equal(XenbusState.Closing, _bench.BackState(disk));
        var late = front.Add(Read, 1, new Segment(reference, 0, 0)); // somebody still has it open
        front.Kick();
        Assert.Equal(2, _drive.HeldRequests);
        _bench.SetState(disk, XenbusState.Closed);
        Assert.Equal(XenbusState.Closing, _bench.BackState(disk));
        Complete(1);
        Assert.Equal(late, front.Take()?.Id);
        Assert.Equal(XenbusState.Closing, _bench.BackState(disk));
        Complete();
        Assert.Equal((XenbusState.Closed, 0), (_bench.BackState(disk), _bench.Domain.Grants.UseCount));

        _bench.SetState(disk, XenbusState.Initialising); // another driver
        Assert.Equal(XenbusState.InitWait, _bench.BackState(disk));
        _drive.HoldsRequests = false;
        var next = new BlockFront(_bench, disk, 2);
        next.Connect();
        Assert.Equal(Okay, next.Finish(next.Add(Read, 0, new Segment(reference, 0, 0))));
    }

    [Fact]
    public void A_reset_forgets_what_is_under_way()
    {
        var disk = Add();
        var front = new BlockFront(_bench, disk);
        front.Connect();
        _drive.HoldsRequests = true;
        var reference = _bench.Grant(_bench.AllocatePage());
        front.Add(Read, 0, new Segment(reference, 0, 0));
        front.Add(Barrier, 0, new Segment(reference, 0, 0));
        front.Kick();
        _bench.Reset();
        Assert.Equal((0, XenbusState.InitWait, 0), (_drive.HeldRequests, _bench.BackState(disk), _bench.Domain.Grants.UseCount));
        _drive.HoldsRequests = false;
        front = new BlockFront(_bench, disk);
        front.Connect();
        Assert.Equal(Okay, front.Finish(front.Add(Barrier, 0, new Segment(_bench.Grant(_bench.AllocatePage()), 0, 0))));
    }

    [Theory]
    [InlineData(33u)]
    [InlineData(0x8000_0000u)]
    [InlineData(uint.MaxValue)]
    public void Indices_that_can_not_be_close_the_disk(uint producer)
    {
        var disk = Add();
        var front = new BlockFront(_bench, disk);
        front.Connect();
        _bench.Memory.TryWrite(front.Ring.Header, producer);
        _bench.Send(front.Port);
        Assert.Equal((XenbusState.Closing, 0), (_bench.BackState(disk), _bench.Domain.Grants.UseCount));
        Assert.Contains("xen vbd 51712: ring indices that can't be", _bench.Errors.Counts.Keys);
        _bench.Send(front.Port);
        _bench.SetState(disk, XenbusState.Closed);
        _bench.SetState(disk, XenbusState.Initialising);
        new BlockFront(_bench, disk).Connect();
    }

    [Fact]
    public void Who_is_refused_without_end_is_closed()
    {
        var disk = Add();
        var front = new BlockFront(_bench, disk);
        front.Connect();
        var produced = 1u;
        _bench.Errors.Trace = _ => _bench.Memory.TryWrite(front.Ring.Header, ++produced); // another processor adds one for each
        front.Add(255, 0);
        front.Kick();
        Assert.InRange(produced, 4 * 32u, 5 * 32u);
        Assert.Equal(XenbusState.Closing, _bench.BackState(disk));
    }

    private XenBlock Add(XenBlockOptions? options = null)
    {
        var disk = new XenBlock(_drive, options ?? new XenBlockOptions());
        _bench.Add(disk);
        return disk;
    }

    private void Complete(int index = 0)
    {
        using (_bench.Gate.Enter())
            _drive.CompleteNext(index);
    }

    private void Close(XenBlock disk)
    {
        _bench.SetState(disk, XenbusState.Closing);
        _bench.SetState(disk, XenbusState.Closed);
        Assert.Equal(XenbusState.Closed, _bench.BackState(disk));
    }
}
