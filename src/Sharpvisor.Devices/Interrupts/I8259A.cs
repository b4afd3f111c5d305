// One 8259A of a PC's two.
// Follows: Intel 8259A data sheet (231468).
namespace Sharpvisor.Devices.Interrupts;

/// <summary>One 8259A: eight inputs by priority. See <see cref="Pic"/>.</summary>
internal sealed class I8259A(bool isMaster, Action<bool> setOutput)
{
    private byte _lines, _irr, _isr, _imr, _elcr, _vectorBase;
    private int _lowest = 7;
    private int _nextIcw;
    private bool _needsIcw4, _readIsr, _poll, _specialMask, _autoEoi, _rotateOnAutoEoi, _specialFullyNested;
    private bool _output;

    /// <summary>Edge/level control: a set bit makes an input level triggered. The timer, keyboard, cascade, RTC and FPU stay edge triggered.</summary>
    public byte Elcr
    {
        get => _elcr;
        set
        {
            _elcr = (byte)(value & (isMaster ? 0xF8 : 0xDE));
            _irr |= (byte)(_lines & _elcr);
            Update();
        }
    }

    public void Reset()
    {
        _elcr = _vectorBase = 0;
        _nextIcw = 0;
        Initialize();
    }

    public void SetInput(int input, bool asserted)
    {
        var mask = (byte)(1 << input);
        if (asserted)
        {
            if ((_lines & mask) == 0 || (_elcr & mask) != 0)
                _irr |= mask;
            _lines |= mask;
        }
        else
        {
            // An edge request too must stay high until it is acknowledged; else it becomes a spurious interrupt.
            _lines &= (byte)~mask;
            _irr &= (byte)~mask;
        }

        Update();
    }

    /// <summary>Takes the highest request in service and gives its number; -1 when it has gone: a spurious interrupt.</summary>
    public int Acknowledge()
    {
        var input = HighestRequest();
        if (input < 0)
            return -1;
        var mask = (byte)(1 << input);
        if ((_elcr & mask) == 0)
            _irr &= (byte)~mask;
        if (!_autoEoi)
            _isr |= mask;
        else if (_rotateOnAutoEoi)
            _lowest = input;
        // The request line falls with the acknowledge, so that a master sees an edge for the slave's next request.
        setOutput(_output = false);
        Update();
        return input;
    }

    /// <summary>The state as QEMU's monitor shows it.</summary>
    public string Describe(int number) => FormattableString.Invariant(
        $"pic{number}: irr={_irr:x2} imr={_imr:x2} isr={_isr:x2} hprio={(_lowest + 1) & 7} irq_base={_vectorBase:x2} rr_sel={(_readIsr ? 1 : 0)} elcr={_elcr:x2} fnm={(_specialFullyNested ? 1 : 0)}\n");

    public int Vector(int input) => _vectorBase | (input < 0 ? 7 : input);

    /// <summary>Whether this is an OCW2 with an EOI.</summary>
    public static bool EndsInterrupt(uint offset, byte value) => (offset & 1) == 0 && (value & 0x38) == 0x20;

    public byte Read(uint offset)
    {
        if (_poll)
        {
            _poll = false;
            var input = Acknowledge();
            return (byte)(input < 0 ? 0 : 0x80 | input);
        }

        return (offset & 1) != 0 ? _imr : _readIsr ? _isr : _irr;
    }

    public void Write(uint offset, byte value)
    {
        if ((offset & 1) != 0)
            WriteData(value);
        else if ((value & 0x10) != 0)
            WriteIcw1(value);
        else if ((value & 0x08) != 0)
            WriteOcw3(value);
        else
            WriteOcw2(value);
    }

    private void WriteIcw1(byte value)
    {
        Initialize();
        _needsIcw4 = (value & 1) != 0;
        _nextIcw = 2;
    }

    private void Initialize()
    {
        _imr = _isr = 0;
        _irr = (byte)(_lines & _elcr); // the edge sense circuit is reset
        _lowest = 7;
        _readIsr = _poll = _specialMask = _autoEoi = _rotateOnAutoEoi = _specialFullyNested = false;
        Update();
    }

    private void WriteData(byte value)
    {
        switch (_nextIcw)
        {
            case 2:
                _vectorBase = (byte)(value & 0xF8);
                _nextIcw = 3;
                break;
            case 3: // which input is the cascade: wired on a PC
                _nextIcw = _needsIcw4 ? 4 : 0;
                break;
            case 4:
                _autoEoi = (value & 2) != 0;
                _specialFullyNested = (value & 0x10) != 0;
                _nextIcw = 0;
                break;
            default: // OCW1
                _imr = value;
                break;
        }

        Update();
    }

    private void WriteOcw2(byte value)
    {
        var input = value & 7;
        switch (value >> 5)
        {
            case 0 or 4:
                _rotateOnAutoEoi = (value & 0x80) != 0;
                return;
            case 1:
                EndHighest(rotate: false);
                break;
            case 3:
                _isr &= (byte)~(1 << input);
                break;
            case 5:
                EndHighest(rotate: true);
                break;
            case 6:
                _lowest = input;
                break;
            case 7:
                _isr &= (byte)~(1 << input);
                _lowest = input;
                break;
        }

        Update();
    }

    private void WriteOcw3(byte value)
    {
        if ((value & 0x40) != 0)
            _specialMask = (value & 0x20) != 0;
        _poll = (value & 4) != 0;
        if ((value & 2) != 0)
            _readIsr = (value & 1) != 0;
        Update();
    }

    /// <summary>The non-specific EOI, which in special mask mode spares inputs that are masked.</summary>
    private void EndHighest(bool rotate)
    {
        var input = HighestOf((byte)(_specialMask ? _isr & ~_imr : _isr));
        if (input < 0)
            return;
        _isr &= (byte)~(1 << input);
        if (rotate)
            _lowest = input;
    }

    private int HighestOf(byte inputs)
    {
        for (var i = 1; i <= 8; i++)
        {
            var input = (_lowest + i) & 7;
            if ((inputs & (1 << input)) != 0)
                return input;
        }

        return -1;
    }

    /// <summary>The highest unmasked request above what is in service, or -1.</summary>
    private int HighestRequest()
    {
        var requests = _irr & ~_imr;
        for (var i = 1; i <= 8; i++)
        {
            var input = (_lowest + i) & 7;
            var mask = 1 << input;
            if ((_isr & mask) != 0 && !(_specialMask && (_imr & mask) != 0))
            {
                // In special fully nested mode the slave may interrupt itself; nothing lower may.
                return _specialFullyNested && isMaster && input == 2 && (requests & mask) != 0 ? input : -1;
            }

            if ((requests & mask) != 0)
                return input;
        }

        return -1;
    }

    private void Update()
    {
        var output = HighestRequest() >= 0;
        if (output == _output)
            return;
        _output = output;
        setOutput(output);
    }
}
