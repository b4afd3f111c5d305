// System control port A: fast reset and the fast A20 gate.
// Follows: IBM PS/2 Hardware Interface Technical Reference, "System Control Port A"; Intel 82371AB (PIIX4) 4.2.6.
// Leaves out: A20 itself, which is always on (the bit can be written and read); the security lock and disk LED bits.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Devices.Chipset;

/// <summary>Port 92h.</summary>
public sealed class Port92(IMachineControl machine) : ByteWideDevice, IResettable
{
    private const byte FastReset = 1, FastA20 = 2;

    private byte _value = FastA20;

    public void Reset() => _value = FastA20;

    protected override byte ReadByte(uint offset) => offset == 0 ? _value : (byte)0xFF;

    protected override void WriteByte(uint offset, byte value)
    {
        if (offset != 0)
            return;
        var rises = (value & ~_value & FastReset) != 0;
        _value = (byte)(value & (FastReset | FastA20));
        if (rises)
            machine.RequestReset("port 92h");
    }
}
