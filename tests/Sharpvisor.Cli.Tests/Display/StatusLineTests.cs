using Sharpvisor.Cli.Display;
using Sharpvisor.Core.Display;

namespace Sharpvisor.Cli.Tests.Display;

public sealed class StatusLineTests
{
    [Theory]
    [InlineData(5, 0, "a|b|c|hey!", 4)] // below, where the terminal is higher
    [InlineData(3, 0, "a|b|hey!", 3)]
    [InlineData(2, 0, "a|hey!|c", 3)] // the rows that are shown
    [InlineData(2, 2, "a|b|hey!", 3)]
    [InlineData(1, -1, "hey!|b|c", 3)]
    public void The_message_is_below_the_screen_or_on_its_last_row(int height, int cursorRow, string expected, int rows)
    {
        var cells = "a   b   c   ".Select(c => (ushort)(0x0700 | c)).ToArray();
        var screen = StatusLine.Add(new TextScreen(4, 3, cells, 0, cursorRow), "hey! this is long\u20ac", height);
        Assert.Equal(expected, string.Join('|', Enumerable.Range(0, screen.Rows).Select(screen.Line)));
        Assert.Equal((rows, cursorRow), (screen.Rows, screen.CursorRow));
        Assert.Equal('a', (char)(cells[0] & 0xFF)); // the guest's own screen is untouched
    }
}
