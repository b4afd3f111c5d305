using Sharpvisor.Cpu.State;
using Sharpvisor.Debugging;

namespace Sharpvisor.Servers.Gdb;

/// <summary>What a debugger is served with: a machine, or in tests something like one. See <see cref="MachineDebugger"/>.</summary>
/// <remarks>What has to do with a machine that has ended throws <see cref="InvalidOperationException"/>.</remarks>
internal interface IGdbTarget : IGuestView
{
    /// <summary>Raised on any thread; the handler does not block.</summary>
    event Action<DebugStop>? Stopped;

    /// <summary>Completes when the machine runs for the first time, or could.</summary>
    Task Started { get; }

    /// <summary>Completes with the exit code when the machine has ended.</summary>
    Task<int> Exit { get; }

    /// <summary>Held while registers and memory are used: see <see cref="MachineDebugger.Turn"/>.</summary>
    Lock Turn { get; }

    bool IsStopped { get; }

    DebugStop LastStop { get; }

    Task StopAsync();

    Task ContinueAsync(IReadOnlyDictionary<int, Resumption> resumptions);

    Task ResetAsync();

    /// <summary>Ends the machine; returns at once.</summary>
    void Kill();

    void SetState(int processor, in CpuState state);

    int WritePhysical(ulong physical, ReadOnlySpan<byte> source);

    int WriteLinear(int processor, ulong linear, ReadOnlySpan<byte> source);

    void InsertBreakpoint(ulong linear);

    bool RemoveBreakpoint(ulong linear);

    void InsertWatchpoint(WatchKind kind, ulong linear, ulong length);

    bool RemoveWatchpoint(WatchKind kind, ulong linear, ulong length);
}

/// <summary>A machine as it is.</summary>
internal sealed class MachineGdbTarget(Machine machine) : IGdbTarget
{
    private readonly MachineDebugger _debugger = machine.Debugger;

    public event Action<DebugStop>? Stopped
    {
        add => _debugger.Stopped += value;
        remove => _debugger.Stopped -= value;
    }

    public Task Started => machine.Started;

    public Task<int> Exit { get; } = CodeAsync(machine.Exit);

    public int ProcessorCount => _debugger.ProcessorCount;

    public Lock Turn => _debugger.Turn;

    public bool IsStopped => _debugger.IsStopped;

    public DebugStop LastStop => _debugger.LastStop;

    public Task StopAsync() => _debugger.StopAsync();

    public Task ContinueAsync(IReadOnlyDictionary<int, Resumption> resumptions) => _debugger.ContinueAsync(resumptions);

    public Task ResetAsync() => machine.ResetAsync();

    public void Kill() => machine.Stop("killed by gdb");

    public CpuState GetState(int processor) => _debugger.GetState(processor);

    public void SetState(int processor, in CpuState state) => _debugger.SetState(processor, in state);

    public int ReadPhysical(ulong physical, Span<byte> destination) => _debugger.ReadPhysical(physical, destination);

    public bool TryTranslate(in CpuState state, ulong linear, out ulong physical) => _debugger.TryTranslate(in state, linear, out physical);

    public int WritePhysical(ulong physical, ReadOnlySpan<byte> source) => _debugger.WritePhysical(physical, source);

    public int WriteLinear(int processor, ulong linear, ReadOnlySpan<byte> source) => _debugger.WriteLinear(processor, linear, source);

    public void InsertBreakpoint(ulong linear) => _debugger.InsertBreakpoint(linear);

    public bool RemoveBreakpoint(ulong linear) => _debugger.RemoveBreakpoint(linear);

    public void InsertWatchpoint(WatchKind kind, ulong linear, ulong length) => _debugger.InsertWatchpoint(kind, linear, length);

    public bool RemoveWatchpoint(WatchKind kind, ulong linear, ulong length) => _debugger.RemoveWatchpoint(kind, linear, length);

    private static async Task<int> CodeAsync(Task<MachineExit> exit) => (await exit.ConfigureAwait(false)).Code;
}
