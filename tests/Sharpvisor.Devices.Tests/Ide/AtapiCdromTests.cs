using System.Buffers.Binary;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Devices.Tests.Ide;

public sealed class AtapiCdromTests : IDisposable
{
    private const int NotReady = 2, MediumError = 3, IllegalRequest = 5, UnitAttention = 6;

    private readonly IdeBench _bench = new();

    public void Dispose() => _bench.Dispose();

    [Fact]
    public void Identify_packet_device_describes_it()
    {
        _bench.Command(0xA1, device: 1);
        Assert.Equal(IdeBench.Idle | IdeBench.Request, _bench.TakeInterrupt());
        var words = AtaDiskTests.Words(_bench.ReadData(512));
        Assert.Equal((0x85C0, "CDSERIAL", "A drive"), (words[0], AtaDiskTests.Text(words, 10, 10), AtaDiskTests.Text(words, 27, 20)));
    }

    [Theory]
    [InlineData(0xEC)]
    [InlineData(0x20)]
    public void Commands_of_disks_show_its_signature(byte command)
    {
        _bench.Command(command, device: 1);
        Assert.Equal(IdeBench.Error, _bench.TakeInterrupt() & IdeBench.Error);
        Assert.Equal((0x14, 0xEB), (_bench.In(4), _bench.In(5)));
    }

    [Fact]
    public void Inquiry_names_it()
    {
        var data = _bench.Packet([0x12, 0, 0, 0, 96])!;
        Assert.Equal(36, data.Length);
        Assert.Equal((5, 0x80, 31), (data[0], data[1], data[4]));
        Assert.Equal("A drive         1.0 ", System.Text.Encoding.ASCII.GetString(data, 16, 20));
        Assert.Equal(5, _bench.Packet([0x12, 0, 0, 0, 5])!.Length);
        Assert.Equal("CDSERIAL", System.Text.Encoding.ASCII.GetString(_bench.Packet([0x12, 1, 0x80, 0, 96])!, 4, 8));
        Assert.Null(_bench.Packet([0x12, 1, 0x55, 0, 96]));
        Assert.Equal((IllegalRequest, 0x24), _bench.Sense());
    }

    [Theory]
    [InlineData(0xFFFE)]
    [InlineData(0xFFFF)]
    [InlineData(2048)]
    [InlineData(1000)]
    [InlineData(513)] // odd: what is not the last part is even
    public void Reads_by_PIO_within_the_limit_of_bytes(int limit)
    {
        Assert.Equal(_bench.Cd.Copy(10 * 2048, 5 * 2048), _bench.Packet([0x28, 0, 0, 0, 0, 10, 0, 0, 5, 0], limit));
        Assert.Equal(_bench.Cd.Bytes, _bench.Packet([0xA8, 0, 0, 0, 0, 0, 0, 0, 0, 100, 0, 0], limit));
    }

    [Fact]
    public void Data_without_a_limit_of_bytes_are_refused()
    {
        Assert.Null(_bench.Packet([0x28, 0, 0, 0, 0, 10, 0, 0, 5, 0], 0));
        Assert.NotNull(_bench.Packet([0x00], 0));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(90)]
    public void Reads_by_DMA(byte count)
    {
        Dma([0x28, 0, 0, 0, 0, 3, 0, 0, count, 0], (0x20000, 1000), (0x30000, 0x10000), (0x100000, 0x10000), (0x110000, 0x10000));
        Assert.Equal(IdeBench.Idle, _bench.TakeInterrupt());
        var data = _bench.Cd.Copy(3 * 2048, count * 2048);
        Assert.Equal(data[..1000], _bench.ReadMemory(0x20000, 1000));
        var rest = Math.Min(0x10000, data.Length - 1000);
        Assert.Equal(data[1000..(1000 + rest)], _bench.ReadMemory(0x30000, rest));
        if (rest == 0x10000)
            Assert.Equal(data[(1000 + rest)..], _bench.ReadMemory(0x100000, Math.Min(0x10000, data.Length - 1000 - rest)).Concat(_bench.ReadMemory(0x110000, data.Length - 1000 - rest - 0x10000)));
        Assert.Equal(3, _bench.In(2) & 3);
    }

    [Fact]
    public void Answers_by_DMA()
    {
        Dma([0x25], (0x20000, 8));
        Assert.Equal(IdeBench.Idle, _bench.TakeInterrupt());
        Assert.Equal([0, 0, 0, 99, 0, 0, 8, 0], _bench.ReadMemory(0x20000, 8));
    }

