// Expressions of the monitor: numbers, registers by $name, + - * / % & | ^ ~ and brackets. As in QEMU's monitor, * / %
// bind strongest, then & | ^, then + and -.
using System.Globalization;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Monitor;

internal sealed class Expression
{
    private const int MaximumDepth = 64;

    private readonly string _text;
    private readonly Func<string, ulong> _register;
    private int _at, _depth;

    private Expression(string text, Func<string, ulong> register) => (_text, _register) = (text, register);

    /// <param name="register">The value of what follows a $; throws when there is none of that name.</param>
    /// <exception cref="ControlException">It is none.</exception>
    public static long Evaluate(string text, Func<string, ulong> register)
    {
        var value = EvaluatePart(text, register, out var rest);
        return rest.Length == 0 ? value : throw new ControlException($"unexpected '{rest}' in expression '{text}'");
    }

    /// <summary>Takes the expression at the start.</summary>
    /// <param name="rest">What follows it.</param>
    public static long EvaluatePart(string text, Func<string, ulong> register, out string rest)
    {
        var expression = new Expression(text, register);
        var value = expression.Sum();
        rest = text[expression._at..].Trim();
        return value;
    }

    private long Sum()
    {
        var value = Logic();
        while (true)
        {
            if (Take('+'))
                value += Logic();
            else if (Take('-'))
                value -= Logic();
            else
                return value;
        }
    }

    private long Logic()
    {
        var value = Product();
        while (true)
        {
            if (Take('&'))
                value &= Product();
            else if (Take('|'))
                value |= Product();
            else if (Take('^'))
                value ^= Product();
            else
                return value;
        }
    }

    private long Product()
    {
        var value = Unary();
        while (true)
        {
            if (Take('*'))
                value *= Unary();
            else if (Take('/'))
                value = Divide(value, Unary(), isRemainder: false);
            else if (Take('%'))
                value = Divide(value, Unary(), isRemainder: true);
            else
                return value;
        }
    }

    private static long Divide(long value, long by, bool isRemainder) => by switch
    {
        0 => throw new ControlException("division by zero"),
        -1 => isRemainder ? 0 : unchecked(-value), // the one that overflows
        _ => isRemainder ? value % by : value / by,
    };

    private long Unary()
    {
        if (++_depth > MaximumDepth)
            throw new ControlException("expression is nested too deeply");
        try
        {
            if (Take('+'))
                return Unary();
            if (Take('-'))
                return unchecked(-Unary());
            if (Take('~'))
                return ~Unary();
            if (!Take('('))
                return Value();
            var value = Sum();
            return Take(')') ? value : throw new ControlException("')' expected");
        }
        finally
        {
            _depth--;
        }
    }

    private long Value()
    {
        if (_at < _text.Length && _text[_at] == '\'')
        {
            if (_at + 2 >= _text.Length || _text[_at + 2] != '\'')
                throw new ControlException("missing terminating ' character");
            var character = _text[_at + 1];
            _at += 3;
            return character;
        }

        var start = _at;
        var isRegister = _at < _text.Length && _text[_at] == '$';
        if (isRegister)
            _at++;
        while (_at < _text.Length && (char.IsAsciiLetterOrDigit(_text[_at]) || _text[_at] is '_' or '.'))
            _at++;
        var word = _text[start.._at];
        if (isRegister)
            return unchecked((long)_register(word[1..]));
        if (word.Length == 0)
            throw new ControlException(start < _text.Length ? $"invalid char '{_text[start]}' in expression" : "unexpected end of expression");
        return Number(word) ?? throw new ControlException($"invalid number '{word}' in expression");
    }

    private static long? Number(string word)
    {
        if (word.StartsWith("0x", StringComparison.OrdinalIgnoreCase))
            return ulong.TryParse(word.AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var hex) ? unchecked((long)hex) : null;
        if (word.Length > 1 && word[0] == '0')
        {
            ulong octal = 0;
            foreach (var digit in word)
            {
                if (digit is < '0' or > '7' || octal >> 61 != 0)
                    return null;
                octal = (octal << 3) | (uint)(digit - '0');
            }

            return unchecked((long)octal);
        }

        return ulong.TryParse(word, NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? unchecked((long)number) : null;
    }

    private bool Take(char wanted)
    {
        while (_at < _text.Length && _text[_at] == ' ')
            _at++;
        if (_at >= _text.Length || _text[_at] != wanted)
            return false;
        _at++;
        while (_at < _text.Length && _text[_at] == ' ')
            _at++;
        return true;
    }
}
