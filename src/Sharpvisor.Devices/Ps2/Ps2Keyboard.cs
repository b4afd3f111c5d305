// A PS/2 keyboard with 105 keys and media keys.
// Follows: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device" (commands, scan code sets 1
// to 3, 16-byte buffer with overrun); scan codes of newer keys from Microsoft's Keyboard Scan Code Specification.
// Leaves out: repeating a key by itself (who presses it says so again and again, as viewers do; rate and delay are
// only kept), the shift codes that a keyboard adds around cursor keys by the state of Num Lock.

using Sharpvisor.Core.Input;

namespace Sharpvisor.Devices.Ps2;

/// <summary>At the first port of an <see cref="I8042"/>.</summary>
public sealed class Ps2Keyboard : Ps2Device, IKeyboardInput
{
    private const int BufferSize = 16;
    private const byte DefaultRate = 0x2B; // 10.9 characters a second after 500 ms
    private const byte SysRq = 0x84;

    // Keys of set 3 that at power-on send a code when released as well, or that don't repeat.
    private static readonly byte[] MakeBreakCodes = [0x11, 0x12, 0x14, 0x19, 0x59];
    private static readonly byte[] MakeOnlyCodes =
    [
        0x07, 0x08, 0x0F, 0x17, 0x1F, 0x27, 0x2F, 0x37, 0x39, 0x3F, 0x47, 0x4F, 0x56, 0x57, 0x58, 0x5E, 0x5F, 0x62, 0x65, 0x67,
        0x6C, 0x6D, 0x6E, 0x6F, 0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x79, 0x7A, 0x7D, 0x7E, 0x84,
    ];

    private readonly Queue<byte> _buffer = new();
    private readonly HashSet<Key> _pressed = [];
    private readonly KeyType[] _types = new KeyType[256];
    private byte _command;
    private bool _isScanning, _isOverrun;

    public Ps2Keyboard() => Reset();

    [Flags]
    private enum KeyType : byte
    {
        MakeOnly = 0,
        Typematic = 1,
        Break = 2,
    }

    /// <summary>As set by command EDh.</summary>
    public KeyboardLeds Leds { get; private set; }

    /// <summary>Rate and delay as the guest has set them (command F3h).</summary>
    public byte TypematicRate { get; private set; }

    /// <summary>The scan code set in use: 1, 2 or 3.</summary>
    public int ScanCodeSet { get; private set; }

    /// <summary>Nothing that was typed waits to be fetched: who types by program types the next key now.</summary>
    public bool IsIdle => _buffer.Count == 0;

    protected override bool HasInput => _buffer.Count > 0;

    public void OnKey(Key key, bool pressed)
    {
        var isRepeat = pressed ? !_pressed.Add(key) : !_pressed.Remove(key);
        if (pressed && !isRepeat)
            NotePress();
        if (!_isScanning || (!pressed && isRepeat))
            return;
        Span<byte> code = stackalloc byte[8];
        var length = ScanCodeSet == 3 ? EncodeSet3(key, pressed, isRepeat, code) : EncodeSet2(key, pressed, isRepeat, code);
        if (length == 0)
            return;
        if (ScanCodeSet == 1)
            length = ToSet1(code, length);
        Put(code[..length]);
    }

    internal override void Reset()
    {
        base.Reset();
        _command = 0;
        Leds = KeyboardLeds.None;
        _pressed.Clear();
        SetDefaults();
        _isScanning = true;
    }

    internal override void Receive(byte value)
    {
        // A command takes the place of the parameter that the keyboard waits for, and ends the answer to the one before.
        DropReplies();
        if (_command == 0 || (value >= 0xED && !IsKeyList(_command)))
        {
            _command = 0;
            ReceiveCommand(value);
            return;
        }

        ReceiveParameter(value);
    }

    protected override byte TakeInput()
    {
        var value = _buffer.Dequeue();
        if (_buffer.Count == 0)
            _isOverrun = false;
        return value;
    }

    private static bool IsKeyList(byte command) => command is >= 0xFB and <= 0xFD;

    private void ReceiveCommand(byte value)
    {
        switch (value)
        {
            case 0xED or 0xF0 or 0xF3 or (>= 0xFB and <= 0xFD): // parameters follow
                if (IsKeyList(value))
                    DropInput();
                _command = value;
                Reply(Acknowledge);
                break;
            case 0xEE: // echo
                Reply(0xEE);
                break;
            case 0xF2: // identify
                Reply(Acknowledge, 0xAB, 0x83);
                break;
            case 0xF4:
                DropInput();
                _isScanning = true;
                Reply(Acknowledge);
                break;
            case 0xF5:
                SetDefaults();
                _isScanning = false;
                Reply(Acknowledge);
                break;
            case 0xF6:
                SetDefaults();
                Reply(Acknowledge);
                break;
            case 0xF7:
                SetTypes(KeyType.Typematic);
                break;
            case 0xF8:
                SetTypes(KeyType.Break);
                break;
            case 0xF9:
                SetTypes(KeyType.MakeOnly);
                break;
            case 0xFA:
                SetTypes(KeyType.Typematic | KeyType.Break);
                break;
            case 0xFE:
                ResendLast();
                break;
            case 0xFF:
                Reset();
                Reply(Acknowledge, SelfTestPassed);
                break;
            default:
                Reply(ResendRequest);
                break;
        }
    }

