using System.Runtime.InteropServices;
using Iced.Intel;
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.State;
using Sharpvisor.Debugging;
using Sharpvisor.Tests.Boot;
using static Iced.Intel.AssemblerRegisters;
using D = Sharpvisor.Tests.Debugging.DebuggedMachine;

namespace Sharpvisor.Tests.Debugging;

public sealed class MachineDebuggerTests
{
    public static TheoryData<string> Engines => ["interpreter", "translator"];

    /// <summary>EAX counts up ECX times: the addition is at the start, its end 3 bytes further.</summary>
    private static Action<Assembler> Count(uint rounds) => a =>
    {
        a.mov(ecx, rounds); // 5 bytes
        var again = a.CreateLabel();
        a.Label(ref again);
        a.inc(eax); // at Code + 5
        a.@lock.inc(__dword_ptr[D.Data]); // at Code + 6
        a.dec(ecx);
        a.jnz(again);
    };

    private static Action<Assembler> Spin => a =>
    {
        var again = a.CreateLabel();
        a.Label(ref again);
        a.inc(eax);
        a.jmp(again);
    };

    [Theory]
    [MemberData(nameof(Engines))]
    public async Task Starts_paused_before_the_first_instruction(string engine)
    {
        await using var m = await DebuggedMachine.StartAsync(engine, Count(1));
        Assert.True(m.Debugger.IsStopped);
        Assert.Equal(0, m.Machine.Processors[0].InstructionCount);
        Assert.Equal(0, m.StopsLeft);
        await m.Machine.ResumeAsync();
        await m.HaltedAsync(0);
        Assert.Equal(1u, m.Read(D.Data));
    }

    [Theory]
    [MemberData(nameof(Engines))]
    public async Task A_breakpoint_stops_once_a_round_until_it_is_removed_as_often_as_inserted(string engine)
    {
        await using var m = await DebuggedMachine.StartAsync(engine, Count(100));
        m.Debugger.InsertBreakpoint(D.Code + 5);
        m.Debugger.InsertBreakpoint(D.Code + 5);
        for (uint i = 0; i < 50; i++)
        {
            Assert.Equal(new DebugStop(DebugStopKind.Breakpoint, 0, D.Code + 5), await m.ContinueToStopAsync());
            var state = m.Debugger.GetState(0);
            Assert.Equal((D.Code + 5, i), (state.Rip, (uint)state.Gpr[0]));
            Assert.Equal(0, m.StopsLeft);
        }

        Assert.True(m.Debugger.RemoveBreakpoint(D.Code + 5));
        await m.ContinueToStopAsync();
        Assert.True(m.Debugger.RemoveBreakpoint(D.Code + 5));
        Assert.False(m.Debugger.RemoveBreakpoint(D.Code + 5));
        await m.ContinueAsync();
        await m.HaltedAsync(0);
        Assert.Equal(100u, m.Read(D.Data));
    }

    /// <summary>What gdb does at each stop: all out, a step, all in.</summary>
    [Theory]
    [MemberData(nameof(Engines))]
    public async Task Stepping_over_a_breakpoint_that_is_taken_out_for_it(string engine)
    {
        await using var m = await DebuggedMachine.StartAsync(engine, Count(20));
        for (uint i = 0; i < 20; i++)
        {
            m.Debugger.InsertBreakpoint(D.Code + 5);
            Assert.Equal(DebugStopKind.Breakpoint, (await m.ContinueToStopAsync()).Kind);
            m.Debugger.RemoveBreakpoint(D.Code + 5);
            Assert.Equal(new DebugStop(DebugStopKind.Step, 0, D.Code + 6), await m.ContinueToStopAsync((0, new Resumption(StepMode.Step))));
            Assert.Equal(i + 1, (uint)m.Debugger.GetState(0).Gpr[0]);
        }

        await m.ContinueAsync();
        await m.HaltedAsync(0);
        Assert.Equal(20u, m.Read(D.Data));
    }

