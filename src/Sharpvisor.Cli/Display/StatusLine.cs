using Sharpvisor.Core.Display;

namespace Sharpvisor.Cli.Display;

/// <summary>A message of the host on the terminal that shows the guest's screen.</summary>
internal static class StatusLine
{
    /// <summary>How long a message is shown.</summary>
    public static readonly TimeSpan Time = TimeSpan.FromSeconds(5);

    private const ushort Reverse = 0x7000;

    /// <summary>Puts a message below the screen, or on its last row that a terminal of <paramref name="height"/> rows shows.</summary>
    public static TextScreen Add(TextScreen screen, string message, int height)
    {
        var first = AnsiPainter.FirstRow(screen, height);
        var row = height > screen.Rows ? screen.Rows : first + height - 1;
        var rows = Math.Max(screen.Rows, row + 1);
        var cells = new ushort[screen.Columns * rows];
        screen.Cells.AsSpan(0, Math.Min(screen.Cells.Length, cells.Length)).CopyTo(cells);
        for (var column = 0; column < screen.Columns; column++)
        {
            var character = column < message.Length ? message[column] : ' ';
            cells[(row * screen.Columns) + column] = (ushort)(Reverse | (character is >= ' ' and <= '~' ? character : '?'));
        }

        return new TextScreen(screen.Columns, rows, cells, screen.CursorColumn, screen.CursorRow);
    }
}
