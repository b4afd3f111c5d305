// One of the two 8237A DMA controllers of a PC, with the page registers of its channels.
// Follows: Intel 8237A data sheet (231466), "Register Description"; IBM PC AT Technical Reference for ports and pages.
// Leaves out: transfers, for no device here asks for one; memory-to-memory, which a PC does not wire up.

using Sharpvisor.Core.Buses;

namespace Sharpvisor.Devices.Chipset;

/// <summary>Four channels: 0 to 3 at ports 00h to 0Fh, or 4 to 7 at every second port from C0h to DFh.</summary>
public sealed class DmaController : IResettable
{
    private readonly ushort[] _address = new ushort[4], _baseAddress = new ushort[4];
    private readonly ushort[] _count = new ushort[4], _baseCount = new ushort[4];
    private readonly byte[] _mode = new byte[4];
    private byte _command, _status, _request, _mask;
    private bool _highByte;

    /// <param name="spacing">1 for the controller of 8-bit channels, 2 for that of 16-bit ones.</param>
    public DmaController(int spacing)
    {
        Ports = new BytePorts(
            offset => ReadRegister((int)(offset / (uint)spacing) & 15),
            (offset, value) => WriteRegister((int)(offset / (uint)spacing) & 15, value));
        Reset();
    }

    /// <summary>16 ports times the spacing.</summary>
    public IBusDevice Ports { get; }

    public void Reset()
    {
        Clear();
        Array.Clear(_mode);
        Array.Clear(_address);
        Array.Clear(_baseAddress);
        Array.Clear(_count);
        Array.Clear(_baseCount);
    }

    private byte ReadRegister(int register)
    {
        if (register < 8)
            return ToggledByte((register & 1) == 0 ? _address[register >> 1] : _count[register >> 1]);
        if (register == 8)
        {
            var status = _status;
            _status &= 0xF0; // terminal counts go by being read
            return status;
        }

        return register == 15 ? (byte)(_mask | 0xF0) : (byte)0;
    }

    private void WriteRegister(int register, byte value)
    {
        var channel = value & 3;
        switch (register)
        {
            case < 8:
                WriteWord(register, value);
                break;
            case 8:
                _command = value;
                break;
            case 9:
                SetBit(ref _request, channel, (value & 4) != 0);
                break;
            case 10:
                SetBit(ref _mask, channel, (value & 4) != 0);
                break;
            case 11:
                _mode[channel] = value;
                break;
            case 12:
                _highByte = false;
                break;
            case 13: // master clear
                Clear();
                break;
            case 14:
                _mask = 0;
                break;
            case 15:
                _mask = (byte)(value & 15);
                break;
        }
    }

    private void Clear()
    {
        _command = _status = _request = 0;
        _mask = 15;
        _highByte = false;
    }

    private void WriteWord(int register, byte value)
    {
        var channel = register >> 1;
        ref var current = ref _address[channel];
        ref var initial = ref _baseAddress[channel];
        if ((register & 1) != 0)
        {
            current = ref _count[channel];
            initial = ref _baseCount[channel];
        }

        initial = current = _highByte ? (ushort)((initial & 0x00FF) | (value << 8)) : (ushort)((initial & 0xFF00) | value);
        _highByte = !_highByte;
    }

    private byte ToggledByte(ushort word)
    {
        var value = (byte)(_highByte ? word >> 8 : word);
        _highByte = !_highByte;
        return value;
    }

    private static void SetBit(ref byte bits, int bit, bool value) =>
        bits = (byte)(value ? bits | (1 << bit) : bits & ~(1 << bit));
}

/// <summary>The page registers: address bits 16 to 23 of the channels, in IBM's order, and some spare bytes.</summary>
public sealed class DmaPageRegisters : ByteWideDevice, IResettable
{
    private readonly byte[] _pages = new byte[16];

    public void Reset() => Array.Clear(_pages);

    protected override byte ReadByte(uint offset) => _pages[offset & 15];

    protected override void WriteByte(uint offset, byte value) => _pages[offset & 15] = value;
}