    [Theory]
    [InlineData(0xF8, 2352)]
    [InlineData(0x10, 2048)]
    [InlineData(0xF0, 2064)]
    [InlineData(0x20, 4)]
    [InlineData(0xA0, 16)]
    public void Reads_the_parts_of_raw_sectors(byte flags, int size)
    {
        // Forty sectors: more than the buffer holds at a time.
        var data = _bench.Packet([0xBE, 0, 0, 0, 0, 16, 0, 0, 40, flags, 0])!;
        Assert.Equal(40 * size, data.Length);
        var sector = data[(33 * size)..(34 * size)];
        if ((flags & 0x80) != 0)
            Assert.Equal([0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0], sector[..12]);
        if ((flags & 0x20) != 0)
            Assert.Equal([0, 2, 0x49, 1], sector.Skip((flags & 0x80) != 0 ? 12 : 0).Take(4)); // block 49 in BCD: 2 seconds, 49 frames
        if ((flags & 0x10) != 0)
            Assert.Equal(_bench.Cd.Copy(49 * 2048, 2048), sector.Skip(size >= 2064 ? 16 : 0).Take(2048));
        if (size < 2048)
            return;
        Dma([0xBE, 0, 0, 0, 0, 16, 0, 0, 40, flags, 0], (0x20000, 0x10000), (0x30000, 0x10000));
        Assert.Equal(IdeBench.Idle, _bench.TakeInterrupt());
        Assert.Equal(data, _bench.ReadMemory(0x20000, data.Length));
    }

    [Fact]
    public void The_codes_of_a_raw_sector_are_right()
    {
        var sector = _bench.Packet([0xBE, 0, 0, 0, 0, 16, 0, 0, 1, 0xF8, 0])!;
        // Both parities are zero sums: those of P over the columns of header, data, detection code and P itself.
        for (var column = 0; column < 86; column++)
        {
            byte sum = 0;
            for (var row = 0; row < 26; row++)
                sum ^= sector[12 + (row * 86) + column];
            Assert.Equal(0, sum);
        }

        uint code = 0;
        foreach (var value in sector.AsSpan(0, 2068))
        {
            code ^= value;
            for (var bit = 0; bit < 8; bit++)
                code = (code >> 1) ^ ((code & 1) != 0 ? 0xD8018001 : 0);
        }

        Assert.Equal(0u, code); // the remainder of the data with their code
    }

    [Fact]
    public void Reads_by_time()
    {
        // From 0:02:10 to 0:02:12: two sectors from block 10 on.
        Assert.Equal(_bench.Cd.Copy(10 * 2048, 4096), _bench.Packet([0xB9, 0, 0, 0, 2, 10, 0, 2, 12, 0x10]));
    }

    [Theory]
    [InlineData(new byte[] { 0x28, 0, 0, 0, 0, 99, 0, 0, 2 }, IllegalRequest, 0x21)]
    [InlineData(new byte[] { 0x28, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 1 }, IllegalRequest, 0x21)]
    [InlineData(new byte[] { 0xA8, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF }, IllegalRequest, 0x21)]
    [InlineData(new byte[] { 0x2B, 0, 0, 0, 0, 100 }, IllegalRequest, 0x21)]
    [InlineData(new byte[] { 0xBE, 0, 0, 0, 0, 0, 0, 0, 1, 0x90 }, IllegalRequest, 0x24)] // sync and data without the header between
    [InlineData(new byte[] { 0xBE, 0, 0, 0, 0, 0, 0, 0, 1, 0x10, 1 }, IllegalRequest, 0x24)] // sub-channels
    [InlineData(new byte[] { 0x2A }, IllegalRequest, 0x20)] // WRITE (10)
    [InlineData(new byte[] { 0x5A, 0, 0x3E }, IllegalRequest, 0x24)]
    [InlineData(new byte[] { 0x5A, 0, 0xEA }, IllegalRequest, 0x39)]
    [InlineData(new byte[] { 0x43, 0, 5, 0, 0, 0, 0, 0xFF }, IllegalRequest, 0x24)]
    [InlineData(new byte[] { 0x4A }, IllegalRequest, 0x24)]
    public void What_it_cannot_do_has_a_reason(byte[] packet, int key, int code)
    {
        Assert.Null(_bench.Packet(packet));
        Assert.Equal(key << 4, _bench.ErrorRegister);
        Assert.Equal((key, code), _bench.Sense());
        Assert.Equal((0, 0), _bench.Sense());
    }

