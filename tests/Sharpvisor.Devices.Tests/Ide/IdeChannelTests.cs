using Sharpvisor.Core.Block;
using Sharpvisor.Devices.Ide;
using Sharpvisor.Testing.Block;
using Sharpvisor.Testing.Interrupts;

namespace Sharpvisor.Devices.Tests.Ide;

public sealed class IdeChannelTests : IDisposable
{
    private readonly IdeBench _bench = new();

    public void Dispose() => _bench.Dispose();

    [Fact]
    public void A_software_reset_shows_both_signatures()
    {
        _bench.Select(1);
        _bench.Control(4);
        Assert.Equal(IdeBench.Busy, _bench.Status);
        _bench.Control(0);
        Assert.Equal(0xA0, _bench.In(6));
        Assert.Equal([1, 1, 1, 0, 0, 0xA0, IdeBench.Idle], Registers());
        _bench.Select(1);
        Assert.Equal([1, 1, 1, 0x14, 0xEB, 0xB0, 0], Registers());
        Assert.False(_bench.Irq.IsAsserted);
    }

    [Fact]
    public void A_diagnosis_shows_both_signatures_and_interrupts()
    {
        _bench.Command(0x90, device: 1);
        Assert.Equal(IdeBench.Idle, _bench.TakeInterrupt());
        Assert.Equal([1, 1, 1, 0, 0, 0xA0, IdeBench.Idle], Registers());
        _bench.Select(1);
        Assert.Equal([1, 1, 1, 0x14, 0xEB, 0xB0, 0], Registers());
    }

    [Fact]
    public void Interrupts_can_be_masked_and_come_when_they_are_not()
    {
        _bench.Control(2);
        _bench.Command(0xE5);
        Assert.False(_bench.Irq.IsAsserted);
        _bench.Control(0);
        Assert.True(_bench.Irq.IsAsserted);
        _ = _bench.Status; // the other status register leaves it
        Assert.True(_bench.Irq.IsAsserted);
        _bench.In(7);
        Assert.False(_bench.Irq.IsAsserted);
    }

    [Fact]
    public void The_interrupt_is_that_of_the_selected_device()
    {
        _bench.Command(0xE5);
        _bench.Select(1);
        Assert.False(_bench.Irq.IsAsserted);
        _bench.Select(0);
        Assert.True(_bench.Irq.IsAsserted);
    }

    [Fact]
    public void A_new_command_takes_back_the_interrupt_of_the_one_before()
    {
        _bench.Command(0xE5);
        _bench.Disk.HoldsRequests = true;
        _bench.Command(0xE7);
        Assert.False(_bench.Irq.IsAsserted);
        _bench.Disk.CompleteNext();
        Assert.Equal(2, _bench.Irq.Rises);
    }

    [Fact]
    public void Registers_hold_two_bytes_each()
    {
        foreach (var value in new[] { 0x11, 0x22 })
        {
            for (var register = 2u; register < 6; register++)
                _bench.Out(register, value + (int)register);
        }

        Assert.Equal([0x24, 0x25, 0x26, 0x27], Enumerable.Range(2, 4).Select(r => (int)_bench.In((uint)r)));
        _bench.Control(0x80);
        Assert.Equal([0x13, 0x14, 0x15, 0x16], Enumerable.Range(2, 4).Select(r => (int)_bench.In((uint)r)));
        _bench.Out(2, 0); // any write shows the last ones again
        Assert.Equal(0x25, _bench.In(3));
    }

    [Fact]
    public void An_empty_channel_reads_as_zero_and_a_missing_device_has_no_status()
    {
        var line = new RecordingLine();
        var channel = new IdeChannel(line);
        for (var register = 1u; register < 8; register++)
            Assert.Equal(0ul, channel.CommandBlock.Read(register, 1));
        channel.CommandBlock.Write(7, 1, 0xEC);
        Assert.Equal(0ul, channel.ControlBlock.Read(0, 1));

        channel.Attach(0, new AtaDisk(new MemoryDrive(100), DiskGeometry.Of(100), new IdeIdentity("S", "M")));
        channel.CommandBlock.Write(6, 1, 0xB0);
        channel.CommandBlock.Write(2, 1, 0x55);
        Assert.Equal((0x55ul, 0ul), (channel.CommandBlock.Read(2, 1), channel.CommandBlock.Read(7, 1)));
        channel.CommandBlock.Write(7, 1, 0xEC);
        Assert.False(line.IsAsserted);
    }

    [Fact]
    public void The_data_port_is_dead_without_a_transfer()
    {
        Assert.Equal(0ul, _bench.Ide.Channels[0].CommandBlock.Read(0, 2));
        _bench.Ide.Channels[0].CommandBlock.Write(0, 4, 0x12345678);
        _bench.Command(0x20, 0, 1);
        _bench.Ide.Channels[0].CommandBlock.Write(0, 2, 0x1234); // the wrong way
        Assert.Equal(_bench.Disk.Copy(0, 512), _bench.ReadData(512));
    }

    [Fact]
    public void A_reset_of_the_machine_in_the_middle_of_everything_leaves_it_ready()
    {
        _bench.Disk.HoldsRequests = true;
        _bench.Command(0x20, 0, 1);
        _bench.Ide.Reset();
        Assert.Equal(IdeBench.Busy, _bench.Status);
        _bench.Disk.CompleteNext();
        Assert.Equal([1, 1, 1, 0, 0, 0xA0, IdeBench.Idle], Registers());
        _bench.Disk.HoldsRequests = false;
        _bench.Command(0x30, 0, 1);
        _bench.Ide.Reset();
        Assert.Equal(IdeBench.Idle, _bench.Status);
        Assert.DoesNotContain(_bench.Disk.Requests, r => r.Operation == BlockOperation.Write);
    }

    [Theory]
    [InlineData(1008, 2, 16, 63, DiskTranslation.None)]
    [InlineData(63 * 16 * 1024, 1024, 16, 63, DiskTranslation.None)]
    [InlineData(63 * 16 * 1025, 1025, 16, 63, DiskTranslation.Lba)]
    [InlineData(1L << 40, 16383, 16, 63, DiskTranslation.Lba)]
    public void A_disk_has_a_shape_by_its_size(long sectors, int cylinders, int heads, int perTrack, DiskTranslation translation) =>
        Assert.Equal(new DiskGeometry(cylinders, heads, perTrack, translation), DiskGeometry.Of(sectors));

    [Theory]
    [InlineData(41_616, 3, 17, 612, 4, 17, DiskTranslation.None)] // an AT's disk of 20 MB
    [InlineData(63L * 16 * 2000, 31, 63, 2000, 16, 63, DiskTranslation.Large)]
    [InlineData(63L * 16 * 9000, 254, 63, 9000, 16, 63, DiskTranslation.Lba)]
    public void Or_by_its_partition_table(long sectors, byte lastHead, byte lastSector, int cylinders, int heads, int perTrack, DiskTranslation translation)
    {
        var first = new byte[512];
        first[510] = 0x55;
        first[511] = 0xAA;
        first[0x1BE + 5] = lastHead;
        first[0x1BE + 6] = lastSector;
        first[0x1BE + 12] = 100;
        Assert.Equal(new DiskGeometry(cylinders, heads, perTrack, translation), DiskGeometry.Of(sectors, first));
    }

    private int[] Registers() => [.. Enumerable.Range(1, 7).Select(r => (int)_bench.In((uint)r))];
}