    [Theory]
    [MemberData(nameof(Engines))]
    public async Task No_processor_misses_a_breakpoint_because_another_one_has_hit_it_too(string engine)
    {
        await using var m = await DebuggedMachine.StartAsync(engine, Count(50), a => a.jmp(D.Code), a => a.jmp(D.Code));
        m.Debugger.InsertBreakpoint(D.Code + 5);
        var hits = new int[3];
        for (var i = 0; i < 150; i++)
        {
            var stop = await m.ContinueToStopAsync();
            Assert.Equal((DebugStopKind.Breakpoint, (ulong)(D.Code + 5)), (stop.Kind, stop.Address));
            hits[stop.Processor]++;
        }

        Assert.Equal([50, 50, 50], hits);
        await m.ContinueAsync();
        for (var i = 0; i < 3; i++)
        {
            await m.HaltedAsync(i);
            await m.ContinueAsync();
        }

        await m.Debugger.StopAsync();
        Assert.Equal(150u, m.Read(D.Data));
    }

    [Theory]
    [MemberData(nameof(Engines))]
    public async Task Every_access_to_what_is_watched_is_told_whoever_was_told_first(string engine)
    {
        await using var m = await DebuggedMachine.StartAsync(engine, Count(50), a => a.jmp(D.Code));
        m.Debugger.InsertWatchpoint(WatchKind.Write, D.Data, 4);
        var told = new int[2];
        for (var i = 0; i < 100; i++)
        {
            var stop = await m.ContinueToStopAsync();
            Assert.Equal((DebugStopKind.Watchpoint, (ulong)D.Data, WatchKind.Access), (stop.Kind, stop.Address, stop.Watch)); // INC reads, too
            Assert.Equal(D.Code + 13, m.Debugger.GetState(stop.Processor).Rip);
            told[stop.Processor]++;
        }

        Assert.Equal([50, 50], told);
        Assert.True(m.Debugger.RemoveWatchpoint(WatchKind.Write, D.Data, 4));
        Assert.False(m.Debugger.RemoveWatchpoint(WatchKind.Write, D.Data, 4));
        await m.ContinueAsync();
        await m.HaltedAsync(0);
    }

    [Theory]
    [MemberData(nameof(Engines))]
    public async Task One_steps_one_stays_and_one_runs(string engine)
    {
        await using var m = await DebuggedMachine.StartAsync(engine, Spin, Spin, Spin);
        for (var i = 0; i < 10; i++)
        {
            var stop = await m.ContinueToStopAsync((0, new Resumption(StepMode.Step)), (1, new Resumption(StepMode.Stay)));
            Assert.Equal((DebugStopKind.Step, 0), (stop.Kind, stop.Processor));
        }

        Assert.Equal(5u, (uint)m.Debugger.GetState(0).Gpr[0]);
        Assert.Equal((D.CodeOf(1), 0u), (m.Debugger.GetState(1).Rip, (uint)m.Debugger.GetState(1).Gpr[0]));
        await m.ContinueAsync((0, new Resumption(StepMode.Stay)));
        uint before;
        do
        {
            await m.Debugger.StopAsync();
            Assert.Equal(DebugStopKind.Paused, (await m.NextStopAsync()).Kind);
            before = (uint)m.Debugger.GetState(1).Gpr[0];
            await m.ContinueAsync((0, new Resumption(StepMode.Stay)));
        }
        while (before == 0);
        await m.Debugger.StopAsync();
        Assert.Equal(5u, (uint)m.Debugger.GetState(0).Gpr[0]);
    }

    [Theory]
    [MemberData(nameof(Engines))]
    public async Task A_range_of_a_loop_is_one_stop(string engine)
    {
        await using var m = await DebuggedMachine.StartAsync(engine, Count(1000));
        var stop = await m.ContinueToStopAsync((0, new Resumption(StepMode.StepRange, D.Code, D.Code + 16)));
        Assert.Equal(new DebugStop(DebugStopKind.Step, 0, D.Code + 16), stop);
        Assert.Equal(1000u, m.Read(D.Data));
    }

