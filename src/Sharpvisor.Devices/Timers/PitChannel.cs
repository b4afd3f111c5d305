namespace Sharpvisor.Devices.Timers;

/// <summary>One counter of an 8254, computed from the tick at which it started. See <see cref="Pit"/>.</summary>
internal sealed class PitChannel
{
    private int _mode, _access;
    private bool _bcd;
    private bool _gate = true;

    // The count in effect and the one that waits for the end of the period (modes 2, 3) or for a trigger (1, 5); 0: none.
    private int _period, _pending;
    private long _pendingAt;

    // While counting, the tick of the start; while the gate holds modes 0 and 4, how far they have come.
    private bool _counting;
    private long _start, _held;
    private bool _nullCount;

    private bool _secondWrite, _secondRead, _countIsLatched, _statusIsLatched;
    private byte _firstWritten, _latchedStatus;
    private int _latchedCount;

    private int Modulus => _bcd ? 10_000 : 0x10000;

    public void Reset()
    {
        _mode = 0;
        _access = 3;
        _bcd = false;
        _gate = true;
        Stop();
    }

    public void WriteControl(byte control)
    {
        _access = (control >> 4) & 3;
        _mode = (control >> 1) & 7;
        if (_mode > 5)
            _mode -= 4; // modes 2 and 3 ignore the highest bit
        _bcd = (control & 1) != 0;
        Stop();
    }

    /// <summary>A byte of a new count; true when the count is complete or, in mode 0, its first byte stopped the counter.</summary>
    public bool WriteCount(long now, byte value)
    {
        switch (_access)
        {
            case 1:
                Load(now, value);
                return true;
            case 2:
                Load(now, value << 8);
                return true;
            case 3 when _secondWrite:
                _secondWrite = false;
                Load(now, _firstWritten | (value << 8));
                return true;
            case 3:
                _firstWritten = value;
                _secondWrite = true;
                if (_mode != 0)
                    return false;
                _counting = false;
                _period = 0;
                return true;
            default:
                return false;
        }
    }

    public byte Read(long now)
    {
        if (_statusIsLatched)
        {
            _statusIsLatched = false;
            return _latchedStatus;
        }

        var count = _countIsLatched ? _latchedCount : Count(now);
        switch (_access)
        {
            case 2:
                _countIsLatched = false;
                return (byte)(count >> 8);
            case 3 when !_secondRead:
                _secondRead = true;
                return (byte)count;
            case 3:
                _secondRead = false;
                _countIsLatched = false;
                return (byte)(count >> 8);
            default:
                _countIsLatched = false;
                return (byte)count;
        }
    }

    public void LatchCount(long now)
    {
        if (_countIsLatched)
            return;
        _latchedCount = Count(now);
        _countIsLatched = true;
    }

    public void LatchStatus(long now)
    {
        if (_statusIsLatched)
            return;
        var output = Output(now);
        _latchedStatus = (byte)((output ? 0x80 : 0) | (_nullCount ? 0x40 : 0) | (_access << 4) | (_mode << 1) | (_bcd ? 1 : 0));
        _statusIsLatched = true;
    }

    public void SetGate(long now, bool gate)
    {
        if (gate == _gate)
            return;
        Sync(now);
        if (gate)
        {
            switch (_mode)
            {
                case 1 or 5 when _period != 0 || _pending != 0:
                    Start(now, _pending != 0 ? _pending : _period);
                    break;
                case 2 or 3 when _period != 0:
                    Start(now, _pending != 0 ? _pending : _period);
                    break;
                case 0 or 4 when _period != 0:
                    _start = now - _held;
                    _counting = true;
                    break;
            }
        }
        else if (_mode is 0 or 4 or 2 or 3)
        {
            _held = Elapsed(now);
            _counting = false;
        }

        _gate = gate;
    }

    /// <summary>The OUT pin.</summary>
    public bool Output(long now)
    {
        Sync(now);
        if (_mode == 0)
            return _period != 0 && Elapsed(now) >= _period;
        if (!_counting || _period == 0)
            return true;
        var elapsed = Elapsed(now);
        return _mode switch
        {
            1 => elapsed >= _period,
            2 => elapsed % _period != _period - 1,
            3 => elapsed % _period < (_period + 1) / 2,
            _ => elapsed != _period,
        };
    }

    /// <summary>The OUT pin as a control word or a count has just set it: the phase of a running square wave does not matter.</summary>
    public bool OutputAfterWrite(long now) => _mode != 0 || Output(now);

    /// <summary>The tick of the next rising edge of OUT after <paramref name="now"/>, or -1.</summary>
    public long NextRise(long now)
    {
        Sync(now);
        if (!_counting || _period == 0)
            return -1;
        long rise;
        switch (_mode)
        {
            case 0:
                rise = _start + _period;
                break;
            case 2 or 3:
                return Frequency.NextPoint(_start + _period, _period, now);
            case 1:
                rise = _start + _period;
                break;
            default:
                rise = _start + _period + 1;
                break;
        }

        return rise > now ? rise : -1;
    }

    private void Stop()
    {
        _counting = false;
        _period = _pending = 0;
        _held = 0;
        _nullCount = true;
        _secondWrite = _secondRead = _countIsLatched = _statusIsLatched = false;
    }

    private void Load(long now, int value)
    {
        if (_bcd)
            value = FromBcd(value);
        if (value == 0)
            value = Modulus;
        Sync(now);
        _nullCount = true;
        if (_mode is 1 or 5)
        {
            _pending = value; // until the next trigger
        }
        else if (_mode is 2 or 3 && _counting)
        {
            _pending = value;
            _pendingAt = Frequency.NextPoint(_start + _period, _period, now);
        }
        else if (_gate)
        {
            Start(now, value);
        }
        else
        {
            _period = value;
            _held = 0;
            _nullCount = false;
        }
    }

    private void Start(long now, int period)
    {
        _period = period;
        _pending = 0;
        _start = now + 1; // the count is loaded by the next clock
        _counting = true;
        _nullCount = false;
    }

    /// <summary>Puts a waiting count of modes 2 and 3 in effect once its time has come.</summary>
    private void Sync(long now)
    {
        if (_pending == 0 || _mode is not (2 or 3) || !_counting || now < _pendingAt)
            return;
        _period = _pending;
        _start = _pendingAt;
        _pending = 0;
        _nullCount = false;
    }

    private long Elapsed(long now) => _counting ? Math.Max(0, now - _start) : _held;

    private int Count(long now)
    {
        Sync(now);
        if (_period == 0)
            return 0;
        var elapsed = Elapsed(now);
        long count = _mode switch
        {
            2 => _period - (elapsed % _period),
            3 => (_period & ~1) - (2 * (elapsed % _period % Math.Max(1, (_period + 1) / 2))),
            _ => _period - elapsed,
        };
        count %= Modulus;
        if (count < 0)
            count += Modulus;
        return _bcd ? ToBcd((int)count) : (int)count;
    }

    private static int FromBcd(int value) =>
        ((value >> 12) * 1000) + (((value >> 8) & 15) * 100) + (((value >> 4) & 15) * 10) + (value & 15);

    private static int ToBcd(int value) =>
        (value / 1000 % 10 << 12) | (value / 100 % 10 << 8) | (value / 10 % 10 << 4) | (value % 10);
}
