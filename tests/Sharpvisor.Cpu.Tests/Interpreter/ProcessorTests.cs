using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>Reset, INIT, budgets, and the odd corners where modes meet.</summary>
public class ProcessorTests
{
    [Fact]
    public void Power_on()
    {
        using var m = new M();
        m.Cpu.Reset();
        var s = m.Cpu.GetState();
        Assert.Equal(0xFFF0UL, s.Rip);
        Assert.Equal(0xFFFF0000UL, s.Segments[1].Base);
        Assert.Equal(0xF000, s.Segments[1].Selector);
        Assert.Equal(0x60000010UL, s.Cr0);
        Assert.Equal(2UL, s.Rflags);
        Assert.Equal(0xFFFF0FF0UL, s.Dr[6]);
        Assert.Equal(0x400UL, s.Dr[7]);
        Assert.Equal(0x1F80u, s.Mxcsr);
        Assert.Equal(0UL, s.Efer);
        Assert.NotEqual(0UL, s.Gpr[2]); // the family and model
    }

    [Fact]
    public void Init_keeps_the_extended_state_and_starts_at_the_reset_vector()
    {
        using var m = new M();
        m.Program(a => a.nop());
        m.State.Ymm[3].Q0 = 77;
        m.State.Mxcsr = 0x1FA0;
        m.State.Cr0 |= ControlRegisters.CD;
        m.Cpu.SetState(m.State);
        m.Cpu.RaiseInit();
        m.Cpu.Kick(); // return before an instruction is executed: at the vector there is nothing
        Assert.Equal(VcpuExit.Kicked, m.Cpu.Run(10));
        var s = m.Cpu.GetState();
        Assert.Equal(0xFFF0UL, s.Rip);
        Assert.Equal(77UL, s.Ymm[3].Q0);
        Assert.Equal(0x1FA0u, s.Mxcsr);
        Assert.Equal(0x40000010UL, s.Cr0 & ~ControlRegisters.NW);
        Assert.Equal(0UL, s.Efer);
    }

    /// <summary>However an exception loops, the guest uses up its budget and the host gets its thread back.</summary>
    [Fact]
    public void Endless_faults_use_up_the_budget()
    {
        using var m = new M();
        m.SetGate(Vectors.PF, 0x900000, M.Code64, ist: 1); // the handler is not mapped
        m.Program(a => a.mov(rax, __qword_ptr[0x900000]));
        Assert.Equal(VcpuExit.Budget, m.Run(1000).Exit);

        m.Enter(Mode.Long);
        m.SetGate(Vectors.UD, M.Code, M.Code64, ist: 1);
        m.Program(a => a.ud2());
        Assert.Equal(VcpuExit.Budget, m.Run(1000).Exit);

        m.Enter(Mode.Real);
        m.Write(6UL * 4, 0x1000_0000u); // #UD to itself, on a stack that wraps round
        m.Write(M.Code, 0x0F, 0x0B);
        m.Rsp = 0x7000;
        m.Run(100_000);
    }

    [Fact]
    public void A_budget_ends_a_loop_and_a_repeated_instruction()
    {
        using var m = new M();
        m.Program(a => a.db(0xEB, 0xFE));
        Assert.Equal(VcpuExit.Budget, m.Run(1000).Exit);
        Assert.Equal(M.Code, m.State.Rip);
    }

