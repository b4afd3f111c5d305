// Scan codes of set 1 as the QEMU extended key event names them (rfbproto, 7.5.11 "QEMU Extended Key Event Message"):
// one byte as it is, E0h and a byte as that byte with bit 7 set.
using Sharpvisor.Core.Input;

namespace Sharpvisor.Servers.Vnc.Input;

internal static class XtKeys
{
    private static readonly Key[] Keys = Build();

    /// <returns><see cref="Key.None"/> for a code that no key has.</returns>
    public static Key ToKey(uint code) => code < (uint)Keys.Length ? Keys[code] : Key.None;

    private static Key[] Build()
    {
        var keys = new Key[256];
        Key[] plain =
        [
            Key.None, Key.Escape, Key.D1, Key.D2, Key.D3, Key.D4, Key.D5, Key.D6, Key.D7, Key.D8, Key.D9, Key.D0, Key.Minus, Key.Equal, Key.Backspace, Key.Tab,
            Key.Q, Key.W, Key.E, Key.R, Key.T, Key.Y, Key.U, Key.I, Key.O, Key.P, Key.LeftBracket, Key.RightBracket, Key.Enter, Key.LeftControl, Key.A, Key.S,
            Key.D, Key.F, Key.G, Key.H, Key.J, Key.K, Key.L, Key.Semicolon, Key.Apostrophe, Key.Grave, Key.LeftShift, Key.Backslash, Key.Z, Key.X, Key.C, Key.V,
            Key.B, Key.N, Key.M, Key.Comma, Key.Period, Key.Slash, Key.RightShift, Key.KeypadMultiply, Key.LeftAlt, Key.Space, Key.CapsLock,
            Key.F1, Key.F2, Key.F3, Key.F4, Key.F5, Key.F6, Key.F7, Key.F8, Key.F9, Key.F10, Key.NumLock, Key.ScrollLock,
            Key.Keypad7, Key.Keypad8, Key.Keypad9, Key.KeypadSubtract, Key.Keypad4, Key.Keypad5, Key.Keypad6, Key.KeypadAdd,
            Key.Keypad1, Key.Keypad2, Key.Keypad3, Key.Keypad0, Key.KeypadDecimal, Key.PrintScreen, Key.None, Key.Less, Key.F11, Key.F12,
        ];
        plain.CopyTo(keys, 0);
        (byte Code, Key Key)[] extended =
        [
            (0x10, Key.Previous), (0x19, Key.Next), (0x1C, Key.KeypadEnter), (0x1D, Key.RightControl), (0x20, Key.Mute), (0x22, Key.Play), (0x24, Key.Stop),
            (0x2E, Key.VolumeDown), (0x30, Key.VolumeUp), (0x35, Key.KeypadDivide), (0x37, Key.PrintScreen), (0x38, Key.RightAlt), (0x46, Key.Pause),
            (0x47, Key.Home), (0x48, Key.Up), (0x49, Key.PageUp), (0x4B, Key.Left), (0x4D, Key.Right), (0x4F, Key.End), (0x50, Key.Down), (0x51, Key.PageDown),
            (0x52, Key.Insert), (0x53, Key.Delete), (0x5B, Key.LeftMeta), (0x5C, Key.RightMeta), (0x5D, Key.Menu), (0x5E, Key.Power), (0x5F, Key.Sleep), (0x63, Key.Wake),
        ];
        foreach (var (code, key) in extended)
            keys[code | 0x80] = key;
        return keys;
    }
}
