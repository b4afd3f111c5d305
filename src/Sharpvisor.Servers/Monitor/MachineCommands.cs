// Commands of QEMU's monitor (hmp-commands.hx) for the machine as a whole.
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Monitor;

/// <summary>Commands for the machine as a whole.</summary>
internal sealed class MachineCommands(ControlContext context)
{
    private MachineOperations Operations => context.Operations;

    public IEnumerable<MonitorCommand> All =>
    [
        Make(["stop", "s"], "", "stop emulation", _ => Operations.StopAsync()),
        Make(["cont", "c"], "", "resume emulation", _ => Operations.ContinueAsync()),
        Make(["system_reset"], "", "reset the system", _ => Operations.ResetAsync()),
        Make(["system_powerdown"], "", "send system power down event", _ => Operations.PowerDown),
        Make(["system_wakeup"], "", "wakeup guest from suspend", _ => Operations.WakeUp),
        Make(["quit", "q"], "", "quit the emulator", _ => Operations.Quit),
        Make(["nmi"], "", "inject an NMI", _ => Operations.InjectNmi),
        new(["cpu"], "index", "set the default CPU", Text(call =>
        {
            call.CheckCount(1);
            var processor = Number(call.Word(0));
            Operations.CheckProcessor(processor);
            call.State.Processor = processor;
            return "";
        })),
        new(["balloon"], "target", "request VM to change its memory allocation (in MB)", Text(call =>
        {
            call.CheckCount(1);
            Operations.SetBalloon((ulong)Number(call.Word(0)) << 20);
            return "";
        })),
        new(["gdbserver"], "[device]", "start gdbserver on given device (default 'tcp::1234'), stop with 'none'", async call =>
        {
            call.CheckCount(1);
            var start = context.StartGdb ?? throw new ControlException("there is no gdb server in this program");
            return await start(call.OptionalWord(0) ?? "tcp::1234").ConfigureAwait(false);
        }) { Complete = i => i == 0 ? ["tcp::1234", "none"] : [] },
        new(["log"], "item1[,...]", "activate logging of the specified items, or none", Text(call =>
        {
            call.CheckCount(1);
            var set = context.SetLog ?? throw new ControlException("there is no log in this program");
            set(call.Word(0));
            return "";
        })) { Complete = i => i == 0 ? ["int", "exec", "in_asm", "cpu_reset", "jit", "guest_errors", "unimp", "none"] : [] },
        new(["set_password"], "protocol password", "set the vnc password", Text(call =>
        {
            call.CheckCount(2);
            if (call.Word(0) != "vnc")
                throw new ControlException($"Parameter 'protocol' does not accept value '{call.Word(0)}'");
            (context.Vnc ?? throw new ControlException("No vnc device has been activated")).SetPassword(System.Text.Encoding.UTF8.GetBytes(call.Word(1)));
            return "";
        })) { Complete = i => i == 0 ? ["vnc"] : [] },
    ];

    internal static Func<MonitorCall, Task<string>> Text(Func<MonitorCall, string> run) => call => Task.FromResult(run(call));

    /// <summary>A whole number that is not negative.</summary>
    internal static int Number(string text) =>
        Expression.Evaluate(text, _ => throw new ControlException("no registers here")) is var value and >= 0 and <= int.MaxValue
            ? (int)value
            : throw new ControlException($"'{text}' is out of range");

    private static MonitorCommand Make(string[] names, string parameters, string help, Func<MonitorCall, Task> run) => new(names, parameters, help, async call =>
    {
        call.CheckCount(0);
        await run(call).ConfigureAwait(false);
        return "";
    });

    private static MonitorCommand Make(string[] names, string parameters, string help, Func<MonitorCall, Action> run) => Make(names, parameters, help, call =>
    {
        run(call)();
        return Task.CompletedTask;
    });
}
