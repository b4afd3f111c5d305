using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using Sharpvisor.Cpu.Tests.Interpreter;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Cpu.Tests.Debugging;

/// <summary>A bare machine with a debugger: goes on from where it was stopped, and knows why.</summary>
internal sealed class Debugged(BareMachine machine)
{
    /// <summary>Enough for any test; without counting instructions.</summary>
    private const long Budget = 1L << 40;

    private readonly List<ulong> _breakpoints = [];
    private readonly List<WatchedRange> _watched = [];
    private bool _isStarted;
    private ulong? _told;

    public BareMachine Machine => machine;

    /// <summary>The stop that the last run ended with; null: it ended otherwise.</summary>
    public DebugEvent? Event { get; private set; }

    public ulong Rip => machine.State.Rip;

    /// <summary>Maps 600000h to 60000h, to be read only until a handler of #PF, at Data, has made it writable.</summary>
    public static void MapUponFault(BareMachine m)
    {
        var entry = m.Map(0x600000, 0x60000, Pte.Present);
        m.Assemble(BareMachine.Data, a =>
        {
            a.push(rbx);
            a.mov(rbx, entry);
            a.or(__qword_ptr[rbx], (int)Pte.Write);
            a.invlpg(__[0x600000]);
            a.pop(rbx);
            a.add(rsp, 8);
            a.iretq();
        });
        m.Assemble(BareMachine.Handlers + (Vectors.PF * 16), a => a.jmp(BareMachine.Data));
    }

    public void Break(params ulong[] linears)
    {
        _breakpoints.AddRange(linears);
        Tell();
    }

    public void Unbreak(params ulong[] linears)
    {
        _breakpoints.RemoveAll(linears.Contains);
        Tell();
    }

    public void Watch(DataAccess access, ulong first, ulong length = 1)
    {
        _watched.Add(new WatchedRange(access, first, length));
        Tell();
    }

    public void Unwatch()
    {
        _watched.Clear();
        Tell();
    }

    /// <summary>Goes on until the next stop, or the end.</summary>
    public VcpuExit Go(StepKind step = StepKind.None, bool interrupts = false, ulong from = 0, ulong to = 0, long budget = Budget)
    {
        if (!_isStarted)
            machine.Cpu.SetState(machine.State);
        _isStarted = true;
        machine.Cpu.SetStepping(new Stepping(step, interrupts, from, to, step != StepKind.None || _told == machine.Cpu.GetState().LinearRip));
        var exit = machine.Cpu.Run(budget);
        machine.State = machine.Cpu.GetState();
        Event = exit == VcpuExit.Debug ? machine.Cpu.DebugEvent : null;
        _told = Event is { Kind: not DebugEventKind.Watchpoint } stop ? stop.Address : null;
        return exit;
    }

    /// <summary>Goes on, and demands a stop at a breakpoint.</summary>
    public void GoTo(ulong breakpoint)
    {
        Assert.Equal(VcpuExit.Debug, Go());
        Assert.Equal(new DebugEvent(DebugEventKind.Breakpoint, breakpoint), Event);
        Assert.Equal(breakpoint, machine.State.LinearRip);
    }

    /// <summary>One step, and demands where it ends.</summary>
    public void StepTo(ulong linear)
    {
        Assert.Equal(VcpuExit.Debug, Go(StepKind.Instruction));
        Assert.Equal(new DebugEvent(DebugEventKind.Step, linear), Event);
        Assert.Equal(linear, machine.State.LinearRip);
    }

    /// <summary>Goes on, and demands a stop behind an access.</summary>
    public void GoToAccess(DataAccess access, ulong address, ulong rip)
    {
        Assert.Equal(VcpuExit.Debug, Go());
        Assert.Equal(new DebugEvent(DebugEventKind.Watchpoint, address, access), Event);
        Assert.Equal(rip, machine.State.Rip);
    }

    public void GoToEnd()
    {
        Assert.Equal(VcpuExit.Halted, Go());
        Assert.Null(Event);
    }

    private void Tell() => machine.Cpu.SetDebugPoints(new DebugPoints(_breakpoints, _breakpoints, _watched, _watched));
}
