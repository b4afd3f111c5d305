namespace Sharpvisor.Cpu.Debugging;

/// <summary>How far a processor goes until it stops for a debugger.</summary>
public enum StepKind
{
    /// <summary>On and on.</summary>
    None,

    /// <summary>One instruction; one iteration of a repeated one. Where it faults, to the handler.</summary>
    Instruction,

    /// <summary>While RIP is within a range.</summary>
    Range,
}

/// <summary>How a processor goes on for a debugger.</summary>
/// <param name="TakesInterrupts">Of a step: an interrupt that is due is taken, and the step ends at its handler. Else interrupts and NMIs wait.</param>
/// <param name="RangeStart">The first RIP of the range.</param>
/// <param name="RangeEnd">The first RIP behind the range.</param>
/// <param name="PassesBreakpoint">The first instruction is executed even if there is a breakpoint. Where this is no step, interrupts wait for it.</param>
public readonly record struct Stepping(StepKind Kind, bool TakesInterrupts = false, ulong RangeStart = 0, ulong RangeEnd = 0, bool PassesBreakpoint = false);

/// <summary>Why a processor stopped for a debugger.</summary>
public enum DebugEventKind
{
    /// <summary>It is about to execute an instruction with a breakpoint.</summary>
    Breakpoint,

    /// <summary>It has just executed one that touched what is watched.</summary>
    Watchpoint,

    /// <summary>A step is done.</summary>
    Step,
}

/// <summary>A stop of one processor for a debugger.</summary>
/// <param name="Address">Linear: of the next instruction, or the first watched byte that was touched.</param>
/// <param name="Access">What the access was, for a watchpoint.</param>
public readonly record struct DebugEvent(DebugEventKind Kind, ulong Address, DataAccess Access = 0);
