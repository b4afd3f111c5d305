using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>How interrupts and exceptions reach their handlers: SDM vol. 3, 6.8 to 6.15.</summary>
public class DeliveryTests
{
    private static ulong Handler(int vector) => M.Handlers + (ulong)(vector * 16);

    [Theory]
    [InlineData(Mode.Protected32)]
    [InlineData(Mode.Long)]
    public void A_trap_gate_leaves_if_an_interrupt_gate_clears_it(Mode mode)
    {
        using var m = new M(mode);
        var code = mode == Mode.Long ? M.Code64 : M.Code32;
        foreach (var (type, left) in ((int, ulong)[])[(14, 0), (15, Rflags.IF)])
        {
            m.Enter(mode);
            m.SetGate(0x40, Handler(0x40), code, type);
            m.Program(a => a.@int(0x40));
            m.State.Rflags |= Rflags.IF | Rflags.NT | Rflags.AC;
            var stop = m.Expect(0x40, rip: M.Code + 2);
            Assert.Equal(left, m.State.Rflags & Rflags.IF);
            Assert.Equal(0UL, m.State.Rflags & (Rflags.NT | Rflags.TF | Rflags.RF));
            Assert.Equal(Rflags.AC, m.State.Rflags & Rflags.AC);
            Assert.Equal(Rflags.IF | Rflags.NT | Rflags.AC, stop.Flags & ~2UL);
        }
    }

    [Fact]
    public void Sixteen_bit_gates_push_words()
    {
        using var m = new M(Mode.Protected32);
        m.SetGate(0x40, 0x8400, M.Code32, type: 6);
        m.Program(a => a.@int(0x40));
        m.Run();
        Assert.Equal(M.Stack - 6, m.Rsp);
        Assert.Equal((M.Code + 2) & 0xFFFF, m.Read<ushort>(m.Rsp));
        Assert.Equal(M.Code32, m.Read<ushort>(m.Rsp + 2));
        Assert.Equal(0UL, m.State.Rflags & Rflags.IF);
    }

    [Fact]
    public void From_user_mode_the_stack_comes_from_the_tss()
    {
        using var m = new M(Mode.Protected32);
        m.SetPrivilege(3);
        m.Program(a => a.ud2());
        var stop = m.Expect(Vectors.UD, rip: M.Code);
        Assert.Equal(M.Stack0 - 20, m.Rsp);
        Assert.Equal(M.Data32, m.State.Segments[2].Selector);
        Assert.Equal(M.UserStack, stop.Rsp);
        Assert.Equal(M.UserData, stop.Ss);
        Assert.Equal(M.UserCode32, stop.Cs);
        Assert.Equal(M.Code32, m.State.Segments[1].Selector);
    }

    [Fact]
    public void Long_mode_aligns_the_stack_and_uses_rsp0_or_ist()
    {
        using var m = new M();
        m.Program(a => a.ud2());
        m.Rsp = M.Stack + 13;
        var stop = m.Expect(Vectors.UD);
        Assert.Equal(M.Stack - 40, m.Rsp);
        Assert.Equal(M.Stack + 13, stop.Rsp);
        Assert.Equal(M.Data32, m.State.Segments[2].Selector); // no change of privilege: SS stays

        m.Enter(Mode.Long);
        m.SetPrivilege(3);
        stop = m.Expect(Vectors.UD);
        Assert.Equal(M.Stack0 - 40, m.Rsp);
        Assert.Equal(0, m.State.Segments[2].Selector); // a null selector
        Assert.Equal(M.UserData, stop.Ss);
        Assert.Equal(M.UserCode64, stop.Cs);

        m.Enter(Mode.Long);
        m.SetGate(Vectors.UD, Handler(Vectors.UD), M.Code64, ist: 1);
        stop = m.Expect(Vectors.UD);
        Assert.Equal(M.IstStack - 40, m.Rsp);
        Assert.Equal(M.Stack, stop.Rsp);
    }

    [Fact]
    public void Interrupts_in_compatibility_mode_reach_a_64_bit_handler()
    {
        using var m = new M(Mode.Compatibility);
        m.SetPrivilege(3);
        m.Program(a => a.ud2());
        var stop = m.Expect(Vectors.UD, rip: M.Code);
        Assert.Equal(M.UserCode32, stop.Cs);
        Assert.Equal(M.Code64, m.State.Segments[1].Selector);
        Assert.Equal(M.Stack0 - 40, m.Rsp);
    }

