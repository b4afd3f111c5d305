// The ACPI power management timer.
// Follows: ACPI 6.4, 4.8.3.3 "Power Management Timer". 24 bits, as the FADT (TMR_VAL_EXT clear) says.
// Leaves out: the status bit and its interrupt, which belong to the PM1 event registers (Acpi/AcpiPm.cs).

using Sharpvisor.Core.Time;

namespace Sharpvisor.Devices.Timers;

/// <summary>A free-running counter of 3.579545 MHz.</summary>
public sealed class AcpiPmTimer(Clock clock)
{
    public const long Hz = 3_579_545;

    /// <summary>TMR_STS is set each time the highest bit, 23, changes.</summary>
    private const int HalfPeriodBits = 23;

    /// <summary>TMR_VAL: 24 bits.</summary>
    public uint Value => (uint)Ticks & 0xFF_FFFF;

    /// <summary>How often the highest bit has changed.</summary>
    public long Changes => Ticks >> HalfPeriodBits;

    /// <summary>When the highest bit changes next.</summary>
    public long NextChangeNs => Frequency.ToNs((Changes + 1) << HalfPeriodBits, Hz);

    private long Ticks => Frequency.ToTicks(clock.NowNs, Hz);
}
