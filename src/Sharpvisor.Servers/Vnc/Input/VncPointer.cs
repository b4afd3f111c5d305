// Pointer events (RFC 6143, 7.5.5) for a mouse that knows motion only. A client that understands the pointer type change
// (rfbproto, "QEMU Pointer Motion Change Pseudo-encoding") sends motion itself, around 7FFFh; of others the last position is kept.
using Sharpvisor.Core;
using Sharpvisor.Core.Input;

namespace Sharpvisor.Servers.Vnc.Input;

internal sealed class VncPointer(IPointerInput? pointer, MachineGate gate)
{
    private const int Origin = 0x7FFF;
    private const int LeftButton = 1, MiddleButton = 2, RightButton = 4, WheelUp = 8, WheelDown = 16;

    private int _lastMask;
    private (int X, int Y)? _last;
    private bool _isRelative;

    /// <summary>The client has been told that its positions are motion.</summary>
    public void BecomeRelative() => _isRelative = true;

    public void OnEvent(int mask, int x, int y)
    {
        // A client sends positions until it has read that it should not; those are far from the origin of a small motion,
        // but a screen may be large: what counts is only that nothing worse than a jump of the mouse comes of it.
        var (dx, dy) = _isRelative ? (x - Origin, y - Origin)
            : _last is { } last ? (x - last.X, y - last.Y)
            : (0, 0);
        _last = (x, y);
        // A click of the wheel is a button that goes down and up again.
        var clicks = mask & ~_lastMask;
        var wheel = ((clicks & WheelDown) != 0 ? 1 : 0) - ((clicks & WheelUp) != 0 ? 1 : 0);
        if (dx == 0 && dy == 0 && wheel == 0 && ((mask ^ _lastMask) & (LeftButton | MiddleButton | RightButton)) == 0)
        {
            _lastMask = mask;
            return;
        }

        _lastMask = mask;
        Move(dx, dy, wheel, mask);
    }

    /// <summary>Lets go of the buttons.</summary>
    public void Release()
    {
        if ((_lastMask & (LeftButton | MiddleButton | RightButton)) != 0)
            Move(0, 0, 0, 0);
        _lastMask = 0;
    }

    private void Move(int dx, int dy, int wheel, int mask)
    {
        var buttons = ((mask & LeftButton) != 0 ? PointerButtons.Left : PointerButtons.None)
            | ((mask & MiddleButton) != 0 ? PointerButtons.Middle : PointerButtons.None)
            | ((mask & RightButton) != 0 ? PointerButtons.Right : PointerButtons.None);
        using (gate.Enter())
            pointer?.OnMove(dx, dy, wheel, buttons);
    }
}
