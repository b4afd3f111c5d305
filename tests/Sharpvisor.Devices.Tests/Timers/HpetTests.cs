using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Timers;
using Sharpvisor.Testing.Interrupts;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Timers;

public class HpetTests
{
    private const uint Config = 0x10, Status = 0x20, Counter = 0xF0;

    private readonly ManualClock _clock = new();
    private readonly ApicBus _bus = new();
    private readonly Pic _pic;
    private readonly IoApic _ioApic;
    private readonly LocalApic _apic;
    private readonly RecordingProcessor _cpu = new();
    private readonly Hpet _hpet;

    public HpetTests()
    {
        _apic = new LocalApic(0, _clock, _bus);
        _apic.Connect(_cpu);
        _apic.Write(0xF0, 4, 0x1FF);
        _ioApic = new IoApic(_bus);
        _pic = new Pic(new RecordingLine());
        _hpet = new Hpet(_clock, new IsaInterrupts(_pic, _ioApic), _ioApic);
        Route(2, 0x42);
        Route(8, 0x48);
        Route(20, 0x8054);
    }

    [Fact]
    public void TellsItsCapabilitiesInAnySize()
    {
        Assert.Equal(0x00989680_8086A201UL, _hpet.Read(0, 8));
        Assert.Equal(10_000_000UL, _hpet.Read(4, 4));
        Assert.Equal(0x80UL, _hpet.Read(3, 1) & 0xFF);
        Assert.Equal(0x00FF0104_00000030UL, _hpet.Read(0x100, 8));
        Assert.Equal(0UL, _hpet.Read(0x160, 8)); // no fourth timer
    }

    [Fact]
    public void CounterRunsWhileEnabledAndCanBeSet()
    {
        _clock.Advance(1000);
        Assert.Equal(0UL, _hpet.Read(Counter, 8));
        _hpet.Write(Config, 4, 1);
        _clock.Advance(1000);
        Assert.Equal(100UL, _hpet.Read(Counter, 8));
        _hpet.Write(Counter + 4, 4, 1);
        _clock.Advance(10);
        Assert.Equal((1UL << 32) + 101, _hpet.Read(Counter, 8));
        _hpet.Write(Config, 4, 0);
        _clock.Advance(1000);
        Assert.Equal((1UL << 32) + 101, _hpet.Read(Counter, 8));
    }

    [Fact]
    public void OneShotFiresAtItsComparatorOnLegacyIrq0()
    {
        _hpet.Write(Config, 4, 3);
        _hpet.Write(0x100, 4, 4);
        _hpet.Write(0x108, 8, 500);
        _clock.Advance(4990);
        Assert.False(_cpu.InterruptRequest);
        _clock.Advance(10);
        Assert.Equal(0x42, _apic.AcknowledgeInterrupt());
        _apic.Write(0xB0, 4, 0);
        _clock.Advance(1L << 40);
        Assert.False(_cpu.InterruptRequest);
    }

    [Fact]
    public void OneShotOf32BitsFiresAgainWhenTheCounterWraps()
    {
        _hpet.Write(Config, 4, 3);
        _hpet.Write(0x100, 4, 0x104);
        _hpet.Write(0x108, 8, 500);
        _clock.Advance(5000);
        Assert.Equal(0x42, _apic.AcknowledgeInterrupt());
        _apic.Write(0xB0, 4, 0);
        _clock.Advance((10L << 32) - 10);
        Assert.False(_cpu.InterruptRequest);
        _clock.Advance(10);
        Assert.True(_cpu.InterruptRequest);
    }

    [Fact]
    public void PeriodicIsSetAsLinuxDoes()
    {
        _hpet.Write(Config, 4, 3);
        _clock.Advance(123_450);
        _hpet.Write(0x100, 4, 0x14C & ~0x10UL); // enable, periodic, VAL_SET, 32 bits
        _hpet.Write(0x108, 4, _hpet.Read(Counter, 4) + 100_000);
        _hpet.Write(0x108, 4, 100_000);
        for (var i = 0; i < 5; i++)
        {
            _clock.Advance(999_990);
            Assert.False(_cpu.InterruptRequest);
            _clock.Advance(10);
            Assert.Equal(0x42, _apic.AcknowledgeInterrupt());
            _apic.Write(0xB0, 4, 0);
        }
    }

    [Fact]
    public void LevelInterruptStaysUntilItsStatusIsCleared()
    {
        _hpet.Write(Config, 4, 1);
        _hpet.Write(0x140, 4, 6 | (20 << 9));
        _hpet.Write(0x148, 8, 100);
        _clock.Advance(1000);
        Assert.Equal(4UL, _hpet.Read(Status, 4));
        Assert.Equal(0x54, _apic.AcknowledgeInterrupt());
        _apic.Write(0xB0, 4, 0);
        Assert.Equal(0x54, _apic.AcknowledgeInterrupt());
        _hpet.Write(Status, 4, 4);
        _apic.Write(0xB0, 4, 0);
        Assert.False(_cpu.InterruptRequest);
        Assert.Equal(0UL, _hpet.Read(Status, 4));
    }

    [Fact]
    public void LegacyReplacementTakesTheLinesOfPitAndRtc()
    {
        _hpet.PitOutput.Set(true);
        Assert.Equal(1UL, _pic.MasterPorts.Read(0, 1));
        _hpet.Write(Config, 4, 2);
        Assert.Equal(0UL, _pic.MasterPorts.Read(0, 1));
        _hpet.PitOutput.Set(false);
        _hpet.PitOutput.Set(true);
        _hpet.RtcOutput.Set(true);
        Assert.Equal(0UL, _pic.MasterPorts.Read(0, 1));
        Assert.Equal(0UL, _pic.SlavePorts.Read(0, 1));
        _hpet.Write(Config, 4, 0);
        Assert.Equal(1UL, _pic.SlavePorts.Read(0, 1));
    }

    [Fact]
    public void ShortestPeriodDoesNotStopTheHost()
    {
        _hpet.Write(Config, 4, 3);
        _hpet.Write(0x100, 4, 0x4C);
        _hpet.Write(0x108, 4, 1);
        _hpet.Write(0x108, 4, 1);
        _clock.Advance(100_000_000);
        Assert.True(_cpu.InterruptRequest);
    }

    private void Route(uint pin, uint low)
    {
        _ioApic.Write(0, 4, 0x10 + (2 * pin));
        _ioApic.Write(0x10, 4, low);
    }
}
