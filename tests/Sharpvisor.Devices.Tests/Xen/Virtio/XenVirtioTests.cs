using Sharpvisor.Core.Block;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Devices.Xen.Bus;
using Sharpvisor.Devices.Xen.Virtio;
using Sharpvisor.Testing.Block;
using Sharpvisor.Testing.Virtio;

namespace Sharpvisor.Devices.Tests.Xen.Virtio;

/// <summary>Virtio on xenbus, by drivers that keep to the protocol.</summary>
public sealed class XenVirtioTests : IDisposable
{
    private const ulong NoPacked = ~(1UL << VirtioDriver.PackedRing);
    private const ulong PageSize = 4096;

    private readonly XenBench _bench = new();
    private readonly MemoryDrive _drive = new(100, "disk") { CanDiscard = true };
    private readonly VirtioBlk _disk;
    private readonly XenVirtio _device;

    public XenVirtioTests()
    {
        for (var i = 0; i < _drive.Bytes.Length; i++)
            _drive.Bytes[i] = (byte)((i * 7) ^ (i >> 9));
        _disk = new VirtioBlk(_drive, new VirtioBlkOptions { QueueCount = 2, QueueSize = 64 }, _bench.Errors) { OffersPackedRings = true };
        _device = new XenVirtio(0, _disk, _bench.Memory, offersForeignMap: true);
        _bench.Add(_device);
    }

    public void Dispose() => _bench.Dispose();

