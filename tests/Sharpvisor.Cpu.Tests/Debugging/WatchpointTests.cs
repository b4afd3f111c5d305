using Iced.Intel;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using Sharpvisor.Cpu.Tests.Interpreter;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Debugging;

public class WatchpointTests
{
    private const DataAccess Read = DataAccess.Read, Write = DataAccess.Write;

    [Fact]
    public void Stops_behind_each_instruction_that_touches_the_bytes_and_no_other()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.mov(__qword_ptr[rbx], rax); // 3 bytes each: 0
            a.inc(rcx);
            a.mov(rdx, __qword_ptr[rbx]); // 6
            a.inc(rcx);
            a.add(__qword_ptr[rbx], rax); // 12
            a.inc(rcx);
            a.inc(rcx);
        });
        m.Rbx = M.Data;
        var d = new Debugged(m);
        d.Watch(Read | Write, M.Data + 4, 2);
        d.GoToAccess(Write, M.Data + 4, M.Code + 3);
        Assert.Equal(0UL, m.Rcx);
        d.GoToAccess(Read, M.Data + 4, M.Code + 9);
        Assert.Equal(1UL, m.Rcx);
        d.GoToAccess(Read | Write, M.Data + 4, M.Code + 15);
        Assert.Equal(2UL, m.Rcx);
        d.GoToEnd();
        Assert.Equal(4UL, m.Rcx);
    }

    [Fact]
    public void Tells_reads_from_writes_and_neighbours_from_what_is_watched()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.mov(__byte_ptr[rbx - 1], al);
            a.mov(__byte_ptr[rbx + 4], al);
            a.mov(edx, __dword_ptr[rbx]);
            a.mov(__byte_ptr[rbx + 3], al);
        });
        m.Rbx = M.Data + 0x100;
        var d = new Debugged(m);
        d.Watch(Write, M.Data + 0x100, 4);
        d.GoToAccess(Write, M.Data + 0x103, M.Code + 11);
        d.GoToEnd();
        d.Unwatch();
        d.Watch(Read, M.Data + 0x100, 4);
        m.State.Rip = M.Code;
        m.State.Activity = ActivityState.Active;
        m.Cpu.SetState(m.State);
        d.GoToAccess(Read, M.Data + 0x100, M.Code + 8);
        d.GoToEnd();
    }

    [Fact]
    public void Works_in_code_that_is_at_work_already_and_counts_every_round()
    {
        using var m = new M();
        m.Program(a =>
        {
            var again = a.CreateLabel();
            a.Label(ref again);
            a.mov(__qword_ptr[rbx], rcx);
            a.mov(__qword_ptr[rsi], rcx);
            a.dec(rcx);
            a.jnz(again);
        });
        m.Rbx = M.Data;
        m.Rsi = M.Data + 0x2000;
        m.Rcx = 1000;
        var d = new Debugged(m);
        d.Break(M.Code + 3);
        d.GoTo(M.Code + 3);
        d.Unbreak(M.Code + 3);
        d.Watch(Write, M.Data, 8);
        for (ulong i = 999; i > 990; i--)
        {
            d.GoToAccess(Write, M.Data, M.Code + 3);
            Assert.Equal(i, m.Read64(M.Data));
            Assert.Equal(i + 1, m.Read64(M.Data + 0x2000));
        }

        d.Unwatch();
        d.GoToEnd();
        Assert.Equal(1UL, m.Read64(M.Data));
    }

    [Fact]
    public void A_push_a_call_and_a_return()
    {
        using var m = new M();
        m.Assemble(0x50000, a => a.ret());
        m.Program(a =>
        {
            a.mov(ebx, 0x50000);
            a.push(rax); // 5
            a.pop(rax); // 6
            a.call(rbx); // 7
            a.nop();
        });
        var d = new Debugged(m);
        d.Watch(Read | Write, M.Stack - 8, 8);
        d.GoToAccess(Write, M.Stack - 8, M.Code + 6);
        d.GoToAccess(Read, M.Stack - 8, M.Code + 7);
        d.GoToAccess(Write, M.Stack - 8, 0x50000);
        d.GoToAccess(Read, M.Stack - 8, M.Code + 9);
        d.GoToEnd();
    }

    [Fact]
    public void The_frame_of_an_interrupt_and_of_a_fault()
    {
        using var m = new M();
        m.Program(a => a.nop());
        m.State.Rflags |= Rflags.IF;
        m.Apic.Request(m.Cpu, 0x40);
        var d = new Debugged(m);
        d.Watch(Write, M.Stack - 8, 8);
        d.GoToAccess(Write, M.Stack - 8, M.Handlers + 0x400);
        m.Enter(Mode.Long);
        m.Program(a => a.ud2());
        d = new Debugged(m);
        d.Watch(Write, M.Stack - 8, 8);
        d.GoToAccess(Write, M.Stack - 8, M.Handlers + (Vectors.UD * 16));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void REP_MOVS_stops_behind_the_element(bool down)
    {
        using var m = new M();
        m.Program(a =>
        {
            a.rep.movsb();
            a.nop();
        });
        m.Rcx = 3000;
        m.Rsi = M.Data + (down ? 2999UL : 0);
        m.Rdi = M.Data + 0x4000 + (down ? 2999UL : 0);
        if (down)
            m.State.Rflags |= Rflags.DF;
        var d = new Debugged(m);
        d.Watch(Write, M.Data + 0x4000 + 1000);
        d.Watch(Read, M.Data + 2000, 2);
        if (!down)
        {
            d.GoToAccess(Write, M.Data + 0x4000 + 1000, M.Code);
            Assert.Equal(1999UL, m.Rcx);
        }

        var first = down ? 2001UL : 2000UL;
        d.GoToAccess(Read, M.Data + first, M.Code);
        Assert.Equal(down ? 2001UL : 999UL, m.Rcx);
        d.GoToAccess(Read, M.Data + (down ? 2000UL : 2001UL), M.Code);
        if (down)
            d.GoToAccess(Write, M.Data + 0x4000 + 1000, M.Code);
        d.GoToEnd();
        Assert.Equal(0UL, m.Rcx);
    }

    [Fact]
    public void An_AVX_store_and_load()
    {
        using var m = new M();
        m.State.Cr4 |= ControlRegisters.OSXSAVE;
        m.State.Xcr0 = 7;
        m.Program(a =>
        {
            a.vmovdqu(__[rbx], ymm1);
            a.nop();
            a.vpaddd(ymm2, ymm1, __[rbx]);
            a.nop();
        });
        m.Rbx = M.Data;
        m.State.Ymm[1].Q3 = 0x55;
        var d = new Debugged(m);
        d.Watch(Read | Write, M.Data + 31);
        d.GoToAccess(Write, M.Data + 31, M.Code + 4);
        Assert.Equal(0x55UL, m.Read64(M.Data + 24));
        d.GoToAccess(Read, M.Data + 31, M.Code + 9);
        Assert.Equal(0xAAUL, m.State.Ymm[2].Q3);
        d.GoToEnd();
    }

    [Fact]
    public void Atomics()
    {
        using var m = new M(processors: 2);
        m.Program(a =>
        {
            a.@lock.xadd(__qword_ptr[rbx], rcx);
            a.nop();
            a.@lock.cmpxchg16b(__[rbx]);
            a.nop();
        });
        m.Rbx = M.Data;
        m.Rcx = 1;
        var d = new Debugged(m);
        d.Watch(Write, M.Data, 16);
        d.GoToAccess(Read | Write, M.Data, M.Code + 5);
        d.GoToAccess(Read | Write, M.Data, M.Code + 11);
        d.GoToEnd();
    }

    [Fact]
    public void An_access_over_two_pages_and_a_range_of_many()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.mov(__qword_ptr[rbx], rax);
            a.mov(__byte_ptr[rsi], al);
        });
        m.Rbx = M.Data + 0xFFC;
        m.Rsi = M.Data + 0x12345;
        var d = new Debugged(m);
        d.Watch(Write, M.Data + 0x1000, 0x20000);
        d.GoToAccess(Write, M.Data + 0x1000, M.Code + 3);
        d.GoToAccess(Write, M.Data + 0x12345, M.Code + 5);
        d.GoToEnd();
    }

    [Fact]
    public void A_write_that_faults_is_told_when_it_has_taken_place()
    {
        using var m = new M();
        Debugged.MapUponFault(m);
        m.Program(a =>
        {
            a.mov(__byte_ptr[rbx], 5);
            a.nop();
        });
        m.Rbx = 0x600000;
        var d = new Debugged(m);
        d.Watch(Write, 0x600000);
        d.GoToAccess(Write, 0x600000, M.Code + 3);
        Assert.Equal(5, m.Read<byte>(0x60000));
        d.GoToEnd();
    }

    [Fact]
    public void Page_walks_do_not_count()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.invlpg(__[rbx]);
            a.mov(rax, __qword_ptr[rbx]);
        });
        m.Rbx = M.Data;
        var d = new Debugged(m);
        d.Watch(Read | Write, M.Tables, 0x40000);
        d.GoToEnd();
    }

    [Fact]
    public void A_watched_page_with_code_that_is_written()
    {
        using var m = new M();
        m.Assemble(0x50000, a =>
        {
            a.mov(al, 1);
            a.ret();
        });
        m.Program(a =>
        {
            a.mov(ebx, 0x50000);
            a.call(rbx);
            a.mov(__byte_ptr[rbx + 1], 7); // to Code + 11
            a.nop();
            a.call(rbx);
        });
        var d = new Debugged(m);
        d.Watch(Write, 0x50000, 8);
        d.GoToAccess(Write, 0x50001, M.Code + 11);
        d.GoToEnd();
        Assert.Equal(7UL, m.Rax);
    }

    [Fact]
    public void The_guest_s_own_watchpoint_traps_too()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.mov(__byte_ptr[rbx], al);
            a.nop();
        });
        m.Rbx = M.Data;
        m.State.Dr[0] = M.Data;
        m.State.Dr[7] = 0x0001_0401; // write, one byte
        var d = new Debugged(m);
        d.Watch(Write, M.Data);
        d.GoToAccess(Write, M.Data, M.Handlers + (Vectors.DB * 16));
        Assert.Equal(M.Code + 2, m.Read64(m.Rsp));
        d.GoToEnd();
        Assert.Equal(1UL, m.State.Dr[6] & 15);
    }

    [Fact]
    public void A_step_over_an_access_tells_of_the_access()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.mov(__byte_ptr[rbx], al);
            a.nop();
            a.nop();
        });
        m.Rbx = M.Data;
        var d = new Debugged(m);
        d.Watch(Write, M.Data);
        d.Go(StepKind.Instruction);
        Assert.Equal(new DebugEvent(DebugEventKind.Watchpoint, M.Data, Write), d.Event);
        d.StepTo(M.Code + 3);
    }

    [Fact]
    public void In_16_bit_code_with_segments()
    {
        using var m = new M(Mode.Real);
        m.Assemble(M.Code, a =>
        {
            a.mov(__byte_ptr[bx], al);
            a.nop();
            a.push(ax);
            a.hlt();
        });
        m.State.Segments[3] = new SegmentRegister { Selector = 0x4000, Base = 0x40000, Limit = 0xFFFF, Attributes = 0x93 };
        m.Rbx = 5;
        var d = new Debugged(m);
        d.Watch(Write, 0x40005);
        d.Watch(Write, M.SmallStack - 2);
        d.GoToAccess(Write, 0x40005, 2);
        d.GoToAccess(Write, M.SmallStack - 2, 4);
        d.GoToEnd();
    }
}
