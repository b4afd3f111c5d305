using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>Hardware task switches: SDM vol. 3, chapter 8.</summary>
public class TaskTests
{
    private const ulong NewCode = 0x50000, NewStack = 0x2C000;
    private const ulong Busy = 2UL << 40;

    private static M Machine(Mode mode = Mode.Protected32)
    {
        var m = new M(mode);
        m.State.Tr = m.Segment(M.TssSelector);
        m.SetGdt(M.OtherTssSelector, Descriptors.Segment((uint)M.OtherTss, 0x67, 0x0089), 0);
        WriteTask32(m, M.OtherTss);
        m.Write<byte>(NewCode, 0xF4);
        for (var i = 0; i < 8; i++)
        {
            if (i != 4)
                m.State.Gpr[i] = 0xA0A0_0000 + (ulong)i;
        }

        return m;
    }

    private static void WriteTask32(M m, ulong at)
    {
        m.Write(at + 0x1C, (uint)m.State.Cr3);
        m.Write(at + 0x20, (uint)NewCode);
        m.Write(at + 0x24, (uint)(Rflags.DF | Rflags.CF | 2));
        for (var i = 0; i < 8; i++)
            m.Write(at + 0x28 + (ulong)(4 * i), i == 4 ? (uint)NewStack : 0xB0B0_0000u + (uint)i);
        foreach (var (offset, selector) in ((ulong, ushort)[])[(0x48, M.Data32), (0x4C, M.Code32), (0x50, M.Data32), (0x54, M.Data32), (0x58, 0), (0x5C, M.Data32), (0x60, 0)])
            m.Write(at + offset, (uint)selector);
        m.Write(at + 0x64, 0u);
    }

    private static bool IsBusy(M m, ushort selector) => (m.Read64(M.Gdt + selector) & Busy) != 0;

    private static void Jump(M m, ushort selector, bool call = false) => m.Program(a => a.db((byte)(call ? 0x9A : 0xEA), 0, 0, 0, 0, (byte)selector, (byte)(selector >> 8)));

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    [InlineData(true, true)]
    public void Switch_by_jmp_and_call(bool call, bool gate)
    {
        using var m = Machine();
        m.SetGdt(M.Free, Descriptors.Gate(0, M.OtherTssSelector, 5));
        Jump(m, gate ? M.Free : M.OtherTssSelector, call);
        m.State.Rflags |= Rflags.ZF;
        m.State.Dr[7] = 0x400 | 0x55 | 0x100 | 0x2AA;
        m.State.Dr[0] = m.State.Dr[1] = m.State.Dr[2] = m.State.Dr[3] = 0x7000_0000;
        m.RunToHalt();
        Assert.Equal(NewCode + 1, m.State.Rip);
        for (var i = 0; i < 8; i++)
            Assert.Equal(i == 4 ? NewStack : 0xB0B0_0000u + (uint)i, m.State.Gpr[i]);
        Assert.Equal(Rflags.DF | Rflags.CF | 2 | (call ? Rflags.NT : 0), m.State.Rflags);
        Assert.Equal(M.OtherTssSelector, m.State.Tr.Selector);
        Assert.Equal(11, m.State.Tr.Type);
        Assert.NotEqual(0UL, m.State.Cr0 & ControlRegisters.TS);
        Assert.Equal(0x6AAUL, m.State.Dr[7]); // the local breakpoints are off
        Assert.True(IsBusy(m, M.OtherTssSelector));
        Assert.Equal(call, IsBusy(m, M.TssSelector));
        Assert.Equal(call ? M.TssSelector : 0, m.Read<ushort>(M.OtherTss));

        // The old task as it was left.
        Assert.Equal(M.Code + 7, m.Read32(M.Tss + 0x20));
        Assert.Equal(Rflags.ZF | 2, m.Read32(M.Tss + 0x24));
        for (var i = 0; i < 8; i++)
            Assert.Equal(i == 4 ? M.Stack : 0xA0A0_0000u + (uint)i, m.Read32(M.Tss + 0x28 + (ulong)(4 * i)));
        Assert.Equal(M.Code32, m.Read<ushort>(M.Tss + 0x4C));
    }

