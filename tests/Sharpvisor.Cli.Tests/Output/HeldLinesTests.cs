using Sharpvisor.Cli.Output;

namespace Sharpvisor.Cli.Tests.Output;

public sealed class HeldLinesTests
{
    private readonly StringWriter _target = new() { NewLine = "\n" };

    [Fact]
    public void Lines_wait_until_the_terminal_is_itself_again()
    {
        using var held = new HeldLines(_target);
        Assert.Null(held.Newest);
        held.WriteLine("one");
        held.WriteLine((object)"two");
        held.Write("thr");
        held.Write("ee".ToCharArray());
        Assert.Equal("two", held.Newest!.Value.Line);
        Assert.Equal("", _target.ToString());
        held.Release();
        Assert.Equal("one\ntwo\nthree\n", _target.ToString());
        held.WriteLine("four");
        held.Release();
        Assert.Equal("one\ntwo\nthree\nfour\n", _target.ToString());
    }

    [Fact]
    public void Of_a_flood_the_last_lines_are_kept()
    {
        using (var held = new HeldLines(_target))
        {
            for (var i = 0; i < HeldLines.Limit + 7; i++)
                held.WriteLine($"line {i}");
        }

        var lines = _target.ToString().Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.StartsWith("sharpvisor: 7 lines were dropped", lines[0], StringComparison.Ordinal);
        Assert.Equal(("line 7", HeldLines.Limit + 1), (lines[1], lines.Length));
    }

    [Fact]
    public void Any_thread_may_write()
    {
        using (var held = new HeldLines(_target))
            Parallel.For(0, 100, i => held.WriteLine($"{i:d3}"));
        Assert.Equal(Enumerable.Range(0, 100).Select(i => $"{i:d3}"), _target.ToString().Split('\n', StringSplitOptions.RemoveEmptyEntries).Order());
    }
}
