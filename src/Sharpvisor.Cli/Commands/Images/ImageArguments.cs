using System.Globalization;
using Sharpvisor.Cli.Parsing;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Commands.Images;

/// <summary>The arguments of <c>image</c>: qemu-img's, letters and words, before, between or after file names.</summary>
internal sealed class ImageArguments
{
    private readonly Dictionary<string, string> _values = new(StringComparer.Ordinal);
    private readonly List<string> _names = [];
    private readonly string _verb;

    /// <param name="flags">Those that there are, each followed by = when it takes a value: "f=", "json".</param>
    /// <param name="names">What the file names and sizes mean.</param>
    /// <param name="optional">How many of these may be missing at the end.</param>
    public ImageArguments(string verb, IReadOnlyList<string> args, string[] flags, string[] names, int optional = 0)
    {
        _verb = verb;
        for (var i = 0; i < args.Count; i++)
        {
            var arg = args[i];
            if (arg.Length < 2 || arg[0] != '-' || IsSize(arg))
            {
                _names.Add(arg);
                continue;
            }

            var name = arg.TrimStart('-');
            string? value = null;
            if (name.IndexOf('=', StringComparison.Ordinal) is > 0 and var equals)
                (name, value) = (name[..equals], name[(equals + 1)..]);
            if (flags.Contains(name + "="))
                value ??= ++i < args.Count ? args[i] : throw Error($"{arg} needs a value");
            else if (!flags.Contains(name) || value is not null)
                throw Error($"unknown flag {arg}; there are {string.Join(" ", flags.Select(f => $"{(f.TrimEnd('=').Length == 1 ? "-" : "--")}{f.TrimEnd('=')}"))}");
            _values[name] = name == "o" && _values.TryGetValue("o", out var before) ? $"{before},{value}" : value ?? "";
        }

        if (_names.Count > names.Length)
            throw Error($"\"{_names[names.Length]}\" is too much; give {string.Join(" ", names)}");
        if (_names.Count < names.Length - optional)
            throw Error($"{names[_names.Count]} is missing; give {string.Join(" ", names)}");
    }

    public string? this[string flag] => _values.GetValueOrDefault(flag);

    public bool Has(string flag) => _values.ContainsKey(flag);

    /// <summary>--json, or QEMU's --output=json.</summary>
    public bool IsJson => Has("json") || this["output"] switch
    {
        null or "human" => false,
        "json" => true,
        var other => throw Error($"--output={other}: give human or json"),
    };

    public string Name(int index) => _names[index];

    public string? NameOrNull(int index) => index < _names.Count ? _names[index] : null;

    public ConfigurationException Error(string message) => new($"image {_verb}: {message}; see sharpvisor image --help");

    /// <summary>A size in bytes, or with a suffix.</summary>
    public long Size(string text)
    {
        var digits = text.TrimEnd('b', 'B');
        var power = digits.Length > 0 ? "kmgtpe".IndexOf(char.ToLowerInvariant(digits[^1]), StringComparison.Ordinal) + 1 : 0;
        var number = power > 0 ? digits[..^1] : digits;
        if (!decimal.TryParse(number, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out var count) || count < 0 || count > long.MaxValue || count * (1L << (10 * power)) > long.MaxValue - 511)
            throw Error($"{text} is not a size; give bytes, or a number with K, M, G or T: 10G");
        return (long)(count * (1L << (10 * power)));
    }

    /// <summary>-o a=b,c=d.</summary>
    public KeyValues Options(params string[] known) => new("-o", this["o"] is { Length: > 0 } text ? text : known[0] + "=", implied: null, known);

    private static bool IsSize(string arg) => char.IsAsciiDigit(arg[1]); // resize FILE -1G
}
