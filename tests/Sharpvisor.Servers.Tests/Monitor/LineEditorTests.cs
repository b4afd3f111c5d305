using System.Text;
using Sharpvisor.Servers.Monitor;

namespace Sharpvisor.Servers.Tests.Monitor;

/// <summary>What is typed, and what a terminal shows for it.</summary>
public sealed class LineEditorTests
{
    private static readonly string[] Words = ["stop", "status", "system_reset", "quit"];

    [Theory]
    [InlineData("quit\r", "quit")]
    [InlineData("qiut\b\b\buit\r", "quit")]
    [InlineData("uit\x01q\r", "quit")] // Ctrl-A
    [InlineData("qut\x1B[Di\r", "quit")]
    [InlineData("qut\x1BODi\r", "quit")]
    [InlineData("xquit\x01\x1B[3~\r", "quit")]
    [InlineData("nothing\x15quit\r", "quit")] // Ctrl-U
    [InlineData("quit now\x17\b\r", "quit")] // Ctrl-W
    [InlineData("quitter\x1B[D\x1B[D\x1B[D\x0B\r", "quit")] // Ctrl-K
    [InlineData("q\t\r", "quit ")]
    [InlineData("sto\t\r", "stop ")]
    [InlineData("s\ty\t\r", "system_reset ")]
    [InlineData("stop\rquit\r\x1B[A\x1B[A\r", "stop|quit|stop")]
    [InlineData("stop\r\x1B[A\x1B[Bquit\r", "stop|quit")]
    [InlineData("nothing\x03quit\r", "quit")] // Ctrl-C
    [InlineData("quit\r\nstop\n", "quit|stop")]
    [InlineData("é\bquit\r", "quit")]
    [InlineData("\x1B[99;99;99;99;99;99Xquit\r", "quit")]
    public void Lines(string typed, string lines)
    {
        var (taken, screen) = Type(typed);
        Assert.Equal(lines, string.Join('|', taken));
        // What the terminal shows is what was taken.
        Assert.Equal(lines.Split('|')[^1].TrimEnd(), screen.TrimEnd());
    }

    [Fact]
    public void Several_completions_are_shown()
    {
        var editor = Make();
        Assert.Equal("", Feed(editor, "x\b").Lines);
        Feed(editor, "st");
        Assert.Equal("\r\nstop  status\r\n> st", Feed(editor, "\t").Echo);
        Assert.Equal("\a", Feed(Make(), "nothing\t").Echo[^1..]);
    }

    [Fact]
    public void A_line_has_an_end_and_garbage_does_no_harm()
    {
        var editor = Make();
        var line = Feed(editor, new string('x', 100_000) + "\r").Lines;
        Assert.Equal(LineEditor.MaximumLength, line.Length);
        var random = new Random(1);
        for (var i = 0; i < 200_000; i++)
            editor.Take((byte)random.Next(256), out _);
    }

    private static LineEditor Make() => new([], line => [.. Words.Where(w => w.StartsWith(line[(line.LastIndexOf(' ') + 1)..], StringComparison.Ordinal))], "> ");

    private static (string Lines, string Echo) Feed(LineEditor editor, string typed)
    {
        var (lines, echo) = (new List<string>(), new StringBuilder());
        foreach (var value in Encoding.UTF8.GetBytes(typed))
        {
            if (editor.Take(value, out var shown) is { } line)
                lines.Add(line);
            echo.Append(shown);
        }

        return (string.Join('|', lines), echo.ToString());
    }

    /// <summary>Plays the echo on a terminal of one line.</summary>
    private static (List<string> Lines, string Screen) Type(string typed)
    {
        var editor = Make();
        List<string> lines = [];
        var (screen, last, cursor) = (new StringBuilder(), "", 0);
        foreach (var value in Encoding.UTF8.GetBytes(typed))
        {
            var line = editor.Take(value, out var echo);
            for (var i = 0; i < echo.Length; i++)
            {
                if (echo[i] == '\e')
                {
                    var end = echo.IndexOfAny(['C', 'D', 'K'], i);
                    var count = end == i + 2 ? 1 : int.Parse(echo.AsSpan(i + 2, end - i - 2));
                    if (echo[end] == 'K')
                        screen.Length = cursor;
                    else
                        cursor += echo[end] == 'C' ? count : -count;
                    i = end;
                }
                else if (echo[i] == '\n')
                {
                    (last, cursor) = (screen.ToString(), 0);
                    screen.Clear();
                }
                else if (echo[i] >= ' ')
                {
                    if (cursor == screen.Length)
                        screen.Append(echo[i]);
                    else
                        screen[cursor] = echo[i];
                    cursor++;
                }
            }

            if (line is null)
                continue;
            lines.Add(line);
            Assert.EndsWith(line, last, StringComparison.Ordinal);
        }

        return (lines, last[(last.LastIndexOf("> ", StringComparison.Ordinal) is >= 0 and var at ? at + 2 : 0)..]);
    }
}
