// ACPI power management: the PM1a event and control registers, the PM timer, general-purpose events and the SMI command
// port. PiixPowerManagement says where the PM1 block lies.
// Follows: ACPI 6.4, 4.8.3.1 to 4.8.3.3, 4.8.2, 4.8.4 and 16.1 (sleep states); register layout and SLP_TYP of Intel
// 82371AB (PIIX4) as QEMU has them, which also answers the SMI commands of ACPI by itself, without SMM, and tells a
// guest that a key or the host's user woke that it was the power button.
// Leaves out: S1 and S2 (not offered), bus master and global lock, wake-up by general-purpose events and the PM timer.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Time;
using Sharpvisor.Devices.Timers;

namespace Sharpvisor.Devices.Acpi;

/// <summary>A block of ports: PM1_STS, PM1_EN, PM1_CNT, and PM_TMR at 8; the rest reads zero.</summary>
public sealed class AcpiPm : ByteWideDevice, IResettable
{
    /// <summary>Where firmware puts the block.</summary>
    public const ushort DefaultPort = 0x600;

    /// <summary>Length of the register block, in ports.</summary>
    public const int Length = 64;

    /// <summary>Offsets in the block.</summary>
    public const ushort Pm1Event = 0, Pm1Control = 4, PmTimer = 8;

    /// <summary>The port that switches between ACPI and legacy mode, and what to write there.</summary>
    public const ushort SmiCommandPort = 0xB2;

    public const byte AcpiEnable = 0xF1, AcpiDisable = 0xF0;

    /// <summary>SLP_TYP of soft-off, suspend to RAM and suspend to disk, as \_S5, \_S3 and \_S4 tell.</summary>
    public const byte SoftOff = 0, SuspendToRam = 1, SuspendToDisk = 2;

    private const ushort TimerStatus = 1, PowerButton = 1 << 8, SleepButton = 1 << 9, RtcStatus = 1 << 10, WakeStatus = 1 << 15;
    private const ushort GlobalStatus = 1 << 5;
    private const ushort StatusBits = TimerStatus | GlobalStatus | PowerButton | SleepButton | RtcStatus | WakeStatus;
    private const ushort EnableBits = TimerStatus | GlobalStatus | PowerButton | SleepButton | RtcStatus;
    private const ushort SciEnable = 1, SleepEnable = 1 << 13;

    /// <summary>Port and length of the first block of general-purpose events: half of it status, half enables.</summary>
    public const ushort GpePort = 0xAFE0;

    public const int GpeLength = 4;

    private readonly AcpiPmTimer _pmTimer;
    private readonly ClockTimer _timer;
    private readonly IInterruptLine _sci;
    private readonly IMachineControl _machine;
    private readonly GuestErrorLog? _errors;
    private ushort _status, _enable, _control;
    private long _changesSeen;
    private byte _smiData;
    private ushort _gpeStatus, _gpeEnable;
    private bool _isAsleep;
    private ushort _wakeCause;

    /// <param name="sci">The system control interrupt, level triggered: IRQ 9.</param>
    public AcpiPm(Clock clock, IInterruptLine sci, IMachineControl machine, GuestErrorLog? errors = null)
    {
        _errors = errors;
        _pmTimer = new AcpiPmTimer(clock);
        _timer = clock.CreateTimer("acpi-pm", Update);
        _sci = sci;
        _machine = machine;
        SmiCommand = new BytePorts(offset => offset == 1 ? _smiData : (byte)0, WriteSmiCommand);
        Gpe = new BytePorts(ReadGpe, WriteGpe);
    }

    /// <summary>Four ports at <see cref="GpePort"/>: GPE0_STS and GPE0_EN.</summary>
    public IBusDevice Gpe { get; }

    /// <summary>Ports B2h and B3h.</summary>
    public IBusDevice SmiCommand { get; }

    /// <summary>A person presses the power button: an operating system that listens shuts down, one that sleeps wakes up.</summary>
    public void PressPowerButton()
    {
        _status |= PowerButton;
        Update();
        WakeUp(PowerButton, "power button");
    }

    /// <summary>The real-time clock's alarm interrupts: the guest may have asked to be woken by it.</summary>
    public void OnAlarm()
    {
        _status |= RtcStatus;
        Update();
        if ((_enable & RtcStatus) != 0)
            WakeUp(RtcStatus, "RTC alarm");
    }

    /// <summary>Wakes a machine that sleeps in S3; one that does not is not touched.</summary>
    /// <param name="source">Who does: "keyboard".</param>
    public void WakeUp(string source) => WakeUp(PowerButton, source);

    /// <summary>Tells the guest, after the reset that ends its sleep, that it was asleep and what woke it.</summary>
    public void ReportWakeUp()
    {
        _status = (ushort)(WakeStatus | _wakeCause);
        Update();
    }

    public void Reset()
    {
        _isAsleep = false;
        _status = _enable = _control = 0;
        _smiData = 0;
        _gpeStatus = _gpeEnable = 0;
        _changesSeen = _pmTimer.Changes;
        Update();
    }

    public override ulong Read(uint offset, int size) =>
        offset is >= PmTimer and < PmTimer + 4 ? (ulong)_pmTimer.Value >> (int)(8 * (offset - PmTimer & 3)) : base.Read(offset, size);

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
                if ((bits & SleepEnable) != 0)
                    Sleep((_control >> 10) & 7);
                break;
        }

        Update();
    }

    private void Sleep(int type)
    {
        switch (type)
        {
            case SoftOff:
                _machine.RequestPowerOff("ACPI S5");
                break;
            case SuspendToDisk: // the guest has written its memory to a disk
                _machine.RequestPowerOff("ACPI S4");
                break;
            case SuspendToRam when !_isAsleep:
                _isAsleep = true;
                _machine.RequestSuspend("ACPI S3");
                // What happened while the guest prepared to sleep must not be slept through.
                if ((_status & _enable & RtcStatus) != 0)
                    WakeUp(RtcStatus, "RTC alarm");
                else if ((_status & _enable & PowerButton) != 0)
                    WakeUp(PowerButton, "power button");
                break;
            case not SuspendToRam:
                _errors?.Report("acpi-pm", "sleep state that is not offered", $"SLP_TYP {type}");
                break;
        }
    }

    private void WakeUp(ushort cause, string source)
    {
        if (!_isAsleep)
            return;
        _isAsleep = false;
        _wakeCause = cause;
        _machine.RequestWakeUp(source);
    }

    private byte ReadGpe(uint offset) =>
        (byte)((offset < 2 ? _gpeStatus : _gpeEnable) >> (int)(8 * (offset & 1)));

    private void WriteGpe(uint offset, byte value)
    {
        var shift = (int)(8 * (offset & 1));
        if (offset < 2)
            _gpeStatus &= (ushort)~(value << shift);
        else
            _gpeEnable = (ushort)((_gpeEnable & (0xFF00 >> shift)) | (value << shift));
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
        _sci.Set((_control & SciEnable) != 0 && ((_status & _enable) != 0 || (_gpeStatus & _gpeEnable) != 0));
        if ((_enable & TimerStatus) != 0 && (_status & TimerStatus) == 0)
            _timer.Set(_pmTimer.NextChangeNs);
        else
            _timer.Cancel();
    }
}
