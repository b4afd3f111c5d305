using Sharpvisor.Core.Input;

namespace Sharpvisor.Servers.Control;

/// <summary>The mouse of monitors and QMP clients, who tell one axis or one button at a time. Used under the machine's gate.</summary>
internal sealed class PointerState
{
    /// <summary>QEMU's axes go from 0 to this.</summary>
    private const int QemuEdge = 0x7FFF;

    private PointerButtons _buttons;
    private int _dx, _dy, _wheel, _tilt;
    private int _x, _y;
    private bool _isPlaced;

    /// <exception cref="ControlException">There is no such button.</exception>
    public static string Parse(string button) =>
        button is "left" or "middle" or "right" or "wheel-up" or "wheel-down" or "wheel-left" or "wheel-right" or "side" or "extra"
            ? button
            : throw new ControlException($"Parameter 'button' does not accept value '{button}'");

    /// <summary>All buttons at once: bit 0 left, bit 1 right, bit 2 middle.</summary>
    public void Set(PointerButtons buttons) => _buttons = buttons;

    public void Press(string button, bool isDown)
    {
        var bit = button switch
        {
            "left" => PointerButtons.Left,
            "middle" => PointerButtons.Middle,
            "right" => PointerButtons.Right,
            "side" => PointerButtons.Back,
            "extra" => PointerButtons.Forward,
            _ => PointerButtons.None,
        };
        _buttons = isDown ? _buttons | bit : _buttons & ~bit;
        var click = isDown ? 1 : 0; // a click of a wheel is its button going down
        _wheel += button switch { "wheel-up" => -click, "wheel-down" => click, _ => 0 };
        _tilt += button switch { "wheel-left" => -click, "wheel-right" => click, _ => 0 };
    }

    public void Move(bool isVertical, int distance)
    {
        if (isVertical)
            _dy += distance;
        else
            _dx += distance;
    }

    public void Scroll(int clicks) => _wheel += clicks;

    public void MoveTo(bool isVertical, int position)
    {
        var scaled = (int)((long)position * IPointerInput.Edge / QemuEdge);
        if (isVertical)
            _y = scaled;
        else
            _x = scaled;
        _isPlaced = true;
    }

    /// <summary>Sends what has gathered.</summary>
    public void Flush(IPointerInput mouse)
    {
        if (_isPlaced && mouse.IsAbsolute)
            mouse.OnMoveTo(_x, _y, _wheel, _buttons);
        else
            mouse.OnMove(_dx, _dy, _wheel, _buttons, _tilt);
        (_dx, _dy, _wheel, _tilt, _isPlaced) = (0, 0, 0, 0, false);
    }
}
