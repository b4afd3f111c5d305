using System.Buffers.Binary;
using Sharpvisor.Core.Net;
using Sharpvisor.Devices.Xen.Bus;
using Sharpvisor.Devices.Xen.Net;

namespace Sharpvisor.Devices.Tests.Xen.Net;

public sealed class XenNetTests : IDisposable
{
    private readonly XenBench _bench = new();
    private readonly TestCable _cable = new();
    private readonly PacketBuffer _packet = new();
    private readonly XenNet _nic;

    public XenNetTests()
    {
        _nic = new XenNet(0, MacAddress.Default(0), _cable, _bench.Gate);
        _bench.Add(_nic);
    }

    public void Dispose() => _bench.Dispose();

    [Fact]
    public void Both_ends_are_told_of_each_other()
    {
        Assert.Equal(("52:54:00:12:34:56", "0", "/local/domain/0/backend/vif/7/0"), (_bench.Read("/local/domain/7/device/vif/0/mac"), _bench.Read("/local/domain/7/device/vif/0/handle"), _bench.Read("/local/domain/7/device/vif/0/backend")));
        Assert.Equal(("52:54:00:12:34:56", "1", "1", "1", "1"), (_bench.BackKey(_nic, "mac"), _bench.BackKey(_nic, "feature-rx-copy"), _bench.BackKey(_nic, "feature-sg"), _bench.BackKey(_nic, "feature-gso-tcpv4"), _bench.BackKey(_nic, "feature-split-event-channels")));
        Assert.Equal(XenbusState.InitWait, _bench.BackState(_nic));
        Assert.True(_nic.TryReceive(new EthernetFrame(new byte[60]))); // lost: nobody is there
        Assert.False(_nic.TryTransmit(_packet));
        Assert.Equal(default, _nic.ReceiveOffloads);
        new NetFront(_bench, _nic).Connect();
        Assert.Equal(new ReceiveOffloads(true, true, true), _nic.ReceiveOffloads);
        Assert.True(_cable.TransmitReady > 0);
    }

    [Theory]
    [InlineData(false, 60)]
    [InlineData(false, 1514)]
    [InlineData(true, 9000)]
    [InlineData(true, 65535)]
    public void A_frame_that_the_driver_sends_arrives(bool splitsPorts, int length)
    {
        var front = new NetFront(_bench, _nic, splitsPorts);
        front.Connect();
        _cable.TransmitReady = 0;
        var frame = TestFrames.Make(length);
        front.Send(frame);
        Assert.True(_cable.TransmitReady > 0);
        Assert.True(_nic.TryTransmit(_packet));
        Assert.Equal(frame, _packet.Frame);
        Assert.Equal(default, _packet.Offload);
        Assert.True(_bench.TakeEvent(front.Port));
        Assert.All(front.TakeSent(), a => Assert.Equal(0, a.Status));
        Assert.False(_nic.TryTransmit(_packet));
        Assert.Equal(2, _bench.Domain.Grants.UseCount); // the rings
        Assert.Empty(_bench.Errors.Counts);
    }

