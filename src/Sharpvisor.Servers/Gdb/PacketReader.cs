// What a debugger sends: GDB manual, appendix E.1 (Overview) and E.10 (Interrupts). Packets are $data#cs; between them
// there are acknowledgments and the byte 03h. Requests have no run-length encoding, so that * is a byte like others.
namespace Sharpvisor.Servers.Gdb;

/// <summary>What came next.</summary>
internal enum Incoming
{
    /// <summary>More bytes are needed.</summary>
    Nothing,

    /// <summary><see cref="PacketReader.Packet"/> is one.</summary>
    Packet,

    /// <summary>Its checksum is wrong: to be sent again.</summary>
    Damaged,

    /// <summary>It was longer than announced; what it said is lost.</summary>
    TooLong,

    /// <summary>The other side wants the last reply again.</summary>
    Resend,

    /// <summary>Ctrl-C.</summary>
    Interrupt,
}

/// <summary>Takes packets out of a stream of bytes; keeps no more than one.</summary>
internal sealed class PacketReader(int capacity)
{
    private const byte Escape = (byte)'}', EscapeBit = 0x20, InterruptByte = 3;

    private readonly byte[] _packet = new byte[capacity];
    private State _state;
    private int _length;
    private bool _isTooLong;
    private byte _sum;
    private int _expected;

    private enum State
    {
        Between,
        Data,
        Escaped,
        FirstDigit,
        SecondDigit,
    }

    /// <summary>The data of a packet, escapes undone; valid until the next call of <see cref="Next"/>.</summary>
    public ReadOnlySpan<byte> Packet => _packet.AsSpan(0, _length);

    /// <summary>Checksums count: not after QStartNoAckMode.</summary>
    public bool ChecksSums { get; set; } = true;

    /// <summary>Looks at bytes up to the first thing that is complete.</summary>
    /// <param name="bytes">Cut to what is left.</param>
    public Incoming Next(ref ReadOnlySpan<byte> bytes)
    {
        for (var i = 0; i < bytes.Length; i++)
        {
            var found = Take(bytes[i]);
            if (found == Incoming.Nothing)
                continue;
            bytes = bytes[(i + 1)..];
            return found;
        }

        bytes = [];
        return Incoming.Nothing;
    }

    private Incoming Take(byte value)
    {
        if (value == '$' && _state != State.Between)
            _state = State.Between; // never part of a packet: the one before was cut off
        switch (_state)
        {
            case State.Between when value == '$':
                (_state, _length, _isTooLong, _sum) = (State.Data, 0, false, 0);
                return Incoming.Nothing;
            case State.Between:
                return value switch
                {
                    InterruptByte => Incoming.Interrupt,
                    (byte)'-' => Incoming.Resend,
                    _ => Incoming.Nothing, // an acknowledgment, or noise of a line
                };
            case State.Data when value == '#':
                _state = State.FirstDigit;
                return Incoming.Nothing;
            case State.Data when value == Escape:
                _sum += value;
                _state = State.Escaped;
                return Incoming.Nothing;
            case State.Data:
                _sum += value;
                Add(value);
                return Incoming.Nothing;
            case State.Escaped when value == '#':
                _state = State.FirstDigit; // escapes nothing: the checksum can't be right
                _sum ^= 0xFF;
                return Incoming.Nothing;
            case State.Escaped:
                _sum += value;
                Add((byte)(value ^ EscapeBit));
                _state = State.Data;
                return Incoming.Nothing;
            case State.FirstDigit:
                _expected = Hex.Digit(value) << 4;
                _state = State.SecondDigit;
                return Incoming.Nothing;
            default:
                _state = State.Between;
                if (ChecksSums && (_expected | Hex.Digit(value)) != _sum)
                    return Incoming.Damaged;
                return _isTooLong ? Incoming.TooLong : Incoming.Packet;
        }
    }

    private void Add(byte value)
    {
        if (_length < _packet.Length)
            _packet[_length++] = value;
        else
            _isTooLong = true;
    }
}
