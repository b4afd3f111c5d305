// The reset control register.
// Follows: Intel 82371AB (PIIX4) 4.2.8 "RC - Reset Control Register".
// Leaves out: the difference between a soft and a hard reset: both reset the whole machine.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Devices.Chipset;

/// <summary>Port CF9h: a reset when RCPU rises.</summary>
public sealed class ResetControl(IMachineControl machine) : ByteWideDevice, IResettable
{
    private const byte SystemReset = 2, ResetCpu = 4, FullReset = 8;

    private byte _value;

    public void Reset() => _value = 0;

    protected override byte ReadByte(uint offset) => offset == 0 ? _value : (byte)0xFF;

    protected override void WriteByte(uint offset, byte value)
    {
        if (offset != 0)
            return;
        var rises = (value & ~_value & ResetCpu) != 0;
        _value = (byte)(value & (SystemReset | ResetCpu | FullReset));
        if (rises)
            machine.RequestReset("port CF9h");
    }
}
