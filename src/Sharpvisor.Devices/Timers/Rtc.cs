// The real-time clock with its CMOS memory.
// Follows: Motorola MC146818A data sheet; Intel 82371AB (PIIX4) 4.2.7 "Real Time Clock" for the ports and the second
// bank; the century at 0x32 as the FADT of AcpiTables says.
// Leaves out: daylight saving, the square-wave pin, the NMI mask of port 70h bit 7 (accepted, nothing masks).

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Time;

namespace Sharpvisor.Devices.Timers;

/// <summary>
/// MC146818 at ports 70h to 73h with 256 bytes of CMOS. Its time is the machine's wall clock plus what the guest's
/// own settings differ from it.
/// </summary>
public sealed class Rtc : ByteWideDevice, IResettable
{
    private const long Second = 1_000_000_000;
    private const long UpdateInProgressNs = 244_000;
    private const long NoAlarm = long.MaxValue;

    private const int RegA = 0x0A, RegB = 0x0B, RegC = 0x0C, RegD = 0x0D, RegCentury = 0x32;
    private const byte UpdateInProgress = 0x80;
    private const byte Set = 0x80, PeriodicEnable = 0x40, AlarmEnable = 0x20, UpdateEnable = 0x10;
    private const byte InterruptRequest = 0x80, PeriodicFlag = 0x40, AlarmFlag = 0x20, UpdateFlag = 0x10;

    private readonly Clock _clock;
    private readonly IInterruptLine _irq8;
    private readonly ClockTimer _timer;
    private readonly byte[] _cmos = new byte[256];
    private byte _index, _upperIndex = 0x80;
    private byte _b = 0x02, _a = 0x26, _flags;

    // The second's phase: RTC ns = machine time + this, or where it stands while stopped. What the guest has set differs
    // from it by whole seconds, which may be more than a long holds in ns.
    private long _offsetNs;
    private long _stoppedAtNs;
    private long _settingSeconds;

    // While stopped, the registers as written, in any order and not yet a valid date.
    private RtcCalendar _stoppedCalendar;
    private long _flagsUntilNs;
    private long _notBeforeNs;
    private int _weekdayShift;
    private bool _alarmInterrupts;

    /// <param name="irq8">High while a flag that may interrupt is set, until register C is read.</param>
    public Rtc(Clock clock, IInterruptLine irq8)
    {
        _clock = clock;
        _irq8 = irq8;
        _timer = clock.CreateTimer("rtc", OnExpired);
        _offsetNs = clock.UnixEpochNs;
        _flagsUntilNs = RtcNow;
    }

    /// <summary>Raised when the alarm begins to interrupt: power management wakes a sleeping machine by it.</summary>
    public event Action? Alarm;

    private bool IsStopped => (_b & Set) != 0 || (_a & 0x70) != 0x20;

    private bool DividerRuns => (_a & 0x70) == 0x20;

    private long RtcNow => IsStopped ? _stoppedAtNs : _clock.NowNs + _offsetNs;

    private RtcCalendar Calendar =>
        IsStopped ? _stoppedCalendar : RtcCalendar.FromSeconds(CalendarSeconds(RtcNow));

    /// <summary>Puts a byte in CMOS memory, as firmware or a battery would have it.</summary>
    /// <param name="index">0x0E to 0xFF, except the century 0x32.</param>
    public void SetCmos(int index, byte value)
    {
        if (index is < 0x0E or > 0xFF or RegCentury)
            throw new ArgumentOutOfRangeException(nameof(index), index, "not a byte of CMOS memory");
        _cmos[index] = value;
    }

    /// <summary>Tells firmware how much RAM there is, where PC firmware and QEMU's put it.</summary>
    public void SetMemorySize(ulong below4G, ulong above4G)
    {
        const ulong mib = 1 << 20;
        SetWord(0x15, Math.Min(below4G >> 10, 640));
        var extended = below4G > mib ? Math.Min((below4G - mib) >> 10, 0xFFFF) : 0;
        SetWord(0x17, extended);
        SetWord(0x30, extended);
        SetWord(0x34, below4G > 16 * mib ? Math.Min((below4G - (16 * mib)) >> 16, 0xFFFF) : 0);
        SetWord(0x5B, above4G >> 16);
        SetCmos(0x5D, (byte)(above4G >> 32));
    }

    public void Reset()
    {
        // The time, the alarm and the memory have a battery; a reset clears the interrupt enables and flags.
        SetControlB((byte)(_b & 0x87));
        _flags = 0;
        _flagsUntilNs = RtcNow;
        _index = 0;
        _upperIndex = 0x80;
        UpdateLine();
    }

    protected override byte ReadByte(uint offset) => (offset & 3) switch
    {
        1 => ReadCmos(_index),
        2 => _upperIndex,
        3 => ReadCmos(_upperIndex),
        _ => 0xFF, // the index register is write-only
    };