    [Theory]
    [InlineData(Mode.Protected32)]
    [InlineData(Mode.Long)]
    public void Software_interrupts_check_the_gates_privilege(Mode mode)
    {
        using var m = new M(mode);
        m.SetPrivilege(3);
        m.Program(a => a.@int(0x41));
        var stop = m.Expect(Vectors.GP, (0x41 * 8) + 2, M.Code); // EXT is clear: the program asked for it
        Assert.Equal(M.UserStack, stop.Rsp);

        m.Enter(mode);
        m.SetGate(0x41, Handler(0x41), mode == Mode.Long ? M.Code64 : M.Code32, dpl: 3);
        m.SetPrivilege(3);
        m.Expect(0x41, rip: M.Code + 2);

        // Exceptions of the processor do not.
        m.Enter(mode);
        m.SetPrivilege(3);
        m.Program(a => a.ud2());
        m.Expect(Vectors.UD);
    }

    [Theory]
    [InlineData(Mode.Protected32)]
    [InlineData(Mode.Long)]
    public void Bad_gates(Mode mode)
    {
        var code = mode == Mode.Long ? M.Code64 : M.Code32;
        foreach (var (setUp, vector, error) in ((Action<M>, int, uint)[])
        [
            (m => m.SetGate(0x42, 0x9000, code, present: false), Vectors.NP, (0x42 * 8) + 2),
            (m => m.SetGate(0x42, 0x9000, code, type: 12), Vectors.GP, (0x42 * 8) + 2),
            (m => m.SetGate(0x42, 0x9000, code, type: 0), Vectors.GP, (0x42 * 8) + 2),
            (m => m.SetGate(0x42, 0x9000, 0), Vectors.GP, 0),
            (m => m.SetGate(0x42, 0x9000, M.Data32), Vectors.GP, M.Data32),
            (m => m.SetGate(0x42, 0x9000, M.UserCode64), Vectors.GP, M.UserCode64 & ~3u),
            (m => m.SetGate(0x42, 0x9000, 0x2000), Vectors.GP, 0x2000),
            (m => m.SetGate(0x42, 0x9000, 0x84), Vectors.GP, 0x84),
            (m => m.State.Idtr.Limit = (0x42 * (mode == Mode.Long ? 16u : 8u)) + 6, Vectors.GP, (0x42 * 8) + 2),
        ])
        {
            using var m = new M(mode);
            setUp(m);
            m.Program(a => a.@int(0x42));
            m.Expect(vector, error, M.Code);
        }
    }

    [Fact]
    public void In_long_mode_a_gate_needs_a_64_bit_handler_at_a_canonical_address()
    {
        using var m = new M();
        m.SetGate(0x42, 0x9000, M.Code32);
        m.Program(a => a.@int(0x42));
        m.Expect(Vectors.GP, M.Code32);

        m.Enter(Mode.Long);
        m.SetGate(0x42, 0x0000_8000_0000_0000, M.Code64);
        m.Expect(Vectors.GP, 0);

        m.Enter(Mode.Long);
        m.SetGate(0x42, 0x9000, M.Code64);
        m.Write(M.Idt + (0x42 * 16) + 12, 0x0F00u); // a type in the upper half
        m.Expect(Vectors.GP, (0x42 * 8) + 2);
    }