    private void ReceiveParameter(byte value)
    {
        var command = _command;
        if (IsKeyList(command))
        {
            // Codes of set 3 until a command comes.
            if (value >= 0xED)
            {
                _command = 0;
                ReceiveCommand(value);
                return;
            }

            _types[value] = command switch { 0xFB => KeyType.Typematic, 0xFC => KeyType.Break, _ => KeyType.MakeOnly };
            Reply(Acknowledge);
            return;
        }

        _command = 0;
        switch (command)
        {
            case 0xED:
                Leds = (KeyboardLeds)(value & 7);
                Reply(Acknowledge);
                break;
            case 0xF0 when value == 0:
                Reply(Acknowledge, (byte)ScanCodeSet);
                break;
            case 0xF0 when value <= 3:
                DropInput();
                ScanCodeSet = value;
                Reply(Acknowledge);
                break;
            case 0xF3 when value < 0x80:
                TypematicRate = value;
                Reply(Acknowledge);
                break;
            default:
                Reply(ResendRequest);
                break;
        }
    }

    private void SetDefaults()
    {
        DropInput();
        TypematicRate = DefaultRate;
        ScanCodeSet = 2;
        Array.Fill(_types, KeyType.Typematic);
        foreach (var code in MakeBreakCodes)
            _types[code] = KeyType.Break;
        foreach (var code in MakeOnlyCodes)
            _types[code] = KeyType.MakeOnly;
    }

    private void SetTypes(KeyType type)
    {
        DropInput();
        Array.Fill(_types, type);
        Reply(Acknowledge);
    }

    private void DropInput()
    {
        _buffer.Clear();
        _isOverrun = false;
    }

    /// <summary>Keeps a key's code as a whole or not at all; the first that is lost leaves the overrun code.</summary>
    private void Put(ReadOnlySpan<byte> code)
    {
        if (_buffer.Count + code.Length <= BufferSize)
        {
            foreach (var value in code)
                _buffer.Enqueue(value);
        }
        else if (!_isOverrun)
        {
            _isOverrun = true;
            _buffer.Enqueue(ScanCodeSet == 1 ? (byte)0xFF : (byte)0x00);
        }

        OutputReady?.Invoke();
    }

    private int EncodeSet3(Key key, bool pressed, bool isRepeat, Span<byte> code)
    {
        var make = ScanCodes.InSet3(key);
        if (make == 0 || (pressed ? isRepeat && (_types[make] & KeyType.Typematic) == 0 : (_types[make] & KeyType.Break) == 0))
            return 0;
        var length = 0;
        if (!pressed)
            code[length++] = ScanCodes.Release;
        code[length++] = make;
        return length;
    }

    private int EncodeSet2(Key key, bool pressed, bool isRepeat, Span<byte> code)
    {
        if (key == Key.Pause)
            return pressed && !isRepeat ? EncodePause(code) : 0;
        if (key == Key.PrintScreen)
            return EncodePrintScreen(pressed, isRepeat, code);
        var make = ScanCodes.InSet2(key);
        return make == 0 ? 0 : Append(code, 0, make, pressed);
    }

    /// <summary>Pause is Ctrl with Num Lock, pressed and released at once; with Ctrl it is Break, Ctrl with Scroll Lock.</summary>
    private int EncodePause(Span<byte> code)
    {
        ReadOnlySpan<byte> sequence = IsControl
            ? [ScanCodes.Extended, 0x7E, ScanCodes.Extended, ScanCodes.Release, 0x7E]
            : [0xE1, 0x14, 0x77, 0xE1, ScanCodes.Release, 0x14, ScanCodes.Release, 0x77];
        sequence.CopyTo(code);
        return sequence.Length;
    }

    /// <summary>Print Screen is Shift with the keypad's asterisk, without the shift code where a real one or Ctrl is down; with Alt it is SysRq.</summary>
    private int EncodePrintScreen(bool pressed, bool isRepeat, Span<byte> code)
    {
        if (_pressed.Contains(Key.LeftAlt) || _pressed.Contains(Key.RightAlt))
            return Append(code, 0, SysRq, pressed);
        if (IsControl || _pressed.Contains(Key.LeftShift) || _pressed.Contains(Key.RightShift))
            return Append(code, 0, 0xE07C, pressed);
        if (!pressed)
            return Append(code, Append(code, 0, 0xE07C, false), 0xE012, false);
        return Append(code, isRepeat ? 0 : Append(code, 0, 0xE012, true), 0xE07C, true);
    }

    private bool IsControl => _pressed.Contains(Key.LeftControl) || _pressed.Contains(Key.RightControl);

    private static int Append(Span<byte> code, int length, ushort make, bool pressed)
    {
        if (make > 0xFF)
            code[length++] = (byte)(make >> 8);
        if (!pressed)
            code[length++] = ScanCodes.Release;
        code[length++] = (byte)make;
        return length;
    }

    /// <summary>From set 2 to set 1 in place, as the controller translates it.</summary>
    private static int ToSet1(Span<byte> code, int length)
    {
        var written = 0;
        byte released = 0;
        for (var i = 0; i < length; i++)
        {
            if (code[i] == ScanCodes.Release)
            {
                released = 0x80;
                continue;
            }

            code[written++] = (byte)(ScanCodes.Translate(code[i]) | released);
            released = 0;
        }

        return written;
    }
}
