// Power of a hardware-reduced ACPI machine: it has no PM1 block, but a register to sleep by, and one to reset by.
// Follows: ACPI 6.4, 4.8.3.7 (sleep control and status registers), 4.8.3.6 (reset register).
// Leaves out: every sleep but S5.

using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Devices.Acpi;

/// <summary>Three ports.</summary>
public sealed class AcpiReducedPower(IMachineControl control, ILogger logger) : ByteWideDevice
{
    public const ushort Port = 0x600;

    public const int Length = 3;

    /// <summary>Offsets of the registers.</summary>
    public const int SleepControl = 0, SleepStatus = 1, Reset = 2;

    /// <summary>SLP_TYP of S5, and what resets.</summary>
    public const byte SoftOff = 5, ResetValue = 1;

    private const byte SleepEnable = 1 << 5, WakeStatus = 1 << 7;
    private byte _status;

    protected override byte ReadByte(uint offset) => offset == SleepStatus ? _status : (byte)0;

    protected override void WriteByte(uint offset, byte value)
    {
        switch ((int)offset)
        {
            case SleepControl when (value & SleepEnable) != 0 && (value >> 2 & 7) == SoftOff:
                control.RequestPowerOff("ACPI");
                break;
            case SleepControl when (value & SleepEnable) != 0:
                logger.LogWarning("the guest asks for sleep type {Type}, which this machine has not", value >> 2 & 7);
                break;
            case SleepStatus:
                _status &= (byte)~(value & WakeStatus);
                break;
            case Reset when value == ResetValue:
                control.RequestReset("ACPI");
                break;
        }
    }
}
