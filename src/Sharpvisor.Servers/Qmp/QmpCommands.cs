// The commands of QMP that there are here, with the names, arguments and answers of QEMU's schema (qapi/*.json).
using System.Text.Json;
using Sharpvisor.Core.Input;
using Sharpvisor.Input;
using Sharpvisor.Servers.Control;
using Sharpvisor.Servers.Vnc.Input;

namespace Sharpvisor.Servers.Qmp;

/// <summary>Writes what a command returns; null: an empty object.</summary>
internal delegate Task<Action<Utf8JsonWriter>?> QmpHandler(QmpArguments arguments, CancellationToken cancellation);

internal sealed partial class QmpCommands
{
    /// <summary>A key is held for so long when nothing else is said, in milliseconds; and at most.</summary>
    private const long DefaultHold = 100, MaximumHold = 60_000;

    private readonly ControlContext _context;
    private readonly Func<string, int?, CancellationToken, Task<string>> _monitor;
    private readonly Dictionary<string, (string[] Parameters, QmpHandler Run)> _all = new(StringComparer.Ordinal);

    public QmpCommands(ControlContext context, Func<string, int?, CancellationToken, Task<string>> monitor)
    {
        (_context, _monitor) = (context, monitor);
        AddControl();
        AddInput();
        AddMedia();
        AddMemory();
        AddQueries();
        AddXen();
    }

    private Machine Machine => _context.Machine;

    private MachineOperations Operations => _context.Operations;

    public bool Knows(string name) => _all.ContainsKey(name);

    /// <exception cref="ControlException">There is no such command, or it is refused.</exception>
    public Task<Action<Utf8JsonWriter>?> ExecuteAsync(string name, QmpArguments arguments, CancellationToken cancellation)
    {
        if (!_all.TryGetValue(name, out var command))
            throw new ControlException(ErrorClass.CommandNotFound, $"The command {name} has not been found");
        arguments.Check(command.Parameters);
        return command.Run(arguments, cancellation);
    }

    /// <summary>A member with a value of any kind that events have.</summary>
    internal static void WriteMember(Utf8JsonWriter w, string name, object value)
    {
        switch (value)
        {
            case bool flag:
                w.WriteBoolean(name, flag);
                break;
            case long number:
                w.WriteNumber(name, number);
                break;
            case IReadOnlyList<(string Name, object Value)> members:
                w.WriteStartObject(name);
                foreach (var (inner, content) in members)
                    WriteMember(w, inner, content);
                w.WriteEndObject();
                break;
            default:
                w.WriteString(name, value.ToString());
                break;
        }
    }

    private void Add(string name, string[] parameters, QmpHandler run) => _all.Add(name, (parameters, run));

    private void Add(string name, string[] parameters, Func<QmpArguments, Task> run) => Add(name, parameters, async (a, _) =>
    {
        await run(a).ConfigureAwait(false);
        return null;
    });

    private void Add(string name, string[] parameters, Action<QmpArguments> run) => Add(name, parameters, a =>
    {
        run(a);
        return Task.CompletedTask;
    });

    /// <summary>A command that only tells something.</summary>
    private void AddQuery(string name, Action<Utf8JsonWriter> write) => Add(name, [], (_, _) => Task.FromResult<Action<Utf8JsonWriter>?>(write));

    private void AddControl()
    {
        Add("stop", [], _ => Operations.StopAsync());
        Add("cont", [], _ => Operations.ContinueAsync());
        Add("system_reset", [], _ => Operations.ResetAsync());
        Add("system_powerdown", [], _ => Operations.PowerDown());
        Add("system_wakeup", [], _ => Operations.WakeUp());
        Add("quit", [], _ => Operations.Quit());
        Add("inject-nmi", [], _ => Operations.InjectNmi());
        Add("set-action", ["reboot", "shutdown", "panic", "watchdog"], SetAction);
        Add("human-monitor-command", ["command-line", "cpu-index"], async (a, cancellation) =>
        {
            var processor = (int?)a.OptionalInteger("cpu-index");
            if (processor is { } index)
                Operations.CheckProcessor(index);
            var text = await _monitor(a.String("command-line"), processor, cancellation).ConfigureAwait(false);
            return w => w.WriteStringValue(text);
        });
        Add("screendump", ["filename", "device", "head", "format"], a => Operations.Screendump(a.String("filename"), a.Word("format", "ppm", "png") ?? "ppm"));
        Add("set_password", ["protocol", "password", "connected", "display"], a => SetPassword(a.String("protocol"), a.String("password")));
        Add("change-vnc-password", ["password"], a => SetPassword("vnc", a.String("password")));
    }

    private void SetAction(QmpArguments arguments)
    {
        var actions = Machine.Actions;
        Machine.Actions = actions with
        {
            Reboot = arguments.Word("reboot", "reset", "shutdown") switch { null => actions.Reboot, "reset" => RebootAction.Reset, _ => RebootAction.Shutdown },
            Shutdown = arguments.Word("shutdown", "poweroff", "pause") switch { null => actions.Shutdown, "poweroff" => ShutdownAction.PowerOff, _ => ShutdownAction.Pause },
            Panic = arguments.Word("panic", "pause", "shutdown", "exit-failure", "none") switch
            {
                null => actions.Panic,
                "pause" => PanicAction.Pause,
                "shutdown" => PanicAction.Shutdown,
                "exit-failure" => PanicAction.ExitFailure,
                _ => PanicAction.None,
            },
        };
        arguments.Word("watchdog", "reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"); // there is none to run out
    }

