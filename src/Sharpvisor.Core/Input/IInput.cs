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
    /// <summary>The mouse moved by so many counts (right and down positive), the wheel by so many clicks (towards the user positive).</summary>
    void OnMove(int dx, int dy, int wheel, PointerButtons buttons);
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
