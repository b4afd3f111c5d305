// The high precision event timer.
// Follows: IA-PC HPET Specification 1.0a, 2.3 and 2.4. 100 MHz, a 64-bit counter.
// Leaves out: FSB (message-signalled) delivery, which the capability bits say.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Time;
using Sharpvisor.Devices.Interrupts;

namespace Sharpvisor.Devices.Timers;

/// <summary>
/// A HPET of 1 KiB registers, at 0xFED00000 on a PC. In legacy replacement mode it takes the lines of the PIT and the
/// RTC: those are given <see cref="PitOutput"/> and <see cref="RtcOutput"/> instead of IRQ 0 and IRQ 8.
/// </summary>
public sealed class Hpet : IBusDevice, IResettable
{
    public const ulong DefaultAddress = 0xFED0_0000;

    /// <summary>Length of the register window, in bytes.</summary>
    public const uint Length = 0x400;

    internal const int NsPerTick = 10;

    private const ulong EnableConfig = 1, LegacyRouteConfig = 2;

    private readonly Clock _clock;
    private readonly IoApic _ioApic;
    private readonly IInterruptLine[] _legacy;
    private readonly bool[] _legacyInput = new bool[2];
    private readonly HpetTimer[] _timers;
    private ulong _config, _interruptStatus;

    // The counter held _count at _countNs; it runs since if enabled.
    private ulong _count;
    private long _countNs;

    /// <param name="isa">IRQ 0 and IRQ 8, which legacy replacement takes over.</param>
    /// <param name="ioApic">Where timers are routed to otherwise.</param>
    /// <param name="timers">Number of comparators, 3 to 32.</param>
    public Hpet(Clock clock, IsaInterrupts isa, IoApic ioApic, int timers = 3)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(timers, 3);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(timers, 32);
        _clock = clock;
        _ioApic = ioApic;
        _legacy = [isa[0], isa[8]];
        PitOutput = new InterruptInput(0, SetLegacyInput);
        RtcOutput = new InterruptInput(1, SetLegacyInput);
        _timers = new HpetTimer[timers];
        for (var i = 0; i < timers; i++)
            _timers[i] = new HpetTimer(this, i, clock);
    }

    /// <summary>The line for channel 0 of the PIT.</summary>
    public IInterruptLine PitOutput { get; }

    /// <summary>The line for the RTC.</summary>
    public IInterruptLine RtcOutput { get; }

    internal bool IsEnabled => (_config & EnableConfig) != 0;

    internal ulong Counter =>
        IsEnabled ? _count + (ulong)((_clock.NowNs - _countNs) / NsPerTick) : _count;

    private bool LegacyRoute => (_config & LegacyRouteConfig) != 0;

    public void Reset()
    {
        _config = _interruptStatus = _count = 0;
        foreach (var timer in _timers)
            timer.Reset();
        RouteLegacyInputs();
    }

    public ulong Read(uint offset, int size) => ReadRegister(offset & ~7u) >> (int)(8 * (offset & 7));

    public void Write(uint offset, int size, ulong value)
    {
        var shift = (int)(8 * (offset & 7));
        var mask = (ulong.MaxValue >> (64 - (8 * Math.Clamp(size, 1, 8)))) << shift;
        WriteRegister(offset & ~7u, value << shift, mask);
    }

    /// <summary>The time at which the counter, enabled, will have advanced by <paramref name="ticks"/>; null: never in this life.</summary>
    internal long? DeadlineNs(ulong ticks)
    {
        if (ticks > long.MaxValue / 4 / NsPerTick)
            return null;
        var counted = (_clock.NowNs - _countNs) / NsPerTick;
        return _countNs + ((counted + (long)ticks) * NsPerTick);
    }

    /// <summary>The line a timer drives: a legacy IRQ, or the IOAPIC pin of its route.</summary>
    internal IInterruptLine Line(int timer, int route) =>
        LegacyRoute && timer < 2 ? _legacy[timer] : _ioApic.Input(route);

    /// <summary>Sets the status bit of a level-triggered timer.</summary>
    internal void SetStatus(int timer) => _interruptStatus |= 1UL << timer;

    private ulong ReadRegister(uint offset) => offset switch
    {
        // COUNTER_CLK_PERIOD in fs, VENDOR_ID, LEG_RT_CAP, COUNT_SIZE_CAP, NUM_TIM_CAP, REV_ID.
        0x00 => (10_000_000UL << 32) | 0x8086_A001 | (ulong)(_timers.Length - 1) << 8,
        0x10 => _config,
        0x20 => _interruptStatus,
        0xF0 => Counter,
        >= 0x100 when (offset - 0x100) / 0x20 < _timers.Length => _timers[(offset - 0x100) / 0x20].Read(offset & 0x1F),
        _ => 0,
    };

    private void WriteRegister(uint offset, ulong value, ulong mask)
    {
        switch (offset)
        {
            case 0x10:
                SetConfig(((_config & ~mask) | (value & mask)) & (EnableConfig | LegacyRouteConfig));
                break;
            case 0x20:
                ClearStatus(value & mask);
                break;
            case 0xF0:
                _count = (Counter & ~mask) | (value & mask);
                _countNs = _clock.NowNs;
                foreach (var timer in _timers)
                    timer.Arm();
                break;
            case >= 0x100 when (offset - 0x100) / 0x20 < _timers.Length:
                _timers[(offset - 0x100) / 0x20].Write(offset & 0x1F, value, mask);
                break;
        }
    }

    private void SetConfig(ulong value)
    {
        foreach (var timer in _timers)
            timer.FireIfDue();
        _count = Counter;
        _countNs = _clock.NowNs;
        foreach (var timer in _timers)
            timer.ReleaseLine(); // of the old route
        _config = value;
        RouteLegacyInputs();
        foreach (var timer in _timers)
        {
            timer.DriveLevel((_interruptStatus >> timer.Index & 1) != 0);
            timer.Arm();
        }
    }

    private void ClearStatus(ulong bits)
    {
        _interruptStatus &= ~bits;
        foreach (var timer in _timers)
        {
            if ((bits >> timer.Index & 1) != 0)
                timer.DriveLevel(false);
        }
    }

    private void SetLegacyInput(int input, bool asserted)
    {
        _legacyInput[input] = asserted;
        if (!LegacyRoute)
            _legacy[input].Set(asserted);
    }

    private void RouteLegacyInputs()
    {
        for (var i = 0; i < _legacy.Length; i++)
            _legacy[i].Set(!LegacyRoute && _legacyInput[i]);
    }
}
