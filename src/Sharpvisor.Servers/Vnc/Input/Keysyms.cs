// X11 keysyms as RFB's key events name them (RFC 6143, 7.5.4), on a keyboard with the US layout.
using Sharpvisor.Core.Input;
using Sharpvisor.Input;

namespace Sharpvisor.Servers.Vnc.Input;

/// <param name="Key">What a keysym is printed on.</param>
/// <param name="Shift">Whether it is the upper one; null where shift does not choose between two.</param>
internal readonly record struct KeyMeaning(Key Key, bool? Shift)
{
    public bool IsLetter => Key is >= Key.A and <= Key.Z;
}

internal static class Keysyms
{
    public const uint CapsLock = 0xFFE5;

    private static readonly Dictionary<uint, KeyMeaning> Meanings = Build();

    /// <returns>A meaning of <see cref="Key.None"/> for one that no US keyboard has.</returns>
    public static KeyMeaning Find(uint keysym) => Meanings.GetValueOrDefault(keysym);

    private static Dictionary<uint, KeyMeaning> Build()
    {
        var meanings = new Dictionary<uint, KeyMeaning>();
        // Latin-1: what is printed on the keys.
        for (var character = '!'; character <= '~'; character++)
        {
            if (UsLayout.TryGetKey(character, out var key, out var shift))
                meanings[character] = new(key, shift);
        }

        void Add(uint first, params ReadOnlySpan<Key> range)
        {
            for (var i = 0; i < range.Length; i++)
                meanings[first + (uint)i] = new(range[i], null);
        }

        Add(0x20, Key.Space);
        Add(0xFF08, Key.Backspace, Key.Tab);
        Add(0xFE20, Key.Tab); // ISO_Left_Tab: with shift
        Add(0xFF0D, Key.Enter);
        Add(0xFF0A, Key.Enter); // Linefeed
        Add(0xFF13, Key.Pause, Key.ScrollLock, Key.PrintScreen); // the last is Sys_Req
        Add(0xFF1B, Key.Escape);
        Add(0xFF50, Key.Home, Key.Left, Key.Up, Key.Right, Key.Down, Key.PageUp, Key.PageDown, Key.End);
        Add(0xFF61, Key.PrintScreen);
        Add(0xFF63, Key.Insert);
        Add(0xFF67, Key.Menu);
        Add(0xFF6B, Key.Pause); // Break: with control
        Add(0xFF7E, Key.RightAlt); // Mode_switch
        Add(0xFF7F, Key.NumLock);
        Add(0xFF80, Key.Space); // of the keypad
        Add(0xFF89, Key.Tab);
        Add(0xFF8D, Key.KeypadEnter);
        // The keypad while Num Lock is off, then while it is on: the same keys.
        Add(0xFF95, Key.Keypad7, Key.Keypad4, Key.Keypad8, Key.Keypad6, Key.Keypad2, Key.Keypad9, Key.Keypad3, Key.Keypad1, Key.Keypad5, Key.Keypad0, Key.KeypadDecimal);
        Add(0xFFAA, Key.KeypadMultiply, Key.KeypadAdd, Key.KeypadDecimal, Key.KeypadSubtract, Key.KeypadDecimal, Key.KeypadDivide);
        Add(0xFFB0, Key.Keypad0, Key.Keypad1, Key.Keypad2, Key.Keypad3, Key.Keypad4, Key.Keypad5, Key.Keypad6, Key.Keypad7, Key.Keypad8, Key.Keypad9);
        Add(0xFFBD, Key.Equal);
        Add(0xFFBE, Key.F1, Key.F2, Key.F3, Key.F4, Key.F5, Key.F6, Key.F7, Key.F8, Key.F9, Key.F10, Key.F11, Key.F12);
        Add(0xFFE1, Key.LeftShift, Key.RightShift, Key.LeftControl, Key.RightControl, Key.CapsLock);
        Add(0xFFE7, Key.LeftMeta, Key.RightMeta, Key.LeftAlt, Key.RightAlt, Key.LeftMeta, Key.RightMeta); // Meta, Alt, Super
        Add(0xFE03, Key.RightAlt); // ISO_Level3_Shift
        Add(0xFFFF, Key.Delete);
        Add(0x1008FF11, Key.VolumeDown, Key.Mute, Key.VolumeUp, Key.Play, Key.Stop, Key.Previous, Key.Next);
        Add(0x1008FF2A, Key.Power, Key.Wake);
        Add(0x1008FF2F, Key.Sleep);
        Add(0x1008FF31, Key.Play); // Pause of a player
        return meanings;
    }
}