    [Theory]
    [InlineData(true, false, false)]
    [InlineData(true, true, false)]
    [InlineData(false, false, true)]
    [InlineData(false, true, true)]
    public void A_blank_checksum_is_left_to_the_cable_or_made(bool isTcp, bool isIPv6, bool isTagged)
    {
        var front = new NetFront(_bench, _nic);
        front.Connect();
        var frame = TestFrames.Make(301, isTcp, isIPv6, isTagged);
        front.Send(frame, NetFront.Blank);
        Assert.True(_nic.TryTransmit(_packet));
        var start = (isTagged ? 18 : 14) + (isIPv6 ? 40 : 20);
        Assert.Equal(new FrameOffload { NeedsChecksum = true, ChecksumStart = (ushort)start, ChecksumOffset = (ushort)(isTcp ? 16 : 6) }, _packet.Offload);
        _cable.TakesOffloads = false;
        front.Send(frame, NetFront.Blank);
        Assert.True(_nic.TryTransmit(_packet));
        Assert.Equal(default, _packet.Offload);
        Assert.Equal(0xFFFF, TestFrames.SumOf(_packet.Frame));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Segments_that_are_to_be_cut(bool isIPv6)
    {
        var front = new NetFront(_bench, _nic);
        front.Connect();
        var frame = TestFrames.Make(40_000, isIPv6: isIPv6);
        front.Send(frame, NetFront.Blank, NetFront.Segments(1448, (byte)(isIPv6 ? 2 : 1)));
        Assert.True(_nic.TryTransmit(_packet));
        var start = isIPv6 ? 54 : 34;
        Assert.Equal(
            new FrameOffload
            {
                NeedsChecksum = true, ChecksumStart = (ushort)start, ChecksumOffset = 16, Segmentation = isIPv6 ? Segmentation.Tcp6 : Segmentation.Tcp4, SegmentSize = 1448, HeaderLength = (ushort)(start + 20),
            },
            _packet.Offload);
        var sent = front.TakeSent();
        Assert.Equal([(short)0, (short)1], sent.Take(2).Select(s => s.Status)); // the second one is the extra's
        Assert.Equal(1 + ((40_000 + 3999) / 4000), sent.Count);
        front.Send(frame, NetFront.Blank, NetFront.Segments(1448, (byte)(isIPv6 ? 1 : 2))); // of the other kind than the frame
        Assert.False(_nic.TryTransmit(_packet));
        Assert.Equal(1, _nic.Dropped);
        Assert.Equal(XenbusState.Connected, _bench.BackState(_nic));
    }

    [Fact]
    public void A_bad_frame_gets_an_error_and_the_next_one_is_sent()
    {
        var front = new NetFront(_bench, _nic);
        front.Connect();
        front.Add(4000, 0, 60, 0); // not granted
        front.Send(new byte[13]);
        front.Send(new byte[60], NetFront.Blank); // neither TCP nor UDP
        front.Send(new byte[60], 0, [2, 0, 1, 0, 0x5E, 0, 0, 1, 0, 0, 0, 0]); // a command that was not offered
        front.Send(TestFrames.Make(99));
        Assert.True(_nic.TryTransmit(_packet));
        Assert.Equal(99, _packet.Length);
        Assert.Equal([-1, -1, -1, -1, 1, 0], front.TakeSent().Select(s => (int)s.Status));
        Assert.Equal((4, 2), (_nic.Dropped, _bench.Domain.Grants.UseCount));
    }

    [Theory]
    [InlineData("cut")]
    [InlineData("extra cut")]
    [InlineData("page")]
    [InlineData("sizes")]
    [InlineData("pieces")]
    [InlineData("extra")]
    [InlineData("segments")]
    [InlineData("size")]
    [InlineData("indices")]
    [InlineData("backwards")]
    public void What_breaks_the_protocol_closes_the_nic(string what)
    {
        var front = new NetFront(_bench, _nic);
        front.Connect();
        var good = _bench.Grant(_bench.AllocatePage());
        switch (what)
        {
            case "cut":
                front.Add(good, 0, 100, NetFront.More);
                break;
            case "extra cut":
                front.Add(good, 0, 100, NetFront.Extra);
                break;
            case "page":
                front.Add(good, 4000, 97, 0);
                break;
            case "sizes":
                front.Add(good, 0, 100, NetFront.More);
                front.Add(good, 0, 101, 0);
                break;
            case "pieces":
                for (var i = 0; i < 22; i++)
                    front.Add(good, 0, i == 0 ? 1000 : 10, (ushort)(i < 21 ? NetFront.More : 0));
                break;
            case "extra":
                front.Add(good, 0, 100, NetFront.Extra);
                front.Transmit.Put([9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                break;
            case "segments":
                front.Add(good, 0, 100, NetFront.Extra);
                front.Transmit.Put(NetFront.Segments(1000, 3));
                break;
            case "size":
                front.Add(good, 0, 100, NetFront.Extra);
                front.Transmit.Put(NetFront.Segments(0, 1));
                break;
            case "indices":
                front.Transmit.Produced += 257;
                break;
            default:
                front.Send(TestFrames.Make(60));
                Assert.True(_nic.TryTransmit(_packet));
                front.Transmit.Produced--;
                break;
        }

        front.Kick();
        Assert.False(_nic.TryTransmit(_packet));
        Assert.Equal((XenbusState.Closing, 0), (_bench.BackState(_nic), _bench.Domain.Grants.UseCount));
        Assert.Contains("xen vif 0: what it sends:", _bench.Errors.Counts.Keys);
        _bench.SetState(_nic, XenbusState.Closed);
        _bench.SetState(_nic, XenbusState.Initialising);
        new NetFront(_bench, _nic).Connect();
    }

    [Theory]
    [InlineData(false, 60)]
    [InlineData(true, 1514)]
    [InlineData(true, 4097)]
    [InlineData(false, 65549)]
    public void A_frame_from_the_cable_lies_in_the_drivers_pages(bool splitsPorts, int length)
    {
        var front = new NetFront(_bench, _nic, splitsPorts);
        front.Connect();
        front.Post(20);
        var frame = TestFrames.Make(length);
        var third = Math.Min(length, 9000);
        var second = Math.Min(third, 54);
        Assert.True(_nic.TryReceive(new EthernetFrame(frame.AsSpan(0, second), frame.AsSpan(second, third - second), frame.AsSpan(third)) { Offload = new FrameOffload { IsValid = true } }));
        Assert.True(_bench.TakeEvent(front.ReceivePort));
        var received = front.TakeReceived();
        Assert.Equal(frame, received.SelectMany(r => r.Bytes));
        Assert.Equal(1, received[0].Flags & 3); // validated
        Assert.All(received.SkipLast(1), r => Assert.Equal((NetFront.More, 4096), (r.Flags & NetFront.More, (int)r.Status)));
        Assert.Equal(0, received[^1].Flags & NetFront.More);
        Assert.Equal(2, _bench.Domain.Grants.UseCount);
    }

    [Fact]
    public void Segments_come_with_what_is_to_be_done()
    {
        var front = new NetFront(_bench, _nic);
        front.Connect();
        front.Post(20);
        var frame = TestFrames.Make(20_000);
        var offload = new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 16, Segmentation = Segmentation.Tcp4, SegmentSize = 1460 };
        Assert.True(_nic.TryReceive(new EthernetFrame(frame) { Offload = offload }));
        var received = front.TakeReceived();
        Assert.Equal(6, received.Count);
        Assert.Equal(2 | 1 | NetFront.More | NetFront.Extra, received[0].Flags); // blank, validated
        Assert.Equal([1, 0, 0xB4, 5, 1, 0, 0, 0], received[1].Bytes);
        Assert.Equal(frame, received.Where((_, i) => i != 1).SelectMany(r => r.Bytes));
    }

    [Fact]
    public void A_front_end_without_offloads_gets_finished_frames()
    {
        var front = new NetFront(_bench, _nic, hasOffloads: false);
        front.Connect();
        Assert.Equal(default, _nic.ReceiveOffloads);
        front.Post(10);
        var frame = TestFrames.Make(501);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(50), (ushort)(0x0A00 + 0x020F + 0x0A00 + 0x0202 + 6 + 467)); // the pseudo header's sum
        var offload = new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 16 };
        Assert.True(_nic.TryReceive(new EthernetFrame(frame.AsSpan(0, 40), frame.AsSpan(40)) { Offload = offload }));
        var received = Assert.Single(front.TakeReceived());
        Assert.Equal((1, 0xFFFF), (received.Flags & 3, TestFrames.SumOf(received.Bytes)));
        Assert.True(_nic.TryReceive(new EthernetFrame(TestFrames.Make(5000)))); // longer than a page, without scatter
        Assert.True(_nic.TryReceive(new EthernetFrame(frame) { Offload = offload with { Segmentation = Segmentation.Tcp4, SegmentSize = 100 } }));
        Assert.Equal(2, _nic.Dropped);
        Assert.Empty(front.TakeReceived());
    }

