namespace Sharpvisor.Core.Guests;

/// <summary>What a device can ask of the machine that it sits in. Each returns at once; the machine acts soon after.</summary>
public interface IMachineControl
{
    /// <summary>Resets every processor and device. <paramref name="source"/> names who asked: "i8042", "port 92h", ….</summary>
    void RequestReset(string source);

    /// <summary>Switches the machine off (ACPI S5).</summary>
    void RequestPowerOff(string source);

    /// <summary>Suspends the machine to RAM (ACPI S3): RAM is kept, and nothing runs until <see cref="RequestWakeUp"/>.</summary>
    void RequestSuspend(string source);

    /// <summary>Ends the sleep: everything but RAM is reset, and firmware goes on where the guest has told it to.</summary>
    void RequestWakeUp(string source);

    /// <summary>Ends the machine with a process exit code (isa-debug-exit).</summary>
    void RequestExit(int exitCode, string source);

    /// <summary>The guest's kernel says that it has crashed.</summary>
    /// <param name="isHandled">It has loaded a kernel of its own that takes care of it.</param>
    void ReportPanic(string source, bool isHandled);

    /// <summary>Pauses the machine until its user lets it go on: the host lacks something that it can be given.</summary>
    void RequestPause(string reason);
}