    [Fact]
    public void Instructions_are_counted_exactly_up_to_a_fault()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.nop();
            a.nop();
            a.ud2();
        });
        m.Cpu.SetState(m.State);
        var before = m.Cpu.InstructionCount;
        m.Continue().Is(Vectors.UD);
        Assert.Equal(4, m.Cpu.InstructionCount - before); // two, the one that faults, and the handler's HLT
    }

    [Fact]
    public void Pae_paging_refuses_reserved_bits_when_its_four_entries_are_loaded()
    {
        using var m = new M(Mode.Pae);
        m.Write(m.Root + 16, 0x100003UL); // R/W is reserved there
        m.Program(a => a.mov(cr3, eax));
        m.Rax = m.Root;
        m.Expect(Vectors.GP, 0, M.Code);
        m.Enter(Mode.Pae);
        m.Rax = m.Root;
        m.RunToHalt();

        m.Enter(Mode.Pae);
        m.Write(m.Root + 24, 0x20_0000_0000_0001UL);
        m.State.Cr0 &= ~ControlRegisters.PG;
        m.Program(a => a.mov(cr0, eax));
        m.Rax = m.State.Cr0 | ControlRegisters.PG;
        m.Expect(Vectors.GP, 0, M.Code);
    }

    [Fact]
    public void Descriptor_tables_across_pages_above_4_gib_while_32_bit_code_runs()
    {
        using var m = new M(Mode.Compatibility);
        const ulong High = 0xFFFF_8000_0000_0000;
        m.Map(High, 0x600000);
        m.Map(High + 0x1000, 0x601000);
        var at = 0x600FFC - (ulong)(Vectors.UD * 16); // the gate's first half lies in both pages
        m.Write(at + (Vectors.UD * 16), Descriptors.Gate(M.Handlers + (Vectors.UD * 16), M.Code64, 14));
        m.Write(at + (Vectors.UD * 16) + 8, 0UL);
        m.State.Idtr = new TableRegister { Base = High + (at - 0x600000), Limit = 0xFFF };
        m.Program(a => a.ud2());
        m.Expect(Vectors.UD, rip: M.Code);
    }

    [Fact]
    public void A_16_bit_stack_under_32_bit_code()
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Data16, Descriptors.Segment(0x60000, 0xFFFF, 0x0093));
        m.State.Segments[2] = m.Segment(M.Data16);
        m.Rsp = 0xABCD_0002; // wraps within 64 KiB
        m.Program(a =>
        {
            a.push(ax);
            a.push(eax);
            a.pop(ebx);
            a.call(a.F);
            a.AnonymousLabel();
            a.pop(ecx);
            a.pushad();
            a.popad();
            a.enter(8, 1);
            a.leave();
        });
        m.Rax = 0x12345678;
        m.RunToHalt();
        Assert.Equal(0xABCD_0000UL, m.Rsp);
        Assert.Equal(0x5678, m.Read<ushort>(0x60000));
        Assert.Equal(0x12345678UL, m.Rbx);
        Assert.Equal(0x12345678UL, m.Rax);
    }

    [Fact]
    public void An_exception_on_a_16_bit_stack()
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Data16, Descriptors.Segment(0x60000, 0xFFFF, 0x0093));
        m.State.Segments[2] = m.Segment(M.Data16);
        m.Rsp = 0xABCD_0000;
        m.Program(a => a.ud2());
        m.Run();
        Assert.Equal(0xABCD_FFF4UL, m.Rsp);
        Assert.Equal((uint)M.Code, m.Read32(0x6FFF4));
    }

    [Fact]
    public void An_expand_down_stack()
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Segment(0, 0xF, 0xC097)); // from 64 KiB up
        m.State.Segments[2] = m.Segment(M.Free);
        m.Program(a =>
        {
            a.push(eax);
            a.mov(esp, 0x10002);
            a.push(eax);
        });
        m.SetGate(Vectors.SS, 0, M.OtherTssSelector, type: 5); // no frame fits there either
        m.Rsp = M.Stack;
        m.State.Tr = m.Segment(M.TssSelector);
        m.Write(M.OtherTss + 0x20, (uint)M.Handlers + 0xC0);
        m.Write(M.OtherTss + 0x24, 2u);
        m.Write(M.OtherTss + 0x38, (uint)M.Stack0);
        m.Write(M.OtherTss + 0x4C, (uint)M.Code32);
        foreach (var at in (ulong[])[0x48, 0x50, 0x54, 0x58, 0x5C])
            m.Write(M.OtherTss + at, (uint)M.Data32);
        var stop = m.Run();
        Assert.Equal(Vectors.SS, stop.Vector);
        Assert.Equal(0x10002u, m.Read32(M.Tss + 0x38));
    }

    [Fact]
    public void A_far_jump_to_a_64_bit_offset()
    {
        using var m = new M();
        m.Map(0xFFFF_8000_0000_0000, 0x50000);
        m.Write<byte>(0x50000, 0xF4);
        m.Write(M.Data, 0xFFFF_8000_0000_0000);
        m.Write(M.Data + 8, M.Code64);
        m.Write(M.Code, 0x48, 0xFF, 0x2B); // jmp far [rbx]
        m.Rbx = M.Data;
        m.RunToHalt();
        Assert.Equal(0xFFFF_8000_0000_0001, m.State.Rip);

        m.Enter(Mode.Long);
        m.Write(M.Data, 0x0000_8000_0000_0000UL);
        m.Rbx = M.Data;
        m.Expect(Vectors.GP, 0, M.Code);
    }

    [Fact]
    public void Virtual_8086_mode_asks_the_io_map_whatever_iopl()
    {
        foreach (var allowed in (bool[])[false, true])
        {
            using var m = new M(Mode.Protected32);
            m.SetIoMap(0x68);
            m.State.Tr.Limit = 0x200;
            m.Write<byte>(M.Tss + 0x68 + 12, allowed ? (byte)0 : (byte)1);
            m.State.Rflags |= Rflags.VM | Rflags.IOPL;
            for (var i = 0; i < 6; i++)
                m.State.Segments[i] = new SegmentRegister { Selector = 0x5000, Base = 0x50000, Limit = 0xFFFF, Attributes = 0xF3 };
            m.State.Rip = 0;
            m.Rsp = 0x1000;
            m.Write(0x50000, 0xE4, 0x60, 0xCC);
            m.Expect(allowed ? Vectors.BP : Vectors.GP);
        }
    }

    [Fact]
    public void Compatibility_mode_cuts_addresses_to_32_bits()
    {
        using var m = new M(Mode.Compatibility);
        m.Map(0xFFFF_F000, 0x600000);
        m.Map(0, 0x601000);
        m.Map(0x1_0000_0000, 0x602000);
        m.Write(0x600FFC, 0x44332211u);
        m.Write(0x601000, 0x88776655u);
        m.Write(0x602000, 0xFFFFFFFFu);
        m.Program(a => a.mov(eax, __dword_ptr[ebx]));
        m.Rbx = 0xFFFF_FFFE;
        m.RunToHalt();
        Assert.Equal(0x66554433UL, m.Rax); // wraps, and does not reach the page at 4 GiB

        // So does an index.
        m.Enter(Mode.Compatibility);
        m.Map(0x1_0000_0000, 0x602000);
        m.Write(M.Data, 0x1234u);
        m.Program(a => a.mov(eax, __dword_ptr[ebx + esi * 4]));
        m.Rbx = M.Data + 0x100;
        m.Rsi = 0xFFFF_FFC0;
        m.RunToHalt();
        Assert.Equal(0x1234UL, m.Rax);
    }

    [Fact]
    public void Writing_32_bits_in_compatibility_mode_and_upper_halves()
    {
        using var m = new M(Mode.Compatibility);
        m.Rax = 0xFFFF_FFFF_0000_0001;
        m.Program(a => a.add(eax, 1));
        m.RunToHalt();
        Assert.Equal(2UL, m.Rax);
    }

    [Fact]
    public void The_apic_page_is_asked_before_the_bus()
    {
        using var m = new M();
        m.Apic.MmioBase = 0xFEE0_0000;
        m.Map(0x900000, 0xFEE0_0000);
        m.Program(a => a.mov(eax, __dword_ptr[0x900020]));
        m.RunToHalt();
        Assert.Equal(0x12345678UL, m.Rax);
        Assert.Equal(0, m.Mmio.UnassignedAccesses);
    }

    /// <summary>A loop without a jump backwards: over the end of 4 GiB. On the translator it is the only such.</summary>
    [Fact]
    public void A_kick_ends_a_loop_that_only_jumps_forward()
    {
        using var m = new M(Mode.Paged32);
        m.Write(M.Code, 0xE9, 0xFB, 0xFF, 0xFF, 0x3F); // jmp $ + 1 GiB
        for (var linear = 0x4000_0000UL; linear <= 0xC000_0000; linear += 0x4000_0000)
            m.Map(linear + M.Code, M.Code);
        var state = m.Cpu.GetState();
        state.Rip = M.Code;
        m.Cpu.SetState(state);
        VcpuExit? exit = null;
        var thread = new Thread(() => exit = m.Cpu.Run(long.MaxValue)) { IsBackground = true };
        thread.Start();
        Thread.Sleep(50);
        m.Cpu.Kick();
        Assert.True(thread.Join(TimeSpan.FromSeconds(20)), "still running");
        Assert.Equal(VcpuExit.Kicked, exit);
    }
}
