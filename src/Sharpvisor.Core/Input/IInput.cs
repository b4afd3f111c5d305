namespace Sharpvisor.Core.Input;

/// <summary>A keyboard that a person types on. Called with the machine's gate held.</summary>
public interface IKeyboardInput
{
    /// <summary>A key goes down or up. What the device's buffer does not hold is lost, as on a real keyboard.</summary>
    void OnKey(Key key, bool pressed);

    /// <summary>The lights, as the guest has set them.</summary>
    KeyboardLeds Leds { get; }
}

/// <summary>The lights of a keyboard, by the bits of a PS/2 keyboard's command EDh.</summary>
[Flags]
public enum KeyboardLeds
{
    None = 0,
    ScrollLock = 1,
    NumLock = 2,
    CapsLock = 4,
}

/// <summary>A mouse. Called with the machine's gate held.</summary>
public interface IPointerInput
{
    /// <summary>The largest coordinate of <see cref="OnMoveTo"/>: the right or lower edge of the screen.</summary>
    const int Edge = 0xFFFF;

    /// <summary>The guest takes positions, by <see cref="OnMoveTo"/>; otherwise motion, by <see cref="OnMove"/>.</summary>
    bool IsAbsolute { get; }

    /// <summary>A driver in the guest has switched the mouse on.</summary>
    bool IsListening { get; }

    /// <summary>The mouse moved by so many counts (right and down positive), the wheel by so many clicks (towards the user positive).</summary>
    /// <param name="tilt">Clicks of the wheel to the side, right positive.</param>
    void OnMove(int dx, int dy, int wheel, PointerButtons buttons, int tilt = 0);

    /// <summary>The mouse is somewhere on the screen. Nothing happens while the guest does not take positions.</summary>
    /// <param name="x">0 to <see cref="Edge"/>, from the left.</param>
    /// <param name="y">The same from above.</param>
    void OnMoveTo(int x, int y, int wheel, PointerButtons buttons);
}

[Flags]
public enum PointerButtons
{
    None = 0,
    Left = 1,
    Right = 2,
    Middle = 4,

    /// <summary>The side buttons.</summary>
    Back = 8,
    Forward = 16,
}
