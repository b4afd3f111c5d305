using System.Buffers.Binary;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Devices.Tests.Ide;

public sealed class AtaDiskTests : IDisposable
{
    private readonly IdeBench _bench = new();

    public void Dispose() => _bench.Dispose();

    [Fact]
    public void After_power_on_it_shows_the_signature_of_a_disk()
    {
        Assert.Equal([1, 1, 1, 0, 0], Enumerable.Range(1, 5).Select(i => (int)_bench.In((uint)i)));
        Assert.Equal(IdeBench.Idle, _bench.Status);
        Assert.False(_bench.Irq.IsAsserted);
    }

    [Fact]
    public void Identify_describes_it()
    {
        _bench.Command(0xEC);
        Assert.Equal(IdeBench.Idle | IdeBench.Request, _bench.TakeInterrupt());
        var words = Words(_bench.ReadData(512));
        Assert.Equal(IdeBench.Idle, _bench.Status);
        Assert.False(_bench.Irq.IsAsserted);
        Assert.Equal("SERIAL", Text(words, 10, 10));
        Assert.Equal("A disk", Text(words, 27, 20));
        Assert.Equal((4, 16, 63), (words[1], words[3], words[6]));
        Assert.Equal(4096, words[60] | (words[61] << 16));
        Assert.Equal(4096, words[100] | (words[101] << 16));
        Assert.Equal(0x2000, words[88] & 0x2000); // Ultra DMA 5
        Assert.Equal(1 << 10, words[83] & (1 << 10)); // LBA48
        Assert.Equal(1 << 5, words[85] & (1 << 5)); // write cache
        Assert.Equal(0, words[169]);
    }

    [Theory]
    [InlineData(0x20, 5, 1, 2)]
    [InlineData(0x21, 5, 3, 2)]
    [InlineData(0x20, 5, 3, 4)]
    [InlineData(0xC4, 100, 40, 2)]
    [InlineData(0x20, 0, 0, 2)] // 256 sectors
    public void Reads_by_PIO(byte command, int lba, int count, int size)
    {
        var sectors = count == 0 ? 256 : count;
        var block = command == 0xC4 ? 16 : 1;
        _bench.Command(command, lba, count);
        List<byte> data = [];
        for (var left = sectors; left > 0; left -= block)
        {
            Assert.Equal(IdeBench.Idle | IdeBench.Request, _bench.TakeInterrupt());
            data.AddRange(_bench.ReadData(Math.Min(block, left) * 512, size));
        }

        Assert.False(_bench.Irq.IsAsserted);
        Assert.Equal(IdeBench.Idle, _bench.Status);
        Assert.Equal(_bench.Disk.Copy(lba * 512, sectors * 512), data.ToArray());
    }

    [Fact]
    public void Reads_with_a_48_bit_address_more_than_its_buffer_holds()
    {
        _bench.CommandExt(0x24, 1000, 600);
        List<byte> data = [];
        for (var i = 0; i < 600; i++)
        {
            _bench.TakeInterrupt();
            data.AddRange(_bench.ReadData(512));
        }

        Assert.Equal(_bench.Disk.Copy(1000 * 512, 600 * 512), data.ToArray());
        Assert.Equal(3, _bench.Disk.Requests.Count);
        Assert.Equal(1600 & 0xFF, _bench.In(3));
    }

    [Theory]
    [InlineData(0x30, 7, 3)]
    [InlineData(0xC5, 7, 33)]
    public void Writes_by_PIO(byte command, int lba, int count)
    {
        var block = command == 0xC5 ? 16 : 1;
        var data = Pattern(count * 512);
        _bench.Command(command, lba, count);
        Assert.False(_bench.Irq.IsAsserted); // the first block is asked for without one
        for (var done = 0; done < count; done += block)
        {
            _bench.WriteData(data.AsSpan(done * 512, Math.Min(block, count - done) * 512));
            Assert.Equal(done + block < count ? IdeBench.Idle | IdeBench.Request : IdeBench.Idle, _bench.TakeInterrupt());
        }

        Assert.Equal(data, _bench.Disk.Copy(lba * 512, data.Length));
    }

