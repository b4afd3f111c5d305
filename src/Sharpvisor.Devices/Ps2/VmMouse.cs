// VMware's mouse: a PS/2 mouse until a driver asks, by the backdoor port, for a queue of events, with positions if it likes.
// Each event makes the PS/2 mouse interrupt, so that the driver looks at the queue.
// Follows: Linux's drivers/input/mouse/vmmouse.c and QEMU's vmmouse for commands, status and the words of an event.
// Leaves out: side buttons and the tilting wheel, which events have no bits for.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Input;

namespace Sharpvisor.Devices.Ps2;

/// <summary>In front of a <see cref="Ps2Mouse"/>, which gets all that is not for the queue.</summary>
public sealed class VmMouse(Ps2Mouse mouse) : IPointerInput, IResettable
{
    private const uint Enable = 0x45414552, Disable = 0xF5, RequestRelative = 0x4C455252, RequestAbsolute = 0x53424152;
    private const uint VersionId = 0x3442554A, Failed = 0xFFFF0000;
    private const uint LeftButton = 0x20, RightButton = 0x10, MiddleButton = 0x08, RelativePacket = 0x10000;
    private const int WordsOfEvent = 4, QueueLimit = 1024;

    private readonly Queue<uint> _words = new();
    private bool _isOn, _wantsPositions;
    private (int X, int Y, uint Buttons)? _waiting;

    public bool IsAbsolute => _isOn && _wantsPositions;

    public bool IsListening => _isOn || mouse.IsListening;

    /// <summary>How many words are in the queue, or that there is none.</summary>
    internal uint Status
    {
        get
        {
            Flush();
            return _isOn ? (uint)_words.Count : Failed;
        }
    }

    public void OnMove(int dx, int dy, int wheel, PointerButtons buttons, int tilt = 0)
    {
        if (!_isOn || _wantsPositions)
        {
            mouse.OnMove(dx, dy, wheel, buttons, tilt);
            return;
        }

        Put(Bits(buttons) | RelativePacket, dx, -dy, wheel);
        Interrupt();
    }

    public void OnMoveTo(int x, int y, int wheel, PointerButtons buttons)
    {
        if (!IsAbsolute)
            return;
        // Where the mouse was in between nobody needs to know: the queue must not fill up and lose a button.
        if (_waiting is { } earlier && earlier.Buttons != Bits(buttons))
            Flush();
        _waiting = (x, y, Bits(buttons));
        if (wheel != 0)
        {
            Put(Bits(buttons), x, y, wheel);
            _waiting = null;
        }

        Interrupt();
    }

    public void Reset() => SwitchOff();

    /// <summary>Moves words of the queue to EAX and so on; how many is in EBX.</summary>
    internal void ReadData(Span<uint> registers)
    {
        ReadOnlySpan<int> order = [0, 3, 1, 2, 6, 7]; // EAX, EBX, ECX, EDX, ESI, EDI
        Flush();
        var count = registers[3];
        if (!_isOn || count == 0 || count > order.Length || count > _words.Count)
        {
            SwitchOff();
            return;
        }

        foreach (var register in order[..(int)count])
            registers[register] = _words.Dequeue();
    }

    internal void Command(uint command)
    {
        switch (command)
        {
            case Enable:
                SwitchOff();
                _isOn = true;
                _words.Enqueue(VersionId);
                break;
            case Disable:
                SwitchOff();
                break;
            case RequestRelative or RequestAbsolute when _isOn:
                Flush();
                _wantsPositions = command == RequestAbsolute;
                break;
        }
    }

    private static uint Bits(PointerButtons buttons) =>
        ((buttons & PointerButtons.Left) != 0 ? LeftButton : 0) | ((buttons & PointerButtons.Right) != 0 ? RightButton : 0)
        | ((buttons & PointerButtons.Middle) != 0 ? MiddleButton : 0);

    private void SwitchOff()
    {
        _isOn = _wantsPositions = false;
        _words.Clear();
        _waiting = null;
    }

    private void Flush()
    {
        if (_waiting is not { } last)
            return;
        _waiting = null;
        Put(last.Buttons, last.X, last.Y, 0);
    }

    private void Put(uint buttons, int x, int y, int wheel)
    {
        if (_words.Count + WordsOfEvent > QueueLimit)
            return;
        _words.Enqueue(buttons);
        _words.Enqueue((uint)x);
        _words.Enqueue((uint)y);
        _words.Enqueue((uint)wheel);
    }

    private void Interrupt() => mouse.OnMove(1, 0, 0, PointerButtons.None);
}
