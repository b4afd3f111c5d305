// Pointer events (RFC 6143, 7.5.5) for a guest that takes motion, as a PS/2 mouse, or positions, as VMware's. A client that
// understands the pointer type change (rfbproto, "QEMU Pointer Motion Change Pseudo-encoding") is told which, and sends
// motion itself, around 7FFFh; of others the last position is kept. Buttons: 4 and 5 are the wheel, 6 and 7 its tilt to the
// left and right, 8 and 9 go back and forward; 9 comes by "Extended Mouse Buttons" (rfbproto) only.
using Sharpvisor.Core;
using Sharpvisor.Core.Input;

namespace Sharpvisor.Servers.Vnc.Input;

internal sealed class VncPointer(IPointerInput? pointer, MachineGate gate)
{
    /// <summary>Set in the mask of an event that has a byte more: buttons 8 and on.</summary>
    public const int ExtendedMark = 0x80;

    private const int Origin = 0x7FFF;
    private const int WheelUp = 8, WheelDown = 16, TiltLeft = 32, TiltRight = 64;

    private static readonly (int Mask, PointerButtons Button)[] Buttons =
    [
        (1, PointerButtons.Left), (2, PointerButtons.Middle), (4, PointerButtons.Right), (0x80, PointerButtons.Back), (0x100, PointerButtons.Forward),
    ];

    private int _lastMask;
    private PointerButtons _lastButtons;
    private (int X, int Y)? _last;
    private (int Width, int Height) _size;
    private volatile bool _isRelative;

    /// <summary>What the client has been told: its positions are motion.</summary>
    public bool IsRelative
    {
        get => _isRelative;
        set => _isRelative = value;
    }

    /// <summary>Whether the guest takes positions, and whether it takes anything.</summary>
    public (bool IsAbsolute, bool IsListening) Ask()
    {
        using (gate.Enter())
            return (pointer?.IsAbsolute ?? false, pointer?.IsListening ?? false);
    }

    /// <param name="mask">Of the buttons, the first in bit 0.</param>
    /// <param name="width">Of the screen, in pixels; so is <paramref name="height"/>.</param>
    public void OnEvent(int mask, int x, int y, int width, int height)
    {
        // A client sends positions until it has read that it should not; those are far from the origin of a small motion,
        // but a screen may be large: what counts is only that nothing worse than a jump of the mouse comes of it.
        var (dx, dy) = _isRelative ? (x - Origin, y - Origin)
            : _last is { } last ? (x - last.X, y - last.Y)
            : (0, 0);
        _last = (x, y);
        _size = (width, height);
        // A click of the wheel is a button that goes down and up again.
        var clicks = mask & ~_lastMask;
        _lastMask = mask;
        var wheel = ((clicks & WheelDown) != 0 ? 1 : 0) - ((clicks & WheelUp) != 0 ? 1 : 0);
        var tilt = ((clicks & TiltRight) != 0 ? 1 : 0) - ((clicks & TiltLeft) != 0 ? 1 : 0);
        var buttons = PointerButtons.None;
        foreach (var (bit, button) in Buttons)
            buttons |= (mask & bit) != 0 ? button : PointerButtons.None;
        var isChange = wheel != 0 || tilt != 0 || buttons != _lastButtons;
        _lastButtons = buttons;
        using (gate.Enter())
        {
            if (pointer is { IsAbsolute: true } && !_isRelative)
                pointer.OnMoveTo(Scale(x, width), Scale(y, height), wheel, buttons);
            else if (isChange || dx != 0 || dy != 0)
                pointer?.OnMove(dx, dy, wheel, buttons, tilt);
        }
    }

    /// <summary>Lets go of the buttons.</summary>
    public void Release()
    {
        if (_lastButtons != PointerButtons.None && _last is { } last)
            OnEvent(0, _isRelative ? Origin : last.X, _isRelative ? Origin : last.Y, _size.Width, _size.Height);
        _lastMask = 0;
    }

    private static int Scale(int at, int length) => length <= 1 ? 0 : (int)Math.Min((long)at * IPointerInput.Edge / (length - 1), IPointerInput.Edge);
}
