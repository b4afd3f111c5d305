namespace Sharpvisor.Core.Input;

/// <summary>The physical keys of a PC keyboard with 104 or 105 keys and the media keys, named by what a US layout prints on them.</summary>
public enum Key
{
    None,
    A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V, W, X, Y, Z,
    D0, D1, D2, D3, D4, D5, D6, D7, D8, D9,
    Escape, F1, F2, F3, F4, F5, F6, F7, F8, F9, F10, F11, F12,
    Grave, Minus, Equal, Backspace, Tab, LeftBracket, RightBracket, Backslash, CapsLock, Semicolon, Apostrophe, Enter,
    LeftShift, Less, Comma, Period, Slash, RightShift, LeftControl, LeftMeta, LeftAlt, Space, RightAlt, RightMeta, Menu, RightControl,
    PrintScreen, ScrollLock, Pause, Insert, Home, PageUp, Delete, End, PageDown, Up, Left, Down, Right,
    NumLock, KeypadDivide, KeypadMultiply, KeypadSubtract, KeypadAdd, KeypadEnter, KeypadDecimal,
    Keypad0, Keypad1, Keypad2, Keypad3, Keypad4, Keypad5, Keypad6, Keypad7, Keypad8, Keypad9,
    Mute, VolumeDown, VolumeUp, Play, Stop, Previous, Next, Power, Sleep, Wake,
}
