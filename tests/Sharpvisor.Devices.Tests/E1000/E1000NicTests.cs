using System.Buffers.Binary;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Net;
using Sharpvisor.Devices.E1000;
using Sharpvisor.Devices.Tests.Pci;

namespace Sharpvisor.Devices.Tests.E1000;

public sealed class E1000NicTests : IDisposable
{
    private const int Slot = 3, RingSize = 16;
    private const uint CTRL = 0, STATUS = 8, EECD = 0x10, EERD = 0x14, MDIC = 0x20, ICR = 0xC0, ICS = 0xC8, IMS = 0xD0, IMC = 0xD8, RCTL = 0x100, TCTL = 0x400;
    private const uint RDBAL = 0x2800, RDLEN = 0x2808, RDH = 0x2810, RDT = 0x2818, TDBAL = 0x3800, TDLEN = 0x3808, TDH = 0x3810, TDT = 0x3818;
    private const ulong TransmitRing = 0x1000, ReceiveRing = 0x2000, Buffers = 0x10000;

    private readonly PciBench _pci = new();
    private readonly Cable _cable = new();
    private readonly E1000Nic _nic;
    private readonly PacketBuffer _packet = new();

    public E1000NicTests()
    {
        _nic = new E1000Nic(MacAddress.Default(0), _cable, new MachineGate(), new GuestErrorLog(NullLogger.Instance));
        _pci.Bus.Add(_nic, Slot);
        _pci.Write(Slot, 4, 2, 7); // ports, memory, bus master
        _nic.Write(TDBAL, 4, TransmitRing);
        _nic.Write(TDLEN, 4, RingSize * 16);
        _nic.Write(RDBAL, 4, ReceiveRing);
        _nic.Write(RDLEN, 4, RingSize * 16);
        _nic.Write(TCTL, 4, 0xA); // on, short frames filled up
        _nic.Write(IMS, 4, 0xFF);
    }

    private bool IsInterrupting => _pci.Wires[(Slot + 3) % 4].IsAsserted;

    public void Dispose() => _pci.Dispose();

    [Fact]
    public void The_address_is_in_the_EEPROM_by_register_and_by_wire()
    {
        Span<byte> address = stackalloc byte[6];
        _nic.Address.Write(address);
        var sum = 0;
        for (var i = 0u; i < 64; i++)
        {
            _nic.Write(EERD, 4, 1 | i << 8);
            var word = _nic.Read(EERD, 4);
            Assert.NotEqual(0ul, word & 0x10);
            Assert.Equal((ushort)(word >> 16), ReadByWire(i));
            if (i < 3)
                Assert.Equal(BinaryPrimitives.ReadUInt16LittleEndian(address[(int)(2 * i)..]), (ushort)(word >> 16));
            sum += (ushort)(word >> 16);
        }

        Assert.Equal(0xBABA, sum & 0xFFFF);
    }

    [Fact]
    public void The_PHY_says_that_there_is_a_link()
    {
        Assert.Equal(0x0141u, ReadPhy(2));
        Assert.Equal(4u, ReadPhy(1) & 4);
        Assert.Equal(2ul, _nic.Read(STATUS, 4) & 2);
        _nic.IsLinkUp = false;
        Assert.Equal(0u, ReadPhy(1) & 4);
        Assert.Equal(0ul, _nic.Read(STATUS, 4) & 2);
        Assert.True(IsInterrupting);
        Assert.Equal(0x8000_0004ul, _nic.Read(ICR, 4));
        Assert.False(IsInterrupting);
        _nic.Write(MDIC, 4, 3 << 21 | 2 << 26); // another PHY
        Assert.NotEqual(0ul, _nic.Read(MDIC, 4) & (1 << 30));
    }

