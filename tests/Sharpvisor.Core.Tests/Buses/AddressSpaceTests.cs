using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Core.Tests.Buses;

public sealed class AddressSpaceTests
{
    private readonly MachineGate _gate = new();
    private readonly GuestErrorLog _errors = new(NullLogger.Instance);
    private readonly AddressSpace _ports;

    public AddressSpaceTests()
    {
        _ports = new AddressSpace("io", 0x10000, _gate, _errors);
    }

    [Fact]
    public void A_device_sees_offsets_sizes_masked_values_and_the_gate()
    {
        var device = new RecordingDevice(_gate) { Answer = ulong.MaxValue };
        _ports.Map(0x3F8, 8, device, "com1");

        _ports.Write(0x3F9, 1, 0x1234);
        Assert.Equal(0xFFFFUL, _ports.Read(0x3FC, 2));
        Assert.Equal(["write 1 1 34", "read 4 2"], device.Log);
        Assert.False(_gate.IsHeld);
    }

    [Fact]
    public void Overlap_names_both_devices_and_their_ranges()
    {
        _ports.Map(0x3F8, 8, new RecordingDevice(_gate), "com1");
        var error = Assert.Throws<InvalidOperationException>(
            () => _ports.Map(0x3FF, 2, new RecordingDevice(_gate), "floppy"));
        Assert.Equal("io ranges overlap: floppy at 0x3ff-0x400 and com1 at 0x3f8-0x3ff", error.Message);
        Assert.Single(_ports.Mappings);
        _ports.Map(0x400, 1, new RecordingDevice(_gate), "next");
        _ports.Map(0x3F7, 1, new RecordingDevice(_gate), "before");
    }

    [Theory]
    [InlineData(0x10000UL, 1UL)]
    [InlineData(0xFFFFUL, 2UL)]
    [InlineData(0UL, 0UL)]
    [InlineData(1UL, ulong.MaxValue)]
    public void A_range_must_fit(ulong start, ulong length) =>
        Assert.Throws<InvalidOperationException>(() => _ports.Map(start, length, new RecordingDevice(_gate), "x"));

    [Fact]
    public void Unassigned_accesses_read_all_ones_and_are_counted()
    {
        List<string> trace = [];
        _errors.Trace = trace.Add;
        Assert.Equal(0xFFUL, _ports.Read(0x80, 1));
        Assert.Equal(0xFFFFFFFFUL, _ports.Read(0x80, 4));
        Assert.Equal(ulong.MaxValue, _ports.Read(0xFFFF_FFFF_FFFF_FFF8, 8));
        _ports.Write(0x80, 2, 0);
        Assert.Equal(4, _ports.UnassignedAccesses);
        Assert.Equal("io: unassigned write of 2 at 0x80", trace[^1]);
    }

    [Fact]
    public void An_access_over_the_end_of_a_range_is_split_into_bytes()
    {
        var first = new RecordingDevice(_gate) { Answer = 0x11 };
        var second = new RecordingDevice(_gate) { Answer = 0x22 };
        _ports.Map(0x10, 2, first, "first");
        _ports.Map(0x12, 1, second, "second");

        Assert.Equal(0xFF_22_11UL, _ports.Read(0x11, 4) & 0xFF_FFFF);
        Assert.Equal(["read 1 1"], first.Log);
        Assert.Equal(["read 0 1"], second.Log);

        _ports.Write(0x11, 2, 0xBBAA);
        Assert.Equal("write 1 1 aa", first.Log[^1]);
        Assert.Equal("write 0 1 bb", second.Log[^1]);
    }

    [Fact]
    public void An_access_that_begins_before_a_range_reaches_it()
    {
        var device = new RecordingDevice(_gate) { Answer = 0x42 };
        _ports.Map(0x3F8, 8, device, "com1");
        Assert.Equal(0x42FFUL, _ports.Read(0x3F7, 2));
        _ports.Write(0x3F6, 4, 0x44332211);
        Assert.Equal(["read 0 1", "write 0 1 33", "write 1 1 44"], device.Log);
    }

    [Fact]
    public void The_last_port_wraps_to_the_first()
    {
        var last = new RecordingDevice(_gate) { Answer = 0x11 };
        var first = new RecordingDevice(_gate) { Answer = 0x22 };
        _ports.Map(0xFFFF, 1, last, "last");
        _ports.Map(0, 1, first, "first");
        Assert.Equal(0x2211UL, _ports.Read(0xFFFF, 2));
    }

    [Fact]
    public void An_unmapped_range_is_free_again()
    {
        var mapping = _ports.Map(0x10, 2, new RecordingDevice(_gate), "first");
        _ports.Unmap(mapping);
        Assert.Equal(0xFFUL, _ports.Read(0x10, 1));
        _ports.Map(0x11, 2, new RecordingDevice(_gate), "second");
        Assert.Equal(["second"], _ports.Mappings.Select(m => m.Name));
    }

    [Fact]
    public void Lookup_finds_the_right_one_of_many()
    {
        for (var i = 99; i >= 0; i--)
            _ports.Map((ulong)(i * 16), 8, new RecordingDevice(_gate) { Answer = (ulong)i }, "d" + i);
        for (var i = 0; i < 100; i++)
        {
            Assert.Equal((ulong)i, _ports.Read((ulong)(i * 16), 1));
            Assert.Equal((ulong)i, _ports.Read((ulong)((i * 16) + 7), 1));
            Assert.Equal(0xFFUL, _ports.Read((ulong)((i * 16) + 8), 1));
        }
    }

    private sealed class RecordingDevice(MachineGate gate) : IBusDevice
    {
        public List<string> Log { get; } = [];

        public ulong Answer { get; init; }

        public ulong Read(uint offset, int size)
        {
            Assert.True(gate.IsHeld);
            Log.Add($"read {offset} {size}");
            return Answer;
        }

        public void Write(uint offset, int size, ulong value)
        {
            Assert.True(gate.IsHeld);
            Log.Add($"write {offset} {size} {value:x}");
        }
    }
}
