using Sharpvisor.Devices.Acpi;
using Sharpvisor.Testing.Guests;
using Sharpvisor.Testing.Interrupts;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Acpi;

public class AcpiPmTests
{
    private const ulong RtcBit = 0x400, PowerButtonBit = 0x100, WakeBit = 0x8000, Sleep = 0x2401; // SLP_EN, SLP_TYP of S3, SCI_EN
    private const uint Status = 0, Enable = 2, Control = 4, Timer = 8;

    private readonly ManualClock _clock = new();
    private readonly RecordingLine _sci = new();
    private readonly RecordingMachine _machine = new();
    private readonly AcpiPm _pm;

    public AcpiPmTests() => _pm = new AcpiPm(_clock, _sci, _machine);

    [Fact]
    public void SleepEnableWithTheTypeOfS5PowersOff()
    {
        _pm.Write(Control, 2, 0x2C01); // another type
        Assert.Empty(_machine.PowerOffs);
        Assert.Empty(_machine.Suspends);
        Assert.Equal(0x0C01UL, _pm.Read(Control, 2));
        _pm.Write(Control, 2, 0x2001);
        Assert.Equal(["ACPI S5"], _machine.PowerOffs);
        Assert.Equal(1UL, _pm.Read(Control, 2));
    }

    [Fact]
    public void ASleepEndsByTheAlarmOnceItsStatusIsEnabled()
    {
        _pm.Write(Control, 2, Sleep);
        Assert.Equal(["ACPI S3"], _machine.Suspends);
        _pm.OnAlarm();
        Assert.Empty(_machine.WakeUps); // RTC_EN is clear
        _pm.Write(Enable, 2, RtcBit);
        _pm.OnAlarm();
        _pm.OnAlarm();
        Assert.Equal(["RTC alarm"], _machine.WakeUps);
        _pm.Reset();
        _pm.ReportWakeUp();
        Assert.Equal(WakeBit | RtcBit, _pm.Read(Status, 2));
        Assert.Equal(0UL, _pm.Read(Enable, 2));
        _pm.Write(Status, 2, 0xFFFF);
        Assert.Equal(0UL, _pm.Read(Status, 2));
    }

    [Fact]
    public void APersonEndsASleepWhateverIsEnabled()
    {
        _pm.WakeUp("keyboard");
        Assert.Empty(_machine.WakeUps); // it does not sleep
        _pm.Write(Control, 2, Sleep);
        _pm.WakeUp("keyboard");
        _pm.Reset();
        _pm.ReportWakeUp();
        Assert.Equal(WakeBit | PowerButtonBit, _pm.Read(Status, 2));
        _pm.Write(Control, 2, Sleep);
        _pm.PressPowerButton();
        Assert.Equal(["keyboard", "power button"], _machine.WakeUps);
        Assert.Equal(2, _machine.Suspends.Count);
    }

    [Fact]
    public void WhatHappenedJustBeforeASleepEndsIt()
    {
        _pm.Write(Enable, 2, RtcBit);
        _pm.OnAlarm();
        _pm.Write(Control, 2, Sleep);
        Assert.Equal(["RTC alarm"], _machine.WakeUps);
    }

    [Fact]
    public void AResetEndsASleepWithoutAWakeUp()
    {
        _pm.Write(Control, 2, Sleep);
        _pm.Reset();
        Assert.Equal(0UL, _pm.Read(Status, 2));
        _pm.PressPowerButton();
        Assert.Empty(_machine.WakeUps);
    }

    [Fact]
    public void ASuspendToDiskPowersOff()
    {
        _pm.Write(Control, 2, 0x2801);
        Assert.Equal(["ACPI S4"], _machine.PowerOffs);
    }

    [Fact]
    public void AlarmInterruptsAnAwakeGuestThatWantsIt()
    {
        _pm.Write(Control, 2, 1);
        _pm.OnAlarm();
        Assert.False(_sci.IsAsserted);
        _pm.Write(Enable, 2, RtcBit);
        Assert.True(_sci.IsAsserted);
    }

    [Fact]
    public void SmiCommandSwitchesAcpiMode()
    {
        _pm.SmiCommand.Write(0, 1, AcpiPm.AcpiEnable);
        Assert.Equal(1UL, _pm.Read(Control, 2));
        _pm.SmiCommand.Write(0, 1, AcpiPm.AcpiDisable);
        Assert.Equal(0UL, _pm.Read(Control, 2));
    }

    [Fact]
    public void PowerButtonInterruptsUntilItsStatusIsCleared()
    {
        _pm.PressPowerButton();
        Assert.Equal(0x100UL, _pm.Read(Status, 2));
        Assert.False(_sci.IsAsserted);
        _pm.Write(Enable, 2, 0xFFFF);
        Assert.Equal(0x0721UL, _pm.Read(Enable, 2));
        Assert.False(_sci.IsAsserted);
        _pm.Write(Control, 2, 1);
        Assert.True(_sci.IsAsserted);
        _pm.Write(Status, 2, 0x0200); // another bit
        Assert.True(_sci.IsAsserted);
        _pm.Write(Status + 1, 1, 0x01);
        Assert.False(_sci.IsAsserted);
    }

    [Fact]
    public void TimerCountsTwentyFourBits()
    {
        _clock.Advance(1_000_000_000);
        Assert.Equal(3_579_545UL, _pm.Read(Timer, 4));
        Assert.Equal(3_579_545UL >> 16, _pm.Read(Timer + 2, 2));
        _clock.Advance(4_000_000_000);
        Assert.Equal((5 * 3_579_545UL) & 0xFFFFFF, _pm.Read(Timer, 4));
    }

    [Fact]
    public void TimerOverflowSetsItsStatusAndInterrupts()
    {
        _clock.Advance(2_343_000_000);
        Assert.Equal(0UL, _pm.Read(Status, 2));
        _clock.Advance(1_000_000);
        Assert.Equal(1UL, _pm.Read(Status, 2));
        _pm.Write(Control, 2, 1);
        _pm.Write(Status, 2, 1);
        _pm.Write(Enable, 2, 1);
        Assert.False(_sci.IsAsserted);
        _clock.Advance(2_344_000_000);
        Assert.True(_sci.IsAsserted);
        _pm.Write(Status, 2, 1);
        Assert.False(_sci.IsAsserted);
        _clock.Advance(2_344_000_000);
        Assert.Equal(2, _sci.Rises);
    }
}