    [Fact]
    public void Interrupts_are_masked_and_cleared()
    {
        _nic.Write(IMC, 4, 0xFF);
        _nic.Write(ICS, 4, 0x80);
        Assert.False(IsInterrupting);
        _nic.Write(IMS, 4, 0x80);
        Assert.True(IsInterrupting);
        _nic.Write(ICR, 4, 0x80);
        Assert.False(IsInterrupting);
    }

    [Fact]
    public void A_frame_of_two_legacy_descriptors()
    {
        var frame = Frame(300);
        PutTransmit(0, frame.AsSpan(0, 100), command: 0);
        PutTransmit(1, frame.AsSpan(100), command: 9); // EOP, RS
        var ready = _cable.TransmitReady;
        _nic.Write(TDT, 4, 2);
        Assert.Equal(ready + 1, _cable.TransmitReady);
        Assert.True(_nic.TryTransmit(_packet));
        Assert.Equal(frame, _packet.Frame);
        Assert.False(_nic.TryTransmit(_packet));
        Assert.Equal(2ul, _nic.Read(TDH, 4));
        Assert.Equal(1, Descriptor(TransmitRing, 1)[12] & 1);
        Assert.Equal(0, Descriptor(TransmitRing, 0)[12] & 1);
        Assert.True(IsInterrupting);
        Assert.Equal(3ul, _nic.Read(ICR, 4) & 3); // TXDW, TXQE
        Assert.Equal(1ul, _nic.Read(0x40D4, 4));
        Assert.Equal(0ul, _nic.Read(0x40D4, 4)); // reading clears it
    }

    [Fact]
    public void A_short_frame_is_filled_up_with_zeroes()
    {
        _packet.Room.Span.Fill(0xEE);
        PutTransmit(0, Frame(20), command: 1);
        _nic.Write(TDT, 4, 1);
        Assert.True(_nic.TryTransmit(_packet));
        Assert.Equal(60, _packet.Length);
        Assert.All(_packet.Frame[20..].ToArray(), b => Assert.Equal(0, b));
    }

    [Fact]
    public void Checksums_are_made_as_a_legacy_and_as_a_context_descriptor_say()
    {
        var frame = Tcp(200);
        PutTransmit(0, frame, command: 5, start: 34, offset: 50); // EOP, IC
        PutContext(1, command: 0x20 | 3, mss: 0, headerLength: 0);
        PutData(2, frame, dcmd: 0x21, popts: 3);
        _nic.Write(TDT, 4, 3);
        Assert.True(_nic.TryTransmit(_packet));
        Assert.Equal(0, Sum(_packet.Frame[34..]));
        Assert.True(_nic.TryTransmit(_packet));
        Assert.Equal(0, Sum(_packet.Frame[14..34]));
        Assert.Equal(0, Sum(_packet.Frame[34..]));
    }

    [Fact]
    public void A_long_segment_is_cut()
    {
        const int payload = 2500, mss = 1000, headers = 54;
        var frame = Tcp(headers + payload);
        frame[47] = 0x19; // ACK, PSH, FIN
        PutContext(0, command: 0x20 | 7, mss, headers);
        PutData(1, frame.AsSpan(0, headers), dcmd: 0x24, popts: 3);
        PutData(2, frame.AsSpan(headers), dcmd: 0x25, popts: 3);
        _nic.Write(TDT, 4, 3);
        var sent = new List<byte>();
        for (var i = 0; i < 3; i++)
        {
            Assert.True(_nic.TryTransmit(_packet));
            var piece = _packet.Frame;
            Assert.Equal(Math.Min(mss, payload - (i * mss)) + headers, piece.Length);
            Assert.Equal(piece.Length - 14, BinaryPrimitives.ReadUInt16BigEndian(piece[16..]));
            Assert.Equal(0x1234 + i, BinaryPrimitives.ReadUInt16BigEndian(piece[18..]));
            Assert.Equal(1000u + (uint)(i * mss), BinaryPrimitives.ReadUInt32BigEndian(piece[38..]));
            Assert.Equal(i == 2 ? 0x19 : 0x10, piece[47]);
            Assert.Equal(0, Sum(piece[14..34]));
            Assert.Equal(TcpLengthSum(piece), Sum(piece[34..])); // the pseudo header's length is what the card adds
            sent.AddRange(piece[headers..]);
        }

        Assert.False(_nic.TryTransmit(_packet));
        Assert.Equal(frame[headers..], sent);
    }

