using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>Debug registers, single step: SDM vol. 3, chapter 17.</summary>
public class DebugTests
{
    private const ulong BS = DebugStatus.SingleStep, BD = DebugStatus.DebugRegisterAccess;

    private static ulong Dr7(int index, int kind, int length) => 0x400 | (1UL << (2 * index)) | ((ulong)(kind | (length << 2)) << (16 + (4 * index)));

    private static ulong Cause(M m) => m.State.Dr[6] & 0xE00F;

    /// <summary>The RIPs at which #DB was raised, with DR6, while the program runs to its HLT. RF is set to go on after breakpoints.</summary>
    private static List<(ulong Rip, ulong Cause)> Trace(M m, int limit = 100)
    {
        var events = new List<(ulong, ulong)>();
        var stop = m.Run();
        while (stop.Vector == Vectors.DB && events.Count < limit)
        {
            events.Add((stop.Rip, Cause(m)));
            if (m.Read<byte>(stop.Rip - 1) == 0xF4)
                return events; // the HLT itself was stepped
            m.Write(stop.Frame + 16, stop.Flags | Rflags.RF);
            m.State.Dr[6] = 0xFFFF0FF0;
            m.Write(M.Data + 0xF00, 0xF4CF48UL); // iretq
            m.State.Rip = M.Data + 0xF00;
            m.State.Activity = ActivityState.Active;
            var dr7 = m.State.Dr[7];
            m.State.Dr[7] = dr7;
            stop = m.Run();
        }

        Assert.True(stop.Exit == VcpuExit.Halted && stop.Vector < 0, stop.ToString());
        return events;
    }