    [Fact]
    public void A_frame_waits_for_pages()
    {
        var front = new NetFront(_bench, _nic);
        front.Connect();
        front.Post(2);
        var frame = TestFrames.Make(9000);
        _cable.ReceiveReady = 0;
        Assert.False(_nic.TryReceive(new EthernetFrame(frame)));
        _bench.Send(front.Port);
        Assert.Equal(1, _cable.ReceiveReady);
        Assert.False(_nic.TryReceive(new EthernetFrame(frame)));
        front.Post(1);
        Assert.Equal(2, _cable.ReceiveReady);
        Assert.True(_nic.TryReceive(new EthernetFrame(frame)));
        Assert.Equal(3, front.TakeReceived().Count);
        Assert.False(_nic.TryReceive(new EthernetFrame(frame)));
        _cable.ReceiveReady = 0;
        _bench.SetState(_nic, XenbusState.Closing); // nothing waits for a front end that goes
        Assert.True(_cable.ReceiveReady > 0);
        Assert.True(_nic.TryReceive(new EthernetFrame(frame)));
    }

    [Fact]
    public void Pages_that_can_not_be_written_lose_the_frame()
    {
        var front = new NetFront(_bench, _nic);
        front.Connect();
        front.Post(1);
        front.Post(1, readOnly: true);
        front.Post(2);
        Assert.True(_nic.TryReceive(new EthernetFrame(TestFrames.Make(9000))));
        Assert.Equal([4096, -1, -1], front.TakeReceived().Select(r => (int)r.Status));
        Assert.Equal((1, 2), (_nic.Dropped, _bench.Domain.Grants.UseCount));
        Assert.True(_nic.TryReceive(new EthernetFrame(TestFrames.Make(60))));
        Assert.Equal(60, Assert.Single(front.TakeReceived()).Status);
        _bench.Memory.TryWrite(front.Receive.Header, 0x8000_0000u);
        Assert.True(_nic.TryReceive(new EthernetFrame(TestFrames.Make(60))));
        Assert.Equal(XenbusState.Closing, _bench.BackState(_nic));
    }