    [Fact]
    public void Vlan_tags_are_put_in_and_taken_out()
    {
        _nic.Write(CTRL, 4, 1u << 30);
        var frame = Frame(100);
        PutTransmit(0, frame, command: 0x41, special: 7);
        _nic.Write(TDT, 4, 1);
        Assert.True(_nic.TryTransmit(_packet));
        Assert.Equal([.. frame[..12], 0x81, 0, 0, 7, .. frame[12..]], _packet.Frame.ToArray());
        StartReceiver(0x8002 | 8);
        Assert.True(_nic.TryReceive(new EthernetFrame(_packet.Frame)));
        var descriptor = Descriptor(ReceiveRing, 0);
        Assert.Equal(0x08, descriptor[12] & 0x08);
        Assert.Equal(7, descriptor[14]);
        Assert.Equal(frame, Received(0, 100));
    }

    [Theory]
    [InlineData(0u, 2048)]
    [InlineData(3u << 16, 256)]
    [InlineData((1u << 25) | (3u << 16), 4096)]
    public void A_frame_lies_in_as_many_buffers_as_it_needs(uint control, int size)
    {
        StartReceiver(2 | 0x8020 | 8 | control); // on, broadcast, long frames, all
        var frame = Frame(3000);
        Assert.True(_nic.TryReceive(new EthernetFrame(frame.AsSpan(0, 20), frame.AsSpan(20))));
        var count = (3004 + size - 1) / size;
        Assert.Equal((ulong)count, _nic.Read(RDH, 4));
        var all = new List<byte>();
        for (var i = 0; i < count; i++)
        {
            var descriptor = Descriptor(ReceiveRing, i);
            Assert.Equal(i == count - 1 ? 3 : 1, descriptor[12] & 3);
            all.AddRange(Received(i, BinaryPrimitives.ReadUInt16LittleEndian(descriptor.AsSpan(8))));
        }

        Assert.Equal(frame, all.Take(3000));
        Assert.Equal(3004, all.Count);
        Assert.True(IsInterrupting);
    }

    [Fact]
    public void Without_descriptors_a_frame_waits_until_there_are()
    {
        StartReceiver(0x800A, descriptors: 0);
        Assert.False(_nic.TryReceive(new EthernetFrame(Frame(100))));
        var ready = _cable.ReceiveReady;
        _nic.Write(RDT, 4, 5);
        Assert.Equal(ready + 1, _cable.ReceiveReady);
        Assert.True(_nic.TryReceive(new EthernetFrame(Frame(100))));
    }

    [Fact]
    public void Frames_for_others_are_not_received()
    {
        StartReceiver(2);
        Assert.True(Receives(MacAddress.Default(0)));
        Assert.False(Receives(MacAddress.Default(1)));
        Assert.False(Receives(MacAddress.Broadcast));
        _nic.Write(RCTL, 4, 0x8002);
        Assert.True(Receives(MacAddress.Broadcast));
        Assert.True(MacAddress.TryParse("01:00:5e:00:00:01", out var group));
        Assert.False(Receives(group));
        _nic.Write(0x5200 + (0x010 >> 5 << 2), 4, 1u << (0x010 & 31)); // bits 47 to 36 of the address
        Assert.True(Receives(group));
        _nic.Write(RCTL, 4, 0x8000);
        Assert.False(Receives(MacAddress.Default(0)));
    }

