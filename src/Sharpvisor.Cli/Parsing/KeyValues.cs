// Lists of key=value as QEMU writes them: separated by commas, a comma within a value doubled.
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Parsing;

internal sealed class KeyValues
{
    private readonly Dictionary<string, string> _values = new(StringComparer.Ordinal);
    private readonly List<(string Key, string Value)> _repeated = [];
    private readonly string _what;

    /// <param name="flag">Such as -drive.</param>
    /// <param name="implied">The key of a first part without an equals sign; null: there is none.</param>
    /// <param name="known">The keys that there are; one that ends in * may be there several times: <see cref="All"/>.</param>
    /// <exception cref="ConfigurationException">A key is unknown or there twice.</exception>
    public KeyValues(string flag, string text, string? implied, IReadOnlyList<string> known)
    {
        _what = $"{flag} {text}";
        var isFirst = true;
        foreach (var part in Split(text))
        {
            var equals = part.IndexOf('=', StringComparison.Ordinal);
            var (key, value) = equals < 0 ? (part, "on") : (part[..equals], part[(equals + 1)..]);
            if (equals < 0 && isFirst && implied is not null)
                (key, value) = (implied, part);
            isFirst = false;
            if (known.Contains($"{key}*"))
            {
                _repeated.Add((key, value));
                continue;
            }

            if (!known.Contains(key))
                throw new ConfigurationException($"{_what}: unknown option \"{key}\"; the nearest is {Nearest.Of(key, known.Select(k => k.TrimEnd('*')))}");
            if (!_values.TryAdd(key, value))
                throw new ConfigurationException($"{_what}: {key} is there twice; give it once");
        }
    }

    public string? this[string key] => _values.GetValueOrDefault(key);

    /// <summary>The values of a key that may be there several times.</summary>
    public IReadOnlyList<string> All(string key) => [.. _repeated.Where(r => r.Key == key).Select(r => r.Value)];

    public ConfigurationException Error(string message) => new($"{_what}: {message}");

    public bool OnOff(string key, bool otherwise) => _values.GetValueOrDefault(key) switch
    {
        null => otherwise,
        "on" or "yes" or "true" => true,
        "off" or "no" or "false" => false,
        var text => throw Error($"{key}={text}: give on or off"),
    };

    public int? Number(string key, int minimum, int maximum)
    {
        if (this[key] is not { } text)
            return null;
        if (!int.TryParse(text, System.Globalization.NumberStyles.None, System.Globalization.CultureInfo.InvariantCulture, out var number) || number < minimum || number > maximum)
            throw Error($"{key}={text}: give a number from {minimum} to {maximum}");
        return number;
    }

    /// <summary>One of some words, each with what it means; null when the key is not there.</summary>
    public T? Word<T>(string key, params (string Word, T Meaning)[] words) where T : struct
    {
        if (this[key] is not { } text)
            return null;
        foreach (var (word, meaning) in words)
        {
            if (word == text)
                return meaning;
        }

        throw Error($"{key}={text}: there is no such value; the nearest is {Nearest.Of(text, words.Select(w => w.Word))}");
    }

    public string? Text(string key, int limit)
    {
        if (this[key] is { } text && (text.Length > limit || text.Any(c => !char.IsAscii(c) || char.IsControl(c))))
            throw Error($"{key}={text}: give at most {limit} plain characters");
        return this[key];
    }

    private static IEnumerable<string> Split(string text)
    {
        var part = new System.Text.StringBuilder();
        for (var i = 0; i < text.Length; i++)
        {
            if (text[i] != ',')
            {
                part.Append(text[i]);
            }
            else if (i + 1 < text.Length && text[i + 1] == ',')
            {
                part.Append(text[i++]);
            }
            else
            {
                yield return part.ToString();
                part.Clear();
            }
        }

        yield return part.ToString();
    }
}
