using System.Globalization;
using System.Text;
using Sharpvisor.Core.Input;
using Sharpvisor.Input;

namespace Sharpvisor.Cli.Display;

/// <summary>
/// Turns what a terminal sends into keys: characters by a US layout, control characters, and the escape sequences of
/// xterm and the Linux console for cursor and function keys with their modifiers.
/// </summary>
internal sealed class TerminalKeys
{
    private const byte Escape = 0x1B, Delete = 0x7F;
    private const int LongestSequence = 16;

    private static readonly Dictionary<char, Key> Letters = new (char Letter, Key Key)[]
    {
        ('A', Key.Up), ('B', Key.Down), ('C', Key.Right), ('D', Key.Left), ('H', Key.Home), ('F', Key.End), ('E', Key.Keypad5),
        ('P', Key.F1), ('Q', Key.F2), ('R', Key.F3), ('S', Key.F4),
    }.ToDictionary(l => l.Letter, l => l.Key);

    private static readonly Dictionary<int, Key> Numbers = new (int Number, Key Key)[]
    {
        (1, Key.Home), (2, Key.Insert), (3, Key.Delete), (4, Key.End), (5, Key.PageUp), (6, Key.PageDown), (7, Key.Home), (8, Key.End),
        (11, Key.F1), (12, Key.F2), (13, Key.F3), (14, Key.F4), (15, Key.F5), (17, Key.F6), (18, Key.F7), (19, Key.F8),
        (20, Key.F9), (21, Key.F10), (23, Key.F11), (24, Key.F12),
    }.ToDictionary(n => n.Number, n => n.Key);

    private readonly List<byte> _pending = [];

    /// <summary>What came so far may be the start of a sequence, or the Escape key: time tells.</summary>
    public bool IsWaiting => _pending.Count > 0;

    /// <summary>Takes a byte; returns the keys that it completes, to be held together, the modifiers first.</summary>
    public IReadOnlyList<Key> Next(byte value)
    {
        _pending.Add(value);
        if (_pending[0] != Escape)
        {
            _pending.Clear();
            return Character(value);
        }

        if (_pending.Count == 1)
            return [];
        var kind = (char)_pending[1];
        if (kind is not ('[' or 'O'))
        {
            _pending.Clear();
            return WithAlt(Character(value));
        }

        if (_pending.Count == 2)
            return [];
        // The Linux console sends ESC [ [ A for F1.
        var isLinux = kind == '[' && _pending[2] == '[';
        if (isLinux && _pending.Count == 3)
            return [];
        var isFinal = isLinux || kind == 'O' || value is >= 0x40 and <= 0x7E;
        if (!isFinal && _pending.Count < LongestSequence)
            return [];
        var text = Encoding.ASCII.GetString([.. _pending.Skip(2)]);
        _pending.Clear();
        return isLinux ? LinuxFunction(text[1]) : Sequence(text);
    }

    /// <summary>Nothing followed: it was the Escape key, perhaps with one more.</summary>
    public IReadOnlyList<Key> Flush()
    {
        var pending = _pending.ToArray();
        _pending.Clear();
        return pending.Length switch
        {
            0 => [],
            1 => [Key.Escape],
            _ => WithAlt(Character(pending[1])),
        };
    }

    private static IReadOnlyList<Key> WithAlt(IReadOnlyList<Key> keys) => keys.Count == 0 ? keys : [Key.LeftAlt, .. keys];

    private static IReadOnlyList<Key> Character(byte value)
    {
        switch (value)
        {
            case Escape:
                return [Key.Escape];
            case Delete or (byte)'\b':
                return [Key.Backspace];
            case (byte)'\r' or (byte)'\n' or (byte)'\t':
                break;
            case 0:
                return [Key.LeftControl, Key.Space];
            case < 0x1B:
                return [Key.LeftControl, Key.A + (value - 1)];
            case 0x1C:
                return [Key.LeftControl, Key.Backslash];
            case 0x1D:
                return [Key.LeftControl, Key.RightBracket];
            case 0x1E:
                return [Key.LeftControl, Key.LeftShift, Key.D6];
            case 0x1F:
                return [Key.LeftControl, Key.LeftShift, Key.Minus];
        }

        if (!UsLayout.TryGetKey((char)value, out var key, out var shift))
            return [];
        return shift ? [Key.LeftShift, key] : [key];
    }

    private static IReadOnlyList<Key> LinuxFunction(char letter) => letter is >= 'A' and <= 'E' ? [Key.F1 + (letter - 'A')] : [];

    private static IReadOnlyList<Key> Sequence(string text)
    {
        var numbers = text[..^1].Split(';').Select(n => int.TryParse(n, NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number : 0).ToArray();
        if (text is "Z")
            return [Key.LeftShift, Key.Tab];
        var isKnown = text[^1] == '~' ? Numbers.TryGetValue(numbers[0], out var key) : Letters.TryGetValue(text[^1], out key);
        if (!isKnown)
            return [];
        // xterm: one more than the sum of Shift 1, Alt 2, Ctrl 4.
        var modifiers = numbers.Length > 1 && numbers[1] is > 1 and <= 8 ? numbers[1] - 1 : 0;
        List<Key> keys = [];
        if ((modifiers & 1) != 0)
            keys.Add(Key.LeftShift);
        if ((modifiers & 2) != 0)
            keys.Add(Key.LeftAlt);
        if ((modifiers & 4) != 0)
            keys.Add(Key.LeftControl);
        keys.Add(key);
        return keys;
    }
}
