// The syntax of xl's domain configuration files, xl.cfg(5): KEY=VALUE pairs, a line or a semicolon apart; values are
// strings in quotes, numbers, and lists; a # begins a remark. KEY += VALUE adds to a list or a string.
using System.Globalization;
using System.Text;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Parsing.Xl;

/// <summary>A string or a number, or a list of values.</summary>
/// <param name="Text">Null: a list.</param>
internal sealed record XlValue(int Line, string? Text, IReadOnlyList<XlValue> Items);

/// <summary>KEY=VALUE.</summary>
internal sealed record XlPair(string Key, int Line, XlValue Value);

/// <summary>A file with its pairs; of a key that is there several times, the last one counts.</summary>
internal sealed class XlFile
{
    private const int SizeLimit = 1 << 20, DepthLimit = 8;

    private readonly string _name;
    private readonly string _text;
    private int _at, _line = 1;

    private XlFile(string name, string text) => (_name, _text) = (name, text);

    /// <exception cref="ConfigurationException">It can't be read, or is none.</exception>
    public static IReadOnlyList<XlPair> Read(string path)
    {
        try
        {
            return new FileInfo(path).Length > SizeLimit
                ? throw new ConfigurationException($"--xl {path}: more than {SizeLimit >> 10} KiB; give a domain configuration file as xl.cfg(5) describes it")
                : Parse(path, File.ReadAllText(path));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ConfigurationException($"--xl {path}: {e.Message.TrimEnd('.')}; check the path", e);
        }
    }

    /// <param name="name">Of the file, for messages.</param>
    /// <exception cref="ConfigurationException">It is none.</exception>
    public static IReadOnlyList<XlPair> Parse(string name, string text) => new XlFile(name, text).Pairs();

    private List<XlPair> Pairs()
    {
        List<XlPair> pairs = [];
        while (SkipTo(betweenPairs: true))
        {
            var line = _line;
            var key = Word();
            if (key.Length == 0)
                throw Error(line, $"'{_text[_at]}': a key is expected; give KEY=VALUE");
            SkipTo(betweenPairs: false);
            var adds = _at + 1 < _text.Length && _text[_at] == '+' && _text[_at + 1] == '=';
            _at += adds ? 1 : 0;
            if (_at >= _text.Length || _text[_at] != '=')
                throw Error(line, $"{key}: no value; give {key}=VALUE");
            _at++;
            var value = Value(key, 0);
            SkipSpaces();
            if (_at < _text.Length && _text[_at] is not ('\n' or ';' or '#'))
                throw Error(_line, $"{key}: something follows its value; give one value, in quotes if it is a string");
            var old = pairs.FindIndex(p => p.Key == key);
            if (old >= 0)
            {
                value = adds ? Add(key, pairs[old].Value, value) : value;
                pairs.RemoveAt(old);
            }

            pairs.Add(new XlPair(key, line, value));
        }

        return pairs;
    }

    private XlValue Add(string key, XlValue old, XlValue more) => (old.Text, more.Text) switch
    {
        (null, null) => old with { Items = [.. old.Items, .. more.Items] },
        ({ } first, { } second) => old with { Text = first + second },
        _ => throw Error(more.Line, $"{key}: += adds a list to a list, or a string to a string"),
    };

    private XlValue Value(string key, int depth)
    {
        if (!SkipTo(betweenPairs: false))
            throw Error(_line, $"{key}: the file ends without its value");
        var line = _line;
        switch (_text[_at])
        {
            case '"' or '\'':
                return new XlValue(line, Quoted(key), []);
            case '[':
                return List(key, depth + 1);
            case var c when char.IsAsciiDigit(c) || c == '-':
                var start = _at++;
                while (_at < _text.Length && char.IsAsciiLetterOrDigit(_text[_at]))
                    _at++;
                return new XlValue(line, Number(key, _text[start.._at]), []);
            default:
                throw Error(line, $"{key}: a value is a number, a string in quotes, or a list in brackets");
        }
    }

    private XlValue List(string key, int depth)
    {
        var line = _line;
        if (depth > DepthLimit)
            throw Error(line, $"{key}: lists in more than {DepthLimit} lists");
        _at++;
        List<XlValue> items = [];
        while (true)
        {
            if (!SkipTo(betweenPairs: false, inList: true))
                throw Error(line, $"{key}: the list has no end; give a ]");
            if (_text[_at] == ']')
                break;
            items.Add(Value(key, depth));
            if (!SkipTo(betweenPairs: false, inList: true))
                throw Error(line, $"{key}: the list has no end; give a ]");
            if (_text[_at] == ',')
                _at++;
            else if (_text[_at] != ']')
                throw Error(_line, $"{key}: a comma is missing between two values of a list");
        }

        _at++;
        return new XlValue(line, null, items);
    }

    private string Quoted(string key)
    {
        var quote = _text[_at++];
        var text = new StringBuilder();
        for (; _at < _text.Length && _text[_at] != '\n'; _at++)
        {
            if (_text[_at] == quote)
            {
                _at++;
                return text.ToString();
            }

            if (_text[_at] != '\\' || _at + 1 >= _text.Length || _text[_at + 1] == '\n')
            {
                text.Append(_text[_at]);
                continue;
            }

            text.Append(_text[++_at] switch { 'n' => '\n', 't' => '\t', 'r' => '\r', var other => other });
        }

        throw Error(_line, $"{key}: the string has no end on its line; give a {quote}");
    }

    /// <summary>In decimal digits, whatever it was in.</summary>
    private string Number(string key, string text)
    {
        var digits = text.TrimStart('-');
        var isHexadecimal = digits.StartsWith("0x", StringComparison.OrdinalIgnoreCase);
        var isOctal = !isHexadecimal && digits.Length > 1 && digits[0] == '0';
        try
        {
            var number = isHexadecimal ? Convert.ToInt64(digits, 16) : isOctal ? Convert.ToInt64(digits, 8) : long.Parse(digits, NumberStyles.None, CultureInfo.InvariantCulture);
            return (text[0] == '-' ? -number : number).ToString(CultureInfo.InvariantCulture);
        }
        catch (Exception e) when (e is FormatException or OverflowException or ArgumentException)
        {
            throw Error(_line, $"{key}: {text} is no number; put a string in quotes", e);
        }
    }

    private string Word()
    {
        var start = _at;
        while (_at < _text.Length && (char.IsAsciiLetterOrDigit(_text[_at]) || _text[_at] == '_'))
            _at++;
        return _text[start.._at];
    }

    private void SkipSpaces()
    {
        while (_at < _text.Length && _text[_at] is ' ' or '\t' or '\r')
            _at++;
    }

    /// <summary>Goes to what comes next. Lines end between pairs and within lists only.</summary>
    /// <returns>False: nothing comes.</returns>
    private bool SkipTo(bool betweenPairs, bool inList = false)
    {
        while (true)
        {
            SkipSpaces();
            if (_at >= _text.Length)
                return false;
            if (_text[_at] == '#' && (betweenPairs || inList))
            {
                while (_at < _text.Length && _text[_at] != '\n')
                    _at++;
            }
            else if ((_text[_at] == '\n' && (betweenPairs || inList)) || (_text[_at] == ';' && betweenPairs))
            {
                _line += _text[_at] == '\n' ? 1 : 0;
                _at++;
            }
            else
            {
                return true;
            }
        }
    }

    private ConfigurationException Error(int line, string message, Exception? inner = null) => new($"{_name}:{line}: {message}", inner!);
}