    [Fact]
    public void Iret_goes_back_to_the_calling_task()
    {
        using var m = Machine();
        Jump(m, M.OtherTssSelector, call: true);
        m.Assemble(NewCode, a =>
        {
            a.mov(ebx, 77);
            a.iretd();
            a.hlt();
        });
        m.State.Rflags |= Rflags.ZF;
        m.RunToHalt();
        Assert.Equal(M.Code + 8, m.State.Rip);
        Assert.Equal(0xA0A0_0003UL, m.Rbx);
        Assert.Equal(M.TssSelector, m.State.Tr.Selector);
        Assert.True(IsBusy(m, M.TssSelector));
        Assert.False(IsBusy(m, M.OtherTssSelector));
        Assert.Equal(Rflags.ZF | 2, m.State.Rflags);
        Assert.Equal(0u, m.Read32(M.OtherTss + 0x24) & (uint)Rflags.NT); // saved without NT
        Assert.Equal(77u, m.Read32(M.OtherTss + 0x34));
        Assert.Equal(NewCode + 6, m.Read32(M.OtherTss + 0x20));
    }

    [Fact]
    public void Exceptions_through_a_task_gate_push_their_error_code_in_the_new_task()
    {
        using var m = Machine();
        m.SetGate(Vectors.GP, 0, M.OtherTssSelector, type: 5);
        m.Program(a =>
        {
            a.nop();
            a.mov(ds, eax);
        });
        m.Rax = 0x2000;
        m.RunToHalt();
        Assert.Equal(NewStack - 4, m.Rsp);
        Assert.Equal(0x2000u, m.Read32(m.Rsp));
        Assert.Equal(M.Code + 1, m.Read32(M.Tss + 0x20)); // a fault: it can be restarted
        Assert.Equal(M.TssSelector, m.Read<ushort>(M.OtherTss));
        Assert.NotEqual(0UL, m.State.Rflags & Rflags.NT);
        Assert.True(IsBusy(m, M.TssSelector));
    }

    [Fact]
    public void External_and_software_interrupts_through_a_task_gate()
    {
        using var m = Machine();
        m.SetGate(0x50, 0, M.OtherTssSelector, type: 5);
        m.State.Rflags |= Rflags.IF;
        m.Program(a => a.nop());
        m.Apic.Request(m.Cpu, 0x50);
        m.RunToHalt();
        Assert.Equal(M.Code, m.Read32(M.Tss + 0x20));
        Assert.Equal(NewStack, m.Rsp);

        using var n = Machine();
        n.SetGate(0x51, 0, M.OtherTssSelector, type: 5);
        n.Program(a => a.@int(0x51));
        n.RunToHalt();
        Assert.Equal(M.Code + 2, n.Read32(M.Tss + 0x20));
    }

    [Fact]
    public void An_nmi_task_returns_by_iret_and_can_be_entered_again()
    {
        using var m = Machine();
        m.SetGate(Vectors.NMI, 0, M.OtherTssSelector, type: 5);
        m.Assemble(NewCode, a =>
        {
            var start = a.CreateLabel();
            a.Label(ref start);
            a.inc(__dword_ptr[M.Data]);
            a.iretd();
            a.jmp(start);
        });
        m.Program(a => a.nop());
        for (var i = 0; i < 2; i++)
        {
            m.Cpu.RaiseNmi();
            m.State.Rip = M.Code;
            m.State.Activity = ActivityState.Active;
            m.RunToHalt();
            Assert.Equal((uint)i + 1, m.Read32(M.Data));
            Assert.Equal(M.TssSelector, m.State.Tr.Selector);
            Assert.False(m.State.NmiBlocked);
        }
    }