    [Fact]
    public void The_store_says_what_it_is()
    {
        Assert.Equal(("1", "2", "64 64", "60", "1"), (Key("version"), Key("device-type"), Key("queue-sizes"), Key("config-length"), Key("feature-foreign-map")));
        var features = new VirtioFront(_bench, _device).OfferedFeatures;
        Assert.Equal(0u, features & ((1UL << VirtioFeature.NotifyOnEmpty) | (1UL << VirtioFeature.AnyLayout)));
        foreach (var bit in new[] { VirtioFeature.Version1, VirtioFeature.AccessPlatform, VirtioFeature.PackedRing, VirtioFeature.EventIndex, VirtioFeature.IndirectDescriptors })
            Assert.Equal(1u, features >> bit & 1);
        Assert.Equal(("1", "2"), (_bench.Read(_bench.FrontOf(_device) + "/state"), Key("state")));

        string? Key(string key) => _bench.BackKey(_device, key);
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    [InlineData(true, true)]
    public void Requests_go_through_and_their_grants_come_back(bool packed, bool foreign)
    {
        var front = Connect(foreign);
        front.Start(packed ? ulong.MaxValue : NoPacked, queues: 2);
        var atRest = -1;
        for (var i = 0; i < 20; i++)
        {
            var queue = i % 2;
            _drive.HoldsRequests = true;
            var data = new GuestBuffer(front.Allocator.Allocate(512, 512), 512);
            var (id, status) = Submit(front, queue, sector: 3 + (ulong)i, data, indirect: i >= 10);
            Assert.Equal((0xEE, 0), (front.Get(status)[0], _bench.UsesOf(front.ReferenceOf(status.Address)) == (foreign ? 0 : 0x18u) ? 0 : 1));
            _drive.CompleteNext();
            Assert.Equal((id, 513u), front.Rings[queue].TakeUsed());
            Assert.True(_bench.TakeEvent(front.QueuePorts[queue]));
            Assert.Equal(0, front.Get(status)[0]);
            Assert.Equal(_drive.Copy((3 + i) * 512, 512), front.Get(data));
            if (i > 1)
                Assert.Equal(atRest, _bench.Domain.Grants.UseCount);
            atRest = _bench.Domain.Grants.UseCount;
        }

        Assert.Equal(foreign ? 1 : 7, atRest); // the control page, and each part of two rings
        Assert.Empty(_bench.Errors.Counts);
        front.Status = 0;
        Assert.Equal(1, _bench.Domain.Grants.UseCount);
        _bench.SetState(_device, XenbusState.Closing);
        Assert.Equal((XenbusState.Closing, 0), (_bench.BackState(_device), _bench.Domain.Grants.UseCount));
    }

    [Fact]
    public void Frames_that_are_no_neighbours_make_one_buffer_and_one_table()
    {
        var front = Connect();
        front.Start(NoPacked);
        var pages = front.Allocator.Allocate(4 * PageSize, PageSize);
        // As in a PV domain: the reference of the second page leads to the third, that of the third to the second.
        front.GrantAgain(pages + PageSize, frameOf: pages + (2 * PageSize));
        front.GrantAgain(pages + (2 * PageSize), frameOf: pages + PageSize);
        var (id, status) = Submit(front, 0, sector: 8, new GuestBuffer(pages + 512, 3 * (uint)PageSize));
        Assert.Equal(id, front.Rings[0].TakeUsed()?.Id);
        Assert.Equal(0, front.Get(status)[0]);
        var expected = _drive.Copy(8 * 512, 3 * (int)PageSize);
        Assert.Equal(expected[..3584], front.Get(new GuestBuffer(pages + 512, 3584)));
        Assert.Equal(expected[3584..7680], front.Get(new GuestBuffer(pages + (2 * PageSize), (uint)PageSize)));
        Assert.Equal(expected[7680..11776], front.Get(new GuestBuffer(pages + PageSize, (uint)PageSize)));
        Assert.Equal(expected[11776..], front.Get(new GuestBuffer(pages + (3 * PageSize), 512)));

        // A table of three descriptors, the second of which lies in both pages.
        var table = front.Allocator.Allocate(2 * PageSize, PageSize) + PageSize - 24;
        var far = front.Allocator.Allocate(PageSize, PageSize);
        front.GrantAgain(table + 24, frameOf: far);
        var data = front.Put(new byte[512]);
        Span<byte> header = stackalloc byte[16];
        header.Clear();
        status = front.Put([0xEE]);
        var bytes = new byte[48];
        Describe(0, front.Put(header), 1, 1);
        Describe(1, data, 3, 2);
        Describe(2, status, 2, 0);
        _bench.Memory.TryWrite(table, bytes.AsSpan(0, 24));
        _bench.Memory.TryWrite(far, bytes.AsSpan(24));
        var ring = (SplitDriverRing)front.Rings[0];
        _bench.Memory.TryWrite(ring.DescriptorArea, front.Address(table));
        _bench.Memory.TryWrite(ring.DescriptorArea + 8, 48u);
        _bench.Memory.TryWrite(ring.DescriptorArea + 12, (ushort)4);
        ring.AddHead(0);
        front.Notify(0);
        Assert.Equal(0, front.Get(status)[0]);
        Assert.Equal(_drive.Copy(0, 512), front.Get(data));
        Assert.Empty(_bench.Errors.Counts);

        void Describe(int index, GuestBuffer buffer, ushort flags, ushort next)
        {
            var at = bytes.AsSpan(16 * index);
            BitConverter.TryWriteBytes(at, front.Address(buffer.Address));
            BitConverter.TryWriteBytes(at[8..], buffer.Length);
            BitConverter.TryWriteBytes(at[12..], flags);
            BitConverter.TryWriteBytes(at[14..], next);
        }
    }

    [Fact]
    public void The_configuration_is_in_the_page_and_changes_with_an_even_generation()
    {
        var balloon = new VirtioBalloon(new VirtioBalloonOptions(), _bench.Errors);
        var device = new XenVirtio(1, balloon, _bench.Memory);
        _bench.Add(device);
        balloon.TargetPages = 7; // nobody is there yet
        var front = new VirtioFront(_bench, device);
        _bench.SetState(device, XenbusState.Initialised);
        Assert.Equal((7u, 0u, 0u), ((uint)front.ReadDeviceConfig(0, 4), front.Generation & 1, front.ConfigurationEvents));
        balloon.TargetPages = 8; // the driver is not ready: it sees it without an event
        Assert.Equal((8u, 0u), ((uint)front.ReadDeviceConfig(0, 4), front.ConfigurationEvents));
        front.Start(NoPacked, queues: 2);
        _bench.TakeEvent(front.Port);
        var generation = front.Generation;
        balloon.TargetPages = 9;
        Assert.Equal((9u, 1u, generation + 2, true), ((uint)front.ReadDeviceConfig(0, 4), front.ConfigurationEvents, front.Generation, _bench.TakeEvent(front.Port)));
        front.WriteDeviceConfig(4, 4, 0x0102_0304);
        Assert.Equal((0x0102_0304u, 0x0102_0304u), (balloon.ActualPages, (uint)front.ReadDeviceConfig(4, 4)));
        Assert.Equal(0u, front.Command(VirtioFront.WriteConfig, 5, 32, ulong.MaxValue, ulong.MaxValue, ulong.MaxValue, ulong.MaxValue)); // beyond its end, too
        Assert.Equal(9u, (uint)front.ReadDeviceConfig(0, 4));
    }

    [Fact]
    public void A_driver_that_breaks_the_device_is_told_and_may_begin_again()
    {
        var front = Connect();
        front.Start(NoPacked);
        front.Rings[0].Add([front.Put([1])], []); // no header, no status
        _bench.TakeEvent(front.Port);
        front.Notify(0);
        Assert.Equal((VirtioDriver.NeedsReset, 1u, true), (front.Status & VirtioDriver.NeedsReset, front.ConfigurationEvents, _bench.TakeEvent(front.Port)));
        front.Start(NoPacked, queues: 2);
        Assert.Equal(0, Finish(front, queue: 1, sector: 5));
    }

    [Fact]
    public void Whoever_leaves_takes_all_grants_along()
    {
        foreach (var leave in new Action<VirtioFront>[]
        {
            f => f.Status = 0,
            _ => _bench.SetState(_device, XenbusState.Closing),
            _ => _bench.SetState(_device, XenbusState.Closed),
            _ => _bench.SetState(_device, XenbusState.Initialising),
            _ => _bench.Erase(_bench.FrontOf(_device) + "/state"),
        })
        {
            _drive.HoldsRequests = false;
            var front = Connect();
            front.Start(NoPacked, queues: 2);
            _drive.HoldsRequests = true;
            for (var i = 0; i < 6; i++)
                Submit(front, i % 2, sector: 1, new GuestBuffer(front.Allocator.Allocate(2 * PageSize, PageSize), 8192));
            Assert.Equal((6, 1 + 6 + (6 * 4)), (_drive.HeldRequests, _bench.Domain.Grants.UseCount));
            leave(front);
            Assert.Equal((0, _bench.BackState(_device) == XenbusState.Connected ? 1 : 0), (_drive.HeldRequests, _bench.Domain.Grants.UseCount));
            front.Notify(0);
            _bench.Send(front.Port);
            _bench.SetState(_device, XenbusState.Closed);
            Assert.Equal((XenbusState.Closed, 0), (_bench.BackState(_device), _bench.Domain.Grants.UseCount));
        }

        Assert.Empty(_bench.Errors.Counts);
    }

    [Fact]
    public void A_domain_that_is_reset_begins_anew()
    {
        var front = Connect();
        front.Start(NoPacked);
        _drive.HoldsRequests = true;
        Submit(front, 0, sector: 1, new GuestBuffer(front.Allocator.Allocate(512), 512));
        _bench.Reset();
        Assert.Equal((0, 0, XenbusState.InitWait), (_drive.HeldRequests, _bench.Domain.Grants.UseCount, _bench.BackState(_device)));
        _drive.HoldsRequests = false;
        front = Connect();
        front.Start(NoPacked);
        Assert.Equal(0, Finish(front, 0, 4));
    }

    [Fact]
    public void A_device_that_is_taken_out_answers_until_its_driver_is_through()
    {
        var front = Connect();
        front.Start(NoPacked);
        var isForgotten = false;
        _device.Forgotten = () => isForgotten = true;
        _bench.Remove(_device);
        Assert.Equal((XenbusState.Closing, false), (_bench.BackState(_device), isForgotten));
        Assert.Equal(0, Finish(front, 0, 4));
        front.Status = 0;
        _bench.SetState(_device, XenbusState.Closing);
        _bench.SetState(_device, XenbusState.Closed);
        Assert.Equal((true, 0), (isForgotten, _bench.Domain.Grants.UseCount));
        Assert.Null(_bench.BackKey(_device, "state"));
        _bench.Add(_device);
        front = Connect();
        front.Start(NoPacked);
        Assert.Equal(0, Finish(front, 0, 4));
    }

    [Fact]
    public void A_request_of_many_pages_uses_their_grants_once_each()
    {
        var front = Connect();
        front.Start(NoPacked);
        _drive.HoldsRequests = true;
        var data = front.Allocator.Allocate(12 * PageSize, PageSize);
        Submit(front, 0, sector: 0, new GuestBuffer(data, 12 * (uint)PageSize));
        Assert.Equal(1 + 3 + 12 + 2, _bench.Domain.Grants.UseCount);
        Assert.Equal((BlockOperation.Read, 0L, 12L * 4096), (_drive.Requests[0].Operation, _drive.Requests[0].Offset, _drive.Requests[0].Length));
        _drive.CompleteNext();
        Assert.Equal(_drive.Copy(0, 12 * 4096), front.Get(new GuestBuffer(data, 12 * 4096)));
        Assert.Equal(4, _bench.Domain.Grants.UseCount);
    }

    private VirtioFront Connect(bool foreign = false)
    {
        _bench.SetState(_device, XenbusState.Closed);
        _bench.SetState(_device, XenbusState.Initialising);
        var front = new VirtioFront(_bench, _device, foreign);
        front.Connect();
        return front;
    }

    private static (int Id, GuestBuffer Status) Submit(VirtioFront front, int queue, ulong sector, GuestBuffer data, bool indirect = false)
    {
        Span<byte> header = stackalloc byte[16];
        header.Clear();
        BitConverter.TryWriteBytes(header[8..], sector);
        var status = front.Put([0xEE]);
        var id = front.Rings[queue].Add([front.Put(header)], [data, status], indirect);
        front.NotifyIfNeeded(queue);
        return (id, status);
    }

    private static byte Finish(VirtioFront front, int queue, ulong sector)
    {
        var (id, status) = Submit(front, queue, sector, new GuestBuffer(front.Allocator.Allocate(512), 512));
        Assert.Equal(id, front.Rings[queue].TakeUsed()?.Id);
        return front.Get(status)[0];
    }
}
