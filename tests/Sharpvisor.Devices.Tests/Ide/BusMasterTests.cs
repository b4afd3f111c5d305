using Sharpvisor.Core.Block;

namespace Sharpvisor.Devices.Tests.Ide;

public sealed class BusMasterTests : IDisposable
{
    private const byte Active = 1, Failed = 2, Interrupted = 4;

    private readonly IdeBench _bench = new(discard: true);

    public void Dispose() => _bench.Dispose();

    [Theory]
    [InlineData(0xC8, true)]
    [InlineData(0xC8, false)]
    public void Reads_into_scattered_memory_whichever_is_started_first(byte command, bool commandFirst)
    {
        _bench.SetTable((0x20000, 100), (0x30002, 700), (0x40000, 224));
        if (commandFirst)
            _bench.Command(command, 50, 2);
        _bench.StartBusMaster();
        if (!commandFirst)
            _bench.Command(command, 50, 2);
        Assert.Equal(Interrupted, (byte)_bench.ReadBusMaster(2) & 7);
        Assert.Equal(IdeBench.Idle, _bench.TakeInterrupt());
        byte[] data = [.. _bench.ReadMemory(0x20000, 100), .. _bench.ReadMemory(0x30002, 700), .. _bench.ReadMemory(0x40000, 224)];
        Assert.Equal(_bench.Disk.Copy(50 * 512, 1024), data);
        Assert.Equal(0, _bench.ReadMemory(0x40000 + 224, 1)[0]);
        _bench.WriteBusMaster(2, Interrupted);
        Assert.Equal(0ul, _bench.ReadBusMaster(2));
    }

    [Theory]
    [InlineData(0x25, false)]
    [InlineData(0x35, true)]
    [InlineData(0x3D, true)]
    public void Moves_as_much_as_one_command_can(byte command, bool isWrite)
    {
        using var bench = new IdeBench(sectors: 3000);
        var data = AtaDiskTests.Pattern(2048 * 512);
        bench.SetTable([.. Enumerable.Range(0, 16).Select(i => ((uint)(0x80000 + (i * 0x10000)), 0x10000))]); // a length of zero is 64 KiB
        if (isWrite)
            bench.Memory.TryWrite(0x100000, data.AsSpan(0x80000));
        bench.CommandExt(command, 900, 2048);
        bench.StartBusMaster();
        // Half of the ranges lie in the window of video memory and ROM, which is no RAM here.
        Assert.Equal(Failed | Interrupted, (byte)bench.ReadBusMaster(2) & 7);
        Assert.Equal(IdeBench.Error, bench.TakeInterrupt() & IdeBench.Error);
        Assert.Empty(bench.Disk.Requests);

        bench.WriteBusMaster(0, 0);
        bench.WriteBusMaster(2, Failed | Interrupted);
        bench.SetTable([.. Enumerable.Range(0, 16).Select(i => ((uint)(0x100000 + (i * 0x10000)), 0x10000))]);
        if (isWrite)
            bench.Memory.TryWrite(0x100000, data);
        bench.CommandExt(command, 900, 2048);
        bench.StartBusMaster();
        Assert.Equal(IdeBench.Idle, bench.TakeInterrupt());
        Assert.Equal(bench.Disk.Copy(900 * 512, 2048 * 512), bench.ReadMemory(0x100000, 2048 * 512));
        if (isWrite)
            Assert.Equal(data, bench.Disk.Copy(900 * 512, 2048 * 512));
        Assert.Equal(command == 0x3D, bench.Disk.Requests.Single().Flag);
    }

    [Fact]
    public void A_table_that_ends_early_moves_nothing_and_tells_nobody()
    {
        _bench.SetTable((0x20000, 512));
        _bench.Command(0xC8, 0, 2);
        _bench.StartBusMaster();
        Assert.Equal(0ul, _bench.ReadBusMaster(2));
        Assert.False(_bench.Irq.IsAsserted);
        Assert.Equal(IdeBench.Idle, _bench.Status);
        Assert.Empty(_bench.Disk.Requests);
    }

    [Fact]
    public void A_table_that_goes_on_stays_active_until_it_is_stopped()
    {
        _bench.SetTable((0x20000, 512), (0x30000, 512));
        _bench.Command(0xC8, 0, 1);
        _bench.StartBusMaster();
        Assert.Equal(Active | Interrupted, (byte)_bench.ReadBusMaster(2) & 7);
        _bench.WriteBusMaster(0, 0);
        Assert.Equal(Interrupted, (byte)_bench.ReadBusMaster(2) & 7);
    }

    [Fact]
    public void It_does_not_move_while_the_function_is_no_bus_master()
    {
        _bench.Ide.WriteConfig(4, 2, 1);
        _bench.SetTable((0x20000, 512));
        _bench.Command(0xC8, 0, 1);
        _bench.StartBusMaster();
        Assert.Equal(Failed, (byte)_bench.ReadBusMaster(2) & Failed);
        Assert.Equal(new byte[512], _bench.ReadMemory(0x20000, 512));
    }

