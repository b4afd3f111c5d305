using Sharpvisor.Core.Input;
using Sharpvisor.Input;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Monitor;

/// <summary>Commands that type and point.</summary>
internal sealed class InputCommands(ControlContext context)
{
    private const int DefaultHold = 100, MaximumHold = 60_000;

    private Machine Machine => context.Machine;

    public IEnumerable<MonitorCommand> All =>
    [
        new(["sendkey"], "keys [hold_ms]", "send keys to the VM (e.g. 'sendkey ctrl-alt-f1', default hold time=100 ms)", MachineCommands.Text(call =>
        {
            call.CheckCount(2);
            var keys = KeyNames.ParseCombination(call.Word(0));
            var hold = call.OptionalWord(1) is { } text ? MachineCommands.Number(text) : DefaultHold;
            if (keys.Count > 16 || hold > MaximumHold)
                throw new ControlException($"give up to 16 keys, held up to {MaximumHold} ms");
            context.Operations.SendKeys(keys, TimeSpan.FromMilliseconds(hold));
            return "";
        })) { Complete = i => i == 0 ? KeyNames.Names : [] },
        new(["mouse_move"], "dx dy [dz]", "send mouse move events", MachineCommands.Text(call =>
        {
            call.CheckCount(3);
            var (dx, dy, dz) = (Distance(call.Word(0)), Distance(call.Word(1)), call.OptionalWord(2) is { } wheel ? Distance(wheel) : 0);
            Point(pointer =>
            {
                pointer.Move(isVertical: false, dx);
                pointer.Move(isVertical: true, dy);
                pointer.Scroll(dz);
            });
            return "";
        })),
        new(["mouse_button"], "state", "change mouse button state (1=L, 2=M, 4=R)", MachineCommands.Text(call =>
        {
            call.CheckCount(1);
            var state = MachineCommands.Number(call.Word(0));
            var buttons = ((state & 1) != 0 ? PointerButtons.Left : 0) | ((state & 2) != 0 ? PointerButtons.Middle : 0) | ((state & 4) != 0 ? PointerButtons.Right : 0);
            Point(pointer => pointer.Set(buttons));
            return "";
        })),
    ];

    private static int Distance(string text) =>
        int.TryParse(text, System.Globalization.NumberStyles.AllowLeadingSign, System.Globalization.CultureInfo.InvariantCulture, out var number) && Math.Abs((long)number) <= 0x7FFF
            ? number
            : throw new ControlException($"'{text}' is not a distance from -32767 to 32767");

    private void Point(Action<PointerState> move)
    {
        using (Machine.Gate.Enter())
        {
            if (Machine.Exit.IsCompleted)
                throw new InvalidOperationException("the machine has ended");
            move(context.Pointer);
            context.Pointer.Flush(Machine.Mouse ?? throw new ControlException("this machine has no mouse"));
        }
    }
}