    [Fact]
    public void Rings_that_make_no_sense_move_nothing()
    {
        foreach (var (length, head, tail) in new[] { (0u, 0u, 5u), (0x80u, 0xFFFFu, 3u), (0x80u, 3u, 0xFFFFu) })
        {
            _nic.Write(TDLEN, 4, length);
            _nic.Write(TDH, 4, head);
            _nic.Write(TDT, 4, tail);
            Assert.False(_nic.TryTransmit(_packet));
            _nic.Write(RDLEN, 4, length);
            _nic.Write(RDH, 4, head);
            _nic.Write(RDT, 4, tail);
            _nic.Write(RCTL, 4, 0x800A);
            Assert.False(_nic.TryReceive(new EthernetFrame(Frame(100))));
        }
    }

    [Fact]
    public void Random_registers_descriptors_and_frames_do_no_harm()
    {
        for (var seed = 0; seed < 300; seed++)
        {
            var random = new Random(seed);
            var bytes = new byte[0x1000];
            random.NextBytes(bytes);
            Assert.True(_pci.Memory.TryWrite(TransmitRing, bytes));
            for (var i = 0; i < RingSize; i++)
                Assert.True(_pci.Memory.TryWrite(TransmitRing + (ulong)(16 * i), Buffers + (ulong)random.Next(0x10000)));
            for (var i = 0; i < 200; i++)
            {
                uint[] likely = [RCTL, TCTL, TDT, TDH, TDLEN, RDT, RDH, RDLEN, EECD, EERD, MDIC, CTRL];
                var offset = random.Next(4) != 0 ? likely[random.Next(likely.Length)] : (uint)random.Next(0x20000);
                var size = 1 << random.Next(4);
                _nic.Write(offset, size, random.Next(3) == 0 ? (ulong)random.NextInt64() : (ulong)random.Next(0x200));
                _nic.Read((uint)random.Next(0x20000), size);
                _nic.TryTransmit(_packet);
                _nic.TryReceive(new EthernetFrame(bytes.AsSpan(0, random.Next(3000))) { Offload = new FrameOffload { IsValid = random.Next(2) == 0 } });
            }

            _nic.Write(CTRL, 4, 1 << 26);
            _nic.Write(TDBAL, 4, TransmitRing);
            _nic.Write(TDLEN, 4, RingSize * 16);
            _nic.Write(TCTL, 4, 0xA);
        }
    }

    private static byte[] Frame(int length)
    {
        var frame = new byte[length];
        for (var i = 0; i < length; i++)
            frame[i] = (byte)((i * 31) ^ (i >> 8));
        MacAddress.Default(0).Write(frame);
        return frame;
    }

