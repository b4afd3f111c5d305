// The SMBus host controller of the PIIX4 with nothing on its bus.
// Follows: Intel 82371AB (290562), 7.3.3 (SMBus I/O space registers): a transaction ends at once, by an error, for no
// device answers. Drivers that look for one find none.
// Leaves out: the slave port, the interrupt (transactions are never pending), SMBALERT#.

namespace Sharpvisor.Devices.Chipset;

/// <summary>Sixteen ports.</summary>
public sealed class SmBusController : ByteWideDevice, Core.Buses.IResettable
{
    /// <summary>Length, in ports.</summary>
    public const int Length = 16;

    private const int HostStatus = 0, HostControl = 2, HostCommand = 3, HostAddress = 4, HostData0 = 5, HostData1 = 6, BlockData = 7;
    private const byte DeviceError = 4, StatusBits = 0x1E, Start = 0x40;

    private readonly byte[] _registers = new byte[8];

    public void Reset() => Array.Clear(_registers);

    protected override byte ReadByte(uint offset) => offset is < 8 and not BlockData ? _registers[offset] : (byte)0;

    protected override void WriteByte(uint offset, byte value)
    {
        switch (offset)
        {
            case HostStatus:
                _registers[HostStatus] &= (byte)~(value & StatusBits);
                break;
            case HostControl:
                _registers[HostControl] = (byte)(value & 0x1F);
                if ((value & Start) != 0)
                    _registers[HostStatus] |= DeviceError;
                break;
            case HostCommand or HostAddress or HostData0 or HostData1:
                _registers[offset] = value;
                break;
        }
    }
}