    [Fact]
    public void Sixteen_bit_tasks()
    {
        using var m = Machine();
        m.SetGdt(M.OtherTssSelector, Descriptors.Segment((uint)M.OtherTss, 0x2B, 0x0081), 0);
        m.Memory.TryWrite(M.OtherTss, new byte[0x68]);
        m.Write<ushort>(M.OtherTss + 0x0E, 0x9000);
        m.Write<ushort>(M.OtherTss + 0x10, (ushort)(Rflags.SF | 2));
        for (var i = 0; i < 8; i++)
            m.Write(M.OtherTss + 0x12 + (ulong)(2 * i), (ushort)(0xC000 + i));
        foreach (var (offset, selector) in ((ulong, ushort)[])[(0x22, M.Data32), (0x24, M.Code32), (0x26, M.Data32), (0x28, M.Data32)])
            m.Write(M.OtherTss + offset, selector);
        Jump(m, M.OtherTssSelector, call: true);
        m.Assemble(0x9000, a =>
        {
            a.mov(edx, 0x12345678);
            a.iretd();
            a.hlt();
        });
        m.RunToHalt();
        Assert.Equal(M.Code + 8, m.State.Rip);
        Assert.Equal(0xA0A0_0002UL, m.Rdx);
        Assert.Equal(0x5678, m.Read<ushort>(M.OtherTss + 0x16));
        Assert.Equal(0x9006, m.Read<ushort>(M.OtherTss + 0x0E));
        Assert.Equal(0xC000, m.Read<ushort>(M.OtherTss + 0x12));
        Assert.False(IsBusy(m, M.OtherTssSelector));

        // While it ran, FS and GS were null.
        using var n = Machine();
        n.Memory.TryWrite(M.OtherTss, new byte[0x68]);
        n.SetGdt(M.OtherTssSelector, Descriptors.Segment((uint)M.OtherTss, 0x2B, 0x0081), 0);
        n.Write<ushort>(M.OtherTss + 0x0E, 0x9000);
        foreach (var (offset, selector) in ((ulong, ushort)[])[(0x22, M.Data32), (0x24, M.Code32), (0x26, M.Data32), (0x28, M.Data32)])
            n.Write(M.OtherTss + offset, selector);
        n.Write<byte>(0x9000, 0xF4);
        Jump(n, M.OtherTssSelector);
        n.RunToHalt();
        Assert.Equal(0, n.State.Segments[4].Selector);
        Assert.Equal(0, n.State.Segments[5].Selector);
    }

    [Theory]
    [InlineData(0x0089, 0x66u, 10)] // too short
    [InlineData(0x0081, 0x2Au, 10)]
    [InlineData(0x008B, 0x67u, 13)] // busy
    [InlineData(0x0009, 0x67u, 11)] // not present
    public void Tasks_that_can_not_be_entered(uint attributes, uint limit, int vector)
    {
        using var m = Machine();
        m.SetGdt(M.OtherTssSelector, Descriptors.Segment((uint)M.OtherTss, limit, attributes), 0);
        Jump(m, M.OtherTssSelector);
        m.Expect(vector, M.OtherTssSelector, M.Code);
        Assert.Equal(M.TssSelector, m.State.Tr.Selector);
        Assert.True(IsBusy(m, M.TssSelector));
    }

    [Fact]
    public void Privileges_of_tasks_and_task_gates()
    {
        using var m = Machine();
        m.SetPrivilege(3);
        Jump(m, M.OtherTssSelector);
        m.Expect(Vectors.GP, M.OtherTssSelector, M.Code);

        // A gate of DPL 3 opens it.
        m.Enter(Mode.Protected32);
        WriteTask32(m, M.OtherTss);
        m.SetGdt(M.Free, Descriptors.Gate(0, M.OtherTssSelector, 5, dpl: 3));
        m.SetPrivilege(3);
        Jump(m, M.Free | 3);
        m.RunToHalt();
        Assert.Equal(NewCode + 1, m.State.Rip);

        // In the local table there are no tasks.
        m.Enter(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Gate(0, 0xC, 5));
        Jump(m, M.Free);
        m.Expect(Vectors.GP, 0xC, M.Code);

        // Nor in long mode.
        m.Enter(Mode.Compatibility);
        Jump(m, M.OtherTssSelector);
        m.Expect(Vectors.GP, M.OtherTssSelector, M.Code);
    }

    [Fact]
    public void Iret_needs_a_busy_task_to_return_to()
    {
        using var m = Machine();
        m.State.Rflags |= Rflags.NT;
        m.Write(M.Tss, M.OtherTssSelector);
        m.Program(a => a.iretd());
        m.Expect(Vectors.TS, M.OtherTssSelector, M.Code);
    }

    [Fact]
    public void A_task_may_have_an_address_space_and_a_local_table_of_its_own()
    {
        using var m = Machine(Mode.Paged32);
        const ulong OtherRoot = 0x700000, Private = 0x900000;
        var directory = new byte[0x1000];
        m.Memory.TryRead(m.Root, directory);
        m.Memory.TryWrite(OtherRoot, directory);
        m.Map(Private, 0x600000);
        m.Write(0x600000, 1u);
        m.Write(0x601000, 2u);
        m.Write(OtherRoot + 8, 0x702000u | 7); // linear 8M to 12M
        m.Write(0x702000 + (0x100 * 4), 0x601000u | 7);
        m.Write(M.OtherTss + 0x1C, (uint)OtherRoot);
        m.Write(M.OtherTss + 0x60, (uint)M.LdtSelector);
        m.Write(M.OtherTss + 0x58, 0xCu);
        m.Write(M.Ldt + 8, Descriptors.Segment(0x60000, 0xFFF, 0x4093));
        m.Write(0x60000, 99u);
        m.Assemble(NewCode, a =>
        {
            a.mov(eax, __dword_ptr[Private]);
            a.mov(ebx, __dword_ptr.fs[0]);
            a.hlt();
        });
        m.Program(a =>
        {
            a.mov(eax, __dword_ptr[Private]);
            a.db(0xEA, 0, 0, 0, 0, (byte)M.OtherTssSelector, 0);
        });
        m.RunToHalt();
        Assert.Equal(1u, m.Read32(M.Tss + 0x28));
        Assert.Equal(2UL, m.Rax);
        Assert.Equal(99UL, m.Rbx);
        Assert.Equal(OtherRoot, m.State.Cr3);
        Assert.Equal(M.LdtSelector, m.State.Ldtr.Selector);
    }