    [Fact]
    public void Writes_with_a_48_bit_address_more_than_its_buffer_holds()
    {
        var data = Pattern(300 * 512);
        _bench.CommandExt(0x39, 2000, 300);
        for (var done = 0; done < 300; done += 16)
        {
            // The last block of the buffer is a short one.
            var count = Math.Min(16, 300 - done);
            _bench.WriteData(data.AsSpan(done * 512, count * 512));
            _bench.TakeInterrupt();
        }

        Assert.Equal(IdeBench.Idle, _bench.Status);
        Assert.Equal(data, _bench.Disk.Copy(2000 * 512, data.Length));
        Assert.Equal([BlockOperation.Write, BlockOperation.Write], _bench.Disk.Requests.Select(r => r.Operation));
    }

    [Fact]
    public void Addresses_by_cylinder_head_and_sector()
    {
        // Cylinder 2, head 3, sector 4 of 16 heads and 63 sectors.
        _bench.Out(6, 0xA3);
        _bench.Out(2, 1);
        _bench.Out(3, 4);
        _bench.Out(4, 2);
        _bench.Out(5, 0);
        _bench.Out(7, 0x20);
        _bench.TakeInterrupt();
        var lba = (((2 * 16) + 3) * 63) + 3;
        Assert.Equal(_bench.Disk.Copy(lba * 512, 512), _bench.ReadData(512));
        Assert.Equal((5, 2, 0xA3), (_bench.In(3), _bench.In(4), _bench.In(6)));
    }

    [Fact]
    public void Another_shape_can_be_set()
    {
        _bench.Out(6, 0xA3); // 4 heads
        _bench.Out(2, 17);
        _bench.Out(7, 0x91);
        Assert.Equal(IdeBench.Idle, _bench.TakeInterrupt());
        _bench.Out(6, 0xA1);
        _bench.Out(2, 1);
        _bench.Out(3, 1);
        _bench.Out(4, 1);
        _bench.Out(5, 0);
        _bench.Out(7, 0x20);
        _bench.TakeInterrupt();
        Assert.Equal(_bench.Disk.Copy(((4 * 17) + 17) * 512, 512), _bench.ReadData(512));
        // A head that this shape has not.
        _bench.Out(6, 0xA4);
        _bench.Out(7, 0x20);
        Assert.Equal(IdeBench.Error, _bench.TakeInterrupt() & IdeBench.Error);
        Assert.Equal(IdeBench.IdNotFound, _bench.ErrorRegister);
    }

    [Theory]
    [InlineData(0x20)]
    [InlineData(0x30)]
    [InlineData(0xC8)]
    [InlineData(0xCA)]
    [InlineData(0x40)]
    public void What_lies_behind_the_end_is_not_found(byte command)
    {
        _bench.Command(command, 4090, 7);
        Assert.Equal(IdeBench.Idle | IdeBench.Error, _bench.TakeInterrupt());
        Assert.Equal(IdeBench.IdNotFound, _bench.ErrorRegister);
        Assert.Empty(_bench.Disk.Requests);
        _bench.Command(command, 4090, 6);
        Assert.NotEqual(IdeBench.Error, _bench.Status & IdeBench.Error);
    }

    [Fact]
    public void An_address_of_48_bits_is_compared_as_a_whole()
    {
        _bench.CommandExt(0x24, 0x1_0000_0000_00, 1);
        Assert.Equal(IdeBench.Idle | IdeBench.Error, _bench.TakeInterrupt());
        _bench.Control(0x80); // the bytes written before
        Assert.Equal(0x01, _bench.In(5));
    }

    [Theory]
    [InlineData(0x00)] // NOP
    [InlineData(0xA1)] // IDENTIFY PACKET DEVICE
    [InlineData(0xA0)] // PACKET
    [InlineData(0x08)] // DEVICE RESET
    [InlineData(0x06)] // DATA SET MANAGEMENT, on a disk that has no discard
    [InlineData(0xFF)]
    public void A_command_that_it_has_not_is_aborted(byte command)
    {
        _bench.Command(command, feature: 1, count: 1);
        Assert.Equal(IdeBench.Idle | IdeBench.Error, _bench.TakeInterrupt());
        Assert.Equal(IdeBench.Abort, _bench.ErrorRegister);
    }

