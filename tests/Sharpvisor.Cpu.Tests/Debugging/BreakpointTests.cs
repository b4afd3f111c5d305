using Iced.Intel;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using Sharpvisor.Cpu.Tests.Interpreter;
using Sharpvisor.Cpu.Translator;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Debugging;

public class BreakpointTests
{
    /// <summary>Counts RAX up to RCX: add at Code, dec at Code + 6, jnz at Code + 9, HLT at Code + 11.</summary>
    private static void Loop(Assembler a)
    {
        var again = a.CreateLabel();
        a.Label(ref again);
        a.add(rax, 1);
        a.dec(rcx);
        a.jnz(again);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(6)]
    [InlineData(9)]
    public void Stops_before_the_instruction_in_every_round_of_a_loop(int offset)
    {
        using var m = new M();
        m.Program(Loop);
        m.Rcx = 5;
        var d = new Debugged(m);
        d.Break(M.Code + (ulong)offset);
        for (ulong round = 0; round < 5; round++)
        {
            d.GoTo(M.Code + (ulong)offset);
            Assert.Equal(offset == 0 ? round : round + 1, m.Rax);
            Assert.Equal(offset == 9 ? 4 - round : 5 - round, m.Rcx);
        }

        d.GoToEnd();
        Assert.Equal(5UL, m.Rax);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(6)]
    [InlineData(9)]
    public void Stops_in_code_that_has_run_before(int offset)
    {
        using var m = new M();
        m.Program(Loop);
        m.Rcx = 100;
        var d = new Debugged(m);
        d.GoToEnd();
        m.State.Activity = ActivityState.Active;
        m.State.Rip = M.Code;
        m.Rcx = 3;
        m.Cpu.SetState(m.State);
        d.Break(M.Code + (ulong)offset);
        for (var round = 0; round < 3; round++)
            d.GoTo(M.Code + (ulong)offset);
        d.Unbreak(M.Code + (ulong)offset);
        d.GoToEnd();
        Assert.Equal(103UL, m.Rax);
    }

    /// <summary>Blocks that have long been jumping to each other directly, with an instruction that lies in two pages.</summary>
    [Theory]
    [InlineData(0x50FFEUL)]
    [InlineData(0x51001UL)]
    [InlineData(0x51005UL)]
    public void Is_inserted_into_hot_code_of_two_pages(ulong place)
    {
        using var m = new M();
        m.Assemble(0x50FFE, a =>
        {
            a.inc(rax); // to 51001
            a.dec(rcx);
            a.nop(); // 51004
            a.ret(); // 51005
        });
        m.Assemble(M.Code, a =>
        {
            var again = a.CreateLabel();
            a.Label(ref again);
            a.call(0x50FFE);
            a.test(rcx, rcx);
            a.jnz(again);
            a.nop(); // Code + 10
            a.mov(ecx, 1000);
            a.jmp(again);
        });
        m.Rcx = 1000;
        var d = new Debugged(m);
        d.Break(M.Code + 10);
        d.GoTo(M.Code + 10);
        d.Break(place);
        var before = m.Rax;
        for (ulong i = 1; i <= 20; i++)
        {
            d.GoTo(place);
            Assert.Equal(before + (place == 0x50FFE ? i - 1 : i), m.Rax);
        }

        d.Unbreak(place);
        d.GoTo(M.Code + 10);
        Assert.Equal(before + 1000, m.Rax);
    }

    [Fact]
    public void Instructions_are_counted_as_without()
    {
        static long Count(params ulong[] breakpoints)
        {
            using var m = new M(engine: new InterpreterEngine()); // the translator counts by blocks
            m.Program(Loop);
            m.Rcx = 5;
            var d = new Debugged(m);
            d.Break(breakpoints);
            while (d.Go(budget: 10_000) == VcpuExit.Debug)
            {
            }

            return m.Cpu.InstructionCount;
        }

        var plain = Count();
        Assert.Equal(plain, Count(M.Code));
        Assert.Equal(plain, Count(M.Code + 6, M.Code + 9));
    }

