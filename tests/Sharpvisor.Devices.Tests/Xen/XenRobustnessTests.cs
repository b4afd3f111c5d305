using Sharpvisor.Core.Net;
using Sharpvisor.Devices.Tests.Xen.Block;
using Sharpvisor.Devices.Tests.Xen.Net;
using Sharpvisor.Devices.Xen.Block;
using Sharpvisor.Devices.Xen.Bus;
using Sharpvisor.Devices.Xen.Net;
using Sharpvisor.Testing.Block;

namespace Sharpvisor.Devices.Tests.Xen;

/// <summary>Whatever a domain writes to rings, grants and the store: nothing throws, hangs, or asks the drive for what it has not.</summary>
public sealed class XenRobustnessTests : IDisposable
{
    private static readonly int Rounds = int.TryParse(Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_COUNT"), out var count) && count > 300 ? count : 300;

    private readonly XenBench _bench = new();

    public void Dispose() => _bench.Dispose();

    [Theory]
    [InlineData(1, false)]
    [InlineData(2, true)]
    [InlineData(3, false)]
    [InlineData(4, true)]
    public void Random_requests_to_a_disk(int seed, bool isPersistent)
    {
        var random = new Random(seed);
        var drive = new MemoryDrive(100) { CanDiscard = true };
        var disk = new XenBlock(drive, new XenBlockOptions { OffersPersistentGrants = isPersistent });
        _bench.Add(disk);
        for (var round = 0; round < Rounds; round++)
        {
            Renew();
            var front = new BlockFront(_bench, disk, random.Next(3) == 0 ? random.Next(5) : null, random.Next(2) == 0);
            _bench.SetFront(disk, "feature-persistent", 1);
            front.Connect();
            var pages = Enumerable.Range(0, 4).Select(_ => _bench.Grant(_bench.AllocatePage(), random.Next(3) == 0)).ToArray();
            for (var i = 0; i < 40 && _bench.BackState(disk) == XenbusState.Connected; i++)
            {
                drive.HoldsRequests = random.Next(3) == 0;
                switch (random.Next(8))
                {
                    case 0:
                        front.AddIndirect((byte)random.Next(7), Sector(), random.Next(300), [.. Enumerable.Range(0, random.Next(8)).Select(_ => Reference())]);
                        break;
                    case 1:
                        front.AddDiscard(Sector(), Sector(), (byte)random.Next(2));
                        break;
                    case 2:
                        var bytes = new byte[108];
                        random.NextBytes(bytes);
                        bytes[0] = (byte)random.Next(8);
                        front.Ring.Put(bytes);
                        break;
                    case 3 when random.Next(4) == 0:
                        _bench.Memory.TryWrite(front.Ring.Header + (ulong)random.Next(16), (uint)random.Next(5));
                        break;
                    case 4 when random.Next(3) == 0:
                        _bench.SetGrant(pages[random.Next(4)], (ulong)random.NextInt64());
                        break;
                    default:
                        front.Add((byte)random.Next(random.Next(4) == 0 ? 256 : 4), Sector(), [.. Enumerable.Range(0, random.Next(13)).Select(_ => new Segment(Reference(), (byte)random.Next(10), (byte)random.Next(10)))]);
                        break;
                }

                front.Kick();
                _bench.Send(front.Port);
                while (front.Take() is not null && random.Next(2) == 0)
                {
                }

                Complete(random.Next(4));
            }

            if (random.Next(2) == 0)
                _bench.SetState(disk, (XenbusState)random.Next(9));
            Complete(int.MaxValue);
            _bench.SetState(disk, XenbusState.Closed);
            Assert.Equal((XenbusState.Closed, 0), (_bench.BackState(disk), _bench.Domain.Grants.UseCount));

            uint Reference() => random.Next(5) == 0 ? (uint)random.Next(3000) : pages[random.Next(4)];
            ulong Sector() => random.Next(4) == 0 ? (ulong)random.NextInt64() << random.Next(2) : (ulong)random.Next(120);
        }

        void Renew()
        {
            if (_bench.NextReference > 500)
                _bench.Reset();
            else
                _bench.SetState(disk, XenbusState.Initialising);
        }

        void Complete(int count)
        {
            using (_bench.Gate.Enter())
            {
                for (; count > 0 && drive.HeldRequests > 0; count--)
                    drive.CompleteNext(random.Next(drive.HeldRequests));
            }
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void Random_frames_of_a_nic(int seed)
    {
        var random = new Random(seed);
        var cable = new TestCable();
        var nic = new XenNet(0, MacAddress.Default(0), cable, _bench.Gate);
        _bench.Add(nic);
        var packet = new PacketBuffer();
        var seen = 0;
        for (var round = 0; round < Rounds; round++)
        {
            cable.TakesOffloads = random.Next(2) == 0;
            var front = new NetFront(_bench, nic, random.Next(2) == 0, random.Next(2) == 0);
            front.Connect();
            for (var i = 0; i < 20 && _bench.BackState(nic) == XenbusState.Connected; i++)
            {
                switch (random.Next(8))
                {
                    case 0:
                        front.Add((uint)random.Next(600), random.Next(4200), random.Next(5000), (ushort)random.Next(16));
                        front.Kick();
                        break;
                    case 1:
                        var bytes = new byte[12];
                        random.NextBytes(bytes);
                        front.Transmit.Put(bytes);
                        front.Kick();
                        break;
                    case 2:
                        front.Post(random.Next(4), random.Next(8) == 0);
                        break;
                    case 3 when random.Next(8) == 0:
                        var header = random.Next(2) == 0 ? front.Transmit.Header : front.Receive.Header;
                        _bench.Memory.TryWrite(header + (ulong)random.Next(16), (uint)random.Next(300));
                        break;
                    default:
                        var frame = TestFrames.Make(90 + random.Next(2000), random.Next(2) == 0, random.Next(2) == 0, random.Next(2) == 0);
                        frame[12 + random.Next(50)] ^= (byte)random.Next(4);
                        front.Send(frame, (ushort)(random.Next(2) * NetFront.Blank), random.Next(3) == 0 ? NetFront.Segments((ushort)random.Next(3000), (byte)random.Next(4)) : null, 100 + random.Next(4000), random.Next(97));
                        break;
                }

                while (random.Next(4) != 0 && nic.TryTransmit(packet))
                    seen++;
                var received = new byte[60 + random.Next(9000)];
                random.NextBytes(received);
                var offload = new FrameOffload
                {
                    NeedsChecksum = random.Next(2) == 0, ChecksumStart = (ushort)random.Next(70), ChecksumOffset = (ushort)random.Next(20), Segmentation = (Segmentation)random.Next(6), SegmentSize = (ushort)random.Next(2000),
                };
                nic.TryReceive(new EthernetFrame(received.AsSpan(0, 60), received.AsSpan(60)) { Offload = offload });
                front.TakeSent();
                front.TakeReceived();
            }

            _bench.SetState(nic, XenbusState.Closed);
            Assert.Equal((XenbusState.Closed, 0), (_bench.BackState(nic), _bench.Domain.Grants.UseCount));
            if (_bench.NextReference > 300)
                _bench.Reset();
            else
                _bench.SetState(nic, XenbusState.Initialising);
        }

        Assert.True(seen > Rounds);
    }
}
