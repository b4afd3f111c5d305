using Sharpvisor.Devices.Timers;
using Sharpvisor.Testing.Interrupts;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Timers;

public class PitTests
{
    private readonly ManualClock _clock = new();
    private readonly RecordingLine _irq = new();
    private readonly Pit _pit;

    public PitTests() => _pit = new Pit(_clock, _irq);

    [Fact]
    public void RateGeneratorInterruptsAtItsFrequency()
    {
        Program(0, 2, 11932); // 100 Hz
        _clock.Advance(10_000_000_000);
        Assert.InRange(_irq.Rises - 1, 999, 1000); // the first rise is the control word's
    }

    [Fact]
    public void SquareWaveInterruptsAtItsFrequencyAndCountsByTwo()
    {
        Program(0, 3, 1000);
        _clock.Advance(1_000_000_000);
        Assert.InRange(_irq.Rises - 1, 1192, 1193);
        var counts = Enumerable.Range(0, 50).Select(_ =>
        {
            _clock.Advance(10_000);
            return Latched(0);
        }).ToArray();
        Assert.All(counts, c => Assert.True(c % 2 == 0 && c <= 1000));
        Assert.True(counts.Distinct().Count() > 10);
    }

    [Fact]
    public void InterruptOnTerminalCountComesOnceAndLate()
    {
        Program(0, 0, 1193);
        Assert.False(_irq.IsAsserted);
        AdvanceTicks(1193);
        Assert.False(_irq.IsAsserted);
        AdvanceTicks(2);
        Assert.True(_irq.IsAsserted);
        _clock.Advance(1_000_000_000);
        Assert.Equal(1, _irq.Rises);
        Program(0, 0, 100);
        Assert.False(_irq.IsAsserted);
    }

    [Fact]
    public void SoftwareStrobeIsSetAnewByEachCount()
    {
        Program(0, 4, 1000);
        var rises = _irq.Rises;
        AdvanceTicks(900);
        WriteCount(0, 1000);
        AdvanceTicks(900);
        Assert.Equal(rises, _irq.Rises);
        AdvanceTicks(103);
        Assert.Equal(rises + 1, _irq.Rises);
        AdvanceTicks(100_000);
        Assert.Equal(rises + 1, _irq.Rises);
    }

    [Fact]
    public void CountsDownAndWraps()
    {
        Program(0, 0, 1000);
        AdvanceTicks(101);
        Assert.InRange(Latched(0), 899, 900);
        AdvanceTicks(1000);
        Assert.InRange(Latched(0), 65536 - 101, 65536 - 99);
        Program(0, 2, 1000);
        AdvanceTicks(3101);
        Assert.InRange(Latched(0), 899, 900);
    }

    [Fact]
    public void LatchHoldsUntilItIsReadOut()
    {
        Program(0, 2, 0);
        AdvanceTicks(101);
        _pit.Write(3, 1, 0x00);
        AdvanceTicks(1000);
        _pit.Write(3, 1, 0x00); // a second latch command changes nothing
        Assert.InRange(ReadCount(0), 65536 - 101, 65536 - 99);
        Assert.InRange(ReadCount(0), 65536 - 1102, 65536 - 1099);
    }

    [Fact]
    public void BcdCountsInDecimal()
    {
        Program(0, 2, 0x1000, bcd: true);
        AdvanceTicks(2);
        Assert.Equal(0x0999, Latched(0));
        AdvanceTicks(500);
        Assert.Equal(0x0499, Latched(0));
        Program(0, 0, 0, bcd: true);
        AdvanceTicks(2);
        Assert.Equal(0x9999, Latched(0));
    }

    [Fact]
    public void ReadBackTellsStatusThenCount()
    {
        _pit.Write(3, 1, 0x34);
        _pit.Write(3, 1, 0xE2); // status of channel 0
        Assert.Equal(0xF4UL, _pit.Read(0, 1)); // OUT high, null count, lsb/msb, mode 2
        WriteCount(0, 5000);
        AdvanceTicks(11);
        _pit.Write(3, 1, 0xC2); // both
        Assert.Equal(0xB4UL, _pit.Read(0, 1));
        Assert.InRange(ReadCount(0), 4989, 4990);
    }

    [Fact]
    public void NewRateTakesEffectAtTheEndOfThePeriod()
    {
        Program(0, 2, 10_000);
        var rises = _irq.Rises;
        AdvanceTicks(5_000);
        WriteCount(0, 1_000);
        AdvanceTicks(4_990);
        Assert.Equal(rises, _irq.Rises);
        AdvanceTicks(20);
        Assert.Equal(rises + 1, _irq.Rises);
        AdvanceTicks(1000);
        Assert.Equal(rises + 2, _irq.Rises);
    }

    [Fact]
    public void Port61GatesTheThirdChannelAndShowsItsOutput()
    {
        _pit.Port61.Write(0, 1, 0);
        Program(2, 0, 1000);
        AdvanceTicks(5000);
        Assert.Equal(0UL, _pit.Port61.Read(0, 1) & 0x20);
        _pit.Port61.Write(0, 1, 1);
        AdvanceTicks(500);
        _pit.Port61.Write(0, 1, 0); // holds it
        AdvanceTicks(5000);
        Assert.Equal(0UL, _pit.Port61.Read(0, 1) & 0x20);
        _pit.Port61.Write(0, 1, 1);
        AdvanceTicks(505);
        Assert.Equal(0x20UL, _pit.Port61.Read(0, 1) & 0x20);
        Assert.Equal(1UL, _pit.Port61.Read(0, 1) & 0x0F);
    }

    [Fact]
    public void GateTriggersTheOneShot()
    {
        Program(2, 1, 1000);
        Assert.Equal(0x20UL, _pit.Port61.Read(0, 1) & 0x20);
        _pit.Port61.Write(0, 1, 1);
        AdvanceTicks(500);
        Assert.Equal(0UL, _pit.Port61.Read(0, 1) & 0x20);
        AdvanceTicks(505);
        Assert.Equal(0x20UL, _pit.Port61.Read(0, 1) & 0x20);
    }

    [Fact]
    public void RefreshBitToggles()
    {
        var seen = new HashSet<ulong>();
        for (var i = 0; i < 4; i++)
        {
            seen.Add(_pit.Port61.Read(0, 1) & 0x10);
            _clock.Advance(15_085);
        }

        Assert.Equal(2, seen.Count);
    }

    [Fact]
    public void ShortestPeriodDoesNotStopTheHost()
    {
        Program(0, 2, 1);
        _clock.Advance(100_000_000);
        Assert.InRange(_irq.Rises, 2, 6000);
    }

    private void AdvanceTicks(long ticks) => _clock.Advance((ticks * 1_000_000_000 / Pit.Hz) + 1);

    private void Program(uint channel, int mode, int count, bool bcd = false)
    {
        _pit.Write(3, 1, (channel << 6) | 0x30 | (uint)(mode << 1) | (bcd ? 1u : 0));
        WriteCount(channel, count);
    }

    private void WriteCount(uint channel, int count)
    {
        _pit.Write(channel, 1, (ulong)count & 0xFF);
        _pit.Write(channel, 1, (ulong)count >> 8);
    }

    private int ReadCount(uint channel) => (int)(_pit.Read(channel, 1) | (_pit.Read(channel, 1) << 8));

    private int Latched(uint channel)
    {
        _pit.Write(3, 1, channel << 6);
        return ReadCount(channel);
    }
}