    [Fact]
    public void The_guest_s_memory_is_not_touched()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.mov(rbx, M.Code);
            a.mov(rax, __qword_ptr[rbx]);
        });
        var code = m.Read64(M.Code);
        var d = new Debugged(m);
        d.Break(M.Code, M.Code + 10);
        d.GoTo(M.Code);
        d.GoTo(M.Code + 10);
        d.GoToEnd();
        Assert.Equal(code, m.Rax);
    }

    [Fact]
    public void Another_mapping_of_the_same_code_is_another_place()
    {
        const ulong alias = 0x600000;
        using var m = new M();
        m.Map(alias, 0x50000);
        m.Assemble(0x50000, a =>
        {
            a.inc(rax);
            a.inc(rax);
            a.ret();
        });
        m.Program(a =>
        {
            // Both get to know the code before there is a breakpoint, and after.
            for (var i = 0; i < 4; i++)
            {
                a.mov(rbx, 0x50000UL);
                a.call(rbx);
                a.mov(rbx, alias);
                a.call(rbx);
            }
        });
        var d = new Debugged(m);
        d.Break(M.Code + 12);
        d.GoTo(M.Code + 12);
        d.Break(alias + 3);
        for (var i = 0; i < 4; i++)
        {
            d.GoTo(alias + 3);
            Assert.Equal((ulong)((4 * i) + 3), m.Rax);
        }

        d.GoToEnd();
        Assert.Equal(16UL, m.Rax);
    }

    [Fact]
    public void Aliases_that_run_in_turn_are_told_apart()
    {
        const ulong alias = 0x600000;
        using var m = new M();
        m.Map(alias, M.Code);
        m.Program(a =>
        {
            var again = a.CreateLabel();
            a.Label(ref again);
            a.inc(rax);
            a.nop();
            a.nop();
            a.lea(rbx, __qword_ptr[again]);
            a.xor(rbx, (int)(alias ^ M.Code));
            a.dec(rcx);
            var end = a.CreateLabel();
            a.jz(end);
            a.jmp(rbx);
            a.Label(ref end);
        });
        m.Rcx = 10;
        var d = new Debugged(m);
        d.Break(alias + 4);
        for (ulong i = 0; i < 5; i++)
        {
            d.GoTo(alias + 4);
            Assert.Equal((2 * i) + 2, m.Rax);
        }

        d.GoToEnd();
    }

    [Fact]
    public void Code_that_changes_keeps_its_breakpoint()
    {
        using var m = new M();
        m.Assemble(0x50000, a =>
        {
            a.nop();
            a.nop();
            a.nop();
            a.ret();
        });
        m.Program(a =>
        {
            a.mov(rbx, 0x50000UL);
            a.call(rbx);
            a.mov(__dword_ptr[rbx], unchecked((int)0xC3C0FF48)); // inc rax; ret: over the breakpoint
            a.call(rbx);
            a.mov(__dword_ptr[rbx], unchecked((int)0xC3909090));
            a.call(rbx);
        });
        var d = new Debugged(m);
        d.Break(0x50001);
        d.GoTo(0x50001); // nop
        d.GoTo(0x50001); // nothing begins there the second time: this is the third
        Assert.Equal(1UL, m.Rax);
        d.GoToEnd();
    }

    [Fact]
    public void Holds_for_a_page_that_is_mapped_later()
    {
        const ulong place = 0x40_0000_0000;
        using var m = new M();
        m.Assemble(0x50000, a =>
        {
            a.inc(rax);
            a.ret();
        });
        var entry = m.Map(place, 0x50000);
        m.WriteEntry(entry, 0);
        var handler = M.Handlers + (Vectors.PF * 16);
        m.Assemble(M.Data, a =>
        {
            a.push(rbx);
            a.mov(rbx, entry);
            a.mov(__qword_ptr[rbx], 0x50003);
            a.pop(rbx);
            a.add(rsp, 8);
            a.iretq();
        });
        m.Assemble(handler, a => a.jmp(M.Data));
        m.Program(a =>
        {
            a.mov(rbx, place);
            a.call(rbx);
            a.call(rbx);
        });
        var d = new Debugged(m);
        d.Break(place);
        d.GoTo(place);
        d.GoTo(place); // the second call: the fault of the first is no second hit
        Assert.Equal(1UL, m.Rax);
        d.GoToEnd();
        Assert.Equal(2UL, m.Rax);
    }

    [Fact]
    public void Is_inserted_before_paging_and_holds_with_it()
    {
        const ulong place = 0x700000;
        using var m = new M(Mode.Paged32);
        m.Map(place, 0x50000);
        m.Assemble(0x50000, a =>
        {
            a.inc(eax);
            a.ret();
        });
        m.Assemble(place, a => a.ret()); // what is there without paging
        m.Program(a =>
        {
            a.mov(ebx, (uint)place);
            a.call(ebx);
            a.mov(ecx, cr0);
            a.or(ecx, unchecked((int)0x80000000));
            a.mov(cr0, ecx);
            a.call(ebx);
        });
        m.State.Cr0 &= ~ControlRegisters.PG;
        var d = new Debugged(m);
        d.Break(place);
        d.GoTo(place);
        Assert.Equal(0UL, m.State.Cr0 & ControlRegisters.PG);
        d.GoTo(place);
        Assert.NotEqual(0UL, m.State.Cr0 & ControlRegisters.PG);
        Assert.Equal(0UL, m.Rax);
        d.GoToEnd();
        Assert.Equal(1UL, m.Rax);
    }

    [Theory]
    [InlineData(Mode.Real)]
    [InlineData(Mode.Protected16)]
    public void Counts_the_base_of_the_code_segment(Mode mode)
    {
        using var m = new M(mode);
        m.Assemble(M.Code, a =>
        {
            var again = a.CreateLabel();
            a.Label(ref again);
            a.inc(ax);
            a.dec(cx);
            a.jnz(again);
            a.hlt();
        });
        m.Rcx = 3;
        var d = new Debugged(m);
        d.Break(1, M.Code + 1);
        for (ulong i = 1; i <= 3; i++)
        {
            d.GoTo(M.Code + 1);
            Assert.Equal(1UL, d.Rip);
            Assert.Equal(i, m.Rax);
        }

        d.GoToEnd();
    }

    [Fact]
    public void An_instruction_that_faults_is_not_hit_twice()
    {
        using var m = new M();
        Debugged.MapUponFault(m);
        m.Program(a =>
        {
            a.nop();
            a.inc(__qword_ptr[0x600000]);
            a.nop();
        });
        var d = new Debugged(m);
        d.Break(M.Code + 1);
        d.GoTo(M.Code + 1);
        d.GoToEnd();
        Assert.Equal(1UL, m.Read64(0x60000));
    }

    [Fact]
    public void A_repeated_instruction_is_hit_once()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.nop();
            a.rep.stosb();
            a.nop();
        });
        m.Rcx = 5000;
        m.Rdi = 0x60000;
        var d = new Debugged(m);
        d.Break(M.Code + 1, M.Code + 3);
        d.GoTo(M.Code + 1);
        d.GoTo(M.Code + 3);
        Assert.Equal(0UL, m.Rcx);
        d.GoToEnd();
    }

    [Fact]
    public void Interrupts_wait_until_the_instruction_of_the_breakpoint_is_done()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.nop();
            a.inc(rax);
            a.nop();
        });
        m.State.Rflags |= Rflags.IF;
        var d = new Debugged(m);
        d.Break(M.Code + 1);
        d.GoTo(M.Code + 1);
        m.Apic.Request(m.Cpu, 0x40);
        d.GoToEnd();
        Assert.Equal(M.Handlers + 0x401, d.Rip);
        Assert.Equal(1UL, m.Rax);
        Assert.Equal(M.Code + 4, m.Read64(m.Rsp));
    }

    [Fact]
    public void The_guest_s_own_breakpoints_and_INT3_are_the_guest_s()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.nop();
            a.int3();
        });
        m.State.Dr[0] = M.Code + 1;
        m.State.Dr[7] = 0x401;
        var d = new Debugged(m);
        d.Break(M.Code + 1);
        d.GoTo(M.Code + 1); // ours first
        d.GoToEnd();
        Assert.Equal(M.Handlers + (Vectors.DB * 16) + 1, d.Rip);
        Assert.Equal(M.Code + 1, m.Read64(m.Rsp));
        m.State.Dr[7] = 0x400;
        m.State.Rip = M.Code + 1;
        m.State.Activity = ActivityState.Active;
        m.Cpu.SetState(m.State);
        d.GoTo(M.Code + 1);
        d.GoToEnd();
        Assert.Equal(M.Handlers + (Vectors.BP * 16) + 1, d.Rip);
    }

    [Fact]
    public void A_reset_keeps_them()
    {
        using var m = new M();
        m.Program(a => a.nop());
        var d = new Debugged(m);
        d.Break(M.Code);
        d.GoTo(M.Code);
        m.Enter(Mode.Long);
        m.Cpu.SetState(m.State);
        m.Cpu.SetStepping(default);
        Assert.Equal(VcpuExit.Debug, m.Cpu.Run(1000));
        Assert.Equal(M.Code, m.Cpu.GetState().Rip);
    }

    [Fact]
    public void A_thousand_in_one_page_and_all_others_work()
    {
        using var m = new M();
        m.Program(a =>
        {
            for (var i = 0; i < 200; i++)
                a.inc(rax);
        });
        var d = new Debugged(m);
        d.Break([.. Enumerable.Range(0, 1000).Select(i => M.Code + (ulong)i)]);
        for (ulong i = 0; i <= 200; i++)
            d.GoTo(M.Code + (3 * i));
        d.GoToEnd();
        Assert.Equal(200UL, m.Rax);
    }

    [Fact]
    public void Lockstep_stops_too()
    {
        using var m = new M(engine: new TranslatorEngine { Threshold = 0, CodeCacheSize = 8 << 20, Lockstep = true });
        m.Program(Loop);
        m.Rcx = 5;
        var d = new Debugged(m);
        d.Break(M.Code + 6);
        for (var i = 0; i < 5; i++)
            d.GoTo(M.Code + 6);
        d.Unbreak(M.Code + 6);
        d.Watch(DataAccess.Write, M.Data);
        d.GoToEnd();
    }
}
