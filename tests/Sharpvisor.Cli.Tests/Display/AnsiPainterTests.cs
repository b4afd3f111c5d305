using Sharpvisor.Cli.Display;
using Sharpvisor.Core.Display;

namespace Sharpvisor.Cli.Tests.Display;

public sealed class AnsiPainterTests
{
    private readonly AnsiPainter _painter = new();
    private readonly ushort[] _cells = [.. Enumerable.Repeat((ushort)0x0720, 12)];

    [Fact]
    public void The_first_picture_is_whole_and_the_next_ones_only_what_changed()
    {
        Assert.Equal("\e[0m\e[2J\e[1;1H\e[0;37;40m    \e[2;1H    \e[3;1H    \e[1;1H\e[?25h", Paint(0, 0));
        Assert.Equal("", Paint(0, 0));
        (_cells[5], _cells[6]) = (0x1E41, 0x1E42);
        Assert.Equal("\e[2;2H\e[0;93;44mAB\e[1;1H\e[?25h", Paint(0, 0));
        Assert.Equal("\e[3;2H\e[?25h", Paint(1, 2));
        Assert.Equal("\e[?25l", Paint(-1, -1));
        (_cells[0], _cells[2]) = (0x84C9, 0x8401);
        Assert.Equal("\e[1;1H\e[0;31;40;5m╔\e[0;37;40m \e[0;31;40;5m☺\e[?25l", Paint(-1, -1));
    }

    [Fact]
    public void A_small_terminal_shows_the_part_with_the_cursor()
    {
        _cells[8] = 0x0758;
        Assert.Equal("\e[0m\e[2J\e[1;1H\e[0;37;40m  \e[2;1HX \e[2;1H\e[?25h", Paint(0, 2, width: 2, height: 2));
        Assert.StartsWith("\e[2;1H ", Paint(0, 0, width: 2, height: 2), StringComparison.Ordinal);
    }

    [Fact]
    public void A_notice_takes_the_place_of_the_screen_and_the_screen_comes_back_whole()
    {
        Paint(0, 0);
        Assert.Equal("\e[0m\e[2J\e[1;1H\e[?25l640x480 graphics mode", _painter.PaintNotice("640x480 graphics mode"));
        Assert.Equal("", _painter.PaintNotice("640x480 graphics mode"));
        Assert.StartsWith("\e[0m\e[2J", Paint(0, 0), StringComparison.Ordinal);
    }

    private string Paint(int column, int row, int width = 80, int height = 25) =>
        _painter.Paint(new TextScreen(4, 3, [.. _cells], column, row), width, height);
}
