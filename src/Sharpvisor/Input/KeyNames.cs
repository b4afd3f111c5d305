// The names of keys in QEMU's sendkey command and its QKeyCode.
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Input;

namespace Sharpvisor.Input;

/// <summary>Keys by the names that QEMU's monitor knows them by.</summary>
public static class KeyNames
{
    private static readonly Dictionary<string, Key> All = Make();

    /// <exception cref="ConfigurationException">There is no such key.</exception>
    public static Key Parse(string name) => All.TryGetValue(name, out var key)
        ? key
        : throw new ConfigurationException($"no key is named \"{name}\"; give names such as a, ret, f1, ctrl, kp_5, pgup");

    public static IEnumerable<string> Names => All.Keys;

    public static bool TryParse(string name, out Key key) => All.TryGetValue(name, out key);

    /// <summary>Several keys that are held together: ctrl-alt-delete.</summary>
    /// <exception cref="ConfigurationException">There is no such key.</exception>
    public static IReadOnlyList<Key> ParseCombination(string names) => [.. names.Split('-').Select(Parse)];

    private static Dictionary<string, Key> Make()
    {
        var all = new (string Name, Key Key)[]
        {
            ("esc", Key.Escape), ("minus", Key.Minus), ("equal", Key.Equal), ("backspace", Key.Backspace), ("tab", Key.Tab),
            ("bracket_left", Key.LeftBracket), ("bracket_right", Key.RightBracket), ("ret", Key.Enter), ("semicolon", Key.Semicolon),
            ("apostrophe", Key.Apostrophe), ("grave_accent", Key.Grave), ("backslash", Key.Backslash), ("comma", Key.Comma),
            ("dot", Key.Period), ("slash", Key.Slash), ("spc", Key.Space), ("less", Key.Less),
            ("shift", Key.LeftShift), ("shift_r", Key.RightShift), ("ctrl", Key.LeftControl), ("ctrl_r", Key.RightControl),
            ("alt", Key.LeftAlt), ("alt_r", Key.RightAlt), ("meta_l", Key.LeftMeta), ("meta_r", Key.RightMeta),
            ("menu", Key.Menu), ("compose", Key.Menu), ("caps_lock", Key.CapsLock), ("num_lock", Key.NumLock), ("scroll_lock", Key.ScrollLock),
            ("print", Key.PrintScreen), ("sysrq", Key.PrintScreen), ("pause", Key.Pause),
            ("home", Key.Home), ("end", Key.End), ("pgup", Key.PageUp), ("pgdn", Key.PageDown), ("insert", Key.Insert), ("delete", Key.Delete),
            ("up", Key.Up), ("down", Key.Down), ("left", Key.Left), ("right", Key.Right),
            ("asterisk", Key.KeypadMultiply), ("kp_divide", Key.KeypadDivide), ("kp_multiply", Key.KeypadMultiply), ("kp_subtract", Key.KeypadSubtract),
            ("kp_add", Key.KeypadAdd), ("kp_enter", Key.KeypadEnter), ("kp_decimal", Key.KeypadDecimal),
            ("audiomute", Key.Mute), ("volumedown", Key.VolumeDown), ("volumeup", Key.VolumeUp), ("audioplay", Key.Play), ("audiostop", Key.Stop),
            ("audioprev", Key.Previous), ("audionext", Key.Next), ("power", Key.Power), ("sleep", Key.Sleep), ("wake", Key.Wake),
        }.ToDictionary(k => k.Name, k => k.Key, StringComparer.Ordinal);
        for (var i = 0; i < 26; i++)
            all[((char)('a' + i)).ToString()] = Key.A + i;
        for (var i = 0; i < 10; i++)
        {
            all[i.ToString()] = Key.D0 + i;
            all[$"kp_{i}"] = Key.Keypad0 + i;
        }

        for (var i = 0; i < 12; i++)
            all[$"f{i + 1}"] = Key.F1 + i;
        return all;
    }
}
