// A PS/2 mouse with three buttons that becomes an IntelliMouse (wheel) or an IntelliMouse Explorer (two more buttons).
// Follows: IBM PS/2 Hardware Interface Technical Reference, "Auxiliary Device"; Synaptics PS/2 TouchPad Interfacing
// Guide, 2.6 (commands and packets of a mouse); Microsoft's sample rates 200, 100, 80 and 200, 200, 80, and 200, 80, 40
// for the tilting wheel of an IntelliMouse Explorer 4.0, whose packets are as Linux's psmouse reads them.
// Leaves out: the resolution is kept and told, movement comes in counts already.

using Sharpvisor.Core.Input;
using Sharpvisor.Core.Time;

namespace Sharpvisor.Devices.Ps2;

/// <summary>At the second port of an <see cref="I8042"/>.</summary>
public sealed class Ps2Mouse : Ps2Device
{
    private const int EventLimit = 16;
    private const int MaximumCount = 255, MaximumTilt = 31;
    private const byte TiltPacket = 0x40;
    private const long NsPerSecond = 1_000_000_000;
    private const byte StandardId = 0, WheelId = 3, ExplorerId = 4;
    private const byte DefaultRate = 100, DefaultResolution = 2;

    private readonly Clock _clock;
    private readonly ClockTimer _sampleTimer;
    private readonly Queue<byte> _packet = new();

    // What has happened since the last packet: an entry for each state of the buttons, so that no click is lost.
    private readonly List<Movement> _events = [];
    private readonly byte[] _rates = new byte[3];
    private byte _command, _resolution, _rate;
    private PointerButtons _buttons, _sentButtons;
    private bool _isEnabled, _isRemote, _isScaled, _isWrapping, _hasTilt;
    private long _nextSampleNs;

    public Ps2Mouse(Clock clock)
    {
        _clock = clock;
        _sampleTimer = clock.CreateTimer("ps2-mouse", Sample);
        Reset();
    }

    /// <summary>0 for a mouse with three buttons, 3 with a wheel, 4 with two more buttons.</summary>
    public byte DeviceId { get; private set; }

    /// <summary>A driver has switched it on.</summary>
    public bool IsListening => _isEnabled || _isRemote;

    protected override bool HasInput => _packet.Count > 0;

    /// <summary>As <see cref="IPointerInput.OnMove"/>.</summary>
    public void OnMove(int dx, int dy, int wheel, PointerButtons buttons, int tilt = 0)
    {
        if ((buttons & ~_buttons) != PointerButtons.None)
            NotePress();
        _buttons = buttons;
        if (!IsListening)
            return;
        if (_events.Count > 0 && (_events[^1].Buttons == buttons || _events.Count == EventLimit))
        {
            var last = _events[^1];
            _events[^1] = new Movement(Add(last.X, dx), Add(last.Y, dy), Add(last.Wheel, wheel), Add(last.Tilt, tilt), buttons);
        }
        else
        {
            _events.Add(new Movement(Add(0, dx), Add(0, dy), Add(0, wheel), Add(0, tilt), buttons));
        }

        Sample();
    }

    internal override void Reset()
    {
        base.Reset();
        _isWrapping = _hasTilt = false;
        DeviceId = StandardId;
        Array.Clear(_rates);
        SetDefaults();
    }

    internal override void Receive(byte value)
    {
        DropReplies();
        _packet.Clear();
        if (_isWrapping && value is not (0xEC or 0xFF))
        {
            Reply(value);
            return;
        }

        if (_command != 0)
            ReceiveParameter(value);
        else
            ReceiveCommand(value);
        Sample();
    }

    protected override byte TakeInput()
    {
        var value = _packet.Dequeue();
        if (_packet.Count == 0)
            Sample();
        return value;
    }

    private static int Add(int a, int b) => (int)Math.Clamp((long)a + b, -30_000, 30_000);

    private void ReceiveCommand(byte value)
    {
        switch (value)
        {
            case 0xE6:
                _isScaled = false;
                Reply(Acknowledge);
                break;
            case 0xE7:
                _isScaled = true;
                Reply(Acknowledge);
                break;
            case 0xE8 or 0xF3: // a parameter follows
                _command = value;
                Reply(Acknowledge);
                break;
            case 0xE9:
                Reply(Acknowledge, Status(), _resolution, _rate);
                break;
            case 0xEA:
                _isRemote = false;
                Reply(Acknowledge);
                break;
            case 0xEB:
                Reply(Acknowledge);
                PutPacket(TakeMovement());
                break;
            case 0xEC:
                _isWrapping = false;
                Reply(Acknowledge);
                break;
            case 0xEE:
                _isWrapping = true;
                Reply(Acknowledge);
                break;
            case 0xF0:
                _isRemote = true;
                Reply(Acknowledge);
                break;
            case 0xF2:
                Reply(Acknowledge, DeviceId);
                break;
            case 0xF4:
                _isEnabled = true;
                _events.Clear();
                _sentButtons = _buttons;
                Reply(Acknowledge);
                break;
            case 0xF5:
                _isEnabled = false;
                Reply(Acknowledge);
                break;
            case 0xF6:
                SetDefaults();
                Reply(Acknowledge);
                break;
            case 0xFE:
                ResendLast();
                break;
            case 0xFF:
                Reset();
                Reply(Acknowledge, SelfTestPassed, StandardId);
                break;
            default:
                Reply(ResendRequest);
                break;
        }
    }

