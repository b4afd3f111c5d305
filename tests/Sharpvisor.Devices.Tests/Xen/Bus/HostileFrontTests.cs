using Sharpvisor.Core.Net;
using Sharpvisor.Devices.Tests.Xen.Block;
using Sharpvisor.Devices.Tests.Xen.Net;
using Sharpvisor.Devices.Tests.Xen.Virtio;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Devices.Xen.Block;
using Sharpvisor.Devices.Xen.Bus;
using Sharpvisor.Devices.Xen.Net;
using Sharpvisor.Devices.Xen.Virtio;
using Sharpvisor.Testing.Block;

namespace Sharpvisor.Devices.Tests.Xen.Bus;

/// <summary>Drivers of disks and NICs that take back what they have granted, and give two devices one event channel.</summary>
public sealed class HostileFrontTests : IDisposable
{
    private const int Used = 0x5A;

    private readonly XenBench _bench = new();
    private readonly MemoryDrive _drive = new(4096, "disk");
    private readonly XenBlock _disk;
    private readonly XenNet _nic;

    public HostileFrontTests()
    {
        _disk = new XenBlock(_drive, new XenBlockOptions());
        _nic = new XenNet(0, MacAddress.Default(0), null, _bench.Gate);
        _bench.Add(_disk);
        _bench.Add(_nic);
    }

    public void Dispose() => _bench.Dispose();

    /// <summary>A read goes on into the page that was granted, and into no other; what the reference means since is not touched.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_disk_s_grants_are_taken_back_in_flight(bool grantsAnother)
    {
        var front = new BlockFront(_bench, _disk);
        front.Connect();
        var (before, page, behind, other) = (Filled(), Filled(), Filled(), Filled());
        var reference = _bench.Grant(page);
        _drive.HoldsRequests = true;
        var id = front.Add(BlockFront.Read, 0, new Segment(reference, 0, 7));
        front.Kick();
        var entry = grantsAnother ? 1 | (other >> 12 << 32) : 0;
        _bench.SetGrant(reference, entry);
        _bench.SetGrant(front.Ring.References[0], 0);
        using (_bench.Gate.Enter())
            _drive.CompleteNext();
        Assert.Equal((id, BlockFront.Okay), front.Take());
        Assert.True(IsOnly(0, page) && IsOnly(Used, before) && IsOnly(Used, behind) && IsOnly(Used, other));
        Assert.Equal(0u, _bench.UsesOf(reference));
        _bench.SetState(_disk, XenbusState.Closing);
        _bench.SetState(_disk, XenbusState.Closed);
        Assert.Equal((XenbusState.Closed, 0), (_bench.BackState(_disk), _bench.Domain.Grants.UseCount));
    }

    /// <summary>What was posted and taken back gets an error, not the frame.</summary>
    [Fact]
    public void A_nic_s_grants_are_taken_back_in_flight()
    {
        var front = new NetFront(_bench, _nic);
        front.Connect();
        var reference = _bench.NextReference;
        front.Post(1);
        _bench.SetGrant(reference, 0);
        front.Post(1);
        Assert.True(_nic.TryReceive(new EthernetFrame(TestFrames.Make(60))));
        Assert.Equal(-1, Assert.Single(front.TakeReceived()).Status);
        Assert.True(_nic.TryReceive(new EthernetFrame(TestFrames.Make(60))));
        Assert.Equal(60, Assert.Single(front.TakeReceived()).Status);

        // The rings themselves: they are used until the driver is through, and then are its own.
        foreach (var ring in (FrontRing[])[front.Transmit, front.Receive])
            _bench.SetGrant(ring.References[0], 0);
        front.Post(1);
        Assert.True(_nic.TryReceive(new EthernetFrame(TestFrames.Make(60))));
        Assert.Equal(60, Assert.Single(front.TakeReceived()).Status);
        _bench.SetState(_nic, XenbusState.Closed);
        Assert.Equal((XenbusState.Closed, 0), (_bench.BackState(_nic), _bench.Domain.Grants.UseCount));
    }

    /// <summary>The second device of a port is not connected, and the first one goes on.</summary>
    [Theory]
    [InlineData("vbd")]
    [InlineData("vif")]
    [InlineData("virtio")]
    public void An_event_channel_is_one_device_s(string kind)
    {
        var front = new BlockFront(_bench, _disk);
        front.Connect();
        var (device, connect, keys) = kind switch
        {
            "vbd" => Make(new XenBlock(_drive, new XenBlockOptions { Index = 1 }), XenbusState.Initialised, "event-channel", d => new BlockFront(_bench, d)),
            "vif" => Make(new XenNet(1, MacAddress.Default(1), null, _bench.Gate), XenbusState.Connected, "event-channel-rx", d => new NetFront(_bench, d, splitsPorts: true)),
            _ => Make(new XenVirtio(0, new VirtioRng(part => part.Span.Clear(), _bench.Errors), _bench.Memory), XenbusState.Initialised, "event-channel", d => new VirtioFront(_bench, d)),
        };
        var uses = _bench.Domain.Grants.UseCount;
        _bench.SetFront(device, keys, front.Port);
        _bench.SetState(device, connect);
        Assert.Equal((XenbusState.Closing, uses), (_bench.BackState(device), _bench.Domain.Grants.UseCount));
        Assert.NotEmpty(_bench.Errors.Counts);
        _bench.SetState(device, XenbusState.Closed);

        _bench.TakeEvent(front.Port);
        Assert.Equal(BlockFront.Okay, front.Finish(front.Add(BlockFront.Read, 0, new Segment(_bench.Grant(_bench.AllocatePage()), 0, 7))));
        Assert.True(_bench.TakeEvent(front.Port));
    }

    [Fact]
    public void A_nic_s_two_ports_may_be_one()
    {
        var front = new NetFront(_bench, _nic, splitsPorts: true);
        _bench.SetFront(_nic, "event-channel-rx", front.Port);
        front.Connect();
        front.Post(1);
        Assert.True(_nic.TryReceive(new EthernetFrame(TestFrames.Make(60))));
        Assert.Equal(60, Assert.Single(front.TakeReceived()).Status);
    }

    private (XenBackEnd Device, XenbusState Connect, string Key) Make<T>(T device, XenbusState connect, string key, Action<T> front) where T : XenBackEnd
    {
        _bench.Add(device);
        front(device);
        return (device, connect, key);
    }

    private ulong Filled()
    {
        var page = _bench.AllocatePage();
        Assert.True(_bench.Memory.TryWrite(page, [.. Enumerable.Repeat((byte)Used, 4096)]));
        return page;
    }

    private bool IsOnly(byte value, ulong page)
    {
        var bytes = new byte[4096];
        Assert.True(_bench.Memory.TryRead(page, bytes));
        return !bytes.AsSpan().ContainsAnyExcept(value);
    }
}
