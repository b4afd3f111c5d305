// What gdb stubs and monitors do with a machine: stop, look, change, go on (ARCHITECTURE.md, "A debugger"). Breakpoints and
// watchpoints are the processors' own: see PageGuards in Sharpvisor.Cpu.
using System.Runtime.InteropServices;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.Debugging;
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
    private static readonly HashSet<int> s_nobody = [];

    private readonly Machine _machine;
    private readonly Lock _lock = new();
    private readonly Dictionary<ulong, int> _breakpoints = [];
    private readonly Dictionary<WatchedRange, int> _watched = [];

    /// <summary>
    /// What processors look out for: all that is inserted, and what was taken out since the last time that all ran. A
    /// debugger that steps over a breakpoint takes it out for that, and code need not be decoded anew twice.
    /// </summary>
    private readonly HashSet<ulong> _armed = [];
    private readonly HashSet<WatchedRange> _armedRanges = [];
    private bool _isChanged;

    /// <summary>
    /// Where each processor stood, and how many instructions it had executed, when somebody was told that it stopped there:
    /// if it still does, it goes on from a breakpoint. It may not have been its turn between two stops of others.
    /// </summary>
    private readonly Dictionary<int, (ulong Address, long Count)> _told = [];

    internal MachineDebugger(Machine machine)
    {
        _machine = machine;
    }

    /// <summary>The machine has come to a stop, whoever caused it. Raised once a stop, on any thread; it must not block.</summary>
    public event Action<DebugStop>? Stopped;

    /// <summary>It goes on.</summary>
    public event Action? Resumed;

    /// <summary>
    /// Held by who uses registers and memory while somebody else may let the machine go on or reset it: with
    /// <see cref="IsStopped"/> looked at under it, the machine stands still until it is given back. Nobody waits with it.
    /// </summary>
    public Lock Turn { get; } = new();

    public int ProcessorCount => _machine.Processors.Count;

    public bool IsStopped => _machine.IsPaused;

    /// <summary>The last stop.</summary>
    public DebugStop LastStop { get; private set; }

    /// <summary>Stops all processors. <see cref="Stopped"/> is raised unless they stood already.</summary>
    public Task StopAsync() => _machine.PauseAsync();

    /// <summary>Lets the processors go on; those not named run.</summary>
    /// <param name="resumptions">By processor; empty: all run.</param>
    /// <exception cref="InvalidOperationException">The guest has powered itself off: only a reset lets it start again.</exception>
    public Task ContinueAsync(IReadOnlyDictionary<int, Resumption> resumptions) => _machine.ResumeAsync(resumptions);

    public CpuState GetState(int processor)
    {
        var state = _machine.Processors[processor].GetState();
        state.Cr8 = _machine.GetTaskPriority(processor);
        return state;
    }

    /// <summary>
    /// Replaces the registers. Bits that no instruction could set are left out, and EFER.LMA follows from EFER.LME and
    /// CR0.PG; anything else is taken as it is, and is the guest's trouble.
    /// </summary>
    public void SetState(int processor, in CpuState state)
    {
        const ulong Pg = 1UL << 31, Pe = 1, Lme = 1 << 8, Lma = 1 << 10, Virtual8086 = 1 << 17;
        const ulong DefinedFlags = 0x3F_7FD5, Reserved1 = 2;
        var next = state;
        if ((next.Cr0 & Pg) != 0)
            next.Cr0 |= Pe;
        next.Efer = (next.Efer & Lme) != 0 && (next.Cr0 & Pg) != 0 ? next.Efer | Lma : next.Efer & ~Lma;
        next.Rflags = (next.Rflags & DefinedFlags) | Reserved1;
        if ((next.Efer & Lma) != 0)
            next.Rflags &= ~Virtual8086;
        next.Cr8 &= 15;
        if (!Enum.IsDefined(next.Activity))
            next.Activity = ActivityState.Active;
        _machine.Processors[processor].SetState(next);
        _machine.SetTaskPriority(processor, next.Cr8);
    }

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

    public bool TryTranslate(in CpuState state, ulong linear, out ulong physical)
    {
        // What the hypervisor has in a paravirtual domain's addresses is in no table.
        if (_machine.Xen?.Paravirtual is { } domain && linear - IParavirtualDomain.HoleStart < IParavirtualDomain.HoleLength)
            return domain.TryTranslateHole(0, linear, out physical);
        var isMapped = LinearAddress.TryTranslate(in state, ReadPhysical, linear, out var mapping);
        physical = mapping.Physical;
        return isMapped;
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
            if (!TryTranslate(in state, at, out var physical))
                return done;
            var written = WritePhysical(physical, source.Slice(done, part));
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
    /// <remarks>
    /// A processor that goes on from where a breakpoint or a step has stopped it executes that instruction first. In force
    /// when the machine goes on; a reset keeps it.
    /// </remarks>
    public void InsertBreakpoint(ulong linear) => Insert(_breakpoints, linear);

    /// <returns>False: there is none.</returns>
    public bool RemoveBreakpoint(ulong linear) => Remove(_breakpoints, linear);

    /// <summary>
    /// Stops after the instruction that touches one of the bytes, whoever executes it and at whichever privilege. Neither
    /// page walks nor devices count.
    /// </summary>
    /// <param name="length">In bytes; 1 or more.</param>
    public void InsertWatchpoint(WatchKind kind, ulong linear, ulong length) => Insert(_watched, RangeOf(kind, linear, length));

    /// <returns>False: there is none.</returns>
    public bool RemoveWatchpoint(WatchKind kind, ulong linear, ulong length) => Remove(_watched, RangeOf(kind, linear, length));

    internal void OnStopped(DebugStop stop)
    {
        if (stop.Kind is DebugStopKind.Breakpoint or DebugStopKind.Step)
            _told[stop.Processor] = (stop.Address, _machine.Processors[stop.Processor].InstructionCount);
        LastStop = stop;
        Stopped?.Invoke(stop);
    }

    internal void OnResumed() => Resumed?.Invoke();

    internal void OnReset() => _told.Clear();

    /// <summary>What a processor has just stopped for.</summary>
    internal static DebugStop StopOf(IVcpu vcpu)
    {
        var stop = vcpu.DebugEvent;
        var kind = stop.Kind switch
        {
            DebugEventKind.Breakpoint => DebugStopKind.Breakpoint,
            DebugEventKind.Watchpoint => DebugStopKind.Watchpoint,
            _ => DebugStopKind.Step,
        };
        return new DebugStop(kind, vcpu.Index, stop.Address, (WatchKind)stop.Access);
    }

    /// <summary>Whether a watchpoint that was met is still there.</summary>
    internal bool IsWatched(DebugStop stop)
    {
        lock (_lock)
            return _watched.Keys.Any(r => stop.Address >= r.First && stop.Address <= r.Last && ((WatchKind)r.Access & stop.Watch) != 0);
    }

    /// <summary>Tells the processors, which are all parked, how they go on.</summary>
    /// <returns>Those that stay where they are.</returns>
    internal IReadOnlySet<int> Prepare(IReadOnlyDictionary<int, Resumption> resumptions)
    {
        TellPoints(isRun: resumptions.Values.All(r => r.Mode is StepMode.Run or StepMode.Stay));
        var staying = s_nobody;
        foreach (var vcpu in _machine.Processors)
        {
            var resumption = resumptions.GetValueOrDefault(vcpu.Index, new Resumption(StepMode.Run));
            if (resumption.Mode == StepMode.Stay)
            {
                if (staying == s_nobody)
                    staying = [];
                staying.Add(vcpu.Index);
                continue;
            }

            var isTold = _told.TryGetValue(vcpu.Index, out var told) && told.Count == vcpu.InstructionCount && told.Address == vcpu.GetState().LinearRip;
            vcpu.SetStepping(resumption.Mode switch
            {
                StepMode.Step => new Stepping(StepKind.Instruction, PassesBreakpoint: true),
                StepMode.StepWithInterrupts => new Stepping(StepKind.Instruction, TakesInterrupts: true, PassesBreakpoint: true),
                StepMode.StepRange => new Stepping(StepKind.Range, RangeStart: resumption.RangeStart, RangeEnd: resumption.RangeEnd, PassesBreakpoint: true),
                _ => new Stepping(StepKind.None, PassesBreakpoint: isTold),
            });
        }

        return staying;
    }

    private void TellPoints(bool isRun)
    {
        DebugPoints points;
        lock (_lock)
        {
            if (isRun && (_armed.Count > _breakpoints.Count || _armedRanges.Count > _watched.Count))
            {
                _armed.RemoveWhere(a => !_breakpoints.ContainsKey(a));
                _armedRanges.RemoveWhere(r => !_watched.ContainsKey(r));
                _isChanged = true;
            }

            if (!_isChanged)
                return;
            _isChanged = false;
            points = new DebugPoints(_breakpoints.Keys, _armed, _watched.Keys, _armedRanges);
        }

        foreach (var vcpu in _machine.Processors)
            vcpu.SetDebugPoints(points);
    }

    private void Insert<T>(Dictionary<T, int> counts, T point) where T : notnull
    {
        lock (_lock)
        {
            _isChanged |= ++CollectionsMarshal.GetValueRefOrAddDefault(counts, point, out _) == 1;
            if (point is ulong breakpoint)
                _armed.Add(breakpoint);
            else if (point is WatchedRange range)
                _armedRanges.Add(range);
        }
    }

    private bool Remove<T>(Dictionary<T, int> counts, T point) where T : notnull
    {
        lock (_lock)
        {
            if (!counts.TryGetValue(point, out var count))
                return false;
            if (count > 1)
                counts[point] = count - 1;
            else
                _isChanged |= counts.Remove(point);
            return true;
        }
    }

    private static WatchedRange RangeOf(WatchKind kind, ulong linear, ulong length)
    {
        ArgumentOutOfRangeException.ThrowIfZero(length);
        return new WatchedRange((DataAccess)kind, linear, length);
    }
}
