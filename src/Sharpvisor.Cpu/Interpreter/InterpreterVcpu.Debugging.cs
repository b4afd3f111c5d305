using System.Runtime.CompilerServices;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>
/// Stops for a debugger outside of the guest, and single steps of both the guest's and the debugger's. The guest's own
/// debug registers, TF and INT3 go their own way and see nothing of this.
/// </summary>
/// <remarks>
/// Code is kept by physical address, a breakpoint is a linear one. When code is fetched from a linear page with armed
/// breakpoints for the first time, the physical page behind it gets guards (<see cref="PageGuards"/>): blocks begin at
/// those places, and no translation does. So whoever comes to one comes by a look-up by linear address
/// (<see cref="FindBlock"/>), which stops it. Watched pages are kept out of the TLB's fast path, as for DR7.
/// </remarks>
public unsafe partial class InterpreterVcpu
{
    private readonly Dictionary<ulong, PageGuards> _guards = [];
    private DebugPoints _points = DebugPoints.None;
    private Stepping _stepping;

    /// <summary>The next instruction is executed whether there is a breakpoint or not, and before any interrupt.</summary>
    private bool _passesBreakpoint;
    private DebugEvent? _debugEvent;

    /// <summary>The operation that ends the block at work early, and what it was.</summary>
    private Op* _cut;
    private nint _cutHandler;

    public DebugEvent DebugEvent { get; private set; }

    private protected bool HasWatchpoints => _points.HasArmedRanges;

    private protected bool HasBreakpointAt(ulong rip) => _points.HasBreakpoints && _points.IsBreakpoint(LinearOf(rip));

    /// <summary>Interrupts and NMIs wait.</summary>
    private bool HoldsInterrupts => _stepping.Kind == StepKind.None ? _passesBreakpoint : !_stepping.TakesInterrupts;

    public void SetDebugPoints(DebugPoints points)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        var old = _points;
        _points = points;

        // Whoever remembers where code of these pages is has to look again, and comes by TranslateFetch then.
        foreach (var linear in points.Armed)
        {
            if (!old.IsArmed(linear))
                ForgetCode(linear);
        }

        foreach (var (page, guards) in _guards.ToArray())
        {
            var lines = guards.Lines;
            if (!guards.KeepOnly(points))
                continue;
            DropCode(page, lines); // blocks need not end there any more
            if (guards.IsEmpty)
                _guards.Remove(page);
        }

