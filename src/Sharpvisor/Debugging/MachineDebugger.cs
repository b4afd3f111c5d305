using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Debugging;

/// <summary>What a watchpoint watches for.</summary>
[Flags]
public enum WatchKind
{
    Write = 1,
    Read = 2,
    Access = Write | Read,
}

/// <summary>What a processor does when the machine goes on.</summary>
public enum StepMode
{
    /// <summary>It runs.</summary>
    Run,

    /// <summary>It executes one instruction, and then the machine stops; interrupts wait meanwhile.</summary>
    Step,

    /// <summary>The same; an interrupt that is due is taken, and the stop is at its handler.</summary>
    StepWithInterrupts,

    /// <summary>It steps, as by <see cref="Step"/>, while RIP is within <see cref="Resumption.RangeStart"/> and <see cref="Resumption.RangeEnd"/>.</summary>
    StepRange,

    /// <summary>It stays where it is while others run.</summary>
    Stay,
}

/// <summary>How one processor goes on.</summary>
public readonly record struct Resumption(StepMode Mode, ulong RangeStart = 0, ulong RangeEnd = 0);

/// <summary>Why the machine stands still.</summary>
public enum DebugStopKind
{
    /// <summary>Somebody asked for it: the debugger, the monitor, a device.</summary>
    Paused,
    Breakpoint,
    Watchpoint,
    Step,

    /// <summary>The guest has ended (powered off, crashed, triple fault) and the machine is preserved.</summary>
    ShutDown,
}

/// <summary>A stop of the whole machine.</summary>
/// <param name="Processor">Who caused it; 0 if none did.</param>
/// <param name="Address">Linear address: of the breakpoint, or the first watched byte that was touched.</param>
/// <param name="Watch">What the access was, for a watchpoint.</param>
public readonly record struct DebugStop(DebugStopKind Kind, int Processor, ulong Address = 0, WatchKind Watch = 0);

/// <summary>
/// What a debugger does with a machine: stop it, look at it, change it, let it go on until something happens. All stop
/// and all go on together. Several may use it (a gdb, a monitor); breakpoints are counted.
/// </summary>
/// <remarks>Registers, memory and breakpoints may be used only while the machine is paused.</remarks>
public sealed class MachineDebugger : IGuestView
{
    private readonly Machine _machine;

    internal MachineDebugger(Machine machine)
    {
        _machine = machine;
    }

    /// <summary>The machine has come to a stop, whoever caused it. Raised once a stop, on any thread; it must not block.</summary>
    public event Action<DebugStop>? Stopped;

    /// <summary>It goes on.</summary>
    public event Action? Resumed;

    public int ProcessorCount => _machine.Processors.Count;

    public bool IsStopped => _machine.IsPaused;

    /// <summary>The last stop.</summary>
    public DebugStop LastStop { get; private set; }

    /// <summary>Stops all processors. <see cref="Stopped"/> is raised unless they stood already.</summary>
    public Task StopAsync() => _machine.PauseAsync();

    /// <summary>Lets the processors go on; those not named run.</summary>
    /// <param name="resumptions">By processor; empty: all run.</param>
    public Task ContinueAsync(IReadOnlyDictionary<int, Resumption> resumptions) => _machine.ResumeAsync();

    public CpuState GetState(int processor) => _machine.Processors[processor].GetState();

    public void SetState(int processor, in CpuState state) => _machine.Processors[processor].SetState(state);

    public int ReadPhysical(ulong physical, Span<byte> destination)
    {
        for (var done = 0; done < destination.Length;)
        {
            var at = physical + (ulong)done;
            var part = (int)Math.Min((ulong)(destination.Length - done), GuestMemory.PageSize - (at % GuestMemory.PageSize));
            if (!_machine.Memory.TryRead(at, destination.Slice(done, part)))
                return done;
            done += part;
        }

        return destination.Length;
    }

    /// <summary>Writes RAM. Code that was decoded from there is forgotten; ROMs are not changed.</summary>
    /// <returns>How many bytes from the start could be written.</returns>
    public int WritePhysical(ulong physical, ReadOnlySpan<byte> source)
    {
        for (var done = 0; done < source.Length;)
        {
            var at = physical + (ulong)done;
            var part = (int)Math.Min((ulong)(source.Length - done), GuestMemory.PageSize - (at % GuestMemory.PageSize));
            if (!_machine.Memory.TryWrite(at, source.Slice(done, part)))
                return done;
            done += part;
        }

        return source.Length;
    }

    /// <summary>Writes by the page tables that a processor uses now, whatever rights they give.</summary>
    /// <returns>How many bytes from the start could be written.</returns>
    public int WriteLinear(int processor, ulong linear, ReadOnlySpan<byte> source)
    {
        var state = GetState(processor);
        for (var done = 0; done < source.Length;)
        {
            var at = linear + (ulong)done;
            var part = (int)Math.Min((ulong)(source.Length - done), GuestMemory.PageSize - (at % GuestMemory.PageSize));
            if (!LinearAddress.TryTranslate(in state, ReadPhysical, at, out var mapping))
                return done;
            var written = WritePhysical(mapping.Physical, source.Slice(done, part));
            done += written;
            if (written < part)
                return done;
        }

        return source.Length;
    }

    /// <summary>
    /// Stops each processor that is about to execute the instruction at a linear address (RIP + CS base), in any address
    /// space. The guest's memory stays as it is, and need not be mapped yet.
    /// </summary>
    public void InsertBreakpoint(ulong linear) => throw new NotSupportedException();

    /// <returns>False: there is none.</returns>
    public bool RemoveBreakpoint(ulong linear) => throw new NotSupportedException();

    /// <summary>Stops after the instruction that touches one of the bytes.</summary>
    /// <param name="length">In bytes; 1 or more.</param>
    public void InsertWatchpoint(WatchKind kind, ulong linear, ulong length) => throw new NotSupportedException();

    /// <returns>False: there is none.</returns>
    public bool RemoveWatchpoint(WatchKind kind, ulong linear, ulong length) => throw new NotSupportedException();

    internal void OnStopped(DebugStop stop)
    {
        LastStop = stop;
        Stopped?.Invoke(stop);
    }

    internal void OnResumed() => Resumed?.Invoke();
}
