// A line editor for a VT100: the keys of readline that a monitor needs. Follows: ECMA-48 for what it sends and takes.
// Leaves out: lines that are longer than the terminal is wide, which are not wrapped when they are edited.
using System.Text;

namespace Sharpvisor.Servers.Monitor;

/// <summary>Turns keys into lines, one byte at a time.</summary>
/// <param name="history">Lines of before, the oldest first; those that are taken are added.</param>
/// <param name="complete">The words that the end of a line may become.</param>
internal sealed class LineEditor(List<string> history, Func<string, IReadOnlyList<string>> complete, string prompt)
{
    public const int MaximumLength = 4095, MaximumHistory = 200;

    private readonly StringBuilder _line = new();
    private readonly List<byte> _character = [];
    private int _cursor, _past;
    private string _sequence = "";
    private bool _wasReturn;

    public bool IsEchoed { get; init; } = true;

    /// <summary>Takes what was typed.</summary>
    /// <param name="echo">What the terminal is to show for it.</param>
    /// <returns>A line that is complete; null: none yet.</returns>
    public string? Take(byte typed, out string echo)
    {
        echo = "";
        var afterReturn = _wasReturn;
        _wasReturn = typed == '\r';
        if (typed == '\n' && afterReturn)
            return null;
        if (_sequence.Length > 0)
        {
            echo = Escape((char)typed);
            return null;
        }

        switch (typed)
        {
            case (byte)'\r' or (byte)'\n':
                echo = "\r\n";
                return End();
            case 0x1B:
                _sequence = "\e";
                return null;
            case 0x08 or 0x7F:
                echo = Replace(Math.Max(0, _cursor - 1), _cursor, "");
                return null;
            case (byte)'\t':
                echo = Complete();
                return null;
            case >= 0x20:
                echo = Insert(typed);
                return null;
        }

        echo = (char)(typed | 0x40) switch
        {
            'A' => Move(0),
            'B' => Move(_cursor - 1),
            'C' => Clear("^C\r\n"),
            'D' => Replace(_cursor, Math.Min(_line.Length, _cursor + 1), ""),
            'E' => Move(_line.Length),
            'F' => Move(_cursor + 1),
            'K' => Replace(_cursor, _line.Length, ""),
            'L' => "\e[2J\e[H" + Redraw(),
            'R' => "\r\n" + Redraw(),
            'N' => Recall(_past - 1),
            'P' => Recall(_past + 1),
            'U' => Replace(0, _cursor, ""),
            'W' => Replace(WordStart(), _cursor, ""),
            _ => "",
        };
        return null;
    }

    private string End()
    {
        var line = _line.ToString();
        if (line.Trim().Length > 0 && (history.Count == 0 || history[^1] != line))
        {
            history.Add(line);
            if (history.Count > MaximumHistory)
                history.RemoveAt(0);
        }

        _line.Clear();
        _character.Clear();
        (_cursor, _past) = (0, 0);
        return line;
    }

    private string Clear(string shown)
    {
        _line.Clear();
        (_cursor, _past) = (0, 0);
        return shown + prompt;
    }

    /// <summary>UTF-8, whole characters of the basic plane at a time.</summary>
    private string Insert(byte typed)
    {
        _character.Add(typed);
        var isComplete = typed < 0x80 || (typed < 0xC0 && Rune.DecodeFromUtf8(_character.ToArray(), out _, out _) == System.Buffers.OperationStatus.Done);
        if (!isComplete && _character.Count < 4)
            return "";
        var text = Encoding.UTF8.GetString([.. _character]);
        _character.Clear();
        return _line.Length + text.Length > MaximumLength ? "\a" : Replace(_cursor, _cursor, text);
    }

    private string Escape(char next)
    {
        _sequence += next;
        if (_sequence.Length < 64 && (_sequence.Length == 2 ? next is '[' or 'O' : next is (>= '0' and <= '9') or ';'))
            return "";
        var sequence = _sequence[1..];
        _sequence = "";
        return sequence switch
        {
            "[A" or "OA" => Recall(_past + 1),
            "[B" or "OB" => Recall(_past - 1),
            "[C" or "OC" => Move(_cursor + 1),
            "[D" or "OD" => Move(_cursor - 1),
            "[H" or "OH" or "[1~" => Move(0),
            "[F" or "OF" or "[4~" => Move(_line.Length),
            "[3~" => Replace(_cursor, Math.Min(_line.Length, _cursor + 1), ""),
            _ => "",
        };
    }

    private string Move(int position)
    {
        position = Math.Clamp(position, 0, _line.Length);
        var (from, _) = (_cursor, _cursor = position);
        return Shift(position - from);
    }

    private static string Shift(int columns) => columns switch
    {
        0 => "",
        > 0 => $"\e[{columns}C",
        _ => $"\e[{-columns}D",
    };

    private string Replace(int start, int end, string text)
    {
        if (start == end && text.Length == 0)
            return "";
        var shown = Shift(start - _cursor);
        _line.Remove(start, end - start).Insert(start, text);
        _cursor = start + text.Length;
        var rest = _line.ToString(start, _line.Length - start);
        return end > start || rest.Length > text.Length ? $"{shown}\e[K{rest}{Shift(_cursor - _line.Length)}" : shown + rest;
    }

    private string Recall(int past)
    {
        if (past < 0 || past > history.Count)
            return "";
        _past = past;
        return Replace(0, _line.Length, past == 0 ? "" : history[^past]);
    }

    private int WordStart()
    {
        var start = _cursor;
        while (start > 0 && _line[start - 1] == ' ')
            start--;
        while (start > 0 && _line[start - 1] != ' ')
            start--;
        return start;
    }

    private string Redraw() => prompt + _line + Shift(_cursor - _line.Length);

    private string Complete()
    {
        var typed = _line.ToString(0, _cursor);
        var last = typed[(typed.LastIndexOf(' ') + 1)..];
        var words = complete(typed);
        if (words.Count == 0)
            return "\a";
        var common = words[0];
        foreach (var word in words)
        {
            while (!word.StartsWith(common, StringComparison.Ordinal))
                common = common[..^1];
        }

        if (words.Count == 1)
            return Replace(_cursor, _cursor, common[last.Length..] + (common.EndsWith('/') ? "" : " "));
        if (common.Length > last.Length)
            return Replace(_cursor, _cursor, common[last.Length..]);
        return $"\r\n{string.Join("  ", words)}\r\n" + Redraw();
    }
}
