using Sharpvisor.Core.Guests;

namespace Sharpvisor.Testing.Guests;

/// <summary>A machine that only remembers what its devices asked for.</summary>
public sealed class RecordingMachine : IMachineControl
{
    /// <summary>Who asked for a reset, in order.</summary>
    public List<string> Resets { get; } = [];

    public List<string> PowerOffs { get; } = [];

    public List<string> Suspends { get; } = [];

    /// <summary>What woke the machine, in order.</summary>
    public List<string> WakeUps { get; } = [];

    public List<int> Exits { get; } = [];

    /// <summary>Why a device wanted the machine paused, in order.</summary>
    public List<string> Pauses { get; } = [];

    public void RequestReset(string source) => Resets.Add(source);

    public void RequestPowerOff(string source) => PowerOffs.Add(source);

    public void RequestSuspend(string source) => Suspends.Add(source);

    public void RequestWakeUp(string source) => WakeUps.Add(source);

    public void RequestExit(int exitCode, string source) => Exits.Add(exitCode);

    /// <summary>Who told of a crash, in order; and whether somebody in the guest takes care of it.</summary>
    public List<(string Source, bool IsHandled)> Panics { get; } = [];

    public void ReportPanic(string source, bool isHandled) => Panics.Add((source, isHandled));

    public void RequestPause(string reason) => Pauses.Add(reason);
}