    [Fact]
    public void The_processor_goes_on_while_the_host_reads()
    {
        _bench.Disk.HoldsRequests = true;
        _bench.SetTable((0x20000, 512));
        _bench.Command(0xC8, 3, 1);
        _bench.StartBusMaster();
        Assert.Equal(IdeBench.Busy, _bench.Status & IdeBench.Busy);
        Assert.Equal(Active, (byte)_bench.ReadBusMaster(2));
        // Nothing can be changed, not even which device is selected.
        _bench.Out(6, 0xB0);
        _bench.Out(2, 0x55);
        _bench.Out(7, 0xEC);
        Assert.Equal(IdeBench.Busy, _bench.Status & IdeBench.Busy);
        // Stopped, it is active until the transfer is done.
        _bench.WriteBusMaster(0, 0);
        Assert.Equal(Active, (byte)_bench.ReadBusMaster(2));
        _bench.Disk.CompleteNext();
        Assert.Equal(Interrupted, (byte)_bench.ReadBusMaster(2));
        Assert.Equal(IdeBench.Idle, _bench.TakeInterrupt());
        Assert.Equal(_bench.Disk.Copy(3 * 512, 512), _bench.ReadMemory(0x20000, 512));
    }

    [Fact]
    public void A_reset_in_between_is_over_when_the_transfer_is()
    {
        _bench.Disk.HoldsRequests = true;
        _bench.SetTable((0x20000, 512));
        _bench.Command(0xC8, 3, 1);
        _bench.StartBusMaster();
        _bench.Control(4);
        _bench.Control(0);
        Assert.Equal(IdeBench.Busy, _bench.Status);
        _bench.Out(7, 0xEC); // ignored
        _bench.Disk.CompleteNext();
        Assert.Equal(IdeBench.Idle, _bench.Status);
        Assert.False(_bench.Irq.IsAsserted);
        Assert.Equal(0, (byte)_bench.ReadBusMaster(2) & Interrupted);
        _bench.Disk.HoldsRequests = false;
        _bench.Command(0xEC);
        Assert.Equal(IdeBench.Idle | IdeBench.Request, _bench.TakeInterrupt());
    }

    [Fact]
    public void A_transfer_of_one_device_is_not_disturbed_by_one_of_the_other()
    {
        _bench.Disk.HoldsRequests = true;
        _bench.SetTable((0x20000, 512));
        _bench.Command(0xC8, 3, 1);
        _bench.StartBusMaster();
        _bench.Control(4);
        _bench.Control(0);
        // The disk is still busy; the drive beside it is not.
        _bench.Out(6, 0x50);
        Assert.Equal(IdeBench.Busy, _bench.Status); // a busy device 0 takes no selection
        _bench.Disk.CompleteNext();
        _bench.Out(6, 0x50);
        Assert.Equal(0, _bench.Status);
    }

    [Fact]
    public void Trim_discards_ranges_and_refuses_what_is_behind_the_end()
    {
        ulong[] ranges = [100 | (8UL << 48), 0, 200 | (1UL << 48)];
        for (var i = 0; i < ranges.Length; i++)
            _bench.Memory.TryWrite(0x20000 + (8UL * (ulong)i), ranges[i]);
        Trim();
        Assert.Equal(IdeBench.Idle, _bench.TakeInterrupt());
        Assert.Equal([(BlockOperation.Discard, 51200L, 4096L, false), (BlockOperation.Discard, 102400L, 512L, false)], _bench.Disk.Requests);
        Assert.Equal(new byte[4096], _bench.Disk.Copy(51200, 4096));

        _bench.Memory.TryWrite(0x20000, 4095 | (2UL << 48));
        Trim();
        Assert.Equal(IdeBench.Error, _bench.TakeInterrupt() & IdeBench.Error);
        Assert.Equal(2, _bench.Disk.Requests.Count);
    }

    [Fact]
    public void Its_registers_take_what_they_have()
    {
        _bench.WriteBusMaster(4, 0xFFFF_FFFF, 4);
        Assert.Equal(0xFFFF_FFFCul, _bench.ReadBusMaster(4, 4));
        _bench.WriteBusMaster(2, 0xFF);
        Assert.Equal(0x60ul, _bench.ReadBusMaster(2));
        _bench.WriteBusMaster(0, 0xFE);
        Assert.Equal(0x08ul, _bench.ReadBusMaster(0));
        _bench.Ide.Reset();
        Assert.Equal((0x7010_8086u, 0x010180u), (_bench.Ide.ReadConfig(0, 4), _bench.Ide.ReadConfig(8, 4) >> 8));
    }

    private void Trim()
    {
        _bench.WriteBusMaster(0, 0);
        _bench.WriteBusMaster(2, Interrupted);
        _bench.SetTable((0x20000, 512));
        _bench.Out(1, 1);
        _bench.CommandExt(0x06, 0, 1);
        _bench.StartBusMaster();
    }
}