    [Theory]
    [MemberData(nameof(Engines))]
    public async Task A_reset_keeps_breakpoints(string engine)
    {
        await using var m = await DebuggedMachine.StartAsync(engine, a =>
        {
            a.mov(dx, 0xCF9);
            a.mov(al, 6);
            a.@out(dx, al);
        });
        m.Debugger.InsertBreakpoint(D.ResetVector);
        Assert.Equal(new DebugStop(DebugStopKind.Breakpoint, 0, D.ResetVector), await m.ContinueToStopAsync());
        Assert.Equal(0xFFF0UL, m.Debugger.GetState(0).Rip);
        await m.Machine.ResetAsync().WaitAsync(D.Limit);
        Assert.True(m.Debugger.IsStopped);
        Assert.Equal(new DebugStop(DebugStopKind.Breakpoint, 0, D.ResetVector), await m.ContinueToStopAsync()); // it was not there yet
        await m.ContinueAsync();
        await m.HaltedAsync(0);
    }

    [Theory]
    [MemberData(nameof(Engines))]
    public async Task A_step_that_resets_the_machine_stops_before_the_first_instruction(string engine)
    {
        await using var m = await DebuggedMachine.StartAsync(engine, a =>
        {
            a.mov(dx, 0xCF9);
            a.mov(al, 6);
            a.@out(dx, al);
        });
        var step = (0, new Resumption(StepMode.Step));
        await m.ContinueToStopAsync(step);
        await m.ContinueToStopAsync(step);
        Assert.Equal(DebugStopKind.Step, (await m.ContinueToStopAsync(step)).Kind);
        Assert.Equal(0xFFF0UL, m.Debugger.GetState(0).Rip);
        Assert.Equal(ActivityState.Active, m.Debugger.GetState(0).Activity);
    }

    [Theory]
    [MemberData(nameof(Engines))]
    public async Task Code_that_the_debugger_writes_is_executed_and_has_breakpoints(string engine)
    {
        await using var m = await DebuggedMachine.StartAsync(engine, Count(10));
        m.Debugger.InsertBreakpoint(D.Code + 5);
        await m.ContinueToStopAsync();
        Assert.Equal(1, m.Debugger.WriteLinear(0, D.Code + 5, [0x90])); // nop for inc eax
        for (var i = 0; i < 9; i++)
            await m.ContinueToStopAsync();
        await m.ContinueAsync();
        await m.HaltedAsync(0);
        Assert.Equal(0UL, m.Debugger.GetState(0).Gpr[0]);
    }

    [Fact]
    public async Task Each_stop_is_told_once_whoever_caused_it()
    {
        var engine = new ScriptedEngine(_ => null);
        var kinds = new List<string>();
        await using var machine = Machine.CreateBuilder().WithEngine(engine).WithMemory(64 << 20)
            .WithKernel(BootSource.FromBytes(SyntheticKernel.BzImage(), "kernel")).Build();
        machine.Debugger.Stopped += s => kinds.Add(s.Kind.ToString());
        machine.Debugger.Resumed += () => kinds.Add("resumed");
        await machine.StartAsync();
        await machine.PauseAsync().WaitAsync(D.Limit);
        await machine.Debugger.StopAsync().WaitAsync(D.Limit);
        ((IMachineControl)machine).RequestPause("the host's disk is full");
        await machine.PauseAsync().WaitAsync(D.Limit);
        Assert.Equal(["Paused"], kinds);
        await machine.ResumeAsync().WaitAsync(D.Limit);
        await machine.ResumeAsync().WaitAsync(D.Limit);
        Assert.Equal(["Paused", "resumed"], kinds);
    }

    [Fact]
    public async Task A_guest_that_is_through_is_a_stop_of_its_own()
    {
        var engine = new ScriptedEngine(v =>
        {
            if (v.InstructionCount == 1)
                v.Out(0x604, 0x2000, 2);
            return null;
        });
        var stopped = new TaskCompletionSource<DebugStop>();
        await using var machine = Machine.CreateBuilder().WithEngine(engine).WithMemory(64 << 20).WithoutShutdown()
            .WithKernel(BootSource.FromBytes(SyntheticKernel.BzImage(), "kernel")).Build();
        machine.Debugger.Stopped += stopped.SetResult;
        await machine.StartAsync();
        Assert.Equal(DebugStopKind.ShutDown, (await stopped.Task.WaitAsync(D.Limit)).Kind);
        await Assert.ThrowsAsync<InvalidOperationException>(() => machine.Debugger.ContinueAsync(new Dictionary<int, Resumption>()));
    }

