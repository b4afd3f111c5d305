// ACPI power management: the PM1a event and control registers, the PM timer and the SMI command port.
// Follows: ACPI 6.4, 4.8.3.1 to 4.8.3.3 and 4.8.2; register layout and SLP_TYP of Intel 82371AB (PIIX4) as QEMU has it.
// Leaves out: sleep states but S5 (S1 to S4 are not offered), general-purpose events, bus master and global lock.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Time;
using Sharpvisor.Devices.Timers;

namespace Sharpvisor.Devices.Acpi;

/// <summary>Twelve ports from <see cref="DefaultPort"/> on: PM1_STS, PM1_EN, PM1_CNT, and PM_TMR at 8.</summary>
public sealed class AcpiPm : ByteWideDevice, IResettable
{
    public const ushort DefaultPort = 0x600;

    /// <summary>Length of the register block, in ports.</summary>
    public const int Length = 12;

    /// <summary>Offsets in the block.</summary>
    public const ushort Pm1Event = 0, Pm1Control = 4, PmTimer = 8;

    /// <summary>The port that switches between ACPI and legacy mode, and what to write there.</summary>
    public const ushort SmiCommandPort = 0xB2;

    public const byte AcpiEnable = 0xF1, AcpiDisable = 0xF0;

    /// <summary>SLP_TYP of soft-off, as \_S5 tells.</summary>
    public const byte SoftOff = 0;

    private const ushort TimerStatus = 1, PowerButton = 1 << 8, SleepButton = 1 << 9, RtcStatus = 1 << 10, WakeStatus = 1 << 15;
    private const ushort GlobalStatus = 1 << 5;
    private const ushort StatusBits = TimerStatus | GlobalStatus | PowerButton | SleepButton | RtcStatus | WakeStatus;
    private const ushort EnableBits = TimerStatus | GlobalStatus | PowerButton | SleepButton | RtcStatus;
    private const ushort SciEnable = 1, SleepEnable = 1 << 13;

    private readonly AcpiPmTimer _pmTimer;
    private readonly ClockTimer _timer;
    private readonly IInterruptLine _sci;
    private readonly IMachineControl _machine;
    private ushort _status, _enable, _control;
    private long _changesSeen;
    private byte _smiData;

    /// <param name="sci">The system control interrupt, level triggered: IRQ 9.</param>
    public AcpiPm(Clock clock, IInterruptLine sci, IMachineControl machine)
    {
        _pmTimer = new AcpiPmTimer(clock);
        _timer = clock.CreateTimer("acpi-pm", Update);
        _sci = sci;
        _machine = machine;
        SmiCommand = new BytePorts(offset => offset == 1 ? _smiData : (byte)0, WriteSmiCommand);
    }

    /// <summary>Ports B2h and B3h.</summary>
    public IBusDevice SmiCommand { get; }

    /// <summary>A person presses the power button: an operating system that listens shuts down.</summary>
    public void PressPowerButton()
    {
        _status |= PowerButton;
        Update();
    }

    public void Reset()
    {
        _status = _enable = _control = 0;
        _smiData = 0;
        _changesSeen = _pmTimer.Changes;
        Update();
    }

    public override ulong Read(uint offset, int size) =>
        offset >= PmTimer ? (ulong)_pmTimer.Value >> (int)(8 * (offset - PmTimer & 3)) : base.Read(offset, size);

    protected override byte ReadByte(uint offset)
    {
        NoteTimer();
        var register = (offset & ~1u) switch
        {
            0 => _status,
            2 => _enable,
            4 => _control,
            PmTimer => (ushort)_pmTimer.Value,
            PmTimer + 2 => (ushort)(_pmTimer.Value >> 16),
            _ => (ushort)0,
        };
        return (byte)(register >> (int)(8 * (offset & 1)));
    }

    protected override void WriteByte(uint offset, byte value)
    {
        NoteTimer();
        var shift = (int)(8 * (offset & 1));
        var bits = (ushort)(value << shift);
        var kept = (ushort)(0xFF00 >> shift);
        switch (offset & ~1u)
        {
            case 0:
                _status &= (ushort)~bits;
                break;
            case 2:
                _enable = (ushort)(((_enable & kept) | bits) & EnableBits);
                break;
            case 4:
                _control = (ushort)(((_control & kept) | bits) & ~SleepEnable);
                if ((bits & SleepEnable) != 0 && ((_control >> 10) & 7) == SoftOff)
                    _machine.RequestPowerOff("ACPI S5");
                break;
        }

        Update();
    }

    private void WriteSmiCommand(uint offset, byte value)
    {
        if (offset == 1)
            _smiData = value;
        else if (offset == 0 && value == AcpiEnable)
            _control |= SciEnable;
        else if (offset == 0 && value == AcpiDisable)
            _control &= unchecked((ushort)~SciEnable);
        Update();
    }

    /// <summary>TMR_STS: the timer's highest bit has changed since it was looked at.</summary>
    private void NoteTimer()
    {
        var changes = _pmTimer.Changes;
        if (changes == _changesSeen)
            return;
        _changesSeen = changes;
        _status |= TimerStatus;
    }

    private void Update()
    {
        NoteTimer();
        _status &= StatusBits;
        _sci.Set((_control & SciEnable) != 0 && (_status & _enable) != 0);
        if ((_enable & TimerStatus) != 0 && (_status & TimerStatus) == 0)
            _timer.Set(_pmTimer.NextChangeNs);
        else
            _timer.Cancel();
    }
}