    [Theory]
    [InlineData("request-rx-copy", "0")]
    [InlineData("tx-ring-ref", "")]
    [InlineData("rx-ring-ref", "4000")]
    [InlineData("event-channel", "99")]
    public void A_front_end_that_makes_no_sense_is_not_connected_to(string key, string value)
    {
        _ = new NetFront(_bench, _nic);
        _bench.SetFront(_nic, key, value);
        _bench.SetState(_nic, XenbusState.Connected);
        Assert.Equal((XenbusState.Closing, 0), (_bench.BackState(_nic), _bench.Domain.Grants.UseCount));
        Assert.True(_nic.TryReceive(new EthernetFrame(new byte[60])));
    }

    /// <summary>As Linux's driver is taken out and put in again.</summary>
    [Fact]
    public void A_driver_goes_and_another_one_comes()
    {
        for (var i = 0; i < 3; i++)
        {
            var front = new NetFront(_bench, _nic, splitsPorts: i == 1);
            front.Connect();
            front.Post(1);
            Assert.True(_nic.TryReceive(new EthernetFrame(TestFrames.Make(60))));
            Assert.Single(front.TakeReceived());
            _bench.SetState(_nic, XenbusState.Closing);
            Assert.Equal((XenbusState.Closing, 0), (_bench.BackState(_nic), _bench.Domain.Grants.UseCount));
            _bench.SetState(_nic, XenbusState.Closed);
            Assert.Equal(XenbusState.Closed, _bench.BackState(_nic));
            _bench.SetState(_nic, XenbusState.Initialising);
            Assert.Equal(XenbusState.InitWait, _bench.BackState(_nic));
        }
    }
}