    [Theory]
    [InlineData(0x10)] // RECALIBRATE
    [InlineData(0x70)] // SEEK
    [InlineData(0x40)] // READ VERIFY
    [InlineData(0xE1)] // IDLE IMMEDIATE
    [InlineData(0xE6)] // SLEEP
    public void Commands_without_data_succeed(byte command)
    {
        _bench.Command(command, 1, 1);
        Assert.Equal(IdeBench.Idle, _bench.TakeInterrupt());
    }

    [Theory]
    [InlineData(0xE7)]
    [InlineData(0xEA)]
    public void A_flush_reaches_the_drive_and_can_fail(byte command)
    {
        _bench.Disk.HoldsRequests = true;
        _bench.Command(command);
        Assert.Equal(IdeBench.Busy, _bench.Status & IdeBench.Busy);
        _bench.Disk.CompleteNext();
        Assert.Equal(IdeBench.Idle, _bench.TakeInterrupt());
        Assert.Equal(BlockOperation.Flush, _bench.Disk.Requests.Single().Operation);
        _bench.Disk.HoldsRequests = false;
        _bench.Disk.Error = BlockError.Io;
        _bench.Command(command);
        Assert.Equal(IdeBench.Idle | IdeBench.Error, _bench.TakeInterrupt());
    }

    [Fact]
    public void Errors_of_the_host_are_errors_of_the_disk()
    {
        _bench.Disk.Error = BlockError.Io;
        _bench.Command(0x20, 9, 1);
        Assert.Equal(IdeBench.Idle | IdeBench.Error, _bench.TakeInterrupt());
        Assert.Equal(0x40, _bench.ErrorRegister); // uncorrectable
        Assert.Equal(9, _bench.In(3));
        _bench.Command(0x30, 9, 1);
        _bench.WriteData(new byte[512]);
        Assert.Equal(IdeBench.Idle | IdeBench.Error, _bench.TakeInterrupt());
        Assert.Equal(IdeBench.Abort, _bench.ErrorRegister);
    }

    [Theory]
    [InlineData(0x30)]
    [InlineData(0xC5)]
    [InlineData(0xCA)]
    public void A_read_only_disk_refuses_writes(byte command)
    {
        using var bench = new IdeBench(readOnly: true);
        bench.Command(command, 0, 1);
        Assert.Equal(IdeBench.Idle | IdeBench.Error, bench.TakeInterrupt());
        Assert.Equal(IdeBench.Abort, bench.ErrorRegister);
    }

    [Fact]
    public void Features_are_set_and_shown()
    {
        _bench.Command(0xEF, feature: 0x82);
        Assert.Equal(IdeBench.Idle, _bench.TakeInterrupt());
        Assert.False(_bench.Disk.WriteCache);
        Assert.Equal(BlockOperation.Flush, _bench.Disk.Requests.Single().Operation);
        _bench.Command(0xEF, feature: 3, count: 0x22); // multiword DMA 2
        Assert.Equal(IdeBench.Idle, _bench.TakeInterrupt());
        var words = Identify();
        Assert.Equal((0, 0x0407, 0x003F), (words[85] & (1 << 5), words[63], words[88]));
        _bench.Command(0xEF, feature: 2);
        _bench.TakeInterrupt();
        Assert.True(_bench.Disk.WriteCache);
        foreach (var (feature, count) in new[] { (3, 0x47), (3, 0x0D), (0x99, 0) })
        {
            _bench.Command(0xEF, feature: feature, count: count);
            Assert.Equal(IdeBench.Error, _bench.TakeInterrupt() & IdeBench.Error);
        }
    }

    [Theory]
    [InlineData(8, true)]
    [InlineData(1, true)]
    [InlineData(3, false)]
    [InlineData(32, false)]
    public void Multiple_mode_takes_powers_of_two(int count, bool isRight)
    {
        _bench.Command(0xC6, count: count);
        Assert.Equal(isRight, (_bench.TakeInterrupt() & IdeBench.Error) == 0);
        Assert.Equal(0x100 | (isRight ? count : 16), Identify()[59]);
    }

    [Fact]
    public void Without_multiple_mode_its_commands_are_aborted()
    {
        _bench.Command(0xC6, count: 0);
        _bench.TakeInterrupt();
        _bench.Command(0xC4, 0, 1);
        Assert.Equal(IdeBench.Error, _bench.TakeInterrupt() & IdeBench.Error);
    }