    [Fact]
    public void An_error_of_the_host_is_one_of_the_medium()
    {
        _bench.Cd.Error = BlockError.Io;
        Assert.Null(_bench.Packet([0x28, 0, 0, 0, 0, 0, 0, 0, 1]));
        Assert.Equal((MediumError, 0x11), _bench.Sense());
        Dma([0x28, 0, 0, 0, 0, 0, 0, 0, 1], (0x20000, 2048));
        Assert.Equal(IdeBench.Error, _bench.TakeInterrupt() & IdeBench.Error);
    }

    [Fact]
    public void The_table_of_contents_has_one_track()
    {
        byte[] track = [0, 0x14, 1, 0, 0, 0, 0, 0], leadOut = [0, 0x14, 0xAA, 0, 0, 0, 0, 100];
        Assert.Equal([0, 18, 1, 1, .. track, .. leadOut], _bench.Packet([0x43, 0, 0, 0, 0, 0, 0, 0, 0xFF]));
        Assert.Equal([0, 10, 1, 1, .. leadOut], _bench.Packet([0x43, 0, 0, 0, 0, 0, 0xAA, 0, 0xFF]));
        var times = _bench.Packet([0x43, 2, 0, 0, 0, 0, 0, 0, 0xFF])!;
        Assert.Equal([0, 0, 2, 0], times[8..12]);
        Assert.Equal([0, 0, 3, 25], times[16..20]); // 250 frames
        Assert.Equal([0, 10, 1, 1, .. track], _bench.Packet([0x43, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0x40])); // sessions, the old way
        var raw = _bench.Packet([0x43, 0, 2, 0, 0, 0, 0, 0, 0xFF])!;
        Assert.Equal((48, 0xA0, 0xA1, 0xA2, 1), (raw.Length, raw[7], raw[18], raw[29], raw[40]));
        Assert.Equal(12, _bench.Packet([0x43, 0, 0, 0, 0, 0, 0, 0, 12])!.Length);
    }

    [Fact]
    public void Features_and_profiles_follow_the_medium()
    {
        var all = _bench.Packet([0x46, 0, 0, 0, 0, 0, 0, 1, 0])!;
        Assert.Equal(all.Length - 4, (int)BinaryPrimitives.ReadUInt32BigEndian(all));
        Assert.Equal(0x08, BinaryPrimitives.ReadUInt16BigEndian(all.AsSpan(6))); // CD-ROM
        var one = _bench.Packet([0x46, 2, 0, 3, 0, 0, 0, 1, 0])!;
        Assert.Equal((16, 3, 0x29), (one.Length, one[9], one[12]));
        var current = _bench.Packet([0x46, 1, 0, 0, 0, 0, 0, 1, 0])!;
        Assert.True(current.Length < all.Length); // without DVD read
        _bench.Cd.ChangeMedium(null);
        Assert.Equal(0, BinaryPrimitives.ReadUInt16BigEndian(_bench.Packet([0x46, 0, 0, 0, 0, 0, 0, 0, 8])!.AsSpan(6)));
    }

    [Fact]
    public void Modes_and_discs_are_described()
    {
        var capabilities = _bench.Packet([0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 0xFF])!;
        Assert.Equal((28, 26, 0x01, 0x2A), (capabilities.Length, capabilities[1], capabilities[2], capabilities[8]));
        Assert.Equal(8 + 8 + 16 + 20, _bench.Packet([0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 0xFF])!.Length);
        Assert.Equal(4 + 20, _bench.Packet([0x1A, 0, 0x2A, 0, 0xFF])!.Length);
        Assert.Equal((34, 0x0E), (_bench.Packet([0x51, 0, 0, 0, 0, 0, 0, 0, 0xFF])!.Length, _bench.Packet([0x51, 0, 0, 0, 0, 0, 0, 0, 0xFF])![2]));
        Assert.Equal(100u, BinaryPrimitives.ReadUInt32BigEndian(_bench.Packet([0x52, 1, 0, 0, 0, 1, 0, 0, 0xFF])!.AsSpan(24)));
        Assert.Equal(8, _bench.Packet([0xBD, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF])!.Length);
        Assert.Null(_bench.Packet([0xAD, 0, 0, 0, 0, 0, 0, 0, 8, 0])); // this is no DVD
    }