    protected override void WriteByte(uint offset, byte value)
    {
        switch (offset & 3)
        {
            case 0:
                _index = (byte)(value & 0x7F);
                break;
            case 1:
                WriteCmos(_index, value);
                break;
            case 2:
                _upperIndex = (byte)(value | 0x80);
                break;
            case 3:
                WriteCmos(_upperIndex, value);
                break;
        }
    }

    private void SetWord(int index, ulong value)
    {
        SetCmos(index, (byte)value);
        SetCmos(index + 1, (byte)(value >> 8));
    }

    private byte ReadCmos(byte index)
    {
        switch (index)
        {
            case 0 or 2 or 4 or 6 or 7 or 8 or 9 or RegCentury:
                return ReadTime(index);
            case RegA:
                return (byte)(_a | (IsUpdating() ? UpdateInProgress : 0));
            case RegB:
                return _b;
            case RegC:
                return ReadFlags();
            case RegD:
                return 0x80; // VRT: the battery is good
            default:
                return _cmos[index];
        }
    }

    private void WriteCmos(byte index, byte value)
    {
        switch (index)
        {
            case 0 or 2 or 4 or 6 or 7 or 8 or 9 or RegCentury:
                WriteTime(index, value);
                break;
            case 1 or 3 or 5:
                UpdateFlags();
                _cmos[index] = value;
                Schedule();
                break;
            case RegA:
                SetControlA((byte)(value & 0x7F));
                break;
            case RegB:
                SetControlB(value);
                break;
            case RegC or RegD:
                break; // read-only
            default:
                _cmos[index] = value;
                break;
        }
    }

    private bool IsUpdating() =>
        !IsStopped && RtcCalendar.Modulo(RtcNow, Second) >= Second - UpdateInProgressNs;

    private byte ReadTime(byte index)
    {
        var calendar = Calendar;
        return index switch
        {
            0 => Encode(calendar.Second),
            2 => Encode(calendar.Minute),
            4 => EncodeHour(calendar.Hour),
            6 => Encode(RtcCalendar.Weekday(calendar.ToDays(), _weekdayShift)),
            7 => Encode(calendar.Day),
            8 => Encode(calendar.Month),
            9 => Encode(calendar.Year % 100),
            _ => Encode(calendar.Year / 100),
        };
    }

    private void WriteTime(byte index, byte value)
    {
        UpdateFlags();
        var calendar = Calendar;
        if (index == 6)
        {
            _weekdayShift = (Decode(value) + 7 - RtcCalendar.Weekday(calendar.ToDays(), 0)) % 7;
            return;
        }

        calendar = index switch
        {
            0 => calendar with { Second = Decode(value) % 60 },
            2 => calendar with { Minute = Decode(value) % 60 },
            4 => calendar with { Hour = DecodeHour(value) % 24 },
            7 => calendar with { Day = Math.Clamp(Decode(value), 1, 31) },
            8 => calendar with { Month = Math.Clamp(Decode(value), 1, 12) }, // any date is a date in the end
            9 => calendar with { Year = (calendar.Year / 100 * 100) + (Decode(value) % 100) },
            _ => calendar with { Year = (Decode(value) % 100 * 100) + (calendar.Year % 100) },
        };
        if (IsStopped)
            _stoppedCalendar = calendar;
        else
            SetCalendar(calendar);
    }

    private void SetControlA(byte value)
    {
        UpdateFlags();
        var dividerRan = DividerRuns;
        Change(() => _a = value);
        if (!dividerRan && DividerRuns)
        {
            // After a divider reset the first update comes half a second later.
            var now = RtcNow;
            var phase = now - RtcCalendar.Modulo(now, Second) + (Second / 2);
            _flagsUntilNs = phase;
            if (IsStopped)
                _stoppedAtNs = phase;
            else
                _offsetNs = phase - _clock.NowNs;
            Schedule();
        }
    }

    private void SetControlB(byte value)
    {
        UpdateFlags();
        if ((value & Set) != 0)
            value &= unchecked((byte)~UpdateEnable); // SET clears UIE
        Change(() => _b = value);
    }

    /// <summary>Changes a control register and stops or starts the time as it says.</summary>
    private void Change(Action change)
    {
        var now = RtcNow;
        var calendar = Calendar;
        var wasStopped = IsStopped;
        change();
        if (wasStopped != IsStopped)
        {
            if (IsStopped)
            {
                _stoppedAtNs = now;
                _stoppedCalendar = calendar;
            }
            else
            {
                _offsetNs = now - _clock.NowNs;
                SetCalendar(_stoppedCalendar);
            }
        }

        UpdateLine();
        Schedule();
    }

    private long CalendarSeconds(long rtcNs) => RtcCalendar.FloorDivide(rtcNs, Second) + _settingSeconds;

    private void SetCalendar(RtcCalendar calendar)
    {
        _settingSeconds += calendar.ToSeconds() - CalendarSeconds(RtcNow);
        Schedule();
    }