    [Theory]
    [InlineData(0x60, 0x2000, 10, 0x2000)] // LDT
    [InlineData(0x60, 0x10, 10, 0x10)]
    [InlineData(0x4C, 0, 10, 0)] // CS
    [InlineData(0x4C, 0x10, 10, 0x10)]
    [InlineData(0x54, 0x2000, 10, 0x2000)] // DS
    [InlineData(0x54, 0x48, 10, 0x48)]
    public void Faults_of_the_new_task_are_its_own(int offset, int selector, int vector, uint error)
    {
        using var m = Machine();
        m.Write(M.OtherTss + (ulong)offset, (uint)selector);

        // The handler needs a task as well: the one that faults may have no stack.
        const ulong Third = 0x6000;
        m.SetGdt(M.Free, Descriptors.Segment((uint)Third, 0x67, 0x0089));
        WriteTask32(m, Third);
        m.Write(Third + 0x20, (uint)M.Handlers + ((uint)vector * 16));
        m.SetGate(vector, 0, M.Free, type: 5);
        Jump(m, M.OtherTssSelector);
        var stop = m.Run();
        Assert.Equal(vector, stop.Vector);
        Assert.Equal(error, m.Read32(m.Rsp));
        Assert.Equal(M.OtherTssSelector, m.Read<ushort>(Third));
        Assert.Equal((uint)NewCode, m.Read32(M.OtherTss + 0x20)); // before its first instruction
        Assert.False(IsBusy(m, M.TssSelector));
    }

    [Fact]
    public void The_debug_trap_of_a_task()
    {
        using var m = Machine();
        m.Write<ushort>(M.OtherTss + 0x64, 1);
        Jump(m, M.OtherTssSelector);
        m.Expect(Vectors.DB, rip: NewCode);
        Assert.Equal(DebugStatus.TaskSwitch, m.State.Dr[6] & 0xE00F);
    }

    [Fact]
    public void A_page_fault_on_the_new_task_state_is_the_old_tasks()
    {
        using var m = Machine(Mode.Paged32);
        m.Map(M.OtherTss, 0, 0);
        Jump(m, M.OtherTssSelector);
        m.Expect(Vectors.PF, 0, M.Code);
        Assert.Equal(M.OtherTss, m.State.Cr2 & ~0xFFFUL);
        Assert.Equal(M.TssSelector, m.State.Tr.Selector);
        Assert.True(IsBusy(m, M.TssSelector));
        Assert.False(IsBusy(m, M.OtherTssSelector));
    }

    [Fact]
    public void A_task_in_virtual_8086_mode()
    {
        using var m = Machine();
        m.Write(M.OtherTss + 0x20, 0u);
        m.Write(M.OtherTss + 0x24, (uint)(Rflags.VM | 2));
        m.Write(M.OtherTss + 0x4C, 0x5000u);
        m.Write(M.OtherTss + 0x50, 0x2000u);
        m.Write(M.OtherTss + 0x54, 0x4100u);
        m.Write(M.OtherTss + 0x38, 0x8000u);
        m.Assemble(NewCode, a =>
        {
            a.mov(bx, ds);
            a.ud2();
        }, 16);
        m.Write(M.OtherTss + 4, (uint)M.Stack0);
        m.Write(M.OtherTss + 8, (uint)M.Data32);
        Jump(m, M.OtherTssSelector);
        var stop = m.Expect(Vectors.UD, rip: 2);
        Assert.Equal(0x4100UL, m.Rbx & 0xFFFF);
        Assert.Equal(0x5000, stop.Cs);
        Assert.Equal(0x2000, stop.Ss);
    }
}
