using System.Buffers.Binary;
using System.Numerics;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Memory;
using static Sharpvisor.Devices.Vga.VgaRegisters;

namespace Sharpvisor.Devices.Vga;

/// <summary>
/// The window A0000h to BFFFFh on video memory through sequencer and graphics controller. The four bytes that one
/// address has in the four planes lie side by side in video memory, plane 0 first, as QEMU has it; chain-4 and odd/even
/// addressing therefore fill memory without gaps.
/// </summary>
internal sealed class VgaMemory(VgaRegisters registers, BochsDisplay display, MemoryRegion memory) : IBusDevice
{
    /// <summary>Bytes of the window.</summary>
    public const uint WindowLength = 0x20000;

    /// <summary>A VGA has 64 Ki addresses of four planes; what lies behind belongs to Bochs' extension.</summary>
    private const uint VgaSize = 0x40000;

    private uint _latches;

    /// <summary>Every address leads straight to a byte (chain-4 with all planes enabled): the window can be mapped as memory.</summary>
    public bool IsLinear => (registers.Sequencer[MemoryMode] & 8) != 0 && (registers.Sequencer[MapMask] & 0x0F) == 0x0F;

    private bool IsChain4 => (registers.Sequencer[MemoryMode] & 8) != 0;

    private uint SizeMask => display.IsEnabled ? (uint)memory.Size - 1 : VgaSize - 1;

    /// <summary>Where in the window video memory is seen: four ways by bits 3:2 of the graphics controller's miscellaneous register.</summary>
    /// <returns>Start and length as offsets from A0000h.</returns>
    public static (uint Start, uint Length) GetRange(byte miscellaneous) => ((miscellaneous >> 2) & 3) switch
    {
        0 => (0, 0x20000),
        1 => (0, 0x10000),
        2 => (0x10000, 0x8000),
        _ => (0x18000, 0x8000),
    };

    public void Reset() => _latches = 0;

    public ulong Read(uint offset, int size)
    {
        ulong value = 0;
        for (var i = 0; i < size; i++)
            value |= (ulong)ReadByte(offset + (uint)i) << (8 * i);
        return value;
    }

    public void Write(uint offset, int size, ulong value)
    {
        for (var i = 0; i < size; i++)
            WriteByte(offset + (uint)i, (byte)(value >> (8 * i)));
    }

    private byte ReadByte(uint offset)
    {
        if (!TryTranslate(offset, out var address))
            return 0xFF;
        if (IsChain4)
            return memory.Bytes(address & (memory.Size - 1), 1)[0];
        var mode = registers.Graphics[GraphicsMode];
        var isOddEven = (mode & 0x10) != 0;
        var plane = (int)registers.Graphics[ReadMapSelect];
        if (isOddEven)
        {
            plane = (plane & 2) | (int)(address & 1);
            address >>= 1;
        }

        _latches = BinaryPrimitives.ReadUInt32LittleEndian(Planes(address));
        if ((mode & 8) == 0)
            return (byte)(_latches >> (8 * plane));

        // Read mode 1: a bit for each pixel whose colour matches in the planes that matter.
        var different = (_latches ^ Spread(registers.Graphics[ColorCompare])) & Spread(registers.Graphics[ColorDontCare]);
        return (byte)~(different | (different >> 8) | (different >> 16) | (different >> 24));
    }

    private void WriteByte(uint offset, byte value)
    {
        if (!TryTranslate(offset, out var address))
            return;
        uint planes = registers.Sequencer[MapMask];
        if (IsChain4)
        {
            if ((planes & (1u << (int)(address & 3))) != 0)
                memory.Bytes(address & (memory.Size - 1), 1)[0] = value;
            return;
        }

        if ((registers.Sequencer[MemoryMode] & 4) == 0)
        {
            // Odd/even: even addresses go to planes 0 and 2, odd ones to 1 and 3.
            planes &= (address & 1) != 0 ? 0b1010u : 0b0101u;
            address >>= 1;
        }

        var target = Planes(address);
        var enabled = Spread(planes);
        var old = BinaryPrimitives.ReadUInt32LittleEndian(target);
        BinaryPrimitives.WriteUInt32LittleEndian(target, (old & ~enabled) | (Combine(value) & enabled));
    }

    /// <summary>What the graphics controller makes of a byte for the four planes.</summary>
    private uint Combine(byte value)
    {
        var registersOfGraphics = registers.Graphics;
        var mode = registersOfGraphics[GraphicsMode] & 3;
        if (mode == 1)
            return _latches;
        var rotated = BitOperations.RotateRight((uint)value * 0x0101_0101, registersOfGraphics[DataRotate] & 7);
        uint data, mask = registersOfGraphics[BitMask] * 0x0101_0101u;
        switch (mode)
        {
            case 0:
                var enable = Spread(registersOfGraphics[EnableSetReset]);
                data = (rotated & ~enable) | (Spread(registersOfGraphics[SetReset]) & enable);
                break;
            case 2:
                data = Spread(value);
                break;
            default:
                data = Spread(registersOfGraphics[SetReset]);
                mask &= rotated;
                break;
        }

        data = ((registersOfGraphics[DataRotate] >> 3) & 3) switch
        {
            1 => data & _latches,
            2 => data | _latches,
            3 => data ^ _latches,
            _ => data,
        };
        return (data & mask) | (_latches & ~mask);
    }

    /// <summary>From an offset in the window to an address as the processor means it; false where video memory does not answer.</summary>
    private bool TryTranslate(uint offset, out uint address)
    {
        var miscellaneous = registers.Graphics[Miscellaneous];
        var (start, length) = GetRange(miscellaneous);
        address = offset - start;
        if (address >= length)
            return false;
        if (((miscellaneous >> 2) & 3) == 1)
            address += display.BankOffset;
        return true;
    }

    private Span<byte> Planes(uint address) => memory.Bytes((address << 2) & SizeMask, 4);

    /// <summary>A byte of ones for each plane whose bit is set.</summary>
    private static uint Spread(uint planes) => ((planes & 1) | ((planes & 2) << 7) | ((planes & 4) << 14) | ((planes & 8) << 21)) * 0xFF;
}