    [Fact]
    public void A_handler_beyond_its_segments_limit()
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Segment(0, 0xFFF, 0x409B));
        m.SetGate(0x42, 0x1000, M.Free);
        m.Program(a => a.@int(0x42));
        m.Expect(Vectors.GP, 0, M.Code);
    }

    [Theory]
    [InlineData(Mode.Protected32)]
    [InlineData(Mode.Long)]
    public void A_second_contributory_exception_is_a_double_fault(Mode mode)
    {
        using var m = new M(mode);
        var code = mode == Mode.Long ? M.Code64 : M.Code32;
        m.SetGate(Vectors.GP, 0x9000, code, present: false);
        m.Program(a => a.mov(ds, ax));
        m.Rax = 0x2000;
        var stop = m.Expect(Vectors.DF, 0, M.Code);
        Assert.Equal(code, stop.Cs);
    }

    [Fact]
    public void A_fault_while_a_benign_exception_is_delivered_is_delivered_itself_with_ext()
    {
        using var m = new M();
        m.SetGate(Vectors.UD, 0x9000, M.Code64, present: false);
        m.Program(a => a.ud2());
        m.Expect(Vectors.NP, (Vectors.UD * 8) + 2 + 1, M.Code);
    }

    [Fact]
    public void A_page_fault_then_a_page_fault_is_a_double_fault_but_not_a_general_protection_fault_then_a_page_fault()
    {
        using var m = new M();
        m.SetPrivilege(3);
        m.Map(M.Stack0 - 0x1000, 0, 0);
        m.SetGate(Vectors.DF, Handler(Vectors.DF), M.Code64, ist: 1);
        m.Program(a => a.mov(rax, __qword_ptr[rbx]));
        m.Rbx = 0x900000;
        m.Expect(Vectors.DF, 0, M.Code);
        Assert.Equal(M.Stack0 - 8, m.State.Cr2);

        m.Enter(Mode.Long);
        m.SetPrivilege(3);
        m.Map(M.Stack0 - 0x1000, 0, 0);
        m.SetGate(Vectors.PF, Handler(Vectors.PF), M.Code64, ist: 1);
        m.Rbx = 0x0000_8000_0000_0000;
        m.Expect(Vectors.PF, 2, M.Code);
    }

    [Fact]
    public void A_fault_while_a_double_fault_is_delivered_shuts_the_processor_down()
    {
        using var m = new M();
        m.SetGate(Vectors.GP, 0x9000, M.Code64, present: false);
        m.SetGate(Vectors.DF, 0x9000, M.Code64, present: false);
        m.Program(a => a.mov(ds, ax));
        m.Rax = 0x2000;
        var stop = m.Run();
        Assert.Equal(VcpuExit.Shutdown, stop.Exit);
        Assert.Equal(ActivityState.Shutdown, m.State.Activity);
        Assert.Equal(M.Code, m.State.Rip);
        var text = m.Cpu.DescribeFault();
        Assert.Contains("#GP(0x2000)", text, StringComparison.Ordinal);
        Assert.Contains("#NP(0x6a)", text, StringComparison.Ordinal);
        Assert.Contains("=> 0000000000010000  mov ", text, StringComparison.Ordinal);
        Assert.Equal(VcpuExit.Shutdown, m.Cpu.Run(1000));

        m.Cpu.RaiseNmi();
        Assert.Equal(VcpuExit.Shutdown, m.Cpu.Run(1000));
        m.Cpu.Reset();
        Assert.Equal(ActivityState.Active, m.Cpu.GetState().Activity);
    }

    [Fact]
    public void Real_mode_double_faults_and_shutdown()
    {
        using var m = new M(Mode.Real);
        m.State.Idtr.Limit = (13 * 4) - 1 + 4 - 1; // vector 13 is cut off
        m.Program(a => a.mov(ax, __word_ptr[0xFFFF]));
        Assert.Equal(8, m.Run().Vector);

        m.Enter(Mode.Real);
        m.State.Idtr.Limit = 0;
        Assert.Equal(VcpuExit.Shutdown, m.Run().Exit);
    }

    [Fact]
    public void Stack_faults_of_the_new_stack_name_its_selector()
    {
        using var m = new M(Mode.Protected32);
        m.SetPrivilege(3);
        m.SetGdt(M.Free, Descriptors.Segment(0, 0x10, 0x4093)); // 17 bytes
        m.Write(M.Tss + 4, 0x10u);
        m.Write(M.Tss + 8, (uint)M.Free);
        m.Program(a => a.ud2());
        m.SetGate(Vectors.SS, 0, M.OtherTssSelector, type: 5);
        BuildTask(m);
        m.Expect(Vectors.SS, M.Free + 1u);

        foreach (var (selector, vector, error) in ((uint, int, uint)[])
            [(0, Vectors.TS, 1), (M.UserData, Vectors.TS, M.UserData - 3u + 1), (M.Code32, Vectors.TS, M.Code32 + 1u), (0x2000, Vectors.TS, 0x2001)])
        {
            m.Enter(Mode.Protected32);
            m.SetPrivilege(3);
            m.Write(M.Tss + 8, selector);
            m.SetGate(vector, 0, M.OtherTssSelector, type: 5);
            BuildTask(m);
            m.Expect(vector, error);
        }

        m.Enter(Mode.Protected32);
        m.SetPrivilege(3);
        m.State.Tr.Limit = 8;
        m.SetGate(Vectors.TS, 0, M.OtherTssSelector, type: 5);
        BuildTask(m);
        m.Expect(Vectors.TS, M.TssSelector + 1u);

        // A handler in a task of its own, which ends at the handler of the vector.
        static void BuildTask(M m)
        {
            m.SetGdt(M.OtherTssSelector, Descriptors.Segment((uint)M.OtherTss, 0x67, 0x0089), 0);
            var vector = Enumerable.Range(0, 32).First(v => (m.Read64(M.Idt + (ulong)(v * 8)) >> 40 & 15) == 5);
            m.Write(M.OtherTss + 0x20, (uint)Handler(vector));
            m.Write(M.OtherTss + 0x24, 2u);
            m.Write(M.OtherTss + 0x38, (uint)M.Stack);
            m.Write(M.OtherTss + 0x4C, (uint)M.Code32);
            foreach (var at in (ulong[])[0x48, 0x50, 0x54, 0x58, 0x5C])
                m.Write(M.OtherTss + at, (uint)M.Data32);
        }
    }

    // --- interrupts ---

    [Fact]
    public void External_interrupts_wait_for_if()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.nop();
            a.nop();
            a.sti();
            a.nop();
            a.nop();
        });
        m.Apic.Request(m.Cpu, 0x50);
        var stop = m.Expect(0x50, rip: M.Code + 4); // one instruction after STI
        Assert.Equal(Rflags.IF, stop.Flags & Rflags.IF);
    }

    [Fact]
    public void Sti_without_effect_has_no_shadow()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.sti();
            a.nop();
        });
        m.State.Rflags |= Rflags.IF;
        m.Apic.Request(m.Cpu, 0x50);
        m.Expect(0x50, rip: M.Code);
    }

    [Fact]
    public void Sti_then_cli_takes_no_interrupt()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.sti();
            a.cli();
            a.nop();
        });
        m.Apic.Request(m.Cpu, 0x50);
        m.RunToHalt();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Mov_ss_and_pop_ss_hold_interrupts_for_one_instruction(bool pop)
    {
        using var m = new M(Mode.Protected32);
        m.Program(a =>
        {
            a.mov(eax, M.Data32);
            a.push(eax);
            a.popfd(); // sets IF, among others
            if (pop)
                a.pop(ss);
            else
                a.mov(ss, eax);
            a.nop();
            a.nop();
        });
        m.Assemble(M.Code, a =>
        {
            a.popfd();
            if (pop)
                a.pop(ss);
            else
                a.mov(ss, eax);
            a.nop();
            a.nop();
            a.hlt();
        });
        m.Rsp = M.Stack - 8;
        m.Rax = M.Data32;
        m.Write(M.Stack - 8, (uint)Rflags.IF);
        m.Write(M.Stack - 4, (uint)M.Data32);
        m.State.InterruptShadow = true; // for POPF
        m.State.Rflags |= Rflags.IF;
        m.Apic.Request(m.Cpu, 0x50);

        // POPF runs in a shadow; it ends one, so the interrupt comes before MOV SS.
        m.Expect(0x50, rip: M.Code + 1);

        m.Enter(Mode.Protected32);
        m.Rsp = M.Stack - 4;
        m.Rax = M.Data32;
        m.State.Rip = M.Code + 1;
        m.State.InterruptShadow = true;
        m.State.Rflags |= Rflags.IF;
        m.Apic.Request(m.Cpu, 0x50);
        m.Expect(0x50, rip: M.Code + (pop ? 3u : 4u));
    }

    [Fact]
    public void Hlt_wakes_up_behind_itself()
    {
        using var m = new M();
        m.Assemble(M.Code, a =>
        {
            a.sti();
            a.hlt();
            a.nop();
        });
        Assert.Equal(VcpuExit.Halted, m.Run().Exit);
        Assert.Equal(ActivityState.Halted, m.State.Activity);
        Assert.Equal(M.Code + 2, m.State.Rip);
        Assert.Equal(VcpuExit.Halted, m.Cpu.Run(10));
        m.Apic.Request(m.Cpu, 0x50);
        m.Continue().Is(0x50, rip: M.Code + 2);

        m.Enter(Mode.Long);
        m.Assemble(M.Code, a => a.hlt());
        m.Run();
        m.Apic.Request(m.Cpu, 0x50); // IF is clear
        Assert.Equal(-1, m.Continue().Vector);
        m.Cpu.RaiseNmi();
        m.Continue().Is(Vectors.NMI, rip: M.Code + 1);
    }

    [Fact]
    public void Nmis_are_blocked_until_iret()
    {
        using var m = new M();
        m.Assemble(Handler(2), a =>
        {
            a.inc(rcx);
            a.cmp(rcx, 2);
            a.jne(a.F);
            a.hlt();
            a.AnonymousLabel();
            a.iretq();
        });
        m.Program(a =>
        {
            a.nop();
            a.nop();
        });
        m.Cpu.RaiseNmi();
        m.Cpu.SetState(m.State);
        m.Cpu.Run(1);
        Assert.True(m.Cpu.GetState().NmiBlocked);
        m.Cpu.RaiseNmi();
        m.Cpu.RaiseNmi(); // one more is remembered, not two
        m.Continue();
        Assert.Equal(2UL, m.Rcx);
        Assert.InRange(m.State.Rip, Handler(2), Handler(3));
        Assert.True(m.State.NmiBlocked);
    }

    [Fact]
    public void The_task_priority_is_cr8()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.mov(rax, 9);
            a.mov(cr8, rax);
            a.mov(rcx, cr8);
            a.mov(rax, 0x10);
            a.mov(cr8, rax);
        });
        m.Expect(Vectors.GP, 0);
        Assert.Equal(9, m.Apic.TaskPriority);
        Assert.Equal(9UL, m.Rcx);
    }

    [Fact]
    public void A_fault_while_an_interrupt_is_delivered_has_ext_set()
    {
        using var m = new M();
        m.SetGate(0x50, 0x9000, M.Code64, present: false);
        m.Program(a => a.nop());
        m.State.Rflags |= Rflags.IF;
        m.Apic.Request(m.Cpu, 0x50);
        m.Expect(Vectors.NP, (0x50 * 8) + 2 + 1, M.Code);
    }

    // --- alignment ---

    [Theory]
    [InlineData(Mode.Protected32)]
    [InlineData(Mode.Long)]
    public void Alignment_checks(Mode mode)
    {
        using var m = new M(mode);
        foreach (var (code, offset, fails) in ((Action<Assembler>, ulong, bool)[])
        [
            (a => a.mov(eax, __dword_ptr[ebx]), 2, true),
            (a => a.mov(eax, __dword_ptr[ebx]), 4, false),
            (a => a.mov(__word_ptr[ebx], ax), 1, true),
            (a => a.mov(__word_ptr[ebx], ax), 2, false),
            (a => a.mov(al, __byte_ptr[ebx]), 1, false),
            (a => a.add(__dword_ptr[ebx], eax), 3, true),
            (a => a.xchg(__dword_ptr[ebx], eax), 1, true),
            (a => a.fld(__qword_ptr[ebx]), 4, true),
            (a => a.movsd(xmm0, __qword_ptr[ebx]), 4, true),
            (a => a.movups(xmm0, __xmmword_ptr[ebx]), 4, false),
            (a => a.rep.movsd(), 0, true),
            (a => a.rep.movsb(), 0, false),
        ])
        {
            foreach (var (am, ac, cpl) in ((bool, bool, int)[])[(true, true, 3), (false, true, 3), (true, false, 3), (true, true, 0)])
            {
                m.Enter(mode);
                m.Program(code);
                m.SetPrivilege(cpl);
                m.State.Cr0 |= am ? ControlRegisters.AM : 0;
                m.State.Rflags |= ac ? Rflags.AC : 0;
                m.Rbx = M.Data + offset;
                m.Rcx = 4;
                m.Rsi = M.Data + 0x101;
                m.Rdi = M.Data + 0x200;
                if (fails && am && ac && cpl == 3)
                    m.Expect(Vectors.AC, 0, M.Code);
                else if (cpl == 3)
                    m.Expect(Vectors.GP, 0); // the HLT
                else
                    m.RunToHalt();
            }
        }
    }

    [Fact]
    public void Popf_turns_alignment_checks_on_for_the_next_instruction()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.mov(eax, __dword_ptr[rbx]);
            a.popfq();
            a.mov(eax, __dword_ptr[rbx]);
        });
        m.SetPrivilege(3);
        m.State.Cr0 |= ControlRegisters.AM;
        m.Rbx = M.Data + 1;
        m.Rsp -= 8;
        m.Write(m.Rsp, Rflags.AC);
        m.Expect(Vectors.AC, 0, M.Code + 3);
    }
}
