using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Devices.Tests.Xen.Block;
using Sharpvisor.Devices.Xen.Block;
using Sharpvisor.Devices.Xen.Bus;
using Sharpvisor.Testing.Block;

namespace Sharpvisor.Devices.Tests.Xen.Bus;

/// <summary>What becomes of a device while its front end does what it likes.</summary>
public sealed class XenBusTests : IDisposable
{
    private readonly XenBench _bench = new();
    private readonly XenBlock _disk = new(new MemoryDrive(64), new XenBlockOptions());

    public XenBusTests()
    {
        _bench.Add(_disk);
    }

    public void Dispose() => _bench.Dispose();

    [Fact]
    public void A_front_end_that_begins_anew_without_an_end_is_served_again()
    {
        for (var i = 0; i < 3; i++)
        {
            var front = new BlockFront(_bench, _disk);
            front.Connect();
            Assert.Equal(BlockFront.Okay, front.Finish(front.Add(BlockFront.Flush, 0)));
            _bench.SetState(_disk, XenbusState.Initialising);
            Assert.Equal((XenbusState.InitWait, 0), (_bench.BackState(_disk), _bench.Domain.Grants.UseCount));
        }
    }

    [Fact]
    public void A_front_end_that_vanishes_is_let_go_of()
    {
        new BlockFront(_bench, _disk).Connect();
        _bench.Erase(_bench.FrontOf(_disk));
        Assert.Equal((XenbusState.Closed, 0), (_bench.BackState(_disk), _bench.Domain.Grants.UseCount));
    }

    [Theory]
    [InlineData("ring-ref", "")]
    [InlineData("ring-ref", "-1")]
    [InlineData("ring-ref", "4000")]
    [InlineData("ring-ref", "99999999999999999999")]
    [InlineData("event-channel", "0")]
    [InlineData("event-channel", "77")]
    [InlineData("event-channel", "4294967295")]
    [InlineData("event-channel", "x")]
    [InlineData("protocol", "arm-abi")]
    [InlineData("ring-page-order", "5")]
    [InlineData("ring-page-order", "1")]
    [InlineData("ring-page-order", "4294967295")]
    public void A_front_end_that_makes_no_sense_is_not_connected_to(string key, string value)
    {
        var front = new BlockFront(_bench, _disk);
        _bench.SetFront(_disk, key, value);
        _bench.SetState(_disk, XenbusState.Initialised);
        Assert.Equal((XenbusState.Closing, 0), (_bench.BackState(_disk), _bench.Domain.Grants.UseCount));
        Assert.NotEmpty(_bench.Errors.Counts);
        _bench.SetState(_disk, XenbusState.Connected);
        Assert.Equal(XenbusState.Closing, _bench.BackState(_disk));
        _bench.Send(front.Port);
        _bench.SetState(_disk, XenbusState.Closed);
        _bench.SetState(_disk, XenbusState.Initialising);
        Assert.Equal(XenbusState.InitWait, _bench.BackState(_disk));
    }

    [Fact]
    public void A_ring_that_is_not_empty_of_another_one_is_gone_on_with()
    {
        var front = new BlockFront(_bench, _disk);
        _bench.Memory.TryWrite(front.Ring.Header, 100u);
        _bench.Memory.TryWrite(front.Ring.Header + 8, 100u);
        front.Connect();
        _bench.SetState(_disk, XenbusState.Closed);
        _bench.SetState(_disk, XenbusState.Initialising);
        front = new BlockFront(_bench, _disk);
        _bench.Memory.TryWrite(front.Ring.Header, 100u);
        _bench.SetState(_disk, XenbusState.Initialised);
        Assert.Equal(XenbusState.Closing, _bench.BackState(_disk)); // a hundred requests in a ring of 32
    }

    [Fact]
    public void A_port_that_the_domain_closes_is_nobodys()
    {
        var front = new BlockFront(_bench, _disk);
        front.Connect();
        using (_bench.Gate.Enter())
            Assert.Equal(XenError.None, _bench.Domain.Events.Close(front.Port));
        Assert.Equal(front.Port, _bench.MakePort()); // another one's now
        using (_bench.Gate.Enter())
            Assert.True(_bench.Domain.Events.TryConnect(front.Port, () => { }));
        _bench.SetState(_disk, XenbusState.Closed);
        using (_bench.Gate.Enter())
            _bench.Domain.Events.Notify(front.Port);
        Assert.True(_bench.TakeEvent(front.Port)); // not disconnected by the disk
    }

    [Fact]
    public void A_device_comes_to_a_running_domain_and_goes()
    {
        var second = new XenBlock(new MemoryDrive(64), new XenBlockOptions { Index = 1 });
        var isForgotten = false;
        second.Forgotten = () => isForgotten = true;
        _bench.Add(second);
        Assert.Equal("1", _bench.Read($"{_bench.FrontOf(second)}/state"));
        new BlockFront(_bench, second).Connect();
        _bench.Remove(second);
        Assert.Equal(("0", XenbusState.Closing, false), (_bench.BackKey(second, "online"), _bench.BackState(second), isForgotten));
        _bench.SetState(second, XenbusState.Closing);
        _bench.SetState(second, XenbusState.Closed);
        Assert.True(isForgotten);
        Assert.Null(_bench.Read($"{_bench.FrontOf(second)}/state"));
        Assert.Null(_bench.BackKey(second, "state"));
        Assert.Equal([_disk], _bench.Bus.Devices);
        _bench.Add(second);
        Assert.Throws<ConfigurationException>(() => _bench.Add(new XenBlock(new MemoryDrive(64), new XenBlockOptions { Index = 1 })));
    }

    [Fact]
    public void A_device_without_a_driver_goes_at_once_and_one_is_torn_out()
    {
        _bench.Remove(_disk);
        Assert.Empty(_bench.Bus.Devices);
        var second = new XenBlock(new MemoryDrive(64), new XenBlockOptions { Index = 1 });
        _bench.Add(second);
        new BlockFront(_bench, second).Connect();
        _bench.Remove(second, isForced: true);
        Assert.Empty(_bench.Bus.Devices);
        Assert.Equal(0, _bench.Domain.Grants.UseCount);
    }

    [Fact]
    public void What_was_to_go_is_gone_after_a_reset()
    {
        new BlockFront(_bench, _disk).Connect();
        _bench.Remove(_disk);
        _bench.Reset();
        Assert.Empty(_bench.Bus.Devices);
        Assert.Null(_bench.BackKey(_disk, "state"));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Any_order_of_states_leaves_a_device_that_works(int seed)
    {
        var random = new Random(seed);
        for (var i = 0; i < 400; i++)
        {
            if (random.Next(4) == 0)
                _ = new BlockFront(_bench, _disk, random.Next(2) == 0 ? null : random.Next(5), random.Next(2) == 0);
            _bench.SetFront(_disk, "state", random.Next(12) == 0 ? "x" : random.Next(10));
            if (_bench.NextReference > 1500)
                _bench.Reset();
        }

        _bench.Reset();
        var front = new BlockFront(_bench, _disk);
        front.Connect();
        Assert.Equal(BlockFront.Okay, front.Finish(front.Add(BlockFront.Flush, 0)));
        Assert.Equal(1, _bench.Domain.Grants.UseCount);
    }
}
