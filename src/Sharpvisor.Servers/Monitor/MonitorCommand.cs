using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Monitor;

/// <summary>What a person who works at a monitor has chosen: each has a state of their own.</summary>
internal sealed class MonitorState
{
    /// <summary>The processor that registers and memory are of.</summary>
    public int Processor { get; set; }

    /// <summary>What the last x, xp or print used.</summary>
    public MemoryFormat Format { get; set; } = new(1, 'x', 4);

    public List<string> History { get; } = [];
}

/// <summary>One command that was typed.</summary>
/// <param name="Name">As in the table.</param>
/// <param name="Format">What follows a slash: x/4xg.</param>
/// <param name="Rest">All behind the name.</param>
internal sealed record MonitorCall(string Name, string Format, string Rest, MonitorState State, CancellationToken Cancellation)
{
    /// <summary>The arguments: words, or what is between quotation marks.</summary>
    public IReadOnlyList<string> Words => Split(Rest);

    /// <summary>An argument that has to be there.</summary>
    public string Word(int index) => index < Words.Count ? Words[index] : throw Missing();

    public string? OptionalWord(int index) => index < Words.Count ? Words[index] : null;

    /// <exception cref="ControlException">There are more arguments than that.</exception>
    public void CheckCount(int most)
    {
        if (Words.Count > most)
            throw new ControlException($"{Name}: extraneous characters at the end of line");
    }

    public ControlException Missing() => new($"{Name}: missing argument; try \"help {Name}\"");

    /// <summary>The call without flags such as -f, and whether one of them is there.</summary>
    public MonitorCall TakeFlag(string flag, out bool isThere)
    {
        isThere = Words.Contains(flag);
        return isThere ? this with { Rest = string.Join(' ', Words.Where(w => w != flag).Select(Quote)) } : this;
    }

    private static string Quote(string word) => $"\"{word.Replace("\\", "\\\\", StringComparison.Ordinal).Replace("\"", "\\\"", StringComparison.Ordinal)}\"";

    private static List<string> Split(string text)
    {
        List<string> words = [];
        var word = new System.Text.StringBuilder();
        for (var i = 0; i < text.Length;)
        {
            if (char.IsWhiteSpace(text[i]))
            {
                i++;
                continue;
            }

            word.Clear();
            if (text[i] == '"')
            {
                for (i++; i < text.Length && text[i] != '"'; i++)
                {
                    if (text[i] == '\\' && i + 1 < text.Length)
                        i++;
                    word.Append(text[i]);
                }

                i++;
            }
            else
            {
                for (; i < text.Length && !char.IsWhiteSpace(text[i]); i++)
                    word.Append(text[i]);
            }

            words.Add(word.ToString());
        }

        return words;
    }
}

/// <summary>A command of the monitor.</summary>
/// <param name="Names">The first is its name, the others are short for it.</param>
/// <param name="Parameters">For help.</param>
internal sealed record MonitorCommand(string[] Names, string Parameters, string Help, Func<MonitorCall, Task<string>> Run)
{
    /// <summary>Begins <see cref="Parameters"/> of those that take a format.</summary>
    public const string Format = "/fmt";

    public string Name => Names[0];

    /// <summary>What may be typed as the argument that begins like this; null: a file.</summary>
    public Func<int, IEnumerable<string>?> Complete { get; init; } = _ => [];
}
