// What monitors and QMP share. Events have the names and data of QEMU's schema (qapi/run-state.json and others).
using Microsoft.Extensions.Logging;
using Sharpvisor.Debugging.Profiling;
using Sharpvisor.Servers.Vnc;

namespace Sharpvisor.Servers.Control;

/// <summary>A character device as query-chardev and info chardev show it.</summary>
/// <param name="Name">Where it leads: "stdio", "pty:/dev/pts/3".</param>
public sealed record ControlChar(string Label, string Name);

/// <summary>An event beyond those of the machine itself.</summary>
/// <param name="Data">Members with strings, numbers (long), truth values, and lists of such members.</param>
public sealed record ControlEvent(string Name, DateTimeOffset Time, IReadOnlyList<(string Name, object Value)> Data);

/// <summary>What monitors and QMP servers of a machine have in common: the machine, and what is around it.</summary>
public sealed class ControlContext
{
    public ControlContext(Machine machine, ILogger logger)
    {
        Machine = machine;
        Logger = logger;
        Operations = new MachineOperations(this);
        machine.Happened += OnHappened;
        if (machine.Balloon is { } balloon)
            _ = new BalloonNews(balloon, bytes => Raise("BALLOON_CHANGE", ("actual", (long)bytes)), TimeSpan.FromSeconds(1));
    }

    public Machine Machine { get; }

    public ILogger Logger { get; }

    /// <summary>Sharpvisor's own.</summary>
    public string Version { get; init; } = "0.0.0";

    /// <summary>Null: the screen is not shown to VNC viewers.</summary>
    public VncServer? Vnc { get; set; }

    /// <summary>Monitors and servers themselves, behind the machine's own devices.</summary>
    public IList<ControlChar> Chars { get; } = [];

    /// <summary>Starts a gdb server at a place such as tcp::1234, or ends it (none), and says what it did; null: there is none to start.</summary>
    public Func<string, Task<string>>? StartGdb { get; set; }

    /// <summary>Chooses what is logged by the items of -d; null: that can't be changed.</summary>
    public Action<string>? SetLog { get; set; }

    /// <summary>Where traced events are logged; null: nowhere, they can't be chosen.</summary>
    public Action<string>? TraceLine { get; set; }

    /// <summary>The profile that a monitor has begun; null: there is none.</summary>
    internal Profiler? Profile { get; set; }

    public MachineOperations Operations { get; }

    /// <summary>Used under the machine's gate.</summary>
    internal PointerState Pointer { get; } = new();

    /// <summary>What is reported to QMP clients. It must not block.</summary>
    public event Action<ControlEvent>? Happened;

    internal void Raise(string name, params (string Name, object Value)[] data) => Happened?.Invoke(new ControlEvent(name, DateTimeOffset.UtcNow, data));

    private void OnHappened(MachineEvent e)
    {
        if (Happened is not { } happened)
            return;
        (string, object)[] causes = e.Cause is { } cause ? [("guest", e.IsByGuest), ("reason", Words.Of(cause))] : [];
        ControlEvent Make(string name, params (string, object)[] data) => new(name, e.Time, data);
        happened(e.Kind switch
        {
            MachineEventKind.Stop => Make("STOP"),
            MachineEventKind.Resume => Make("RESUME"),
            MachineEventKind.Reset => Make("RESET", causes),
            MachineEventKind.Shutdown => Make("SHUTDOWN", causes),
            MachineEventKind.PowerDown => Make("POWERDOWN"),
            MachineEventKind.Suspend => Make("SUSPEND"),
            MachineEventKind.WakeUp => Make("WAKEUP"),
            MachineEventKind.GuestPanicked => Make("GUEST_PANICKED", ("action", e.PanicAction ?? "pause")),
            _ => Make("GUEST_CRASHLOADED", ("action", e.PanicAction ?? "run")),
        });
    }
}

/// <summary>QEMU's spelling of our names: GuestPanicked is guest-panicked.</summary>
internal static class Words
{
    public static string Of<T>(T value) where T : struct, Enum =>
        string.Concat(value.ToString().Select((c, i) => char.IsAsciiLetterUpper(c) ? (i > 0 ? "-" : "") + char.ToLowerInvariant(c) : c.ToString()));
}
