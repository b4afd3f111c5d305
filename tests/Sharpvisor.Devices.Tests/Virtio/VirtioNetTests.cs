using System.Buffers.Binary;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Net;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Testing.Virtio;

namespace Sharpvisor.Devices.Tests.Virtio;

public sealed class VirtioNetTests
{
    private const int Checksum = 0, GuestChecksum = 1, GuestTso4 = 7, HostTso4 = 11, Merge = 15, Control = 17, Multi = 22, Version1 = 32;
    private const int Receive = 0, Transmit = 1;

    private static readonly MacAddress _own = MacAddress.Default(0);

    private readonly Cable _cable = new();
    private VirtioNet _nic = null!;

    [Theory]
    [InlineData(false, true)]
    [InlineData(false, false)]
    [InlineData(true, true)]
    [InlineData(true, false)]
    public void A_frame_that_the_driver_sends_arrives_with_what_it_left_open(bool legacy, bool merges)
    {
        using var bench = Start(legacy, merges ? ulong.MaxValue : ~(1UL << Merge));
        var frame = Frame(1500);
        var header = new byte[HeaderLength(legacy, merges)];
        header[0] = 1; // NEEDS_CSUM
        header[1] = 1; // TCPV4
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(4), 700);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(6), 34);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(8), 16);
        bench.Driver.Rings[Transmit].Add([bench.Driver.Put(header), bench.Driver.Put(frame.AsSpan(0, 54)), bench.Driver.Put(frame.AsSpan(54))], []);
        bench.Driver.NotifyIfNeeded(Transmit);
        Assert.True(_cable.TransmitReady > 0);
        var packet = new PacketBuffer();
        Assert.True(_nic.TryTransmit(packet));
        Assert.Equal(frame, packet.Frame);
        Assert.Equal(new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 16, Segmentation = Segmentation.Tcp4, SegmentSize = 700 }, packet.Offload);
        Assert.NotNull(bench.Driver.Rings[Transmit].TakeUsed());
        Assert.False(_nic.TryTransmit(packet));
        Assert.Empty(bench.Errors.Counts);
    }

    /// <summary>A cable may bring something before the machine is built.</summary>
    [Fact]
    public void What_comes_before_there_is_a_bus_is_lost()
    {
        var nic = new VirtioNet(new VirtioNetOptions(), _cable, new MachineGate(), new GuestErrorLog(NullLogger.Instance));
        Assert.True(nic.TryReceive(new EthernetFrame(Frame(60))));
        Assert.False(nic.TryTransmit(new PacketBuffer()));
        Assert.Equal(default, nic.ReceiveOffloads);
    }

    [Theory]
    [InlineData(1, 34, 16, 0, 0)] // the checksum lies behind the frame's end
    [InlineData(0, 0, 0, 1, 700)] // segments without a checksum to be made
    [InlineData(1, 14, 16, 1, 0)] // of no length
    [InlineData(1, 14, 16, 2, 700)] // of an unknown kind
    public void A_frame_that_makes_no_sense_is_dropped_and_the_next_one_sent(byte flags, ushort start, ushort offset, byte kind, ushort size)
    {
        using var bench = Start();
        var header = new byte[12];
        (header[0], header[1]) = (flags, kind);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(4), size);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(6), start);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(8), offset);
        bench.Driver.Rings[Transmit].Add([bench.Driver.Put(header), bench.Driver.Put(Frame(48))], []);
        bench.Driver.Rings[Transmit].Add([bench.Driver.Put(new byte[12]), bench.Driver.Put(Frame(13))], []); // shorter than its own header
        bench.Driver.Rings[Transmit].Add([bench.Driver.Put(new byte[12]), bench.Driver.Put(Frame(60))], []);
        bench.Driver.Notify(Transmit);
        var packet = new PacketBuffer();
        Assert.True(_nic.TryTransmit(packet));
        Assert.Equal(60, packet.Length);
        Assert.Equal(2, _nic.Dropped);
    }

    [Fact]
    public void A_frame_without_header_breaks_the_device()
    {
        using var bench = Start();
        bench.Driver.Rings[Transmit].Add([bench.Driver.Put(new byte[11])], []);
        bench.Driver.Notify(Transmit);
        Assert.False(_nic.TryTransmit(new PacketBuffer()));
        Assert.NotEqual(0, bench.Driver.Status & VirtioPciDriver.NeedsReset);
    }

    [Fact]
    public void The_longest_frame_is_sent_and_a_longer_one_is_not()
    {
        using var bench = Start();
        var longest = Frame(EthernetFrame.MaximumLength);
        bench.Driver.Rings[Transmit].Add([bench.Driver.Put(new byte[12]), bench.Driver.Put(Frame(EthernetFrame.MaximumLength + 1))], []);
        bench.Driver.Rings[Transmit].Add([bench.Driver.Put(new byte[12]), bench.Driver.Put(longest)], []);
        bench.Driver.Notify(Transmit);
        var packet = new PacketBuffer();
        Assert.True(_nic.TryTransmit(packet));
        Assert.Equal(longest, packet.Frame);
    }

    [Theory]
    [InlineData(false, true)]
    [InlineData(false, false)]
    [InlineData(true, true)]
    [InlineData(true, false)]
    public void A_frame_from_the_cable_lies_in_the_drivers_buffer(bool legacy, bool merges)
    {
        using var bench = Start(legacy, merges ? ulong.MaxValue : ~(1UL << Merge));
        var buffer = AddBuffer(bench, 2000);
        var frame = Frame(1000);
        Assert.True(_nic.TryReceive(new EthernetFrame(frame.AsSpan(0, 60), frame.AsSpan(60, 100), frame.AsSpan(160)) { Offload = new FrameOffload { IsValid = true } }));
        var header = HeaderLength(legacy, merges);
        Assert.Equal((uint)(header + frame.Length), bench.Driver.Rings[Receive].TakeUsed()?.Written);
        var bytes = bench.Driver.Get(buffer);
        Assert.Equal(2, bytes[0]); // DATA_VALID
        Assert.Equal(frame, bytes[header..(header + frame.Length)]);
        if (header == 12)
            Assert.Equal(1, BinaryPrimitives.ReadUInt16LittleEndian(bytes.AsSpan(10)));
        Assert.Equal(1, bench.TakeMessages());
    }

    [Fact]
    public void A_long_frame_fills_several_buffers_and_waits_for_those_that_are_missing()
    {
        using var bench = Start();
        var frame = Frame(4000);
        List<GuestBuffer> buffers = [AddBuffer(bench, 1500), AddBuffer(bench, 1500)];
        Assert.False(_nic.TryReceive(new EthernetFrame(frame)));
        Assert.Null(bench.Driver.Rings[Receive].TakeUsed());
        Assert.Equal(0, _cable.ReceiveReadyBy(() => { }));
        Assert.Equal(1, _cable.ReceiveReadyBy(() =>
        {
            buffers.Add(AddBuffer(bench, 1500));
            bench.Driver.NotifyIfNeeded(Receive);
        }));
        Assert.True(_nic.TryReceive(new EthernetFrame(frame)));
        var written = buffers.Select(_ => (int)bench.Driver.Rings[Receive].TakeUsed()!.Value.Written).ToArray();
        Assert.Equal([1500, 1500, 4012 - 3000], written);
        var all = buffers.Zip(written, (b, w) => bench.Driver.Get(b)[..w]).SelectMany(b => b).ToArray();
        Assert.Equal(3, BinaryPrimitives.ReadUInt16LittleEndian(all.AsSpan(10)));
        Assert.Equal(frame, all[12..]);
    }

    /// <summary>Linux drops a frame of which it finds a part.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_driver_that_looks_meanwhile_finds_a_whole_frame_or_none(bool packed)
    {
        const int buffers = 12, size = 100;
        using var bench = Start(features: packed ? ulong.MaxValue : ~(1UL << VirtioPciDriver.PackedRing));
        var ring = bench.Driver.Rings[Receive];
        for (var i = 0; i < 200; i++)
        {
            for (var n = 0; n < buffers; n++)
                AddBuffer(bench, size);
            using var looks = new ManualResetEventSlim();
            var driver = Task.Run(() =>
            {
                looks.Set();
                while (ring.TakeUsed() is null)
                    Thread.SpinWait(1);
                var count = 1;
                while (ring.TakeUsed() is not null)
                    count++;
                return count;
            });
            looks.Wait();
            Assert.True(_nic.TryReceive(new EthernetFrame(Frame((buffers * size) - 12))));
            Assert.Equal(buffers, await driver);
        }
    }

    [Fact]
    public void A_frame_too_long_for_a_driver_that_merges_none_is_lost_and_its_buffer_is_not()
    {
        using var bench = Start(features: ~(1UL << Merge));
        AddBuffer(bench, 1000);
        Assert.True(_nic.TryReceive(new EthernetFrame(Frame(1200))));
        Assert.Null(bench.Driver.Rings[Receive].TakeUsed());
        Assert.True(_nic.TryReceive(new EthernetFrame(Frame(500))));
        Assert.Equal(512u, bench.Driver.Rings[Receive].TakeUsed()?.Written);
    }

    [Fact]
    public void What_the_driver_does_not_accept_it_does_not_get()
    {
        using var bench = Start(features: ~(1UL << GuestTso4));
        AddBuffer(bench, 4000);
        Assert.Equal(new ReceiveOffloads(true, false, true), _nic.ReceiveOffloads);
        var segments = new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 16, Segmentation = Segmentation.Tcp4, SegmentSize = 1000 };
        Assert.True(_nic.TryReceive(new EthernetFrame(Frame(2000)) { Offload = segments }));
        Assert.Equal(1, _nic.Dropped);
        Assert.True(_nic.TryReceive(new EthernetFrame(Frame(2000)) { Offload = segments with { Segmentation = Segmentation.None } }));
        Assert.NotNull(bench.Driver.Rings[Receive].TakeUsed());
    }

    [Fact]
    public void Without_a_driver_frames_are_lost_and_do_not_wait()
    {
        using var bench = Make(false);
        Assert.True(_nic.TryReceive(new EthernetFrame(Frame(100))));
        Assert.False(_nic.TryTransmit(new PacketBuffer()));
    }

    [Fact]
    public void A_cable_that_takes_nothing_unfinished_has_the_driver_finish_it()
    {
        _cable.TakesOffloads = false;
        using var bench = Make(false);
        const ulong offloads = (1UL << Checksum) | (1UL << GuestChecksum) | (1UL << GuestTso4) | (1UL << HostTso4);
        Assert.Equal(0ul, bench.Driver.OfferedFeatures & offloads);
        _cable.TakesOffloads = true;
        Assert.Equal(offloads, bench.Driver.OfferedFeatures & offloads);
    }

    [Fact]
    public void Commands_choose_what_is_received()
    {
        using var bench = Start(queues: 3);
        AddBuffer(bench, 2000);
        AddBuffer(bench, 2000);
        Assert.True(Receives(bench, Frame(100, "02:00:00:00:00:99"))); // promiscuous at first
        Assert.Equal(0, Command(bench, [0, 0, 0])); // no longer
        Assert.False(Receives(bench, Frame(100, "02:00:00:00:00:99")));
        Assert.True(Receives(bench, Frame(100)));
        AddBuffer(bench, 2000);
        Assert.True(Receives(bench, Frame(100, "ff:ff:ff:ff:ff:ff")));
        AddBuffer(bench, 2000);
        Assert.False(Receives(bench, Frame(100, "01:00:5e:00:00:01")));
        Assert.Equal(0, Command(bench, [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0x5E, 0, 0, 1]));
        Assert.True(Receives(bench, Frame(100, "01:00:5e:00:00:01")));
        AddBuffer(bench, 2000);
        Assert.Equal(0, Command(bench, [1, 1, 2, 0, 0, 0, 0, 0x99])); // another address of its own
        Assert.True(Receives(bench, Frame(100, "02:00:00:00:00:99")));
        Assert.Equal(0x99, (int)bench.Driver.ReadDeviceConfig(5, 1));
    }

    [Theory]
    [InlineData(0, 0)] // no value
    [InlineData(0, 9, 1)]
    [InlineData(1, 0, 1, 0, 0, 0, 1)] // a table that is cut
    [InlineData(1, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0)]
    [InlineData(1, 1, 1, 2, 3)]
    [InlineData(2, 0, 0, 16)] // no such VLAN
    [InlineData(4, 0, 0, 0)]
    [InlineData(4, 0, 3, 0)]
    [InlineData(5, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF)]
    [InlineData(99, 0, 1)]
    public void A_command_that_makes_no_sense_is_refused(params int[] command)
    {
        using var bench = Start(queues: 3);
        Assert.Equal(1, Command(bench, [.. command.Select(b => (byte)b)]));
        Assert.Equal(0, bench.Driver.Status & VirtioPciDriver.NeedsReset);
    }

    [Fact]
    public void Vlans_are_let_through_when_asked_for()
    {
        using var bench = Start(queues: 3);
        Command(bench, [0, 0, 0]);
        AddBuffer(bench, 2000);
        var frame = Frame(100);
        (frame[12], frame[13], frame[14], frame[15]) = (0x81, 0, 0x20, 7); // priority 1, VLAN 7
        Assert.False(Receives(bench, frame));
        Assert.Equal(0, Command(bench, [2, 0, 7, 0]));
        Assert.True(Receives(bench, frame));
        AddBuffer(bench, 2000);
        Assert.Equal(0, Command(bench, [2, 1, 7, 0]));
        Assert.False(Receives(bench, frame));
    }

    [Fact]
    public void An_answer_comes_on_the_pair_that_its_flow_was_sent_on()
    {
        using var bench = Start(queues: 5, options: new VirtioNetOptions { QueuePairs = 2 });
        Assert.Equal(0, Command(bench, [4, 0, 2, 0], queue: 4));
        var sent = Frame(100);
        (sent[12], sent[13], sent[14], sent[35], sent[37]) = (8, 0, 0x45, 11, 22);
        bench.Driver.Rings[3].Add([bench.Driver.Put(new byte[12]), bench.Driver.Put(sent)], []);
        bench.Driver.Notify(3);
        Assert.True(_nic.TryTransmit(new PacketBuffer()));
        var answer = (byte[])sent.Clone();
        (answer[35], answer[37]) = (22, 11);
        bench.Driver.Rings[2].Add([], [new(bench.Driver.Allocator.Allocate(2000), 2000)]);
        AddBuffer(bench, 2000);
        Assert.True(_nic.TryReceive(new EthernetFrame(answer)));
        Assert.NotNull(bench.Driver.Rings[2].TakeUsed());
        Assert.Null(bench.Driver.Rings[0].TakeUsed());
    }

    [Fact]
    public void A_driver_that_knows_one_pair_finds_the_commands_behind_it()
    {
        using var bench = Start(queues: 3, features: ~(1UL << Multi), options: new VirtioNetOptions { QueuePairs = 4 });
        Assert.Equal(0, Command(bench, [0, 0, 0]));
    }

    [Fact]
    public void The_cable_can_be_unplugged()
    {
        using var bench = Start();
        Assert.Equal(1ul, bench.Driver.ReadDeviceConfig(6, 2));
        AddBuffer(bench, 2000);
        bench.TakeMessages();
        _nic.IsLinkUp = false;
        Assert.Equal(0ul, bench.Driver.ReadDeviceConfig(6, 2));
        Assert.True(_nic.TryReceive(new EthernetFrame(Frame(100))));
        Assert.Null(bench.Driver.Rings[Receive].TakeUsed());
        _nic.IsLinkUp = true;
        Assert.True(Receives(bench, Frame(100)));
    }

    [Fact]
    public void A_reset_forgets_buffers_that_a_frame_was_waiting_with()
    {
        using var bench = Start();
        AddBuffer(bench, 1500);
        Assert.False(_nic.TryReceive(new EthernetFrame(Frame(4000))));
        bench.Driver.Start(ulong.MaxValue, 2);
        AddBuffer(bench, 1500);
        Assert.False(_nic.TryReceive(new EthernetFrame(Frame(2000))));
        AddBuffer(bench, 1500);
        Assert.True(_nic.TryReceive(new EthernetFrame(Frame(2000))));
        Assert.NotNull(bench.Driver.Rings[Receive].TakeUsed());
        Assert.NotNull(bench.Driver.Rings[Receive].TakeUsed());
    }

    [Fact]
    public void Receive_buffers_that_cannot_be_written_break_the_device()
    {
        using var bench = Start();
        bench.Driver.Rings[Receive].Add([bench.Driver.Put(new byte[100])], []);
        Assert.False(_nic.TryReceive(new EthernetFrame(Frame(100))));
        Assert.NotEqual(0, bench.Driver.Status & VirtioPciDriver.NeedsReset);
        Assert.True(_nic.TryReceive(new EthernetFrame(Frame(100)))); // lost from now on
    }

    [Fact]
    public void Random_drivers_and_frames_do_no_harm()
    {
        for (var seed = 0; seed < 200; seed++)
        {
            var random = new Random(seed);
            using var bench = Start(legacy: random.Next(2) == 0, queues: 3, features: (ulong)random.NextInt64() | (1UL << Control) | (1UL << Version1));
            for (var i = 0; i < 60; i++)
            {
                if ((bench.Driver.Status & VirtioPciDriver.NeedsReset) != 0)
                    break;
                var queue = random.Next(3);
                var bytes = new byte[random.Next(1, 300)];
                random.NextBytes(bytes);
                GuestBuffer[] readable = random.Next(3) == 0 ? [] : [bench.Driver.Put(bytes), bench.Driver.Put(bytes)];
                GuestBuffer[] writable = random.Next(3) == 0 && readable.Length > 0 ? [] : [new(bench.Driver.Allocator.Allocate(300), (uint)random.Next(1, 300))];
                bench.Driver.Rings[queue].Add(readable, writable, indirect: random.Next(2) == 0);
                bench.Driver.Notify(queue);
                _nic.TryTransmit(new PacketBuffer());
                random.NextBytes(bytes);
                _nic.TryReceive(new EthernetFrame(bytes) { Offload = new FrameOffload { NeedsChecksum = random.Next(2) == 0, Segmentation = (Segmentation)random.Next(6) } });
                while (bench.Driver.Rings[random.Next(3)].TakeUsed() is not null)
                    continue;
            }
        }
    }

    private static int HeaderLength(bool legacy, bool merges) => legacy && !merges ? 10 : 12;

    private static byte[] Frame(int length, string? to = null)
    {
        var frame = new byte[length];
        for (var i = 0; i < length; i++)
            frame[i] = (byte)((i * 31) ^ (i >> 8));
        if (length >= EthernetFrame.HeaderLength)
        {
            Assert.True(MacAddress.TryParse(to ?? _own.ToString(), out var address));
            address.Write(frame);
        }

        return frame;
    }

    private static GuestBuffer AddBuffer(VirtioBench bench, uint length)
    {
        var buffer = new GuestBuffer(bench.Driver.Allocator.Allocate(length), length);
        bench.Driver.Rings[Receive].Add([], [buffer]);
        return buffer;
    }

    private static byte Command(VirtioBench bench, byte[] command, int queue = 2)
    {
        var answer = bench.Driver.Put([0xEE]);
        bench.Driver.Rings[queue].Add([bench.Driver.Put(command)], [answer]);
        bench.Driver.Notify(queue);
        Assert.NotNull(bench.Driver.Rings[queue].TakeUsed());
        return bench.Driver.Get(answer)[0];
    }

    private bool Receives(VirtioBench bench, byte[] frame)
    {
        Assert.True(_nic.TryReceive(new EthernetFrame(frame)));
        return bench.Driver.Rings[Receive].TakeUsed() is not null;
    }

    private VirtioBench Make(bool legacy, VirtioNetOptions? options = null) =>
        new(errors => _nic = new VirtioNet(options ?? new VirtioNetOptions(), _cable, new MachineGate(), errors) { OffersPackedRings = true }, legacy);

    private VirtioBench Start(bool legacy = false, ulong features = ulong.MaxValue, int queues = 2, VirtioNetOptions? options = null)
    {
        var bench = Make(legacy, options);
        bench.Driver.Start(features, queues);
        return bench;
    }

    private sealed class Cable : INetworkBackend
    {
        public string Name => "test";

        public bool TakesOffloads { get; set; } = true;

        public int TransmitReady { get; private set; }

        private int ReceiveReady { get; set; }

        public int ReceiveReadyBy(Action action)
        {
            var before = ReceiveReady;
            action();
            return ReceiveReady - before;
        }

        public void Attach(INetworkDevice device)
        {
        }

        public void OnTransmitReady() => TransmitReady++;

        public void OnReceiveReady() => ReceiveReady++;

        public ValueTask DisposeAsync() => default;
    }
}