    private static byte[] Tcp(int length)
    {
        var frame = Frame(length);
        frame.AsSpan(14, 40).Clear();
        (frame[12], frame[13], frame[14], frame[23], frame[46], frame[47]) = (8, 0, 0x45, 6, 0x50, 0x10);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(16), (ushort)(length - 14));
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(18), 0x1234);
        BinaryPrimitives.WriteUInt32BigEndian(frame.AsSpan(38), 1000);
        return frame;
    }

    /// <summary>0 when the checksum within is right.</summary>
    private static int Sum(ReadOnlySpan<byte> bytes)
    {
        var sum = 0;
        for (var i = 0; i < bytes.Length; i++)
            sum += bytes[i] << (i % 2 == 0 ? 8 : 0);
        while (sum >> 16 != 0)
            sum = (sum & 0xFFFF) + (sum >> 16);
        return ~sum & 0xFFFF;
    }

    /// <summary>What is missing in the sum of a TCP segment whose pseudo header holds nothing but its length.</summary>
    private static int TcpLengthSum(ReadOnlySpan<byte> frame) => frame.Length - 34;

    private static byte[] Bytes(ulong low, ulong high)
    {
        var bytes = new byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, low);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(8), high);
        return bytes;
    }

    private ushort ReadByWire(uint address)
    {
        const uint sk = 1, cs = 2, di = 4, @do = 8;
        _nic.Write(EECD, 4, cs);
        foreach (var bit in Enumerable.Range(0, 9).Select(i => ((6u << 6 | address) >> (8 - i) & 1) != 0 ? di : 0))
        {
            _nic.Write(EECD, 4, cs | bit);
            _nic.Write(EECD, 4, cs | bit | sk);
            _nic.Write(EECD, 4, cs | bit);
        }

        ushort word = 0;
        for (var i = 0; i < 16; i++)
        {
            _nic.Write(EECD, 4, cs | sk);
            word = (ushort)(word << 1 | ((_nic.Read(EECD, 4) & @do) != 0 ? 1 : 0));
            _nic.Write(EECD, 4, cs);
        }

        _nic.Write(EECD, 4, 0);
        return word;
    }

    private uint ReadPhy(uint register)
    {
        _nic.Write(MDIC, 4, register << 16 | 1 << 21 | 2 << 26);
        var value = (uint)_nic.Read(MDIC, 4);
        Assert.NotEqual(0u, value & (1 << 28));
        return value & 0xFFFF;
    }

    private void PutTransmit(int index, ReadOnlySpan<byte> data, byte command, byte start = 0, byte offset = 0, ushort special = 0)
    {
        var at = Buffers + (ulong)(index * 0x4000);
        Assert.True(_pci.Memory.TryWrite(at, data));
        Assert.True(_pci.Memory.TryWrite(TransmitRing + (ulong)(16 * index),
            Bytes(at, (uint)data.Length | (ulong)offset << 16 | (ulong)command << 24 | (ulong)start << 40 | (ulong)special << 48)));
    }

    private void PutContext(int index, byte command, ushort mss, byte headerLength) => Assert.True(_pci.Memory.TryWrite(TransmitRing + (ulong)(16 * index),
        Bytes(14 | 24 << 8 | 33ul << 16 | 34ul << 32 | 50ul << 40, (ulong)command << 24 | (ulong)headerLength << 40 | (ulong)mss << 48)));

    private void PutData(int index, ReadOnlySpan<byte> data, byte dcmd, byte popts)
    {
        var at = Buffers + (ulong)(index * 0x4000);
        Assert.True(_pci.Memory.TryWrite(at, data));
        Assert.True(_pci.Memory.TryWrite(TransmitRing + (ulong)(16 * index), Bytes(at, (uint)data.Length | 1 << 20 | (ulong)dcmd << 24 | (ulong)popts << 40)));
    }

    private void StartReceiver(uint control, int descriptors = RingSize - 1)
    {
        for (var i = 0; i < RingSize; i++)
            Assert.True(_pci.Memory.TryWrite(ReceiveRing + (ulong)(16 * i), Bytes(0x10_0000 + (ulong)(0x1000 * i), 0)));
        _nic.Write(RCTL, 4, control);
        _nic.Write(RDT, 4, (ulong)descriptors);
    }

    private byte[] Received(int index, int length)
    {
        var bytes = new byte[length];
        Assert.True(_pci.Memory.TryRead(0x10_0000 + (ulong)(0x1000 * index), bytes));
        return bytes;
    }

    private byte[] Descriptor(ulong ring, int index)
    {
        var bytes = new byte[16];
        Assert.True(_pci.Memory.TryRead(ring + (ulong)(16 * index), bytes));
        return bytes;
    }

    private bool Receives(MacAddress to)
    {
        var before = _nic.Read(RDH, 4);
        var frame = Frame(100);
        to.Write(frame);
        Assert.True(_nic.TryReceive(new EthernetFrame(frame)));
        return _nic.Read(RDH, 4) != before;
    }

    private sealed class Cable : INetworkBackend
    {
        public string Name => "test";

        public bool TakesOffloads => false;

        public int TransmitReady { get; private set; }

        public int ReceiveReady { get; private set; }

        public void Attach(INetworkDevice device)
        {
        }

        public void OnTransmitReady() => TransmitReady++;

        public void OnReceiveReady() => ReceiveReady++;

        public ValueTask DisposeAsync() => default;
    }
}