    [Theory]
    [MemberData(nameof(Engines))]
    public async Task Registers_are_what_the_guest_sees_and_what_it_could_have_set(string engine)
    {
        await using var m = await DebuggedMachine.StartAsync(engine, a => a.pushfd());
        var state = m.Debugger.GetState(0);
        state.Cr8 = 0xF5;
        state.Rflags = ulong.MaxValue & ~(1UL << 17 | 1UL << 8); // neither VM nor TF
        state.Gpr[9] = 0x1234;
        m.Debugger.SetState(0, state);
        state = m.Debugger.GetState(0);
        Assert.Equal((5UL, 0x3D_7ED7UL, 0x1234UL), (state.Cr8, state.Rflags, state.Gpr[9]));
        await m.ContinueToStopAsync((0, new Resumption(StepMode.Step)));
        Assert.Equal(0x3C_7ED7u, m.Read((uint)m.Debugger.GetState(0).Gpr[4])); // RF is pushed as zero
    }

    [Theory]
    [MemberData(nameof(Engines))]
    public async Task A_step_with_an_interrupt_due_goes_into_the_handler_only_when_asked_to(string engine)
    {
        await using var m = await DebuggedMachine.StartAsync(engine, a =>
        {
            a.nop();
            a.nop();
        });
        var state = m.Debugger.GetState(0);
        state.Idtr = new TableRegister { Base = D.Data + 0x1000, Limit = 0x7FF };
        state.Gdtr = new TableRegister { Base = D.Data + 0x2000, Limit = 0x17 };
        state.Segments[1].Selector = 8;
        m.Debugger.SetState(0, state);
        m.Debugger.WritePhysical(D.Data + 0x2008, BitConverter.GetBytes(0x00CF9B000000FFFFUL));
        m.Debugger.WritePhysical(D.Data + 0x1000 + (2 * 8), BitConverter.GetBytes(0x0002_8E00_0008_0000UL)); // NMI at 20000h
        m.Machine.Processors[0].RaiseNmi();
        Assert.Equal(D.Code + 1, (await m.ContinueToStopAsync((0, new Resumption(StepMode.Step)))).Address);
        Assert.Equal(0x20000UL, (await m.ContinueToStopAsync((0, new Resumption(StepMode.StepWithInterrupts)))).Address);
        Assert.Equal(D.Code + 1, m.Read((uint)m.Debugger.GetState(0).Gpr[4]));
    }

    /// <summary>Whatever a debugger writes into registers is the guest's trouble.</summary>
    [Theory]
    [MemberData(nameof(Engines))]
    public async Task Nonsense_in_registers_harms_the_guest_only(string engine)
    {
        await using var m = await DebuggedMachine.StartAsync(engine, Spin);
        var random = new Random(11);
        for (var round = 0; round < 200; round++)
        {
            var state = m.Debugger.GetState(0);
            Spoil(ref state, random, everything: round % 2 == 0);
            m.Debugger.SetState(0, state);
            var step = (0, new Resumption(random.Next(3) == 0 ? StepMode.Step : StepMode.Run));
            await m.ContinueAsync(step);
            await m.Debugger.StopAsync().WaitAsync(D.Limit);
            if (m.Machine.Exit.IsCompleted)
                Assert.Fail((await m.Machine.Exit).Message);
            await m.Machine.ResetAsync().WaitAsync(D.Limit);
        }
    }

    private static void Spoil(ref CpuState state, Random random, bool everything)
    {
        var bytes = MemoryMarshal.AsBytes(new Span<CpuState>(ref state));
        if (everything)
            random.NextBytes(bytes);
        for (var i = 0; i < 20; i++)
            bytes[random.Next(bytes.Length)] = (byte)random.Next();
    }
}