    [Fact]
    public void Single_step_traps_after_each_instruction()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.nop();
            a.add(rax, 1);
            a.push(rax);
            a.pop(rcx);
        });
        m.State.Rflags |= Rflags.TF;
        var events = Trace(m);
        Assert.Equal([(M.Code + 1, BS), (M.Code + 7, BS), (M.Code + 8, BS), (M.Code + 9, BS), (M.Code + 10, BS)], events);
    }

    [Fact]
    public void Popf_that_sets_tf_is_not_trapped_itself_and_one_that_clears_it_is()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.popfq();
            a.nop();
            a.popfq();
            a.nop();
        });
        m.Rsp -= 16;
        m.Write(m.Rsp, Rflags.TF);
        m.Write(m.Rsp + 8, 0UL);
        Assert.Equal([(M.Code + 2, BS), (M.Code + 3, BS)], Trace(m));
    }

    [Fact]
    public void The_trap_frame_has_tf_and_the_handler_runs_without()
    {
        using var m = new M();
        m.Program(a => a.nop());
        m.State.Rflags |= Rflags.TF;
        var stop = m.Expect(Vectors.DB, rip: M.Code + 1);
        Assert.Equal(Rflags.TF, stop.Flags & (Rflags.TF | Rflags.RF));
        Assert.Equal(0UL, m.State.Rflags & Rflags.TF);
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
        m.State.Rflags |= Rflags.TF;
        m.Rcx = 3;
        m.Rdi = M.Data;
        var stop = m.Run();
        Assert.Equal(M.Code, stop.Rip);
        Assert.Equal(2UL, m.Rcx);
        Assert.Equal(Rflags.RF, stop.Flags & Rflags.RF); // more iterations follow
        m.Enter(Mode.Long);
        m.State.Rflags |= Rflags.TF;
        m.Rcx = 3;
        m.Rdi = M.Data;
        Assert.Equal([M.Code, M.Code, M.Code + 2, M.Code + 3, M.Code + 4], Trace(m).Select(e => e.Rip));
    }

    [Fact]
    public void A_software_interrupt_is_not_followed_by_a_trap()
    {
        using var m = new M();
        m.Program(a => a.@int(0x60));
        m.State.Rflags |= Rflags.TF;
        var stop = m.Expect(0x60, rip: M.Code + 2);
        Assert.Equal(Rflags.TF, stop.Flags & Rflags.TF);
        Assert.Equal(0UL, Cause(m));
    }

    [Fact]
    public void A_faulting_instruction_is_not_followed_by_a_trap()
    {
        using var m = new M();
        m.Program(a => a.mov(ds, ax));
        m.Rax = 0x2000;
        m.State.Rflags |= Rflags.TF;
        m.Expect(Vectors.GP, 0x2000, M.Code);
        Assert.Equal(0UL, Cause(m));
    }

    [Fact]
    public void Mov_ss_is_not_followed_by_a_trap_but_sti_is()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.mov(ss, eax);
            a.nop();
            a.sti();
            a.nop();
        });
        m.Rax = M.Data32;
        m.State.Rflags |= Rflags.TF;
        Assert.Equal([M.Code + 3, M.Code + 4, M.Code + 5, M.Code + 6], Trace(m).Select(e => e.Rip));
    }

    [Fact]
    public void A_data_breakpoint_at_mov_ss_is_told_after_the_next_instruction()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.mov(ss, __word_ptr[M.Data]);
            a.nop();
            a.nop();
        });
        m.Write(M.Data, M.Data32);
        m.State.Dr[1] = M.Data;
        m.State.Dr[7] = Dr7(1, 3, 1);
        m.Expect(Vectors.DB, rip: M.Code + 8);
        Assert.Equal(2UL, Cause(m));
    }

    [Fact]
    public void A_stepped_halt_wakes_up()
    {
        using var m = new M();
        m.Program(a => a.nop());
        m.State.Rip = M.Code + 1;
        m.State.Rflags |= Rflags.TF;
        m.Expect(Vectors.DB, rip: M.Code + 2);
    }

    [Fact]
    public void Syscall_with_tf_masked_is_told_after_sysret()
    {
        using var m = new M();
        m.State.Star = 0x30UL << 48 | 0x08UL << 32;
        m.State.Lstar = 0x58000;
        m.State.Fmask = Rflags.TF;
        m.SetPrivilege(3);
        m.State.Rflags |= Rflags.TF;
        m.Write(M.Code, 0x0F, 0x05, 0x90);
        m.Assemble(0x58000, a =>
        {
            a.nop();
            a.sysretq();
        });
        var stop = m.Expect(Vectors.DB, rip: M.Code + 2);
        Assert.Equal(M.UserCode64, stop.Cs);
        Assert.Equal(BS, Cause(m));

        // Without FMASK.TF the step is told in the kernel.
        m.Enter(Mode.Long);
        m.State.Star = 0x30UL << 48 | 0x08UL << 32;
        m.State.Lstar = 0x58000;
        m.SetPrivilege(3);
        m.State.Rflags |= Rflags.TF;
        m.Expect(Vectors.DB, rip: 0x58000);
    }

    [Fact]
    public void Instruction_breakpoints_are_faults_and_rf_steps_over_them()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.nop();
            a.inc(rax);
            a.nop();
        });
        m.State.Dr[2] = M.Code + 1;
        m.State.Dr[7] = Dr7(2, 0, 0);
        var stop = m.Expect(Vectors.DB, rip: M.Code + 1);
        Assert.Equal(4UL, Cause(m));
        Assert.Equal(0UL, m.Rax);
        Assert.Equal(0UL, stop.Flags & Rflags.RF);

        m.Enter(Mode.Long);
        m.State.Dr[2] = M.Code + 1;
        m.State.Dr[7] = Dr7(2, 0, 0);
        Assert.Equal([(M.Code + 1, 4UL)], Trace(m));

        m.Enter(Mode.Long);
        m.State.Dr[2] = M.Code; // with RF at the start
        m.State.Dr[7] = Dr7(2, 0, 0);
        m.State.Rflags |= Rflags.RF;
        m.RunToHalt();
    }

    [Fact]
    public void An_instruction_breakpoint_at_a_repeated_instruction_hits_once()
    {
        using var m = new M();
        m.Program(a => a.rep.stosb());
        m.State.Dr[0] = M.Code;
        m.State.Dr[7] = Dr7(0, 0, 0);
        m.Rcx = 5;
        m.Rdi = M.Data;
        Assert.Equal([(M.Code, 1UL)], Trace(m));
        Assert.Equal(0UL, m.Rcx);
    }

    [Fact]
    public void A_fault_sets_rf_so_that_the_breakpoint_does_not_hit_again()
    {
        using var m = new M();
        m.Program(a => a.mov(ds, ax));
        m.Rax = 0x2000;
        m.State.Dr[0] = M.Code;
        m.State.Dr[7] = Dr7(0, 0, 0);
        m.State.Rflags |= Rflags.RF;
        var stop = m.Expect(Vectors.GP, 0x2000, M.Code);
        Assert.Equal(Rflags.RF, stop.Flags & Rflags.RF);
    }

    [Theory]
    [InlineData(1, 0, 0UL, 1, true, true)] // write, one byte
    [InlineData(1, 0, 0UL, 1, false, false)]
    [InlineData(3, 0, 0UL, 1, false, true)] // read or write
    [InlineData(1, 0, 1UL, 1, true, false)]
    [InlineData(1, 3, 3UL, 1, true, true)] // four bytes
    [InlineData(1, 3, 4UL, 1, true, false)]
    [InlineData(1, 1, 1UL, 1, true, true)]
    [InlineData(1, 1, 2UL, 1, true, false)]
    [InlineData(1, 2, 7UL, 1, true, true)] // eight bytes
    [InlineData(1, 2, 8UL, 1, true, false)]
    [InlineData(3, 0, unchecked((ulong)-3), 4, false, true)] // the access reaches the byte
    [InlineData(3, 0, unchecked((ulong)-4), 4, false, false)]
    public void Data_breakpoints(int kind, int length, ulong offset, int size, bool write, bool hits)
    {
        using var m = new M();
        m.Program(a =>
        {
            if (size == 1 && write)
                a.mov(__byte_ptr[rbx], al);
            else if (size == 1)
                a.mov(al, __byte_ptr[rbx]);
            else
                a.mov(eax, __dword_ptr[rbx]);
            a.nop();
        });
        m.Rbx = M.Data + 0x100 + offset;
        m.State.Dr[3] = M.Data + 0x100;
        m.State.Dr[7] = Dr7(3, kind, length);
        if (hits)
        {
            m.Expect(Vectors.DB, rip: M.Code + 2); // a trap: after the instruction
            Assert.Equal(8UL, Cause(m));
        }
        else
        {
            m.RunToHalt();
        }
    }

    [Fact]
    public void Data_breakpoints_of_all_kinds_of_accesses()
    {
        foreach (var code in (Action<Assembler>[])
        [
            a => a.add(__dword_ptr[rbx], 1), a => a.xchg(__dword_ptr[rbx], eax), a => a.@lock.cmpxchg(__dword_ptr[rbx], eax), a => a.push(rax),
            a => a.stosq(), a => a.movups(__xmmword_ptr[rbx], xmm0), a => a.fnstcw(__word_ptr[rbx]), a => a.fxsave(__[rbx]), a => a.mov(__word_ptr[rbx], ds),
            a => a.setz(__byte_ptr[rbx]), a => a.cmpxchg16b(__xmmword_ptr[rbx]), a => a.bts(__dword_ptr[rbx], ecx), a => a.rep.movsb(), a => a.call(a.@F),
        ])
        {
            using var m = new M();
            m.Program(a =>
            {
                code(a);
                a.AnonymousLabel();
                a.nop();
            });
            m.Rbx = m.Rdi = M.Data;
            m.Rsp = M.Data + 8;
            m.Rsi = M.Data + 0x800;
            m.State.Dr[0] = M.Data;
            m.State.Dr[7] = Dr7(0, 1, 0);
            if (m.Rcx == 0)
                m.Rcx = 1;
            m.SetGate(Vectors.DB, M.Handlers + 16, M.Code64, ist: 1);
            m.Expect(Vectors.DB);
            Assert.Equal(1UL, Cause(m));
        }
    }

    [Fact]
    public void A_repeated_store_stops_behind_the_element_that_hits()
    {
        using var m = new M();
        m.Program(a => a.rep.stosb());
        m.Rcx = 10;
        m.Rdi = M.Data;
        m.State.Dr[0] = M.Data + 3;
        m.State.Dr[7] = Dr7(0, 1, 0);
        m.Expect(Vectors.DB, rip: M.Code);
        Assert.Equal(6UL, m.Rcx);
        Assert.Equal(M.Data + 4, m.Rdi);
    }

    [Fact]
    public void Breakpoints_enabled_by_mov_dr7_work_at_once_and_end_with_it()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.mov(__dword_ptr[rbx], eax); // the page is in the TLB
            a.mov(dr0, rbx);
            a.mov(rax, Dr7(0, 1, 3));
            a.mov(dr7, rax);
            a.mov(__dword_ptr[rbx], eax);
            a.xor(eax, eax);
            a.mov(dr7, rax);
            a.mov(__dword_ptr[rbx], eax);
        });
        m.Rbx = M.Data;
        var events = Trace(m);
        Assert.Single(events);
        Assert.Equal(1UL, events[0].Cause);
    }

    [Fact]
    public void General_detect()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.nop();
            a.mov(rax, dr6);
        });
        m.State.Dr[7] = 0x400 | DebugStatus.GeneralDetect;
        m.Expect(Vectors.DB, rip: M.Code + 1);
        Assert.Equal(BD, Cause(m));
        Assert.Equal(0x400UL, m.State.Dr[7]);

        // Any #DB gives the registers free.
        m.Enter(Mode.Long);
        m.Program(a => a.nop());
        m.State.Dr[7] = 0x400 | DebugStatus.GeneralDetect;
        m.State.Rflags |= Rflags.TF;
        m.Expect(Vectors.DB);
        Assert.Equal(0x400UL, m.State.Dr[7]);
    }

    [Fact]
    public void Icebp()
    {
        using var m = new M();
        m.SetPrivilege(3);
        m.Write(M.Code, 0xF1);
        m.Expect(Vectors.DB, rip: M.Code + 1); // whatever the gate's privilege
        Assert.Equal(0UL, Cause(m));
    }

    [Fact]
    public void The_registers_themselves()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.mov(rax, -1L);
            a.mov(dr0, rax);
            a.mov(rax, 0x0000_8000_1234_5678);
            a.mov(dr3, rax); // need not be canonical
            a.xor(eax, eax);
            a.mov(dr6, rax);
            a.mov(rbx, dr6);
            a.mov(dr7, rax);
            a.mov(rcx, dr7);
            a.mov(eax, 0xFFFFFF00);
            a.mov(dr6, rax);
            a.mov(rdx, dr6);
            a.mov(rdi, dr4); // an alias
            a.mov(rsi, dr3);
        });
        m.RunToHalt();
        Assert.Equal(0xFFFF0FF0UL, m.Rbx);
        Assert.Equal(0x400UL, m.Rcx);
        Assert.Equal(0xFFFFEFF0UL, m.Rdx);
        Assert.Equal(m.Rdx, m.Rdi);
        Assert.Equal(0x0000_8000_1234_5678UL, m.Rsi);
        Assert.Equal(ulong.MaxValue, m.State.Dr[0]);

        m.Enter(Mode.Long);
        m.Program(a => a.mov(rax, dr5));
        m.State.Cr4 |= ControlRegisters.DE;
        m.Expect(Vectors.UD, rip: M.Code);
        foreach (var register in (AssemblerRegisterDR[])[dr6, dr7])
        {
            m.Enter(Mode.Long);
            m.Program(a => a.mov(register, rax));
            m.Rax = 1UL << 32;
            m.Expect(Vectors.GP, 0, M.Code);
        }

        m.Enter(Mode.Long);
        m.SetPrivilege(3);
        m.Program(a => a.mov(rax, dr0));
        m.Expect(Vectors.GP, 0, M.Code);
    }

    [Fact]
    public void Io_breakpoints()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.@in(al, 0x60);
            a.@out(0x61, al);
            a.nop();
        });
        m.State.Cr4 |= ControlRegisters.DE;
        m.State.Dr[0] = 0x61;
        m.State.Dr[7] = Dr7(0, 2, 0);
        m.Expect(Vectors.DB, rip: M.Code + 4);
        Assert.Equal(1UL, Cause(m));
    }
}