    private void ReceiveParameter(byte value)
    {
        var command = _command;
        _command = 0;
        if (command == 0xE8)
        {
            _resolution = (byte)(value & 3);
        }
        else
        {
            _rate = value;
            (_rates[0], _rates[1], _rates[2]) = (_rates[1], _rates[2], value);
            DeviceId = (_rates[0], _rates[1], _rates[2]) switch
            {
                (200, 100, 80) => WheelId,
                (200, 200, 80) => ExplorerId,
                _ => DeviceId,
            };
            _hasTilt |= DeviceId == ExplorerId && (_rates[0], _rates[1], _rates[2]) == (200, 80, 40);
        }

        Reply(Acknowledge);
    }

    private void SetDefaults()
    {
        _command = 0;
        _isEnabled = _isRemote = _isScaled = false;
        _rate = DefaultRate;
        _resolution = DefaultResolution;
        _events.Clear();
        _packet.Clear();
        _sentButtons = PointerButtons.None;
        _sampleTimer.Cancel();
    }

    private byte Status() => (byte)((_isRemote ? 0x40 : 0) | (_isEnabled ? 0x20 : 0) | (_isScaled ? 0x10 : 0)
        | ((_buttons & PointerButtons.Left) != 0 ? 4 : 0) | ((_buttons & PointerButtons.Middle) != 0 ? 2 : 0)
        | ((_buttons & PointerButtons.Right) != 0 ? 1 : 0));

    /// <summary>In stream mode: a packet when something has happened, the one before was fetched, and the sample time is over.</summary>
    private void Sample()
    {
        if (!_isEnabled || _isRemote || _isWrapping || _events.Count == 0 || HasOutput)
            return;
        if (_clock.NowNs < _nextSampleNs)
        {
            _sampleTimer.Set(_nextSampleNs);
            return;
        }

        while (_events.Count > 0)
        {
            var movement = TakeMovement();
            if (movement is { X: 0, Y: 0, Wheel: 0, Tilt: 0 } && movement.Buttons == _sentButtons)
                continue;
            _nextSampleNs = _clock.NowNs + (NsPerSecond / Math.Max((byte)10, _rate));
            PutPacket(movement with { X = Scale(movement.X), Y = Scale(movement.Y) });
            return;
        }
    }

    /// <summary>As much as fits in a packet; the rest stays for the next one.</summary>
    private Movement TakeMovement()
    {
        if (_events.Count == 0)
            return new Movement(0, 0, 0, 0, _buttons);
        var all = _events[0];
        var limit = _isScaled ? MaximumCount / 2 : MaximumCount;
        if (DeviceId == StandardId)
            all = all with { Wheel = 0 };
        if (!_hasTilt)
            all = all with { Tilt = 0 };
        // A packet that tells of a tilt has no room for the wheel and the side buttons.
        var isTilt = all is { Wheel: 0, Tilt: not 0 } && all.Buttons == _sentButtons;
        var now = new Movement(
            Math.Clamp(all.X, -limit, limit), Math.Clamp(all.Y, -limit, limit), Math.Clamp(all.Wheel, -8, 7), isTilt ? Math.Clamp(all.Tilt, -MaximumTilt, MaximumTilt) : 0, all.Buttons);
        var rest = new Movement(all.X - now.X, all.Y - now.Y, all.Wheel - now.Wheel, all.Tilt - now.Tilt, all.Buttons);
        if (rest is { X: 0, Y: 0, Wheel: 0, Tilt: 0 })
            _events.RemoveAt(0);
        else
            _events[0] = rest;
        return now;
    }

    private void PutPacket(Movement movement)
    {
        var (x, y) = (movement.X, -movement.Y); // up is positive
        _sentButtons = movement.Buttons;
        _packet.Enqueue((byte)((y < 0 ? 0x20 : 0) | (x < 0 ? 0x10 : 0) | 0x08
            | ((movement.Buttons & PointerButtons.Middle) != 0 ? 4 : 0) | ((movement.Buttons & PointerButtons.Right) != 0 ? 2 : 0)
            | ((movement.Buttons & PointerButtons.Left) != 0 ? 1 : 0)));
        _packet.Enqueue((byte)x);
        _packet.Enqueue((byte)y);
        if (DeviceId == WheelId)
        {
            _packet.Enqueue((byte)movement.Wheel);
        }
        else if (movement.Tilt != 0)
        {
            _packet.Enqueue((byte)(TiltPacket | (-movement.Tilt & 0x3F)));
        }
        else if (DeviceId == ExplorerId)
        {
            _packet.Enqueue((byte)((movement.Wheel & 0x0F) | ((movement.Buttons & PointerButtons.Back) != 0 ? 0x10 : 0)
                | ((movement.Buttons & PointerButtons.Forward) != 0 ? 0x20 : 0)));
        }

        OutputReady?.Invoke();
    }

    /// <summary>Scaling 2:1 of stream mode: small counts less, large ones doubled.</summary>
    private int Scale(int count)
    {
        if (!_isScaled)
            return count;
        var scaled = Math.Abs(count) switch { 0 => 0, 1 or 2 => 1, 3 => 3, 4 => 6, 5 => 9, var n => 2 * n };
        return Math.Sign(count) * scaled;
    }

    private readonly record struct Movement(int X, int Y, int Wheel, int Tilt, PointerButtons Buttons);
}
