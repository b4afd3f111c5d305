using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using Sharpvisor.Cpu.Tests.Interpreter;
using static Iced.Intel.AssemblerRegisters;
using static Sharpvisor.Cpu.Tests.Interpreter.PvMachine;

namespace Sharpvisor.Cpu.Tests.Debugging;

/// <summary>A debugger and what the hypervisor of a paravirtual kernel does in the place of instructions.</summary>
public sealed class ParavirtualTests : IDisposable
{
    private const int PF = 14, End = 999;
    private const ulong Before = 0x1111;

    private readonly PvMachine _machine = new() { IsTable = true };
    private bool _isStarted;
    private ulong? _told;

    public ParavirtualTests()
    {
        _machine.Map(KernelRoot, Table, Table, Pte.Present);
        _machine.Write(Table + 16, Before);
    }

    public void Dispose() => _machine.Dispose();

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_breakpoint_at_a_store_to_a_page_table(bool steps)
    {
        var store = StoreToTable();
        Break(store);
        Stops(new DebugEvent(DebugEventKind.Breakpoint, store));
        Assert.Equal(Before, _machine.Read<ulong>(Table + 16));
        if (steps)
            Stops(new DebugEvent(DebugEventKind.Step, store + 4), StepKind.Instruction);
        Ends(End);
        Assert.Equal((0x5678UL, 1), (_machine.Read<ulong>(Table + 16), _machine.TableWrites));
    }

    [Fact]
    public void A_page_table_is_watched()
    {
        var store = StoreToTable();
        _machine.Cpus[0].SetDebugPoints(new DebugPoints([], [], [new(DataAccess.Write, Table + 20, 1)], []));
        Stops(new DebugEvent(DebugEventKind.Watchpoint, Table + 20, DataAccess.Write));
        Assert.Equal((store + 4, 0x5678UL), (_machine.State.Rip, _machine.Read<ulong>(Table + 16)));
        Ends(End);
    }

    [Fact]
    public void A_store_that_is_refused_is_none_for_a_watchpoint()
    {
        StoreToTable();
        _machine.TakesEntries = false;
        _machine.Cpus[0].SetDebugPoints(new DebugPoints([], [], [new(DataAccess.Write, Table + 16, 8)], []));
        Ends(PF);
        Assert.Equal(Before, _machine.Read<ulong>(Table + 16));
    }

    /// <summary>Hypercalls, instructions that are emulated, SYSCALL of a program and the way back to it are one step each.</summary>
    [Fact]
    public void Steps_lead_into_the_kernel_and_out_of_it()
    {
        var kernel = Data;
        ulong call = 0, clts = 0, back = 0, user = 0;
        _machine.Assemble(UserCode, a =>
        {
            a.nop();
            a.syscall();
            a.nop();
        });
        user = UserCode + 1;
        _machine.Assemble(kernel, a => a.nop());
        _machine.Processor.SetEntry(Core.Guests.ParavirtualEntry.SystemCall, kernel, false);
        call = _machine.Assemble(Text, a => a.mov(eax, 7));
        clts = _machine.Assemble(call, a => a.syscall());
        var next = _machine.Assemble(clts, a => a.clts());
        back = _machine.Assemble(next, a => Return(a, UserCode)) - 2;
        Break(call, back);
        Stops(new DebugEvent(DebugEventKind.Breakpoint, call));
        Stops(new DebugEvent(DebugEventKind.Step, clts), StepKind.Instruction);
        Assert.Single(_machine.Calls);
        Stops(new DebugEvent(DebugEventKind.Step, next), StepKind.Instruction);
        Stops(new DebugEvent(DebugEventKind.Breakpoint, back));
        Stops(new DebugEvent(DebugEventKind.Step, UserCode), StepKind.Instruction);
        Stops(new DebugEvent(DebugEventKind.Step, user), StepKind.Instruction);
        Stops(new DebugEvent(DebugEventKind.Step, kernel), StepKind.Instruction);
        Assert.Equal(FlatCode, _machine.State.Segments[1].Selector);
        Stops(new DebugEvent(DebugEventKind.Step, kernel + 1), StepKind.Instruction);
    }