        if (!points.HasArmed)
            KeepResumeFlag(false);
        if (!points.ArmedRanges.SequenceEqual(old.ArmedRanges))
            FlushTlb(global: true); // watched pages leave the fast path
    }

    /// <summary>RFLAGS.RF of a frame counts from now on, or not: an instruction with a breakpoint has faulted.</summary>
    private protected virtual void KeepResumeFlag(bool keep)
    {
    }

    /// <summary>SYSCALL is left to the interpreter, which traces it, or not.</summary>
    private protected virtual void InterpretSystemCalls(bool all)
    {
    }

    public void SetStepping(in Stepping stepping)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        _stepping = stepping;
        _passesBreakpoint = stepping.PassesBreakpoint && _c->Arch.Activity == ActivityState.Active && _points.IsBreakpoint(_c->Arch.LinearRip);
        UpdateSlow();
    }

    /// <summary>What of a physical page of code has guards; null for nothing.</summary>
    internal PageGuards? GuardsOf(ulong page) => _guards.Count == 0 ? null : _guards.GetValueOrDefault(page);

    /// <summary>Code that was decoded over a guard is good for nothing any more, even if it has not changed.</summary>
    private protected virtual void DropGuarded(ulong page, PageGuards guards) => _blocks.Drop(page, guards.Lines, StaleHandler);

    /// <summary>Code is fetched from a linear page for the first time since something was armed there.</summary>
    private void GuardPage(ulong linear, ulong physical)
    {
        var armed = _points.ArmedIn(linear >> 12);
        if (armed.IsEmpty)
            return;
        if (!_guards.TryGetValue(physical >> 12, out var guards))
            _guards.Add(physical >> 12, guards = new PageGuards());
        var isNew = false;
        foreach (var breakpoint in armed)
            isNew |= guards.Add(breakpoint);
        if (isNew)
            DropGuarded(physical >> 12, guards);
    }

    /// <summary>
    /// Whether there is a breakpoint at an instruction that is about to be executed. It is passed by the first instruction
    /// after a stop, and, like one of the guest's in DR7, by one that is executed again after a fault.
    /// </summary>
    private bool StopsAt(ulong linear)
    {
        if (!_points.IsBreakpoint(linear) || _passesBreakpoint || (_c->Arch.Rflags & Rflags.RF) != 0)
            return false;
        Stop(new DebugEvent(DebugEventKind.Breakpoint, linear));
        return true;
    }

    /// <summary>An access to what may be watched. The stop follows the instruction.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private void CheckDebuggerWatch(ulong linear, int size, DataAccess access)
    {
        if (Rehearsal is not null || !_points.Watches(linear, size, access, out var touched))
            return;
        if (_debugEvent is { Kind: DebugEventKind.Watchpoint } known)
        {
            if (known.Address == touched)
                _debugEvent = known with { Access = known.Access | access };
            return;
        }

        Stop(new DebugEvent(DebugEventKind.Watchpoint, touched, access));
        if (_c->CurrentOp == _decoder.FetchOp)
            return; // an event is being delivered between two instructions
        _cut = _c->CurrentOp + 1;
        _cutHandler = _cut->Fn;
        _cut->Fn = (nint)(delegate*<CpuContext*, Op*, void>)&CutExit;
    }

    /// <summary>What the operation behind one that touched watched memory becomes: the block ends before it.</summary>
    private static void CutExit(CpuContext* c, Op* op)
    {
        var block = c->CurrentBlock;
        var index = op - block->Ops;
        if (index >= 0 && index < block->Count)
            c->InstructionCount -= block->Count - index;
        c->Arch.Rip = (c->Arch.Rip + op->Offset) & c->RipMask;
    }

    private void EndCut()
    {
        // A block that was dropped meanwhile stays as it is.
        if (_cut != null && _cut->Fn == (nint)(delegate*<CpuContext*, Op*, void>)&CutExit)
            _cut->Fn = _cutHandler;
        _cut = null;
    }

    private void Stop(in DebugEvent stop)
    {
        _debugEvent = stop;
        Interlocked.Or(ref _c->Pending, (int)PendingEvents.Debug);
    }

    /// <summary>Between two instructions: tells of a stop. False: it was taken back.</summary>
    private bool EndDebugEvent()
    {
        Interlocked.And(ref _c->Pending, ~(int)PendingEvents.Debug);
        EndCut();
        if (_debugEvent is not { } stop)
            return false;
        DebugEvent = stop;
        ForgetDebugEvent();
        return true;
    }

    private void ForgetDebugEvent()
    {
        _debugEvent = null;
        _stepping = default;
        _passesBreakpoint = false;
        UpdateSlow();
    }

    /// <summary>An exception comes instead of the rest of an instruction, which will be executed again, accesses and all.</summary>
    private void TakeBackWatchpoint()
    {
        EndCut();
        _debugEvent = null;
    }

    /// <summary>The processor stands at another instruction: the end of a step, unless it goes on within a range.</summary>
    private void EndStep()
    {
        _passesBreakpoint = false;
        if (_stepping.Kind == StepKind.None)
            return;
        var rip = _c->Arch.Rip;
        if (_stepping.Kind == StepKind.Range && rip >= _stepping.RangeStart && rip < _stepping.RangeEnd)
            return;
        if (_debugEvent is null && _c->Arch.Activity != ActivityState.Shutdown)
            Stop(new DebugEvent(DebugEventKind.Step, LinearOf(rip)));
    }

    private ulong LinearOf(ulong rip) => _c->Is64 != 0 ? rip : (uint)(_c->Arch.Segments[CS].Base + rip);

    /// <summary>One instruction, with all that single steps, breakpoints and interrupt shadows ask for.</summary>
    private protected void SlowStep()
    {
        var c = _c;
        var rip = c->Arch.Rip;
        var slow = (SlowReasons)c->Slow;
        if (_points.HasBreakpoints && StopsAt(LinearOf(rip)))
            return;
        if ((slow & SlowReasons.Debug) != 0 && (c->Arch.Rflags & Rflags.RF) == 0)
            CheckCodeBreakpoints(rip);
        var single = (slow & (SlowReasons.Debug | SlowReasons.Shadow | SlowReasons.Debugger)) != 0;
        var block = FindBlock(rip, c->Mode | (single ? (uint)BlockMode.Single : 0));
        if (block->Stale)
            return; // another vCPU is writing there: nothing has been executed yet
        if ((slow & SlowReasons.Trace) != 0)
            TraceBlock(block);
        _singleStep = (c->Arch.Rflags & Rflags.TF) != 0;
        c->Arch.InterruptShadow = false;
        c->Arch.Rflags &= ~Rflags.RF;
        if (!_debugHeld)
            c->PendingDr6 = 0;
        _debugHeld = false;
        _passesBreakpoint = false;
        UpdateSlow();
        c->CurrentBlock = block;
        c->InstructionCount += block->Count;
        ((delegate*<CpuContext*, Op*, void>)block->Ops->Fn)(c, block->Ops);
        if ((c->Arch.Rflags & Rflags.RF) != 0)
            UpdateSlow(); // a repeated instruction has more iterations
        if (!_debugHeld)
        {
            // Behind MOV SS data breakpoints are told after the next instruction, a single step is not.
            if (_singleStep)
                c->PendingDr6 |= DebugStatus.SingleStep;
            if (c->PendingDr6 != 0)
                RaiseDebugTrap(c->PendingDr6);
        }

        EndStep();
    }
}
