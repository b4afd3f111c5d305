// What a person wants of a domain's store, in the words of Xen's tools (xenstore-ls(1), xenstore_client.c): a verb, flags
// and paths. Left out: -s (which way they reach the store) and exists (read tells it, too).
using System.Globalization;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Servers.Control;

/// <summary>One request. Paths are as they were given.</summary>
public sealed record XenStoreRequest
{
    /// <summary>Each verb with its flags, the least number of operands, and what they are.</summary>
    private static readonly Dictionary<string, (string Flags, int Operands, string Form)> Verbs = new(StringComparer.Ordinal)
    {
        ["ls"] = ("fp", 0, "ls [-f] [-p] [PATH]..."),
        ["list"] = ("p", 1, "list [-p] PATH..."),
        ["read"] = ("pR", 1, "read [-p] [-R] PATH..."),
        ["write"] = ("R", 2, "write [-R] PATH VALUE [PATH VALUE]..."),
        ["rm"] = ("t", 1, "rm [-t] PATH..."),
        ["chmod"] = ("ur", 2, "chmod [-u] [-r] PATH RIGHT..."),
        ["watch"] = ("n", 1, "watch [-n COUNT] PATH..."),
    };

    private string _flags = "";

    private XenStoreRequest(string verb) => Verb = verb;

    public static IEnumerable<string> Names => Verbs.Keys;

    public string Verb { get; }

    /// <summary>The machine, where one may be named: a first word that begins with no slash. Null: there is none.</summary>
    public string? Machine { get; private init; }

    /// <summary>Paths, and for some verbs what goes with them.</summary>
    public IReadOnlyList<string> Operands { get; private init; } = [];

    /// <summary>Of watch: events until the end; null: no end.</summary>
    public int? Count { get; private set; }

    /// <summary>-f, -p, …</summary>
    public bool Has(char flag) => _flags.Contains(flag, StringComparison.Ordinal);

    /// <param name="namesMachine">The first operand may be a machine.</param>
    /// <exception cref="ConfigurationException">They are no request.</exception>
    public static XenStoreRequest Parse(IReadOnlyList<string> words, bool namesMachine)
    {
        var list = string.Join(", ", Verbs.Keys);
        if (words.Count == 0)
            throw new ConfigurationException($"xenstore needs a verb: one of {list}");
        if (!Verbs.TryGetValue(words[0], out var verb))
            throw new ConfigurationException($"xenstore {words[0]}: unknown; there are {list}");
        var request = new XenStoreRequest(words[0]);
        List<string> operands = [];
        var flagsEnd = false;
        for (var i = 1; i < words.Count; i++)
        {
            // A value or a right may begin with a dash; a path never does.
            if (flagsEnd || words[i].Length < 2 || words[i][0] != '-' || (operands.Exists(o => o.StartsWith('/')) && verb.Operands > 1))
                operands.Add(words[i]);
            else if (words[i] == "--")
                flagsEnd = true;
            else
                request.Take(words, ref i, verb);
        }

        string? machine = null;
        if (namesMachine && operands is [var first, ..] && !first.StartsWith('/'))
        {
            machine = first;
            operands.RemoveAt(0);
        }

        if (operands.Count < verb.Operands || (request.Verb == "write" && operands.Count % 2 != 0))
            throw Wrong(request.Verb, verb.Form);
        return request with { Machine = machine, Operands = operands };
    }

    /// <summary>What <see cref="Parse"/> makes the same request of, without the machine.</summary>
    public IReadOnlyList<string> ToWords() =>
        [Verb, .. _flags.Where(f => f != 'n').Select(f => $"-{f}"), .. Count is { } count ? new[] { "-n", count.ToString(CultureInfo.InvariantCulture) } : [], "--", .. Operands];

    private static ConfigurationException Wrong(string verb, string form) => new($"xenstore {verb}: give {form}");

    private void Take(IReadOnlyList<string> words, ref int i, (string Flags, int Operands, string Form) verb)
    {
        foreach (var flag in words[i][1..])
        {
            if (!verb.Flags.Contains(flag, StringComparison.Ordinal))
                throw new ConfigurationException($"xenstore {Verb}: there is no -{flag}; give {verb.Form}");
            _flags += flag;
            if (flag != 'n')
                continue;
            if (++i >= words.Count || !int.TryParse(words[i], NumberStyles.None, CultureInfo.InvariantCulture, out var count) || count == 0)
                throw Wrong(Verb, verb.Form);
            Count = count;
            return;
        }
    }
}
