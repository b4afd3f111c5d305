using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Memory;
using static Sharpvisor.Devices.Vga.VgaRegisters;

namespace Sharpvisor.Devices.Vga;

/// <summary>
/// Bochs' VBE DISPI interface: linear modes of any size by a few 16-bit registers, at ports 1CEh (index) and 1CFh or
/// 1D0h (data). Values that don't fit are changed to ones that do while a mode is on, as QEMU does it.
/// </summary>
internal sealed class BochsDisplay(VgaRegisters registers, MemoryRegion memory, Action changed) : IBusDevice
{
    public const ushort IndexPort = 0x1CE;
    public const int PortCount = 4;

    /// <summary>Registers, by index.</summary>
    public const int Id = 0, XRes = 1, YRes = 2, Bpp = 3, Enable = 4, Bank = 5, VirtualWidth = 6, VirtualHeight = 7, XOffset = 8, YOffset = 9, VideoMemory64K = 10;

    private const ushort Id0 = 0xB0C0, Id5 = 0xB0C5;
    private const ushort Enabled = 0x01, GetCapabilities = 0x02, Dac8Bit = 0x20, NoClearMemory = 0x80;
    private const int MaximumXRes = 16_000, MaximumYRes = 12_000, MaximumBpp = 32;
    private const int BankSize = 0x10000;

    private readonly ushort[] _values = new ushort[10];
    private ushort _index;

    public bool IsEnabled => (_values[Enable] & Enabled) != 0;

    public int Width => _values[XRes];

    public int Height => _values[YRes];

    /// <summary>Of a pixel: 4, 8, 15, 16, 24 or 32.</summary>
    public int BitsPerPixel => _values[Bpp];

    /// <summary>Bytes from one line to the next.</summary>
    public int Pitch => BitsPerPixel == 4 ? _values[VirtualWidth] / 2 : _values[VirtualWidth] * ((BitsPerPixel + 7) / 8);

    /// <summary>The first byte of video memory that is displayed.</summary>
    public long Start => ((long)_values[YOffset] * Pitch) + (BitsPerPixel == 4 ? _values[XOffset] / 8 * 4 : _values[XOffset] * ((BitsPerPixel + 7) / 8));

    /// <summary>Where the 64 KiB window at A0000h begins in video memory.</summary>
    public uint BankOffset => (uint)_values[Bank] * BankSize;

    public void Reset()
    {
        Array.Clear(_values);
        _values[Id] = Id5;
        _index = 0;
    }

    /// <summary>Words at 1CEh, 1CFh and 1D0h; a double word at 1CEh is index and data. Bytes have no meaning.</summary>
    public ulong Read(uint offset, int size) => (offset, size) switch
    {
        (0, 2) => _index,
        (1 or 2, 2) => ReadRegister(_index),
        (0, 4) => _index | ((ulong)ReadRegister(_index) << 16),
        _ => ulong.MaxValue,
    };

    public void Write(uint offset, int size, ulong value)
    {
        switch (offset, size)
        {
            case (0, 2):
                _index = (ushort)value;
                break;
            case (1 or 2, 2):
                WriteRegister(_index, (ushort)value);
                break;
            case (0, 4):
                _index = (ushort)value;
                WriteRegister(_index, (ushort)(value >> 16));
                break;
        }
    }

    public ushort ReadRegister(int index)
    {
        if (index == VideoMemory64K)
            return (ushort)(memory.Size / BankSize);
        if (index >= _values.Length)
            return 0;
        return index switch
        {
            XRes when (_values[Enable] & GetCapabilities) != 0 => MaximumXRes,
            YRes when (_values[Enable] & GetCapabilities) != 0 => MaximumYRes,
            Bpp when (_values[Enable] & GetCapabilities) != 0 => MaximumBpp,
            _ => _values[index],
        };
    }

    public void WriteRegister(int index, ushort value)
    {
        switch (index)
        {
            case Id when value is >= Id0 and <= Id5:
                _values[Id] = value;
                break;
            case XRes or YRes or Bpp or VirtualWidth or XOffset or YOffset:
                _values[index] = value;
                Fit();
                break;
            case Bank:
                _values[Bank] = (ushort)(value & ((memory.Size / BankSize) - 1));
                break;
            case Enable:
                WriteEnable(value);
                break;
        }

        changed();
    }

    private void WriteEnable(ushort value)
    {
        var isNew = (value & Enabled) != 0 && !IsEnabled;
        if (isNew)
            _values[VirtualWidth] = _values[XOffset] = _values[YOffset] = 0;
        if ((value & Enabled) == 0)
            _values[Bank] = 0;
        _values[Enable] = value;
        registers.Dac.Is8Bit = (value & Dac8Bit) != 0;
        if (!isNew)
            return;
        Fit();
        if ((value & NoClearMemory) == 0)
            memory.Bytes(0, Math.Min(Pitch * Height, (int)memory.Size)).Clear();
    }

    /// <summary>Makes a mode of what the guest asked for that video memory can hold.</summary>
    private void Fit()
    {
        if (!IsEnabled)
            return;
        if (BitsPerPixel is not (4 or 8 or 15 or 16 or 24 or 32))
            _values[Bpp] = 8;
        _values[XRes] = Math.Max((ushort)8, (ushort)(Math.Min(Width, MaximumXRes) & ~7));
        _values[VirtualWidth] = Math.Max(_values[XRes], (ushort)(Math.Min((int)_values[VirtualWidth], MaximumXRes) & ~7));
        var lines = (int)memory.Size / Pitch;
        _values[YRes] = (ushort)Math.Clamp(Height, 1, Math.Min(lines, MaximumYRes));
        _values[VirtualHeight] = (ushort)Math.Min(lines, ushort.MaxValue);
        if (Start + ((long)Height * Pitch) > (long)memory.Size)
            _values[XOffset] = _values[YOffset] = 0;
        SetVgaRegisters();
    }

    /// <summary>What a driver that knows only the VGA finds: graphics at A0000h, chained unless the mode is planar.</summary>
    private void SetVgaRegisters()
    {
        var isPlanar = BitsPerPixel == 4;
        registers.Graphics[Miscellaneous] = (byte)((registers.Graphics[Miscellaneous] & ~0x0C) | 0x05);
        registers.Graphics[GraphicsMode] = (byte)((registers.Graphics[GraphicsMode] & ~0x60) | (isPlanar ? 0 : 0x40));
        registers.Sequencer[ClockingMode] &= isPlanar ? unchecked((byte)~0x08) : (byte)0xFF;
        if (!isPlanar)
        {
            registers.Sequencer[MemoryMode] |= 0x08;
            registers.Sequencer[MapMask] = 0x0F;
        }

        var end = Height - 1;
        var crtc = registers.Crtc;
        crtc[CrtcMode] |= 0x03;
        crtc[Offset] = (byte)(Pitch >> 3);
        crtc[HorizontalDisplayEnd] = (byte)((Width >> 3) - 1);
        crtc[VerticalDisplayEnd] = (byte)end;
        crtc[Overflow] = (byte)((crtc[Overflow] & ~0x42) | ((end >> 7) & 0x02) | ((end >> 3) & 0x40) | 0x10);
        crtc[LineCompare] = 0xFF;
        crtc[MaximumScanLine] = (byte)((crtc[MaximumScanLine] & ~0x9F) | 0x40);
    }
}
