using System.Text;
using Sharpvisor.Cli.Display;
using Sharpvisor.Core.Input;

namespace Sharpvisor.Cli.Tests.Display;

public sealed class TerminalKeysTests
{
    private readonly TerminalKeys _keys = new();

    [Theory]
    [InlineData("a", Key.A)]
    [InlineData("A", Key.LeftShift, Key.A)]
    [InlineData("\r", Key.Enter)]
    [InlineData("\t", Key.Tab)]
    [InlineData("\u007F", Key.Backspace)]
    [InlineData("\u0003", Key.LeftControl, Key.C)]
    [InlineData("\u0001", Key.LeftControl, Key.A)]
    [InlineData("\e[A", Key.Up)]
    [InlineData("\eOA", Key.Up)]
    [InlineData("\eOP", Key.F1)]
    [InlineData("\e[11~", Key.F1)]
    [InlineData("\e[[A", Key.F1)]
    [InlineData("\e[[E", Key.F5)]
    [InlineData("\e[15~", Key.F5)]
    [InlineData("\e[24~", Key.F12)]
    [InlineData("\e[3~", Key.Delete)]
    [InlineData("\e[6~", Key.PageDown)]
    [InlineData("\e[1;5C", Key.LeftControl, Key.Right)]
    [InlineData("\e[5;3~", Key.LeftAlt, Key.PageUp)]
    [InlineData("\e[Z", Key.LeftShift, Key.Tab)]
    [InlineData("\ex", Key.LeftAlt, Key.X)]
    [InlineData("\e\e", Key.LeftAlt, Key.Escape)]
    public void What_a_terminal_sends_is_keys(string sent, params Key[] expected) => Assert.Equal(expected, Send(sent));

    [Fact]
    public void Escape_alone_is_known_by_what_does_not_follow()
    {
        Assert.Empty(Send("\e"));
        Assert.True(_keys.IsWaiting);
        Assert.Equal([Key.Escape], _keys.Flush());
        Assert.Empty(Send("\e["));
        Assert.Equal([Key.LeftAlt, Key.LeftBracket], _keys.Flush());
        Assert.False(_keys.IsWaiting);
        Assert.Empty(_keys.Flush());
    }

    [Fact]
    public void Unknown_sequences_are_dropped_as_a_whole()
    {
        Assert.Equal([Key.B], Send("\e[99~\e[?1;2;3h\e[1y" + new string('\u00E9', 3) + "b"));
        Send("\e[" + new string('1', 100) + "~"); // too long for a sequence: the rest is typed
        Assert.Equal([Key.C], Send("c"));
    }

    [Fact]
    public void Random_bytes_survive()
    {
        var random = new Random(1);
        for (var i = 0; i < 100_000; i++)
        {
            _keys.Next((byte)(random.Next(3) == 0 ? 0x1B : random.Next(256)));
            if (random.Next(20) == 0)
                _keys.Flush();
        }
    }

    private List<Key> Send(string text)
    {
        var keys = new List<Key>();
        foreach (var value in Encoding.Latin1.GetBytes(text))
            keys.AddRange(_keys.Next(value));
        return keys;
    }
}
