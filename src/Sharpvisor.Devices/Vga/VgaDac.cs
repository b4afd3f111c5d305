namespace Sharpvisor.Devices.Vga;

/// <summary>
/// The palette DAC behind ports 3C6h to 3C9h: 256 colours of three values, 6 bits wide, or 8 by Bochs' extension. A
/// colour is taken over with its third value.
/// </summary>
internal sealed class VgaDac
{
    private const byte StateRead = 3, StateWrite = 0;

    private readonly byte[] _values = new byte[768];
    private readonly uint[] _colors = new uint[256];
    private readonly byte[] _pending = new byte[3];
    private byte _readIndex, _writeIndex;
    private int _component;
    private byte _mask;
    private bool _is8Bit;

    /// <summary>0 after the write index was set, 3 after the read index.</summary>
    public byte State { get; private set; }

    public byte Mask
    {
        get => _mask;
        set => _mask = value;
    }

    /// <summary>Values have 8 bits instead of 6.</summary>
    public bool Is8Bit
    {
        get => _is8Bit;
        set
        {
            _is8Bit = value;
            for (var i = 0; i < 256; i++)
                UpdateColor(i);
        }
    }

    public byte WriteIndex
    {
        get => _writeIndex;
        set
        {
            _writeIndex = value;
            _component = 0;
            State = StateWrite;
        }
    }

    /// <summary>The colour of a pixel, 0x00RRGGBB.</summary>
    public uint this[int index] => _colors[index & _mask];

    public void SetReadIndex(byte value)
    {
        _readIndex = value;
        _component = 0;
        State = StateRead;
    }

    public byte ReadData()
    {
        var value = _values[(_readIndex * 3) + _component];
        if (++_component == 3)
        {
            _component = 0;
            _readIndex++;
        }

        return value;
    }

    public void WriteData(byte value)
    {
        _pending[_component] = _is8Bit ? value : (byte)(value & 0x3F);
        if (++_component < 3)
            return;
        _component = 0;
        _pending.CopyTo(_values, _writeIndex * 3);
        UpdateColor(_writeIndex);
        _writeIndex++;
    }

    public void Reset()
    {
        Array.Clear(_values);
        Array.Clear(_colors);
        _readIndex = _writeIndex = State = 0;
        _component = 0;
        _mask = 0xFF;
        _is8Bit = false;
    }

    private void UpdateColor(int index) =>
        _colors[index] = (Expand(_values[index * 3]) << 16) | (Expand(_values[(index * 3) + 1]) << 8) | Expand(_values[(index * 3) + 2]);

    /// <summary>Six bits become eight so that all ones stay all ones.</summary>
    private uint Expand(byte value) => _is8Bit ? value : (uint)(((value & 0x3F) << 2) | ((value & 0x3F) >> 4));
}
