using Sharpvisor.Core.Input;

namespace Sharpvisor.Input;

/// <summary>Which key of a US keyboard makes which character.</summary>
public static class UsLayout
{
    private const string Digits = ")!@#$%^&*(";

    private static readonly (Key Key, char Plain, char Shifted)[] Others =
    [
        (Key.Grave, '`', '~'), (Key.Minus, '-', '_'), (Key.Equal, '=', '+'), (Key.LeftBracket, '[', '{'), (Key.RightBracket, ']', '}'),
        (Key.Backslash, '\\', '|'), (Key.Semicolon, ';', ':'), (Key.Apostrophe, '\'', '"'), (Key.Comma, ',', '<'), (Key.Period, '.', '>'),
        (Key.Slash, '/', '?'),
    ];

    /// <summary>The key for a character, and whether Shift is held; false for one that this keyboard can't type.</summary>
    public static bool TryGetKey(char character, out Key key, out bool shift)
    {
        shift = char.IsAsciiLetterUpper(character) || Digits.Contains(character, StringComparison.Ordinal);
        key = character switch
        {
            >= 'a' and <= 'z' => Key.A + (character - 'a'),
            >= 'A' and <= 'Z' => Key.A + (character - 'A'),
            >= '0' and <= '9' => Key.D0 + (character - '0'),
            ' ' => Key.Space,
            '\n' or '\r' => Key.Enter,
            '\t' => Key.Tab,
            '\b' or '\x7F' => Key.Backspace,
            '\e' => Key.Escape,
            _ when shift => Key.D0 + Digits.IndexOf(character, StringComparison.Ordinal),
            _ => Key.None,
        };
        if (key != Key.None)
            return true;
        foreach (var other in Others)
        {
            if (character != other.Plain && character != other.Shifted)
                continue;
            (key, shift) = (other.Key, character == other.Shifted);
            return true;
        }

        return false;
    }
}
