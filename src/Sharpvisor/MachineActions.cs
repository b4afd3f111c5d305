namespace Sharpvisor;

/// <summary>What becomes of a machine whose guest has powered off.</summary>
public enum ShutdownAction
{
    /// <summary>It ends.</summary>
    PowerOff,

    /// <summary>It stays, paused, with its memory, until somebody resets or ends it.</summary>
    Pause,

    /// <summary>It starts anew.</summary>
    Restart,
}

/// <summary>What becomes of one whose guest asks for a reset, or takes a triple fault.</summary>
public enum RebootAction
{
    Reset,

    /// <summary>As if it had powered off: <see cref="MachineActions.Shutdown"/>, which is not to restart it.</summary>
    Shutdown,

    /// <summary>It stays, paused.</summary>
    Pause,
}

/// <summary>What becomes of one whose guest has crashed: its kernel says so by pvpanic.</summary>
public enum PanicAction
{
    /// <summary>As a shutdown: it ends, unless those are to pause it.</summary>
    Shutdown,

    /// <summary>Nothing: the guest goes on with what it does about it.</summary>
    None,

    Pause,

    /// <summary>It ends, with an exit code that is not 0.</summary>
    ExitFailure,

    /// <summary>It starts anew.</summary>
    Restart,
}

/// <summary>What becomes of a machine whose guest is through: QEMU's -action, and what Xen's on_poweroff, on_reboot and on_crash add to it.</summary>
public sealed record MachineActions
{
    public RebootAction Reboot { get; init; }

    public ShutdownAction Shutdown { get; init; }

    public PanicAction Panic { get; init; }

    /// <summary>A triple fault is a crash as a panic is; otherwise it is a reset, as on a PC.</summary>
    public bool IsTripleFaultPanic { get; init; }

    /// <summary>
    /// Where an ELF core of a crashed guest is written before anything else is done with it; empty: to a file by name and
    /// time in the current directory; null: nowhere.
    /// </summary>
    public string? CoreFile { get; init; }
}
