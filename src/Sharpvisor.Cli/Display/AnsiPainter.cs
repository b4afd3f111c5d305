using System.Text;
using Sharpvisor.Core.Display;

namespace Sharpvisor.Cli.Display;

/// <summary>Shows a text screen on a terminal by the escape sequences of ECMA-48, writing only what differs from what is there already.</summary>
internal sealed class AnsiPainter
{
    /// <summary>Takes the terminal's other screen, without wrapping at its right edge.</summary>
    public const string Enter = "\e[?1049h\e[?7l\e[2J";

    /// <summary>Gives the terminal back as it was.</summary>
    public const string Leave = "\e[0m\e[?7h\e[?25h\e[?1049l";

    // Cells that have not changed are written again rather than jumped over when they are so few.
    private const int ShorterThanMove = 6;

    // VGA colours have blue in bit 0 and red in bit 2, a terminal's the other way round.
    private static readonly byte[] Colors = [0, 4, 2, 6, 1, 5, 3, 7];

    private readonly StringBuilder _output = new();
    private ushort[] _shown = [];
    private (int Columns, int Rows) _size;
    private (int Column, int Row) _cursor;
    private string? _notice;
    private int _attribute;

    /// <summary>The first row that a terminal of <paramref name="height"/> rows shows.</summary>
    public static int FirstRow(TextScreen screen, int height)
    {
        var rows = Math.Min(screen.Rows, height);
        return screen.CursorRow >= 0 ? Math.Clamp(screen.CursorRow - rows + 1, 0, screen.Rows - rows) : 0;
    }

    /// <summary>What to write to the terminal for it to show <paramref name="screen"/>; empty when it does already.</summary>
    /// <param name="width">Of the terminal, in characters.</param>
    /// <param name="height">Of the terminal. A lower one shows the part with the cursor.</param>
    public string Paint(TextScreen screen, int width, int height)
    {
        _output.Clear();
        var (columns, rows) = (Math.Min(screen.Columns, width), Math.Min(screen.Rows, height));
        var first = FirstRow(screen, height);
        var isNew = _size != (columns, rows) || _notice is not null;
        if (isNew)
        {
            _size = (columns, rows);
            _notice = null;
            _shown = new ushort[columns * rows];
            _attribute = -1;
            _cursor = (-2, -2);
            _output.Append("\e[0m\e[2J");
        }

        var hasChanges = false;
        for (var row = 0; row < rows; row++)
        {
            var cells = screen.Cells.AsSpan((row + first) * screen.Columns, columns);
            var shown = _shown.AsSpan(row * columns, columns);
            var written = -1;
            for (var column = 0; column < columns; column++)
            {
                if (!isNew && cells[column] == shown[column])
                    continue;
                hasChanges = true;
                if (written < 0 || column - written > ShorterThanMove)
                    _output.Append($"\e[{row + 1};{column + 1}H");
                else
                    Put(cells[(written + 1)..column]);
                Put(cells[column]);
                written = column;
            }

            cells.CopyTo(shown);
        }

        var cursor = screen.CursorRow < 0 ? (-1, -1) : (screen.CursorColumn, screen.CursorRow - first);
        if (hasChanges || cursor != _cursor)
        {
            _cursor = cursor;
            _output.Append(screen.CursorRow < 0 ? "\e[?25l" : $"\e[{_cursor.Row + 1};{_cursor.Column + 1}H\e[?25h");
        }

        return _output.ToString();
    }

    /// <summary>What to write for the terminal to show one line instead of a screen.</summary>
    public string PaintNotice(string text)
    {
        if (text == _notice)
            return "";
        _notice = text;
        _size = default;
        return $"\e[0m\e[2J\e[1;1H\e[?25l{text}";
    }

    private void Put(ReadOnlySpan<ushort> cells)
    {
        foreach (var cell in cells)
            Put(cell);
    }

    private void Put(ushort cell)
    {
        var attribute = cell >> 8;
        if (attribute != _attribute)
        {
            _attribute = attribute;
            var foreground = Colors[attribute & 7] + ((attribute & 8) != 0 ? 90 : 30);
            _output.Append($"\e[0;{foreground};{40 + Colors[(attribute >> 4) & 7]}{((attribute & 0x80) != 0 ? ";5" : "")}m");
        }

        _output.Append(TextScreen.CodePage437[cell & 0xFF]);
    }
}