    [Fact]
    public void A_new_medium_is_absent_first_then_an_attention_then_there()
    {
        Assert.NotNull(_bench.Packet([0x00]));
        _bench.Cd.ChangeMedium(null);
        Assert.True(_bench.Cdrom.IsTrayOpen);
        Assert.Null(_bench.Packet([0x00]));
        Assert.Equal((NotReady, 0x3A), _bench.Sense());
        _bench.Cd.ChangeMedium(new byte[20 * 2048]);
        Assert.Equal([0, 4, 4, 0x10, 2, 2, 0, 0], _bench.Packet([0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8])); // a new medium
        Assert.Equal([0, 4, 4, 0x10, 0, 2, 0, 0], _bench.Packet([0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8]));
        Assert.Null(_bench.Packet([0x00]));
        Assert.Equal((NotReady, 0x3A), _bench.Sense());
        Assert.Null(_bench.Packet([0x00]));
        Assert.NotNull(_bench.Packet([0x12, 0, 0, 0, 36])); // does not end the attention
        Assert.Null(_bench.Packet([0x00]));
        Assert.Equal((UnitAttention, 0x28), _bench.Sense());
        Assert.NotNull(_bench.Packet([0x00]));
        Assert.Equal(19, _bench.Packet([0x25])![3]);
    }

    [Fact]
    public void A_medium_that_goes_while_it_is_read_is_an_error()
    {
        _bench.Cd.HoldsRequests = true;
        Dma([0x28, 0, 0, 0, 0, 0, 0, 0, 4], (0x20000, 8192));
        _bench.Cd.ChangeMedium(null);
        _bench.Cd.Error = BlockError.NoMedium;
        _bench.Cd.CompleteNext();
        Assert.Equal(IdeBench.Error, _bench.TakeInterrupt() & IdeBench.Error);
        _bench.Cd.HoldsRequests = false;
        Assert.Equal((NotReady, 0x3A), _bench.Sense());
    }

    [Fact]
    public void A_locked_tray_asks_the_guest_before_it_opens()
    {
        Assert.True(_bench.Cdrom.TryEject());
        Assert.NotNull(_bench.Packet([0x1E, 0, 0, 0, 1]));
        Assert.False(_bench.Cdrom.TryEject());
        Assert.Equal(1, _bench.Packet([0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8])![4]); // the request
        Assert.Null(_bench.Packet([0x1B, 0, 0, 0, 2]));
        Assert.Equal((NotReady, 0x53), _bench.Sense());
        Assert.NotNull(_bench.Packet([0x1E, 0, 0, 0, 0]));
        Assert.NotNull(_bench.Packet([0x1B, 0, 0, 0, 2])); // eject
        Assert.True(_bench.Cdrom.IsTrayOpen);
        Assert.Null(_bench.Packet([0x25]));
        Assert.Equal(1, _bench.Packet([0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8])![5]);
        Assert.NotNull(_bench.Packet([0x1B, 0, 0, 0, 3])); // load
        Assert.NotNull(_bench.Packet([0x25]));
    }

    [Fact]
    public void A_device_reset_ends_a_packet_and_unlocks()
    {
        _bench.Packet([0x1E, 0, 0, 0, 1]);
        _bench.Command(0xA0, device: 1); // waits for its packet
        Assert.Equal(IdeBench.Request, _bench.Status & IdeBench.Request);
        _bench.Out(7, 0x08);
        Assert.Equal(0, _bench.Status);
        Assert.Equal((0x14, 0xEB), (_bench.In(4), _bench.In(5)));
        Assert.False(_bench.Cdrom.IsLocked);

        _bench.Cd.HoldsRequests = true;
        Dma([0x28, 0, 0, 0, 0, 0, 0, 0, 4], (0x20000, 8192));
        _bench.Out(7, 0x08);
        Assert.Equal(IdeBench.Busy, _bench.Status & IdeBench.Busy);
        _bench.Cd.CompleteNext();
        Assert.Equal(0, _bench.Status);
    }

    private void Dma(byte[] packet, params (uint Address, int Length)[] table)
    {
        _bench.WriteBusMaster(0, 0);
        _bench.WriteBusMaster(2, 6);
        _bench.SetTable(table);
        _bench.Out(6, 0x10);
        _bench.Out(1, 1);
        _bench.Out(7, 0xA0);
        _bench.WriteData([.. packet, .. new byte[12 - packet.Length]]);
        _bench.StartBusMaster();
    }
}
