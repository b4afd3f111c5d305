using Sharpvisor.Devices.Virtio;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Devices.Xen.Bus;
using Sharpvisor.Devices.Xen.Virtio;
using Sharpvisor.Testing.Block;
using Sharpvisor.Testing.Virtio;

namespace Sharpvisor.Devices.Tests.Xen.Virtio;

/// <summary>Virtio on xenbus, by drivers that do what they like.</summary>
public sealed class HostileVirtioFrontTests : IDisposable
{
    private const ulong NoPacked = ~(1UL << VirtioDriver.PackedRing);
    private const uint Invalid = 22, Unknown = 38;

    private static readonly int Rounds = int.TryParse(Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_COUNT"), out var count) && count > 100 ? count : 100;

    private readonly XenBench _bench = new();
    private readonly MemoryDrive _drive = new(100, "disk") { CanDiscard = true };
    private readonly XenVirtio _device;

    public HostileVirtioFrontTests()
    {
        var disk = new VirtioBlk(_drive, new VirtioBlkOptions { QueueCount = 2, QueueSize = 64 }, _bench.Errors) { OffersPackedRings = true };
        _device = new XenVirtio(0, disk, _bench.Memory);
        _bench.Add(_device);
    }

    public void Dispose() => _bench.Dispose();

    [Theory]
    [InlineData("control-ref", "")]
    [InlineData("control-ref", "4000")]
    [InlineData("control-ref", "4294967295")]
    [InlineData("control-ref", "-1")]
    [InlineData("event-channel", "0")]
    [InlineData("event-channel", "77")]
    [InlineData("event-channel", "4294967295")]
    [InlineData("event-channel", "x")]
    [InlineData("foreign-map", "1")]
    public void A_front_end_that_makes_no_sense_is_not_connected_to(string key, string value)
    {
        new VirtioFront(_bench, _device);
        _bench.SetFront(_device, key, value);
        _bench.SetState(_device, XenbusState.Initialised);
        Assert.Equal((XenbusState.Closing, 0), (_bench.BackState(_device), _bench.Domain.Grants.UseCount));
        Assert.NotEmpty(_bench.Errors.Counts);
        _bench.SetState(_device, XenbusState.Connected);
        Assert.Equal(XenbusState.Closing, _bench.BackState(_device));
        _bench.SetState(_device, XenbusState.Closed);
        _bench.SetState(_device, XenbusState.Initialising);
        new VirtioFront(_bench, _device).Connect();
    }

    [Fact]
    public void Commands_that_make_no_sense_are_refused()
    {
        var front = Connect();
        foreach (var command in new[] { 0u, 5u, uint.MaxValue })
            Assert.Equal(Unknown, front.Command(command, 1, 1));
        Assert.Equal(Invalid, front.Command(VirtioFront.SetStatus, 256));
        Assert.Equal(Invalid, front.Command(VirtioFront.SetFeatures, 0, 0, ulong.MaxValue));
        Assert.Equal(Invalid, front.Command(VirtioFront.WriteConfig, 0, 0));
        Assert.Equal(Invalid, front.Command(VirtioFront.WriteConfig, 0, 33));
        Assert.Equal(0u, front.Command(VirtioFront.WriteConfig, uint.MaxValue, 32)); // nothing is there
        front.Negotiate(NoPacked);
        var ring = front.Allocator.Allocate(4096, 4096);
        foreach (var (queue, size, port) in new[]
        {
            (2u, 64u, 0u), (uint.MaxValue, 64u, 0u), (0u, 0u, 0u), (0u, 65u, 0u), (0u, 1u << 31, 0u), (0u, 64u, 999u), (0u, 64u, 5000u), (0u, 64u, front.Port),
        })
            Assert.Equal(Invalid, front.Command(VirtioFront.SetupQueue, queue, size, ring, ring, ring, port == 0 ? _bench.MakePort() : port));
        Assert.Equal(Invalid, front.Command(VirtioFront.SetupQueue, 0, 64, ring, ring, ring, 1UL << 32 | _bench.MakePort()));

        var taken = _bench.MakePort();
        Assert.Equal(0u, front.Command(VirtioFront.SetupQueue, 0, 64, ring, ring, ring, taken));
        Assert.Equal(Invalid, front.Command(VirtioFront.SetupQueue, 0, 64, ring, ring, ring, _bench.MakePort())); // it is set up
        Assert.Equal(Invalid, front.Command(VirtioFront.SetupQueue, 1, 64, ring, ring, ring, taken)); // the other queue's
        front.Status = 0;
        Assert.Equal(0u, front.Command(VirtioFront.SetupQueue, 1, 64, ring, ring, ring, taken));
        front.Start(NoPacked);
        Assert.Equal(Invalid, front.Command(VirtioFront.SetupQueue, 1, 64, ring, ring, ring, _bench.MakePort())); // too late
        Assert.Equal(0, Finish(front));
    }

    [Theory]
    [InlineData(0UL)] // not granted
    [InlineData(2UL)] // transferred
    [InlineData(1UL | 1UL << 16)] // to another domain
    [InlineData(1UL | 4UL)] // to read only
    [InlineData(1UL | 0xFFFFFUL << 32)] // of what is no memory
    public void A_page_that_is_not_granted_so_breaks_the_device(ulong entry)
    {
        var front = Connect();
        front.Start(NoPacked);
        var data = front.Allocator.Allocate(4096, 4096);
        _bench.SetGrant(front.ReferenceOf(data), entry | (entry >> 32 == 0 ? data >> 12 << 32 : 0));
        Submit(front, new GuestBuffer(data, 512));
        AssertBroken(front);
        front.Start(NoPacked);
        Assert.Equal(0, Finish(front));
    }

    [Theory]
    [InlineData(0x20_0000UL)] // a frame, which was not offered
    [InlineData(1UL << 63 | 1UL << 62)] // a reference beyond 32 bits
    [InlineData(1UL << 63 | 0xFFFF_FFFFUL << 12)]
    [InlineData(1UL << 63 | 2048UL << 12)] // behind the table
    [InlineData(ulong.MaxValue - 511)]
    public void An_address_that_is_none_breaks_the_device(ulong address)
    {
        var front = Connect();
        front.Start(NoPacked);
        front.Rings[0].DeviceAddress = a => a == 0x1234_0000 ? address : front.Address(a);
        Submit(front, new GuestBuffer(0x1234_0000, 512));
        AssertBroken(front);
    }

    [Theory]
    [InlineData(4UL << 20)] // the end of memory
    [InlineData((4UL << 20) - 256)]
    [InlineData(1UL << 40)]
    [InlineData((1UL << 63) - 256)] // into the grants
    public void A_frame_beyond_memory_breaks_the_device(ulong address)
    {
        var device = new XenVirtio(1, new VirtioBlk(_drive, new VirtioBlkOptions(), _bench.Errors), _bench.Memory, offersForeignMap: true);
        _bench.Add(device);
        var front = new VirtioFront(_bench, device, isForeign: true);
        front.Connect();
        front.Start(NoPacked);
        Submit(front, new GuestBuffer(address, 512));
        AssertBroken(front);
    }

    [Theory]
    [InlineData(0, 8UL)] // not aligned
    [InlineData(0, 3584UL)] // into the next page
    [InlineData(1, 1UL)]
    [InlineData(1, 4000UL)]
    [InlineData(2, 2UL)]
    [InlineData(2, 4000UL)]
    public void A_ring_that_does_not_lie_in_its_page_breaks_the_device(int part, ulong offset)
    {
        var front = Connect();
        front.Negotiate(NoPacked);
        var ring = front.Allocator.Allocate(4 * 4096, 4096);
        var areas = new[] { front.Address(ring), front.Address(ring + 4096), front.Address(ring + 8192) };
        areas[part] += offset;
        Assert.Equal(0u, front.Command(VirtioFront.SetupQueue, 0, 64, areas[0], areas[1], areas[2], _bench.MakePort()));
        front.Status |= VirtioDriver.DriverOk;
        AssertBroken(front);
    }

    [Fact]
    public void Grants_that_are_taken_back_in_flight_are_written_to_where_they_were()
    {
        var front = Connect();
        front.Start(NoPacked);
        _drive.HoldsRequests = true;
        var data = front.Allocator.Allocate(4096, 4096);
        var (id, status) = Submit(front, new GuestBuffer(data, 512));
        _bench.SetGrant(front.ReferenceOf(data), 0); // an honest one sees that it is in use
        _bench.SetGrant(front.ReferenceOf(front.Rings[0].DeviceArea), 0);
        _bench.SetGrant(front.ControlReference, 0);
        _drive.CompleteNext();
        Assert.Equal(id, front.Rings[0].TakeUsed()?.Id);
        Assert.Equal(0, front.Get(status)[0]);
        front.Status = 0;
        _bench.SetState(_device, XenbusState.Closed);
        Assert.Equal((XenbusState.Closed, 0), (_bench.BackState(_device), _bench.Domain.Grants.UseCount));
    }

    [Fact]
    public void A_port_that_is_closed_and_opened_again_is_not_the_queues_any_more()
    {
        var front = Connect();
        front.Start(NoPacked);
        var port = front.QueuePorts[0];
        using (_bench.Gate.Enter())
            Assert.Equal(XenError.None, _bench.Domain.Events.Close(port));
        Assert.Equal(port, _bench.MakePort());
        using (_bench.Gate.Enter())
            Assert.True(_bench.Domain.Events.TryConnect(port, () => { })); // another device's
        Submit(front, new GuestBuffer(front.Allocator.Allocate(512), 512));
        Assert.Empty(_drive.Requests);
        front.Status = 0;
        using (_bench.Gate.Enter())
            _bench.Domain.Events.Notify(port);
        Assert.True(_bench.TakeEvent(port)); // not disconnected
    }

    [Fact]
    public void A_control_page_without_a_port_is_a_device_that_hears_nothing()
    {
        var front = Connect();
        front.Start(NoPacked);
        using (_bench.Gate.Enter())
            Assert.Equal(XenError.None, _bench.Domain.Events.Close(front.Port));
        front.Rings[0].Add([front.Put([1])], []);
        front.Notify(0); // breaks it, which nobody is told
        Assert.Equal(VirtioDriver.NeedsReset, front.Status & VirtioDriver.NeedsReset);
        _bench.SetState(_device, XenbusState.Closed);
        Assert.Equal(0, _bench.Domain.Grants.UseCount);
    }

    /// <summary>100 front ends, or SHARPVISOR_FUZZ_COUNT.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void Random_front_ends(int seed)
    {
        var random = new Random(seed);
        var (served, broken) = (0, 0);
        for (var round = 0; round < Rounds; round++)
        {
            if (_bench.NextReference > 500)
                _bench.Reset();
            _drive.HoldsRequests = false;
            var front = Connect();
            front.Start(random.Next(2) == 0 ? ulong.MaxValue : NoPacked, queues: 2);
            for (var i = 0; i < 40 && _bench.BackState(_device) == XenbusState.Connected; i++)
            {
                switch (random.Next(12))
                {
                    case 0:
                        _bench.Memory.TryWrite(front.Control + (ulong)random.Next(0x60), (byte)random.Next(256));
                        _bench.Send(front.Port);
                        break;
                    case 1:
                        _bench.Memory.TryWrite(front.Control + 4, (uint)random.Next(6));
                        for (var at = 8u; at < 0x30; at += 8)
                            _bench.Memory.TryWrite(front.Control + at, random.Next(3) == 0 ? (ulong)random.NextInt64() << 1 : (ulong)random.Next(64) << (32 * random.Next(2)));
                        _bench.Memory.TryWrite(front.Control, ++front.Number);
                        _bench.Send(front.Port);
                        break;
                    case 2:
                        var ring = front.Rings[random.Next(2)];
                        var area = random.Next(3) switch { 0 => ring.DescriptorArea, 1 => ring.DriverArea, _ => ring.DeviceArea };
                        _bench.Memory.TryWrite(area + (ulong)random.Next(160), (byte)(random.Next(2) == 0 ? random.Next(256) : 1 << random.Next(8)));
                        break;
                    case 3:
                        var flip = front.FirstPage + ((ulong)random.Next(64) * 4096);
                        _bench.SetGrant(front.ReferenceOf(flip), random.Next(2) == 0 ? 0 : (ulong)random.NextInt64());
                        break;
                    case 4:
                        for (var page = 0UL; page < 64; page++)
                            front.GrantAgain(front.FirstPage + (page * 4096));
                        break;
                    case 5:
                        _drive.HoldsRequests = random.Next(2) == 0;
                        break;
                    case 6 when _drive.HeldRequests > 0:
                        _drive.CompleteNext(random.Next(_drive.HeldRequests));
                        served++;
                        break;
                    case 7 when random.Next(8) == 0:
                        _bench.SetState(_device, (XenbusState)random.Next(9));
                        break;
                    case 8 when random.Next(8) == 0:
                        using (_bench.Gate.Enter())
                            _bench.Domain.Events.Close(random.Next(3) == 0 ? front.Port : front.QueuePorts[random.Next(2)]);
                        break;
                    default:
                        var queue = random.Next(2);
                        if (front.Rings[queue].FreeDescriptors < 8)
                            break;
                        var buffers = Enumerable.Range(0, 1 + random.Next(3)).Select(_ => new GuestBuffer(front.FirstPage + (ulong)random.Next(64 * 4096), 512u << random.Next(5))).ToArray();
                        front.Rings[queue].DeviceAddress = random.Next(10) == 0 ? a => a ^ (1UL << random.Next(64)) : front.Address;
                        front.Rings[queue].Add([front.Put(new byte[16])], [.. buffers, front.Put([0xEE])], random.Next(3) == 0);
                        front.Notify(queue);
                        break;
                }
            }

            broken += (front.Status & VirtioDriver.NeedsReset) != 0 ? 1 : 0;
            while (_drive.HeldRequests > 0)
                _drive.CompleteNext();
            _bench.SetState(_device, XenbusState.Closed);
            Assert.Equal((XenbusState.Closed, 0), (_bench.BackState(_device), _bench.Domain.Grants.UseCount));
        }

        Assert.InRange(served, Rounds / 10, int.MaxValue);
        Assert.InRange(broken, Rounds / 20, Rounds - 1);
    }

    private VirtioFront Connect()
    {
        _bench.SetState(_device, XenbusState.Closed);
        _bench.SetState(_device, XenbusState.Initialising);
        var front = new VirtioFront(_bench, _device);
        front.Connect();
        return front;
    }

    private void AssertBroken(VirtioFront front)
    {
        Assert.Equal(VirtioDriver.NeedsReset, front.Status & VirtioDriver.NeedsReset);
        Assert.Empty(_drive.Requests);
        Assert.NotEmpty(_bench.Errors.Counts);
        front.Status = 0;
        Assert.Equal(1, _bench.Domain.Grants.UseCount); // the control page
    }

    private static (int Id, GuestBuffer Status) Submit(VirtioFront front, GuestBuffer data)
    {
        var status = front.Put([0xEE]);
        var id = front.Rings[0].Add([front.Put(new byte[16])], [data, status]);
        front.Notify(0);
        return (id, status);
    }

    private static byte Finish(VirtioFront front)
    {
        var (id, status) = Submit(front, new GuestBuffer(front.Allocator.Allocate(512), 512));
        Assert.Equal(id, front.Rings[0].TakeUsed()?.Id);
        return front.Get(status)[0];
    }
}
