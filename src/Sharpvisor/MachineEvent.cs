namespace Sharpvisor;

/// <summary>What a machine is doing as a whole. The names are those of QEMU's RunState.</summary>
public enum RunState
{
    /// <summary>It has not executed anything yet.</summary>
    Prelaunch,

    Running,

    /// <summary>Somebody paused it.</summary>
    Paused,

    /// <summary>A debugger did: a breakpoint, a watchpoint, a step.</summary>
    Debug,

    /// <summary>The guest has ended, and the machine is kept; only a reset lets it start again.</summary>
    Shutdown,

    /// <summary>The guest has crashed and said so, and the machine is kept.</summary>
    GuestPanicked,

    /// <summary>The guest sleeps (ACPI S3).</summary>
    Suspended,

    /// <summary>The host lacks something that it can be given: room on a disk.</summary>
    IoError,

    /// <summary>An error of ours has ended it.</summary>
    InternalError,
}

/// <summary>What happens to a machine as a whole. The names are those of QEMU's events.</summary>
public enum MachineEventKind
{
    Stop,
    Resume,
    Reset,
    Shutdown,
    PowerDown,
    Suspend,
    WakeUp,
    GuestPanicked,
    GuestCrashLoaded,
}

/// <summary>Who ended or reset a machine. The names are those of QEMU's ShutdownCause.</summary>
public enum ShutdownCause
{
    HostError,
    HostQmpQuit,
    HostQmpSystemReset,
    HostSignal,
    HostUi,
    GuestShutdown,
    GuestReset,
    GuestPanic,
}

/// <summary>One event of a machine: <see cref="Machine.Happened"/>.</summary>
/// <param name="Cause">Of a reset or a shutdown.</param>
/// <param name="PanicAction">Of a panic: "pause", "poweroff" or "run".</param>
public sealed record MachineEvent(MachineEventKind Kind, ShutdownCause? Cause = null, string? PanicAction = null)
{
    public DateTimeOffset Time { get; } = DateTimeOffset.UtcNow;

    /// <summary>The guest caused it.</summary>
    public bool IsByGuest => Cause is ShutdownCause.GuestShutdown or ShutdownCause.GuestReset or ShutdownCause.GuestPanic;
}
