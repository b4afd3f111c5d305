using System.Buffers.Binary;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Xen;

public sealed class XenRunstateTests : IDisposable
{
    private const int Blocked = 2;
    private const ulong Area = 0x3000;

    private readonly GuestMemory _memory = new(1 << 20);
    private readonly ManualClock _clock = new();
    private readonly XenRunstate _first, _second;

    public XenRunstateTests()
    {
        var bus = new ApicBus();
        LocalApic[] apics = [new(0, _clock, bus), new(1, _clock, bus)];
        var domain = new XenDomain(7, apics, _memory, _clock, null!, new GuestErrorLog(NullLogger.Instance), NullLogger.Instance);
        domain.Reset();
        (_first, _second) = (domain.Processors[0].Runstate, domain.Processors[1].Runstate);
    }

    public void Dispose() => _memory.Dispose();

    [Fact]
    public void A_processor_that_halts_does_not_run()
    {
        _clock.Advance(100_000_000);
        _first.Change(ProcessorActivity.Halted);
        _clock.Advance(30_000_000);
        Assert.Equal("Blocked since 100000000: 100000000 0 30000000 0", Get(_first));
        _first.Change(ProcessorActivity.Running);
        _clock.Advance(5_000_000);
        Assert.Equal("Running since 130000000: 105000000 0 30000000 0", Get(_first));
    }

    [Fact]
    public void A_processor_that_was_never_started_has_no_time()
    {
        _clock.Advance(100);
        Assert.Equal("Offline since 0: 0 0 0 0", Get(_second));
        var delay = 0L;
        _second.HostDelay = () => delay;
        _clock.Advance(5_000_000);
        delay = 1_000_000;
        _second.Change(ProcessorActivity.Running);
        Assert.Equal("Running since 5000100: 0 0 0 0", Get(_second));
        _second.Reset(isOff: true);
        _second.Change(ProcessorActivity.Off);
        _second.Change(ProcessorActivity.Running);
        _clock.Advance(7);
        _second.Change(ProcessorActivity.Off); // it was stopped
        _clock.Advance(20);
        Assert.Equal("Offline since 5000107: 7 0 0 20", Get(_second));
    }

    [Fact]
    public void What_the_host_takes_is_stolen()
    {
        var delay = 1_000L;
        _first.HostDelay = () => delay;
        _clock.Advance(10_000_000);
        delay += 4_000_000;
        _first.Look();
        Assert.Equal("Running since 10000000: 6000000 4000000 0 0", Get(_first));
        _first.Change(ProcessorActivity.Halted);
        _clock.Advance(10_000_000);
        delay += 500_000; // woken, and made to wait
        _first.Change(ProcessorActivity.Running);
        Assert.Equal("Running since 20000000: 6000000 4500000 9500000 0", Get(_first));
        _clock.Advance(2_000_000);
        delay += 900_000_000; // more than there was time for
        Assert.Equal("Running since 22000000: 6000000 6500000 9500000 0", Get(_first));
        _clock.Advance(2_000_000);
        Assert.Equal("Running since 22000000: 8000000 6500000 9500000 0", Get(_first));
    }

    [Theory]
    [InlineData(true, false)]
    [InlineData(true, true)]
    [InlineData(false, true)]
    public void The_copy_of_the_domain_follows(bool is64, bool marks)
    {
        const uint entered32 = 4, entered64 = 8;
        _first.MarksUpdates = marks;
        _first.SetArea(Area, is64);
        _clock.Advance(0x1_2345_6789);
        _first.Change(ProcessorActivity.Halted);
        Assert.True(_memory.TryRead(Area, out int state) & _memory.TryRead(Area + (is64 ? entered64 : entered32), out long entered));
        Assert.Equal((Blocked, 0x1_2345_6789), (state, entered)); // the mark is gone again
        Assert.True(_memory.TryRead(Area + (is64 ? entered64 : entered32) + 8, out long running));
        Assert.Equal(0x1_2345_6789, running);
        _first.Reset(isOff: false);
        _first.Change(ProcessorActivity.Halted);
        _memory.TryRead(Area + (is64 ? entered64 : entered32) + 8, out running);
        Assert.Equal(0x1_2345_6789, running); // a new domain has named no place
    }

    /// <summary>The state, since when, and the times of running, runnable, blocked and off.</summary>
    private static string Get(XenRunstate runstate)
    {
        string[] names = ["Running", "Runnable", "Blocked", "Offline"];
        var info = runstate.Get(is64: true);
        Assert.Equal(runstate.Get(is64: false)[4..], info[8..]);
        var values = Enumerable.Range(1, 5).Select(i => BinaryPrimitives.ReadInt64LittleEndian(info.AsSpan(i * 8))).ToArray();
        return $"{names[BinaryPrimitives.ReadInt32LittleEndian(info)]} since {values[0]}: {string.Join(' ', values[1..])}";
    }
}