    [Fact]
    public void The_native_size_is_told_both_ways()
    {
        _bench.Command(0xF8);
        _bench.TakeInterrupt();
        Assert.Equal((0xFF, 0x0F, 0), (_bench.In(3), _bench.In(4), _bench.In(5)));
        _bench.CommandExt(0x27, 0, 0);
        _bench.TakeInterrupt();
        Assert.Equal((0xFF, 0x0F, 0), (_bench.In(3), _bench.In(4), _bench.In(5)));
    }

    [Fact]
    public void Power_modes_are_remembered_until_the_next_access()
    {
        int Mode()
        {
            _bench.Command(0xE5);
            _bench.TakeInterrupt();
            return _bench.In(2);
        }

        Assert.Equal(0xFF, Mode());
        _bench.Command(0xE0);
        _bench.TakeInterrupt();
        Assert.Equal(0x00, Mode());
        Assert.Equal(BlockOperation.Flush, _bench.Disk.Requests.Single().Operation);
        _bench.Command(0x40, 0, 1);
        _bench.TakeInterrupt();
        Assert.Equal(0xFF, Mode());
    }

    [Fact]
    public void Smart_says_that_all_is_well()
    {
        byte[] Data(int feature, int lba = 0)
        {
            _bench.Command(0xB0, 0xC24F00 | lba, 1, feature);
            Assert.Equal(IdeBench.Idle | IdeBench.Request, _bench.TakeInterrupt());
            return _bench.ReadData(512);
        }

        foreach (var data in new[] { Data(0xD0), Data(0xD1), Data(0xD5, 1), Data(0xD5, 6) })
            Assert.Equal(0, data.Sum(b => b) & 0xFF);
        _bench.Command(0xB0, 0xC24F01, 0, 0xD4); // a short self-test
        Assert.Equal(IdeBench.Idle, _bench.TakeInterrupt());
        Assert.Equal((1, 1), (Data(0xD5, 6)[508], Data(0xD5, 6)[2]));
        _bench.Command(0xB0, 0xC24F00, 0, 0xDA);
        Assert.Equal(IdeBench.Idle, _bench.TakeInterrupt());
        Assert.Equal((0x4F, 0xC2), (_bench.In(4), _bench.In(5))); // no threshold exceeded
        _bench.Command(0xB0, 0, 0, 0xDA);
        Assert.Equal(IdeBench.Error, _bench.TakeInterrupt() & IdeBench.Error);
        _bench.Command(0xB0, 0xC24F00, 0, 0xD9);
        _bench.TakeInterrupt();
        Assert.Equal(0, Identify()[85] & 1);
        _bench.Command(0xB0, 0xC24F00, 0, 0xD0);
        Assert.Equal(IdeBench.Error, _bench.TakeInterrupt() & IdeBench.Error);
    }

    [Theory]
    [InlineData(0x00, IdeBench.Idle, 0x02)]
    [InlineData(0xF1, IdeBench.Idle, 0x82)]
    [InlineData(0x01, IdeBench.Idle | IdeBench.Error, 0x82)]
    public void Smart_autosave_is_switched_by_the_sector_count(int count, byte status, byte shown)
    {
        _bench.Command(0xB0, 0xC24F00, count, 0xD2);
        Assert.Equal(status, _bench.TakeInterrupt());
        _bench.Command(0xB0, 0xC24F00, 0, 0xD0);
        _bench.TakeInterrupt();
        Assert.Equal(shown, _bench.ReadData(512)[362]);
    }

    internal static ushort[] Words(byte[] data) => [.. Enumerable.Range(0, 256).Select(i => BinaryPrimitives.ReadUInt16LittleEndian(data.AsSpan(2 * i)))];

    internal static string Text(ushort[] words, int start, int count) =>
        string.Concat(words.Skip(start).Take(count).SelectMany(w => new[] { (char)(w >> 8), (char)(w & 0xFF) })).TrimEnd();

    internal static byte[] Pattern(int length)
    {
        var data = new byte[length];
        new Random(length).NextBytes(data);
        return data;
    }

    private ushort[] Identify()
    {
        _bench.Command(0xEC);
        _bench.TakeInterrupt();
        return Words(_bench.ReadData(512));
    }
}
