using System.Diagnostics;
using Microsoft.Extensions.Logging;

namespace Sharpvisor;

/// <summary>What ended a machine.</summary>
public enum MachineExitReason
{
    /// <summary>The guest switched it off (ACPI S5).</summary>
    PowerOff,

    /// <summary>The guest asked for a reset, and the machine was made not to reboot.</summary>
    Reset,

    /// <summary>The guest wrote to isa-debug-exit.</summary>
    DebugExit,

    /// <summary>A processor took a triple fault, and the machine was made not to reboot.</summary>
    TripleFault,

    /// <summary>The guest crashed and said so by pvpanic.</summary>
    GuestPanic,

    /// <summary>The host asked for it: <see cref="Machine.StopAsync"/>, Ctrl-A x.</summary>
    Stopped,

    /// <summary>What the machine was made of can't be used any more: the file of its kernel became shorter. The message says what to do.</summary>
    Configuration,

    /// <summary>An error of Sharpvisor itself; the log has it.</summary>
    InternalError,
}

/// <summary>How a machine ended.</summary>
/// <param name="Code">What a process that runs the machine should exit with.</param>
/// <param name="Message">One line for a person.</param>
public sealed record MachineExit(MachineExitReason Reason, int Code, string Message)
{
    /// <summary>EXIT_FAILURE: of a crashed guest, when it is to be one.</summary>
    public const int FailureCode = 1;

    public const int ConfigurationCode = 2;

    public const int TripleFaultCode = 3;

    /// <summary>EX_SOFTWARE of sysexits.h.</summary>
    public const int InternalErrorCode = 70;

    /// <summary>Who ended it.</summary>
    public ShutdownCause Cause { get; init; } = Reason switch
    {
        MachineExitReason.PowerOff or MachineExitReason.DebugExit => ShutdownCause.GuestShutdown,
        MachineExitReason.Reset or MachineExitReason.TripleFault => ShutdownCause.GuestReset,
        MachineExitReason.GuestPanic => ShutdownCause.GuestPanic,
        MachineExitReason.Stopped => ShutdownCause.HostUi,
        _ => ShutdownCause.HostError,
    };

    /// <summary>The one place where an error of ours ends up: named by the device it came from, logged with its stack.</summary>
    /// <param name="where">Whose thread it was.</param>
    internal static MachineExit OfInternalError(Exception e, string where, ILogger logger)
    {
        var device = new StackTrace(e).GetFrames().Select(f => f.GetMethod()?.DeclaringType)
            .FirstOrDefault(t => t?.Namespace?.StartsWith("Sharpvisor.Devices", StringComparison.Ordinal) == true)?.Name;
        var name = device is null ? where : $"{device}, called by {where}";
        logger.LogCritical(e, "internal error in {Name}; please report it", name);
        return new MachineExit(MachineExitReason.InternalError, InternalErrorCode, $"internal error in {name}: {e.Message}");
    }
}
