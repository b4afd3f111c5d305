// Follows: Intel's manual of the 8254x family (317453), 5 and 13.4.3.
using Sharpvisor.Core.Net;

namespace Sharpvisor.Devices.E1000;

/// <summary>
/// The serial EEPROM, a 93C46 of 64 words: by the register EERD, or bit by bit on its four wires in EECD (Intel's manual,
/// 5 and 13.4.3). It can't be written.
/// </summary>
internal sealed class E1000Eeprom
{
    private const int Words = 64, ChecksumWord = 63, ChecksumTarget = 0xBABA;
    private const uint SK = 1, CS = 2, DI = 4, DO = 8, REQ = 0x40, GNT = 0x80, Present = 0x100;
    private const uint Start = 1, Done = 0x10;
    private const int CommandBits = 9, ReadCommand = 6; // a start bit, two of the operation, six of the address

    private readonly ushort[] _words = new ushort[Words];
    private uint _wires;
    private int _shifted, _bits, _readBit = -1;

    public E1000Eeprom(MacAddress address, ushort deviceId, ushort vendorId)
    {
        Span<byte> bytes = stackalloc byte[MacAddress.Length];
        address.Write(bytes);
        for (var i = 0; i < 3; i++)
            _words[i] = (ushort)(bytes[2 * i] | bytes[(2 * i) + 1] << 8);
        // Board number, initialization control, ids (5.6).
        (_words[4], _words[8], _words[9], _words[0x0A]) = (0xFFFF, 0x3000, 0x1000, 0x6403);
        (_words[0x0B], _words[0x0C], _words[0x0D], _words[0x0E], _words[0x0F]) = (deviceId, vendorId, deviceId, vendorId, 0x3040);
        var sum = 0;
        foreach (var word in _words)
            sum += word;
        _words[ChecksumWord] = (ushort)(ChecksumTarget - sum);
    }

    /// <summary>EECD.</summary>
    public uint Wires
    {
        get
        {
            var isOne = _readBit < 0 || (_words[_readBit >> 4 & (Words - 1)] >> (15 - (_readBit & 15)) & 1) != 0;
            return (_wires & ~(DO | GNT)) | Present | (isOne ? DO : 0) | ((_wires & REQ) != 0 ? GNT : 0);
        }

        set
        {
            var rises = (value & ~_wires & SK) != 0;
            var falls = (_wires & ~value & SK) != 0;
            if ((value & CS) == 0 || (_wires & CS) == 0)
                (_shifted, _bits, _readBit) = (0, 0, -1);
            else if (falls && _bits == CommandBits)
                _readBit = _readBit < 0 ? (_shifted & (Words - 1)) << 4 : (_readBit + 1) & ((Words << 4) - 1);
            else if (rises && _bits < CommandBits && (_shifted != 0 || (value & DI) != 0))
                (_shifted, _bits) = (_shifted << 1 | ((value & DI) != 0 ? 1 : 0), _bits + 1);
            if (_bits == CommandBits && _shifted >> 6 != ReadCommand)
                (_shifted, _bits) = (0, 0);
            _wires = value & (SK | CS | DI | REQ);
        }
    }

    /// <summary>What EERD reads as after it was written.</summary>
    public uint Read(uint command)
    {
        if ((command & Start) == 0)
            return command;
        var address = command >> 8 & 0xFF;
        return Done | address << 8 | (address < Words ? (uint)_words[address] << 16 : 0);
    }
}