    /// <summary>Events wait for a step, or it ends at the kernel's upcall, whoever was at work.</summary>
    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    [InlineData(true, true)]
    public void Steps_and_events(bool takesInterrupts, bool inProgram)
    {
        _machine.Processor.SetEntry(Core.Guests.ParavirtualEntry.Event, Data, true);
        _machine.Assemble(Data, a => a.nop());
        if (inProgram)
            _machine.UserProgram(a => { a.nop(); a.nop(); a.nop(); });
        else
            _machine.Program(a => { a.nop(); a.nop(); a.nop(); });
        var at = inProgram ? UserCode : Text;
        Break(at);
        Stops(new DebugEvent(DebugEventKind.Breakpoint, at));
        _machine.Pending = 1;
        _machine.Cpus[0].SetInterruptRequest(true);
        if (takesInterrupts)
        {
            Stops(new DebugEvent(DebugEventKind.Step, Data), StepKind.Instruction, interrupts: true);
            Assert.Equal((1, at), (_machine.Mask, _machine.ReadLinear(_machine.State.Gpr[4] + 16)));
            return;
        }

        Stops(new DebugEvent(DebugEventKind.Step, at + 1), StepKind.Instruction);
        Break(Data);
        Stops(new DebugEvent(DebugEventKind.Breakpoint, Data));
        Assert.Equal(inProgram ? Code64 : (ushort)(FlatCode & ~3), (ushort)_machine.ReadLinear(_machine.State.Gpr[4] + 24));
    }

    /// <summary>Whatever a debugger writes into the registers: the kernel stays in ring 3, and events come.</summary>
    [Fact]
    public void Registers_that_are_written_give_no_privilege()
    {
        _machine.Program(a => a.hlt());
        _machine.State.Segments[2] = default;
        _machine.State.Rflags = 2 | (3UL << 12);
        _machine.Expect(13);
        Assert.Equal(0x202UL, _machine.State.Rflags & 0x3202);
    }

    private ulong StoreToTable()
    {
        var store = _machine.Assemble(Text, a =>
        {
            a.mov(ebx, (uint)Table);
            a.mov(esi, 0x5678);
        });
        Done(_machine, _machine.Assemble(store, a => a.mov(__[rbx + 16], rsi)));
        return store;
    }

    private static void Done(PvMachine machine, ulong at) => machine.Assemble(at, PvMachine.Done);

    private void Break(params ulong[] linears) => _machine.Cpus[0].SetDebugPoints(new DebugPoints(linears, linears, [], []));

    private VcpuExit Go(StepKind step, bool interrupts)
    {
        var cpu = _machine.Cpus[0];
        if (!_isStarted)
            cpu.SetState(_machine.State);
        _isStarted = true;
        cpu.SetStepping(new Stepping(step, interrupts, 0, 0, step != StepKind.None || _told == cpu.GetState().LinearRip));
        var exit = _machine.Go();
        _told = exit == VcpuExit.Debug && cpu.DebugEvent is { Kind: not DebugEventKind.Watchpoint } stop ? stop.Address : null;
        return exit;
    }

    private void Stops(in DebugEvent expected, StepKind step = StepKind.None, bool interrupts = false)
    {
        Assert.Equal((VcpuExit.Debug, expected), (Go(step, interrupts), _machine.Cpus[0].DebugEvent));
        if (expected.Kind != DebugEventKind.Watchpoint)
            Assert.Equal(expected.Address, _machine.State.Rip);
    }

    /// <summary>Runs on to the call that ends it.</summary>
    private void Ends(int how)
    {
        Assert.NotEqual(VcpuExit.Debug, Go(StepKind.None, false));
        Assert.True(_machine.Ended == how, $"expected {how}, got {_machine.Ended} {_machine.Crashed} at {_machine.State.Rip:x}");
    }
}
