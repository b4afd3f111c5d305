using Sharpvisor.Core.Time;
using static Sharpvisor.Devices.Vga.VgaRegisters;

namespace Sharpvisor.Devices.Vga;

/// <summary>The ports 3B0h to 3DFh. A word written to an index port sets index and register.</summary>
internal sealed class VgaPorts(VgaRegisters registers, BochsDisplay display, Clock clock, Action changed) : ByteWideDevice
{
    /// <summary>The first port.</summary>
    public const uint Base = 0x3B0;

    // The bits that registers have (as QEMU keeps them); the other ones read 0.
    private static readonly byte[] SequencerBits = [0x03, 0x3D, 0x0F, 0x3F, 0x0E, 0x00, 0x00, 0xFF];
    private static readonly byte[] GraphicsBits = [0x0F, 0x0F, 0x0F, 0x1F, 0x03, 0x7B, 0x0F, 0x0F, 0xFF];
    private static readonly byte[] AttributeBits = [0xEF, 0xFF, 0x3F, 0x0F, 0x0F];

    private byte _sequencerIndex, _graphicsIndex, _crtcIndex, _subsystemEnable;
    private bool _attributeData;

    private bool IsColor => (registers.MiscOutput & 1) != 0;

    public void Reset()
    {
        _sequencerIndex = _graphicsIndex = _crtcIndex = 0;
        _subsystemEnable = 1;
        _attributeData = false;
    }

    protected override byte ReadByte(uint offset)
    {
        var port = Base + offset;
        switch (port)
        {
            case 0x3C0:
                return _attributeData ? (byte)0 : registers.AttributeIndex;
            case 0x3C1:
                return Get(registers.Attribute, registers.AttributeIndex & 0x1F);
            case 0x3C2:
                return 0; // input status 0: no interrupt, and the comparator of a DAC that nobody loads
            case 0x3C3:
                return _subsystemEnable;
            case 0x3C4:
                return _sequencerIndex;
            case 0x3C5:
                return registers.Sequencer[_sequencerIndex & 7];
            case 0x3C6:
                return registers.Dac.Mask;
            case 0x3C7:
                return registers.Dac.State;
            case 0x3C8:
                return registers.Dac.WriteIndex;
            case 0x3C9:
                return registers.Dac.ReadData();
            case 0x3CA:
                return registers.FeatureControl;
            case 0x3CC:
                return registers.MiscOutput;
            case 0x3CE:
                return _graphicsIndex;
            case 0x3CF:
                return Get(registers.Graphics, _graphicsIndex);
            case 0x3B4 when !IsColor:
            case 0x3D4 when IsColor:
                return _crtcIndex;
            case 0x3B5 when !IsColor:
            case 0x3D5 when IsColor:
                return Get(registers.Crtc, _crtcIndex);
            case 0x3BA when !IsColor:
            case 0x3DA when IsColor:
                _attributeData = false;
                return CurrentTiming().Status(clock.NowNs);
            default:
                return 0xFF;
        }
    }

    protected override void WriteByte(uint offset, byte value)
    {
        var port = Base + offset;
        switch (port)
        {
            case 0x3C0:
                WriteAttribute(value);
                break;
            case 0x3C2:
                registers.MiscOutput = (byte)(value & ~0x10);
                break;
            case 0x3C3:
                _subsystemEnable = (byte)(value & 1);
                break;
            case 0x3C4:
                _sequencerIndex = (byte)(value & 7);
                break;
            case 0x3C5:
                registers.Sequencer[_sequencerIndex] = (byte)(value & SequencerBits[_sequencerIndex]);
                changed();
                break;
            case 0x3C6:
                registers.Dac.Mask = value;
                break;
            case 0x3C7:
                registers.Dac.SetReadIndex(value);
                break;
            case 0x3C8:
                registers.Dac.WriteIndex = value;
                break;
            case 0x3C9:
                registers.Dac.WriteData(value);
                break;
            case 0x3CE:
                _graphicsIndex = (byte)(value & 0x0F);
                break;
            case 0x3CF when _graphicsIndex < GraphicsBits.Length:
                registers.Graphics[_graphicsIndex] = (byte)(value & GraphicsBits[_graphicsIndex]);
                changed();
                break;
            case 0x3B4 when !IsColor:
            case 0x3D4 when IsColor:
                _crtcIndex = value;
                break;
            case 0x3B5 when !IsColor:
            case 0x3D5 when IsColor:
                WriteCrtc(value);
                break;
            case 0x3BA when !IsColor:
            case 0x3DA when IsColor:
                registers.FeatureControl = (byte)(value & 0x10);
                break;
        }
    }

    /// <summary>How the beam moves now.</summary>
    public VgaTiming CurrentTiming() => display.IsEnabled ? VgaTiming.Of(display.Height) : VgaTiming.Of(registers);

    private static byte Get(byte[] values, int index) => index < values.Length ? values[index] : (byte)0;

    private void WriteAttribute(byte value)
    {
        var isData = _attributeData;
        _attributeData = !isData;
        var index = registers.AttributeIndex & 0x1F;
        if (!isData)
            registers.AttributeIndex = (byte)(value & 0x3F);
        else if (index < AttributeMode)
            registers.Attribute[index] = (byte)(value & 0x3F);
        else if (index < registers.Attribute.Length)
            registers.Attribute[index] = (byte)(value & AttributeBits[index - AttributeMode]);
    }

    private void WriteCrtc(byte value)
    {
        if (_crtcIndex >= registers.Crtc.Length)
            return;
        // Bit 7 of the retrace end register protects the horizontal timing and the overflow register but for line compare.
        if ((registers.Crtc[VerticalRetraceEnd] & 0x80) != 0 && _crtcIndex <= Overflow)
        {
            if (_crtcIndex == Overflow)
                registers.Crtc[Overflow] = (byte)((registers.Crtc[Overflow] & ~0x10) | (value & 0x10));
            return;
        }

        registers.Crtc[_crtcIndex] = value;
    }
}
