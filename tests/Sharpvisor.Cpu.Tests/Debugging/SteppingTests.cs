using Iced.Intel;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.State;
using Sharpvisor.Cpu.Tests.Interpreter;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Debugging;

public class SteppingTests
{
    [Fact]
    public void Each_step_is_one_instruction()
    {
        using var m = new M();
        m.Program(a =>
        {
            var there = a.CreateLabel();
            a.mov(eax, 7);
            a.push(rax);
            a.jmp(there);
            a.nop();
            a.Label(ref there);
            a.pop(rcx);
        });
        var d = new Debugged(m);
        foreach (var next in (ulong[])[5, 6, 9, 10])
            d.StepTo(M.Code + next);
        Assert.Equal(7UL, m.Rcx);
        d.StepTo(M.Code + 11); // the HLT
        Assert.Equal(ActivityState.Halted, m.State.Activity);
    }

    [Fact]
    public void Interrupts_wait_for_steps_and_come_when_it_runs()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.nop();
            a.nop();
            a.inc(rax);
        });
        m.State.Rflags |= Rflags.IF;
        m.Apic.Request(m.Cpu, 0x40);
        var d = new Debugged(m);
        d.StepTo(M.Code + 1);
        d.StepTo(M.Code + 2);
        d.GoToEnd();
        Assert.Equal(M.Handlers + 0x401, d.Rip);
        Assert.Equal(M.Code + 2, m.Read64(m.Rsp));
        Assert.Equal(0UL, m.Rax);
    }

    [Fact]
    public void Where_interrupts_are_taken_the_step_ends_at_the_handler()
    {
        using var m = new M();
        m.Program(a => a.nop());
        m.State.Rflags |= Rflags.IF;
        m.Apic.Request(m.Cpu, 0x40);
        var d = new Debugged(m);
        Assert.Equal(VcpuExit.Debug, d.Go(StepKind.Instruction, interrupts: true));
        Assert.Equal(M.Handlers + 0x400, d.Rip);
        Assert.Equal(M.Code, m.Read64(m.Rsp));
        m.State.Rflags &= ~Rflags.IF;
        d.StepTo(M.Handlers + 0x401);
    }

    [Fact]
    public void An_interrupt_ends_a_HLT_that_is_stepped_over_and_still_waits()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.hlt();
            a.inc(rax);
        });
        m.State.Rflags |= Rflags.IF;
        var d = new Debugged(m);
        d.StepTo(M.Code + 1);
        Assert.Equal(ActivityState.Halted, m.State.Activity);
        Assert.Equal(VcpuExit.Halted, d.Go(StepKind.Instruction)); // nothing ends it
        m.Apic.Request(m.Cpu, 0x40);
        d.StepTo(M.Code + 4);
        Assert.Equal(1UL, m.Rax);
        d.GoToEnd();
        Assert.Equal(M.Handlers + 0x401, d.Rip);
    }

    [Fact]
    public void A_HLT_with_an_interrupt_pending_is_one_step()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.hlt();
            a.inc(rax);
            a.nop();
        });
        m.State.Rflags |= Rflags.IF;
        m.Apic.Request(m.Cpu, 0x40);
        var d = new Debugged(m);
        d.StepTo(M.Code + 1);
        d.StepTo(M.Code + 4);
        d.GoToEnd();
        Assert.Equal(M.Handlers + 0x401, d.Rip);
        Assert.Equal(M.Code + 4, m.Read64(m.Rsp));
    }

    [Fact]
    public void A_fault_ends_at_its_handler()
    {
        using var m = new M();
        m.Program(a => a.mov(rax, __qword_ptr[0x7000_0000]));
        var d = new Debugged(m);
        d.StepTo(M.Handlers + (Vectors.PF * 16));
        d.StepTo(M.Handlers + (Vectors.PF * 16) + 1);
    }

    [Fact]
    public void INT3_and_system_calls_end_at_their_handlers()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.int3();
            a.nop();
        });
        var d = new Debugged(m);
        d.StepTo(M.Handlers + (Vectors.BP * 16));
        Assert.Equal(M.Code + 1, m.Read64(m.Rsp));

        m.Enter(Mode.Long);
        m.SetPrivilege(3);
        m.State.Lstar = 0x50000;
        m.State.Star = (0x33UL << 48) | ((ulong)M.Code32 << 32);
        m.Program(a => a.syscall());
        d = new Debugged(m);
        d.StepTo(0x50000);
        Assert.Equal(M.Code + 2, m.Rcx);
    }

    [Fact]
    public void A_repeated_instruction_is_stepped_by_iterations()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.rep.stosb();
            a.nop();
        });
        m.Rcx = 3;
        m.Rdi = M.Data;
        var d = new Debugged(m);
        d.StepTo(M.Code);
        Assert.Equal(2UL, m.Rcx);
        d.StepTo(M.Code);
        d.StepTo(M.Code + 2);
        d.StepTo(M.Code + 3);
    }

    [Fact]
    public void The_shadows_of_STI_and_MOV_SS_are_one_instruction_long()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.sti();
            a.mov(ss, ax);
            a.nop();
            a.nop();
        });
        m.Rax = M.Data32;
        var d = new Debugged(m);
        m.Apic.Request(m.Cpu, 0x40);
        d.StepTo(M.Code + 1);
        Assert.True(m.State.InterruptShadow);
        d.StepTo(M.Code + 4);
        Assert.True(m.State.InterruptShadow);
        d.StepTo(M.Code + 5);
        Assert.False(m.State.InterruptShadow);
        d.GoToEnd();
        Assert.Equal(M.Code + 5, m.Read64(m.Rsp));
    }

    [Fact]
    public void A_guest_that_steps_itself_gets_its_traps()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.nop();
            a.nop();
        });
        m.State.Rflags |= Rflags.TF;
        var d = new Debugged(m);
        d.StepTo(M.Handlers + (Vectors.DB * 16));
        Assert.Equal(M.Code + 1, m.Read64(m.Rsp));
        Assert.Equal(Rflags.TF, m.Read64(m.Rsp + 16) & Rflags.TF);
        Assert.Equal(DebugStatus.SingleStep, m.State.Dr[6] & 0xE00F);
    }

    [Fact]
    public void The_guest_s_flags_show_no_trace_of_a_step()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.pushfq();
            a.pop(rax);
        });
        var d = new Debugged(m);
        d.StepTo(M.Code + 1);
        d.StepTo(M.Code + 2);
        Assert.Equal(0UL, m.Rax & (Rflags.TF | Rflags.RF));
    }

    [Fact]
    public void A_range_is_left_by_its_last_instruction_or_a_call()
    {
        using var m = new M();
        m.Program(a =>
        {
            var again = a.CreateLabel();
            a.Label(ref again);
            a.inc(rax);
            a.dec(rcx);
            a.jnz(again); // to Code + 8
            a.mov(rbx, 0x50000);
            a.call(rbx);
        });
        m.Assemble(0x50000, a => a.ret());
        m.Rcx = 4;
        var d = new Debugged(m);
        Assert.Equal(VcpuExit.Debug, d.Go(StepKind.Range, from: M.Code, to: M.Code + 8));
        Assert.Equal(M.Code + 8, d.Rip);
        Assert.Equal(DebugEventKind.Step, d.Event!.Value.Kind);
        Assert.Equal(4UL, m.Rax);
        d.Go(StepKind.Range, from: M.Code + 8, to: M.Code + 0x20);
        Assert.Equal(0x50000UL, d.Rip);
    }

    [Fact]
    public void A_breakpoint_within_a_range_stops()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.nop();
            a.nop();
            a.nop();
            a.nop();
        });
        var d = new Debugged(m);
        d.Break(M.Code, M.Code + 2);
        d.GoTo(M.Code);
        Assert.Equal(VcpuExit.Debug, d.Go(StepKind.Range, from: M.Code, to: M.Code + 4));
        Assert.Equal(new DebugEvent(DebugEventKind.Breakpoint, M.Code + 2), d.Event);
        d.Go(StepKind.Range, from: M.Code, to: M.Code + 4);
        Assert.Equal(new DebugEvent(DebugEventKind.Step, M.Code + 4), d.Event);
    }

    [Fact]
    public void A_step_onto_a_breakpoint_ends_there_and_goes_on_from_there()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.nop();
            a.inc(rax);
        });
        var d = new Debugged(m);
        d.Break(M.Code + 1);
        d.StepTo(M.Code + 1);
        d.GoToEnd();
        Assert.Equal(1UL, m.Rax);
    }

    [Fact]
    public void A_triple_fault_is_no_step()
    {
        using var m = new M();
        m.Program(a => a.ud2());
        m.State.Idtr = default;
        Assert.Equal(VcpuExit.Shutdown, new Debugged(m).Go(StepKind.Instruction));
    }
}