    private byte ReadFlags()
    {
        UpdateFlags();
        var value = _flags;
        _flags = 0;
        UpdateLine();
        Schedule();
        return value;
    }

    /// <summary>Sets the flags of everything that happened since the last call: they are set even if they don't interrupt.</summary>
    private void UpdateFlags()
    {
        var now = RtcNow;
        var from = _flagsUntilNs;
        _flagsUntilNs = now;
        if (now <= from)
            return;
        var period = PeriodNs;
        if (period != 0 && now / period != from / period)
            _flags |= PeriodicFlag;
        var second = CalendarSeconds(now);
        var fromSecond = CalendarSeconds(from);
        if (second == fromSecond)
            return;
        _flags |= UpdateFlag;
        var alarm = NextAlarm(fromSecond);
        if (alarm <= second)
            _flags |= AlarmFlag;
        NoteAlarm();
    }

    private void NoteAlarm()
    {
        var interrupts = (_flags & _b & AlarmEnable) != 0;
        if (interrupts && !_alarmInterrupts)
            Alarm?.Invoke();
        _alarmInterrupts = interrupts;
    }

    /// <summary>The period of the periodic interrupt, or 0. Rates 1 and 2 are those of 8 and 9 (32 kHz time base).</summary>
    private long PeriodNs => (_a & 15) switch
    {
        0 => 0,
        var rate and < 3 => Second >> (16 - (rate + 7)),
        var rate => Second >> (16 - rate),
    };

    private void UpdateLine()
    {
        var interrupts = (_flags & _b & (PeriodicEnable | AlarmEnable | UpdateEnable)) != 0;
        _flags = (byte)((_flags & 0x70) | (interrupts ? InterruptRequest : 0));
        _irq8.Set(interrupts);
        NoteAlarm();
    }

    /// <summary>Sets the timer to the next enabled event. While an interrupt is pending only an alarm is worth waiting for.</summary>
    private void Schedule()
    {
        if (IsStopped)
        {
            _timer.Cancel();
            return;
        }

        var isPending = (_flags & InterruptRequest) != 0;
        var now = RtcNow;
        var next = long.MaxValue;
        if (!isPending && (_b & PeriodicEnable) != 0 && PeriodNs != 0)
            next = ((now / PeriodNs) + 1) * PeriodNs;
        if (!isPending && (_b & UpdateEnable) != 0)
            next = Math.Min(next, (RtcCalendar.FloorDivide(now, Second) + 1) * Second);
        if ((_b & ~_flags & AlarmEnable) != 0 && NextAlarm(CalendarSeconds(now)) is var alarm and not NoAlarm)
            next = Math.Min(next, (alarm - _settingSeconds) * Second);
        if (next == long.MaxValue)
            _timer.Cancel();
        else
            _timer.Set(Math.Max(next - _offsetNs, _notBeforeNs));
    }

    private void OnExpired()
    {
        _notBeforeNs = _clock.NowNs + Frequency.ShortestPeriodNs;
        UpdateFlags();
        UpdateLine();
        Schedule();
    }

    /// <summary>The first second after <paramref name="second"/> that the alarm matches, or <see cref="NoAlarm"/>.</summary>
    private long NextAlarm(long second)
    {
        var candidate = second + 1;
        // Each step skips the rest of an hour, of a minute, or a second that can't match: a day is far less than this.
        for (var step = 0; step < 300; step++)
        {
            var ofDay = (int)RtcCalendar.Modulo(candidate, 86400);
            if (!AlarmMatches(5, EncodeHour(ofDay / 3600)))
                candidate += 3600 - (ofDay % 3600);
            else if (!AlarmMatches(3, Encode(ofDay / 60 % 60)))
                candidate += 60 - (ofDay % 60);
            else if (!AlarmMatches(1, Encode(ofDay % 60)))
                candidate++;
            else
                return candidate;
        }

        return NoAlarm;
    }

    private bool AlarmMatches(int index, byte value) => _cmos[index] >= 0xC0 || _cmos[index] == value;

    private bool IsBinary => (_b & 4) != 0;

    private byte Encode(int value) => (byte)(IsBinary ? value : (value / 10 << 4) | (value % 10));

    private int Decode(byte value) => IsBinary ? value : ((value >> 4) * 10) + (value & 15);

    private byte EncodeHour(int hour)
    {
        if ((_b & 2) != 0)
            return Encode(hour);
        var twelve = hour % 12 == 0 ? 12 : hour % 12;
        return (byte)(Encode(twelve) | (hour >= 12 ? 0x80 : 0));
    }

    private int DecodeHour(byte value)
    {
        if ((_b & 2) != 0)
            return Decode(value);
        return (Decode((byte)(value & 0x7F)) % 12) + ((value & 0x80) != 0 ? 12 : 0);
    }
}
