using System.Text;
using Sharpvisor.Backends.Char;

namespace Sharpvisor.Backends.Tests.Char;

public sealed class StdioEscapeTests
{
    [Theory]
    [InlineData("ls -la\r", "ls -la\r", "")]
    [InlineData("\u0001x", "", "Quit")]
    [InlineData("a\u0001hb", "ab", "Help")]
    [InlineData("\u0001b", "", "Break")]
    [InlineData("\u0001\u0001x", "\u0001x", "")]
    [InlineData("\u0001\u0001\u0001x", "\u0001", "Quit")]
    [InlineData("\u0001ax", "\u0001x", "")]
    [InlineData("\u0001qx", "x", "")]
    public void Ctrl_A_takes_the_next_key_as_a_command(string typed, string sent, string commands)
    {
        var escape = new StdioEscape();
        List<byte> toGuest = [];
        List<StdioEscape.Command> seen = [];
        foreach (var key in Encoding.ASCII.GetBytes(typed))
        {
            var command = escape.Next(key, out var forGuest);
            if (forGuest is { } value)
                toGuest.Add(value);
            if (command != StdioEscape.Command.None)
                seen.Add(command);
        }

        Assert.Equal(sent, Encoding.ASCII.GetString([.. toGuest]));
        Assert.Equal(commands, string.Join(' ', seen));
    }
}