    private void SetPassword(string protocol, string password)
    {
        if (protocol != "vnc")
            throw new ControlException($"Parameter 'protocol' does not accept value '{protocol}'");
        if (_context.Vnc is not { } vnc)
            throw new ControlException(ErrorClass.DeviceNotActive, "No vnc device has been activated");
        vnc.SetPassword(System.Text.Encoding.UTF8.GetBytes(password));
    }

    private void AddInput()
    {
        Add("send-key", ["keys", "hold-time"], a =>
        {
            var keys = a.Objects("keys").Select(ParseKey).ToList();
            if (keys.Count > 16)
                throw new ControlException("Parameter 'keys' has more keys than a person can hold");
            var hold = a.OptionalInteger("hold-time") ?? DefaultHold;
            if (hold is < 0 or > MaximumHold)
                throw new ControlException($"Parameter 'hold-time' expects 0 to {MaximumHold} milliseconds");
            Operations.SendKeys(keys, TimeSpan.FromMilliseconds(hold));
        });
        Add("input-send-event", ["device", "head", "events"], a => SendEvents(a.Objects("events")));
    }

    private static Key ParseKey(QmpArguments key)
    {
        key.Check(["type", "data"]);
        if (key.String("type") == "number")
            return ParseScanCode(key.Integer("data"));
        if (key.String("type") != "qcode")
            throw new ControlException($"Parameter 'type' does not accept value '{key.String("type")}'");
        return KeyNames.TryParse(key.String("data"), out var found) ? found : throw new ControlException($"Parameter 'data' does not accept value '{key.String("data")}'");
    }

    /// <summary>A scan code of set 1 as QEMU numbers them.</summary>
    private static Key ParseScanCode(long code)
    {
        var key = XtKeys.ToKey((uint)Math.Clamp(code, 0, uint.MaxValue));
        return key != Key.None ? key : throw new ControlException($"Parameter 'data' does not accept value '{code}'");
    }

    private void SendEvents(IReadOnlyList<QmpArguments> events)
    {
        // All are looked at before the first is sent.
        var sent = events.Select(ParseEvent).ToList();
        using (Machine.Gate.Enter())
        {
            if (Machine.Exit.IsCompleted)
                throw new InvalidOperationException("the machine has ended");
            foreach (var send in sent)
                send();
            _context.Pointer.Flush(Machine.Mouse ?? throw new ControlException("this machine has no mouse and no keyboard"));
        }
    }

    private Action ParseEvent(QmpArguments item)
    {
        item.Check(["type", "data"]);
        var data = item.Object("data");
        switch (item.String("type"))
        {
            case "key":
                var (key, isDown) = (ParseKey(data.Object("key")), data.Required("down"));
                return () => Machine.Keyboard.Device.OnKey(key, isDown);
            case "btn":
                var (button, isPressed) = (PointerState.Parse(data.String("button")), data.Required("down"));
                return () => _context.Pointer.Press(button, isPressed);
            case "rel":
                var (axis, distance) = (data.Word("axis", "x", "y"), data.Integer("value"));
                return () => _context.Pointer.Move(axis == "y", (int)Math.Clamp(distance, -0x8000, 0x7FFF));
            case "abs":
                var (direction, position) = (data.Word("axis", "x", "y"), data.Integer("value"));
                return () => _context.Pointer.MoveTo(direction == "y", (int)Math.Clamp(position, 0, 0x7FFF));
            case var other:
                throw new ControlException($"Parameter 'type' does not accept value '{other}'");
        }
    }

    private void AddMedia()
    {
        Add("eject", ["device", "id", "force"], a => Operations.EjectAsync(Drive(a), a.Boolean("force", false)));
        Add("blockdev-open-tray", ["device", "id", "force"], a => Operations.OpenTray(Drive(a), a.Boolean("force", false)));
        Add("blockdev-close-tray", ["device", "id"], a => Operations.CloseTray(Drive(a)));
        Add("blockdev-remove-medium", ["device", "id"], a => Operations.RemoveMediumAsync(Drive(a)));
        Add("blockdev-change-medium", ["device", "id", "filename", "format", "force", "read-only-mode"], a =>
        {
            a.Word("read-only-mode", "retain", "read-only", "read-write");
            return Operations.ChangeMediumAsync(Drive(a), a.String("filename"), a.OptionalString("format"), a.Boolean("force", false));
        });
    }

    private static string Drive(QmpArguments arguments) => arguments.OptionalString("id") ?? arguments.String("device");

    private void AddMemory()
    {
        Add("memsave", ["val", "size", "filename", "cpu-index"], a =>
            Operations.SaveMemoryAsync(a.String("filename"), (ulong)a.Integer("val"), (ulong)a.Integer("size"), (int)Math.Clamp(a.OptionalInteger("cpu-index") ?? 0, -1, int.MaxValue)));
        Add("pmemsave", ["val", "size", "filename"], a =>
            Operations.SavePhysicalAsync(a.String("filename"), (ulong)a.Integer("val"), (ulong)a.Integer("size")));
        Add("dump-guest-memory", ["paging", "protocol", "detach", "begin", "length", "format"], a =>
        {
            if (a.Word("format", "elf") is null && a.Has("format"))
                throw new ControlException("Parameter 'format' expects elf");
            if (a.Has("begin") || a.Has("length"))
                throw new ControlException("Parameter 'begin' is not supported: the whole memory is dumped");
            var detach = a.Boolean("detach", false);
            var paging = a.Required("paging");
            var protocol = a.String("protocol");
            if (!protocol.StartsWith("file:", StringComparison.Ordinal))
                throw new ControlException("parameter 'protocol' must start with 'file:'");
            return Operations.DumpAsync(protocol["file:".Length..], paging, detach);
        });
        Add("balloon", ["value"], a => Operations.SetBalloon((ulong)Math.Max(0, a.Integer("value"))));
    }
}
