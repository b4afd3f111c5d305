using Sharpvisor.Devices.Timers;
using Sharpvisor.Testing.Interrupts;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Timers;

public class RtcTests
{
    private const long Second = 1_000_000_000;

    // 2026-01-01 00:00:00 UTC, a Thursday.
    private readonly ManualClock _clock = new();
    private readonly RecordingLine _irq = new();
    private readonly Rtc _rtc;

    public RtcTests() => _rtc = new Rtc(_clock, _irq);

    [Fact]
    public void TellsTheWallClockInBcd()
    {
        _clock.Advance(((((58 * 24) + 13) * 3600L) + (45 * 60) + 59) * Second); // 58 days on
        Assert.Equal("20 26 02 28 07 13:45:59", Time());
        _clock.Advance(10 * 3600 * Second + (15 * 60 * Second));
        Assert.Equal("20 26 03 01 01 00:00:59", Time());
        Assert.Equal(0x80, Read(0x0D));
    }

    [Fact]
    public void TwelveHourAndBinaryModes()
    {
        _clock.Advance(13 * 3600 * Second);
        Write(0x0B, 0x00);
        Assert.Equal(0x81, Read(4));
        Write(0x0B, 0x04);
        Assert.Equal(0x81, Read(4));
        _clock.Advance(11 * 3600 * Second);
        Assert.Equal(12, Read(4)); // midnight
        Write(0x0B, 0x06);
        Assert.Equal(0, Read(4));
        Assert.Equal(26, Read(9));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void GuestsSettingIsKept(bool dayFirst)
    {
        _clock.Advance(30L * 86400 * Second); // January 31st: a month alone would make a date that is none
        Write(0x0B, 0x82);
        if (dayFirst)
        {
            Write(7, 0x30);
            Write(8, 0x04);
        }
        else
        {
            Write(8, 0x04);
            Write(7, 0x30);
        }

        Write(9, 0x99);
        Write(0x32, 0x19);
        Write(4, 0x23);
        Write(2, 0x59);
        Write(0, 0x58);
        Write(6, 0x06);
        _clock.Advance(10 * Second); // stands still
        Assert.Equal("19 99 04 30 06 23:59:58", Time());
        Write(0x0B, 0x02);
        _clock.Advance(2 * Second);
        Assert.Equal("19 99 05 01 07 00:00:00", Time());
    }

    [Theory]
    [InlineData(0x00, 0x00)]
    [InlineData(0x99, 0x99)]
    public void AnyCenturyReadsBack(byte century, byte year)
    {
        Write(0x32, century);
        Write(9, year);
        Assert.Equal($"{century:X2} {year:X2} 01 01", Time()[..11]);
        _clock.Advance(86400 * Second);
        Assert.Equal($"{century:X2} {year:X2} 01 02", Time()[..11]);
    }

    [Fact]
    public void UpdateInProgressPrecedesTheSecond()
    {
        _clock.Advance(Second - 245_000);
        Assert.Equal(0x26, Read(0x0A));
        _clock.Advance(2_000);
        Assert.Equal(0xA6, Read(0x0A));
        _clock.Advance(244_000);
        Assert.Equal(0x26, Read(0x0A));
    }

    [Fact]
    public void PeriodicInterruptHasTheRateOfRegisterA()
    {
        Write(0x0B, 0x42); // 1024 Hz
        var interrupts = 0;
        for (var i = 0; i < 100_000; i++)
        {
            _clock.Advance(10_000);
            if (!_irq.IsAsserted)
                continue;
            interrupts++;
            Assert.Equal(0xC0, Read(0x0C) & 0xC0);
            Assert.False(_irq.IsAsserted);
        }

        Assert.InRange(interrupts, 1023, 1024);
    }

    [Fact]
    public void UpdateInterruptWaitsForTheFlagsToBeRead()
    {
        Write(0x0B, 0x12);
        _clock.Advance(5 * Second);
        Assert.Equal(1, _irq.Rises);
        Assert.Equal(0x90, Read(0x0C) & 0x90);
        Assert.Equal(0, Read(0x0C));
        _clock.Advance(Second);
        Assert.Equal(2, _irq.Rises);
    }

    [Fact]
    public void FlagsAreSetWithoutInterrupts()
    {
        _clock.Advance(2 * Second);
        Assert.Equal(0x50, Read(0x0C) & 0xD0);
        Assert.Equal(0, _irq.Rises);
    }

    [Fact]
    public void AlarmMatchesItsTime()
    {
        Write(5, 0x02);
        Write(3, 0x30);
        Write(1, 0x15);
        Write(0x0B, 0x22);
        _clock.Advance(((2 * 3600) + (30 * 60) + 15) * Second - 1);
        Assert.False(_irq.IsAsserted);
        _clock.Advance(1);
        Assert.Equal(0xA0, Read(0x0C) & 0xA0);
        _clock.Advance(86400 * Second);
        Assert.True(_irq.IsAsserted);
    }

    /// <summary>Power management hears of an alarm though nobody has fetched the interrupt before it.</summary>
    [Fact]
    public void AlarmIsHeardBehindAnotherInterrupt()
    {
        var alarms = 0;
        _rtc.Alarm += () => alarms++;
        Write(5, 0xFF);
        Write(3, 0xFF);
        Write(1, 0x05);
        Write(0x0B, 0x32);
        _clock.Advance(4 * Second);
        Assert.True(_irq.IsAsserted);
        Assert.Equal(0, alarms);
        _clock.Advance(1 * Second);
        Assert.Equal(1, alarms);
        _clock.Advance(120 * Second);
        Assert.Equal(1, alarms); // it was not acknowledged
        Read(0x0C);
        _clock.Advance(60 * Second);
        Assert.Equal(2, alarms);
        Write(0x0B, 0x02);
        Read(0x0C);
        _clock.Advance(60 * Second);
        Assert.Equal(2, alarms);
    }

    [Fact]
    public void AlarmWithWildcardsRepeats()
    {
        Write(5, 0xFF);
        Write(3, 0xC0);
        Write(1, 0x30);
        Write(0x0B, 0x22);
        for (var i = 0; i < 3; i++)
        {
            _clock.Advance(60 * Second);
            Assert.Equal(0xA0, Read(0x0C) & 0xA0);
        }
    }

    [Fact]
    public void AlarmThatIsNoTimeNeverComes()
    {
        Write(5, 0x77);
        Write(0x0B, 0x22);
        _clock.Advance(2 * 86400 * Second);
        Assert.Equal(0, _irq.Rises);
    }

    [Fact]
    public void DividerResetSetsThePhase()
    {
        _clock.Advance(Second / 4);
        Write(0x0A, 0x76);
        _clock.Advance(5 * Second);
        Assert.Equal(0, Read(0));
        Write(0x0A, 0x26);
        _clock.Advance((Second / 2) - 1);
        Assert.Equal(0, Read(0));
        _clock.Advance(1);
        Assert.Equal(1, Read(0));
    }

    [Fact]
    public void MemorySizeIsWhereFirmwareLooks()
    {
        _rtc.SetMemorySize(3UL << 30, 5UL << 30);
        Assert.Equal(640, Read(0x15) | (Read(0x16) << 8));
        Assert.Equal(0xFFFF, Read(0x30) | (Read(0x31) << 8));
        Assert.Equal(((3 << 30 >> 16) & 0xFFFF) - 256, Read(0x34) | (Read(0x35) << 8));
        Assert.Equal(5 << 14, Read(0x5B) | (Read(0x5C) << 8) | (Read(0x5D) << 16));
    }

    [Fact]
    public void BothBanksOfMemoryOutliveAReset()
    {
        Write(0x7F, 0x12);
        _rtc.Write(2, 1, 0x80);
        _rtc.Write(3, 1, 0x34);
        Write(0x0B, 0x72);
        _rtc.Reset();
        Assert.Equal(0x12, Read(0x7F));
        _rtc.Write(2, 1, 0x80);
        Assert.Equal(0x34UL, _rtc.Read(3, 1));
        Assert.Equal(0x02, Read(0x0B));
    }

    private int Read(byte index)
    {
        _rtc.Write(0, 1, (ulong)(index | 0x80)); // with NMI "masked", as firmware does
        return (int)_rtc.Read(1, 1);
    }

    private void Write(byte index, byte value)
    {
        _rtc.Write(0, 1, index);
        _rtc.Write(1, 1, value);
    }

    private string Time() =>
        $"{Read(0x32):X2} {Read(9):X2} {Read(8):X2} {Read(7):X2} {Read(6):X2} {Read(4):X2}:{Read(2):X2}:{Read(0):X2}";
}
