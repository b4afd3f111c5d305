// The escape character of a serial console on a terminal, with the keys of QEMU's -nographic: Ctrl-A x, h, b, c, Ctrl-A.
namespace Sharpvisor.Backends.Char;

/// <summary>Takes commands out of what is typed.</summary>
public sealed class StdioEscape
{
    public const string Help = "\r\nCtrl-A x  end the machine\r\nCtrl-A b  send a break\r\nCtrl-A h  this help\r\nCtrl-A Ctrl-A  send Ctrl-A\r\n";

    public const string MonitorHelp = "Ctrl-A c  switch between console and monitor\r\n";

    private const byte CtrlA = 1;
    private bool _escaped;

    public enum Command
    {
        None,
        Quit,
        Help,
        Break,
        Switch,
    }

    /// <summary>Takes one byte.</summary>
    /// <param name="sent">What goes to the guest for it; null: nothing.</param>
    public Command Next(byte typed, out byte? sent)
    {
        sent = null;
        if (!_escaped)
        {
            _escaped = typed == CtrlA;
            sent = _escaped ? null : typed;
            return Command.None;
        }

        _escaped = false;
        switch ((char)typed)
        {
            case 'x' or 'X' or (char)('x' & 0x1F):
                return Command.Quit;
            case 'h' or 'H' or '?':
                return Command.Help;
            case 'b' or 'B':
                return Command.Break;
            case 'c' or 'C':
                return Command.Switch;
            case (char)CtrlA or 'a':
                sent = CtrlA;
                return Command.None;
            default:
                return Command.None;
        }
    }
}
