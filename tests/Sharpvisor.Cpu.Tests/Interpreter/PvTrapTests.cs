using Iced.Intel;
using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using static Sharpvisor.Cpu.Tests.Interpreter.PvMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>The ways into a paravirtual kernel and out of it, frame by frame.</summary>
public sealed class PvTrapTests : IDisposable
{
    private const int UD = 6, NM = 7, GP = 13, PF = 14;
    private const ulong Entry = Handlers + (200 * 16), Arithmetic = 0x8D5;

    /// <summary>RFLAGS in the frame of a fault: RF is set.</summary>
    private const ulong Faulted = 0x1_0202;

    private readonly PvMachine _machine = new();

    private ref CpuState State => ref _machine.State;

    public void Dispose() => _machine.Dispose();

    [Theory]
    [InlineData(0, false)]
    [InlineData(0, true)]
    [InlineData(1, false)]
    public void A_fault_of_the_kernel(byte mask, bool gateMasks)
    {
        _machine.Mask = mask;
        _machine.Processor.SetTrap(UD, new TrapGate(Handlers + (UD * 16), 0, gateMasks));
        _machine.Program(a =>
        {
            a.mov(ecx, 0x11);
            a.mov(r11d, 0x22);
            a.sub(rsp, 8);
            a.std();
            a.ud2();
        });
        var frame = _machine.Expect(UD).Frame();
        Assert.Equal([0x11, 0x22], frame[..2]);
        Assert.Equal(0xE030UL | (ulong)mask << 32, frame[3]);
        Assert.Equal(mask == 0 ? 0x1_0602UL : 0x1_0402, frame[4] & ~Arithmetic); // DF, and IF as the mask says
        Assert.Equal([Stack - 8, (ulong)FlatData], frame[5..]);
        Assert.Equal((FlatCode, FlatData), (State.Segments[1].Selector, State.Segments[2].Selector));
        Assert.Equal(((Stack - 8) & ~15UL) - (7 * 8) - 8, State.Gpr[4]);
        Assert.Equal(gateMasks || mask == 1 ? 1 : 0, _machine.Mask);
        Assert.NotEqual(0UL, State.Rflags & 0x400); // a trap leaves DF as it was
    }

    [Fact]
    public void A_fault_of_a_program_swaps_stack_tables_and_gs()
    {
        State.Segments[5].Base = 0x1111;
        State.KernelGsBase = 0x2222;
        _machine.UserProgram(a => a.ud2());
        var frame = _machine.Expect(UD).Frame();
        Assert.Equal([0x1C1C, 0x1B1B, UserCode, Code64, Faulted, UserStack, Data32], frame);
        Assert.Equal(KernelStack - (7 * 8) - 8, State.Gpr[4]);
        Assert.Equal((0x1111UL, 0x2222UL), (State.Segments[5].Base, State.KernelGsBase));
        Assert.Equal((FlatCode, FlatData), (State.Segments[1].Selector, State.Segments[2].Selector));
    }

    [Fact]
    public void Flags_that_a_handler_must_not_have_are_in_the_frame_only()
    {
        const ulong ac = 1 << 18, nt = 1 << 14, id = 1 << 21;
        _machine.UserProgram(a => a.ud2(), flags: 0x202 | ac | nt | id);
        Assert.Equal(Faulted | ac | nt | id, _machine.Expect(UD).Frame()[4]);
        Assert.Equal(id, State.Rflags & (ac | nt | id));
    }

    [Theory]
    [InlineData(false, false, 0u)]
    [InlineData(false, true, 2u)]
    [InlineData(true, false, 4u)]
    [InlineData(true, true, 6u)]
    public void A_page_fault_tells_who_and_where(bool user, bool write, uint error)
    {
        const ulong nowhere = 0x4000_1230;
        void Touch(Assembler a)
        {
            a.mov(ebx, (uint)nowhere);
            if (write)
                a.mov(__dword_ptr[rbx], eax);
            else
                a.mov(eax, __dword_ptr[rbx]);
        }

        if (user)
            _machine.UserProgram(Touch);
        else
            _machine.Program(Touch);
        var frame = _machine.Expect(PF).Frame(hasError: true);
        Assert.Equal(error, frame[2]);
        Assert.Equal(nowhere, _machine.Read<ulong>(Info + 16));
    }

    [Fact]
    public void A_program_sees_its_own_tables_only_and_the_users_bit_counts_for_nobody()
    {
        _machine.UserProgram(a => a.mov(rax, __[Data]));
        Assert.Equal(4UL, _machine.Expect(PF).Frame(hasError: true)[2]);
        Assert.Equal(Data, _machine.Read<ulong>(Info + 16));

        _machine.Map(UserRoot, UserData, UserData, Pte.Present);
        _machine.Reset();
        _machine.UserProgram(a =>
        {
            a.mov(rbx, __[UserData]);
            a.mov(__[UserData], rax);
        });
        Assert.Equal(7UL, _machine.Expect(PF).Frame(hasError: true)[2]);
    }

    [Theory]
    [InlineData(false, 0, false)]
    [InlineData(false, 1, true)]
    [InlineData(true, 1, false)]
    [InlineData(true, 3, true)]
    public void INT_needs_the_privilege_of_its_gate(bool user, int privilege, bool allowed)
    {
        _machine.Processor.SetTrap(0x77, new TrapGate(Handlers + (0x77 * 16), privilege, false));
        if (user)
            _machine.UserProgram(a => a.@int(0x77));
        else
            _machine.Program(a => a.@int(0x77));
        if (allowed)
        {
            Assert.Equal((user ? UserCode : Text) + 2, _machine.Expect(0x77).Frame()[2]);
            return;
        }

        var frame = _machine.Expect(GP).Frame(hasError: true);
        Assert.Equal([(0x77 * 8) | 2, user ? UserCode : Text], frame[2..4]);
    }

    [Theory]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(0x80)]
    public void The_gates_of_three_vectors_are_open_to_all(int vector)
    {
        _machine.UserProgram(a => a.@int((byte)vector));
        Assert.Equal(UserCode + 2, _machine.Expect(vector).Frame()[2]);
    }

    [Fact]
    public void INT_80_without_a_handler_is_a_GP()
    {
        _machine.Processor.SetTrap(0x80, default);
        _machine.UserProgram(a => a.@int(0x80));
        Assert.Equal([(0x80 * 8) | 2, UserCode], _machine.Expect(GP).Frame(hasError: true)[2..4]);
    }

    [Fact]
    public void A_trap_without_a_handler_or_a_stack_is_the_end()
    {
        _machine.Program(a => a.ud2());
        _machine.Processor.SetTrap(UD, default);
        _machine.RunToCrash("exception 6");
        Assert.Equal(ActivityState.WaitForSipi, State.Activity);

        foreach (var stack in (ulong[])[0x4000_0000, IParavirtualDomain.HoleStart + 0x100, 0x8000_0000_0000_0000, 8])
        {
            _machine.Reset();
            State.Gpr[4] = stack;
            _machine.RunToCrash("does not fit on the kernel's stack");
        }

        _machine.Reset();
        _machine.Processor.SetKernelStack(FlatData, 0x4000_0000);
        _machine.UserProgram(a => a.ud2());
        _machine.RunToCrash("does not fit on the kernel's stack");
    }

    [Fact]
    public void A_program_calls_the_kernel()
    {
        _machine.Processor.SetEntry(ParavirtualEntry.SystemCall, Entry, masksEvents: true);
        _machine.UserProgram(a =>
        {
            a.std();
            a.syscall();
        });
        var frame = _machine.Expect(200).Frame();
        Assert.Equal([UserCode + 3, 0x602, UserCode + 3, FlatCode, 0x602, UserStack, FlatData], frame);
        Assert.Equal(0UL, State.Rflags & 0x400); // as IA32_FMASK would
        Assert.Equal(1, _machine.Mask);
    }

    [Fact]
    public void SYSCALL_without_an_entry_is_undefined()
    {
        _machine.UserProgram(a => a.syscall());
        Assert.Equal(UserCode, _machine.Expect(UD).Frame()[2]);
    }

    [Fact]
    public void Programs_of_32_bits_come_by_INT_and_SYSENTER()
    {
        _machine.UserProgram(a =>
        {
            a.mov(eax, 0x12345678);
            a.@int(0x80);
        }, bitness: 32);
        Assert.Equal([UserCode + 7, Code32, 0x202, UserStack, Data32], _machine.Expect(0x80).Frame()[2..]);

        _machine.Reset();
        _machine.Processor.SetEntry(ParavirtualEntry.SystemEnter, Entry, masksEvents: true);
        _machine.UserProgram(a => a.sysenter(), bitness: 32);
        Assert.Equal([0, 3, 0x202, 0, FlatData], _machine.Expect(200).Frame()[2..]);

        _machine.Reset();
        _machine.UserProgram(a => a.sysenter(), bitness: 32);
        Assert.Equal([0, UserCode], _machine.Expect(GP).Frame(hasError: true)[2..4]);

        _machine.Reset();
        _machine.UserProgram(a => a.syscall(), bitness: 32); // Intel's
        Assert.Equal(UserCode, _machine.Expect(UD).Frame()[2]);
    }

    [Fact]
    public void Events_come_when_they_are_not_masked()
    {
        _machine.Processor.SetEntry(ParavirtualEntry.Event, Entry, masksEvents: true);
        _machine.Pending = 1;
        _machine.Mask = 1;
        _machine.Cpus[0].SetInterruptRequest(true);
        _machine.Program(a => a.nop());
        _machine.RunToEnd();

        // The kernel unmasks by its return.
        _machine.Reset();
        _machine.Processor.SetEntry(ParavirtualEntry.Event, Entry, masksEvents: true);
        _machine.UserProgram(a => a.ud2());
        var frame = _machine.Expect(200).Frame();
        Assert.Equal([UserCode, Code64, 0x202], frame[2..5]);
        Assert.Equal(1, _machine.Mask);

        // And it comes by the pin.
        _machine.Reset();
        _machine.Processor.SetEntry(ParavirtualEntry.Event, Entry, masksEvents: true);
        _machine.Mask = 0;
        var here = _machine.Assemble(Text, a => a.nop());
        _machine.Assemble(here, a => a.jmp(here));
        _machine.Cpus[0].SetInterruptRequest(true);
        Assert.Equal(0xE030UL, _machine.Expect(200).Frame()[3]);
    }

    [Fact]
    public void An_event_before_there_is_an_entry_is_the_end()
    {
        _machine.Pending = 1;
        _machine.Cpus[0].SetInterruptRequest(true);
        _machine.RunToCrash("an event came before");
    }

    [Fact]
    public void An_NMI_comes_again_after_the_return_only()
    {
        _machine.Processor.SetEntry(ParavirtualEntry.Nmi, Entry, masksEvents: true);
        _machine.Cpus[0].RaiseNmi();
        _machine.Program(a => a.nop());
        Assert.Equal(Text, _machine.Expect(200).Frame()[2]);
        Assert.Equal(1, _machine.Mask);

        State.Rip = Text;
        State.Activity = ActivityState.Active;
        _machine.Cpus[0].RaiseNmi();
        _machine.RunToEnd();
        State.Activity = ActivityState.Active;
        _machine.Assemble(Text, a => Return(a, UserCode));
        _machine.Assemble(UserCode, a => a.ud2());
        State.Rip = Text;
        Assert.Equal(UserCode, _machine.Expect(200).Frame()[2]);
    }

    [Fact]
    public void An_NMI_for_nobody_is_lost()
    {
        _machine.Processor.SetTrap(2, default);
        _machine.Cpus[0].RaiseNmi();
        _machine.Program(a => a.nop());
        _machine.RunToEnd();
        Assert.False(State.NmiBlocked);
    }

    [Fact]
    public void Return_to_the_kernel_and_its_mask()
    {
        _machine.Program(a => Return(a, Handlers, KernelCode, 0x202 & ~0x200UL, Stack - 0x100, 0x18));
        _machine.Write(Gdt + 0x18, 0x00CF_9300_0000_FFFFUL);
        _machine.Expect(0);
        Assert.Equal(1, _machine.Mask);
        Assert.Equal(Stack - 0x108, State.Gpr[4]);
        Assert.Equal(0x1A1AUL, _machine.ReadLinear(State.Gpr[4]));
    }

    [Theory]
    [InlineData(0x3000)] // IOPL is not the kernel's
    [InlineData(0x10)]
    public void Return_from_a_system_call_goes_by_SYSRET(ulong flags)
    {
        _machine.Program(a => Return(a, UserCode, 0x33, 0x202 | flags, how: 0x100));
        _machine.Assemble(UserCode, a => a.ud2());
        var frame = _machine.Expect(UD).Frame();
        Assert.Equal([UserCode, 0x202 | (flags & 0xFF), UserCode, FlatCode, Faulted | (flags & 0xFF), UserStack, FlatData], frame);
    }

    [Theory]
    [InlineData(0x8B, UserCode, Data32)] // beyond what is there
    [InlineData(0x2B, UserCode, Data32)] // data
    [InlineData(Code64, 0x8000_0000_0000UL, Data32)]
    [InlineData(Code64, UserCode, 0)]
    [InlineData(Code64, UserCode, Code64)]
    [InlineData(Code32, 0x1_0000_0000UL, Data32)]
    public void Return_to_nowhere_is_told_to_the_failsafe_callback(ulong cs, ulong rip, ulong ss)
    {
        _machine.Program(a => Return(a, rip, cs, ss: ss));
        _machine.RunToCrash("no failsafe callback");
        _machine.Reset();
        _machine.Processor.SetEntry(ParavirtualEntry.Failsafe, Entry, masksEvents: true);
        _machine.Expect(200);
        var frame = Enumerable.Range(0, 11).Select(i => _machine.ReadLinear(State.Gpr[4] + 8 + ((ulong)i * 8))).ToArray();
        Assert.Equal([0x1C1C, 0x1B1B, 0, 0, 0, 0, rip, cs, 0x202, UserStack, ss | 3], frame);
    }

    [Fact]
    public void Return_without_a_stack_or_tables_is_the_end()
    {
        _machine.Program(a =>
        {
            a.mov(rsp, 0x40000000);
            a.mov(eax, Iret);
            a.syscall();
        });
        _machine.RunToCrash("a stack that can't be read");
        _machine.Reset();
        _machine.Processor.UserRoot = 0;
        _machine.UserProgram(a => a.ud2());
        _machine.RunToCrash("no page tables for any");
    }

    [Fact]
    public void The_user_s_gs_by_selector_is_never_refused()
    {
        _machine.OnCall = (call, p) => p.SetSegmentBase(ParavirtualSegmentBase.UserGsSelector, call.Arg1) ? 0UL : 1;
        State.Segments[5].Base = 0x1111;
        foreach (var (selector, userBase) in (ReadOnlySpan<(uint, ulong)>)[(0x60, 0x12345), (0x68, 0), (0xFF8, 0)])
        {
            _machine.Write(Gdt + 0x60, 0x00C0_F301_2345_FFFFUL); // ring 3, from 12345h on
            State.KernelGsBase = 0x2222;
            State.Rip = Text;
            State.Activity = ActivityState.Active;
            _machine.Program(a =>
            {
                a.mov(edi, selector);
                a.mov(eax, 25);
                a.syscall();
                a.mov(rbx, rax);
            });
            _machine.RunToEnd();
            Assert.Equal((0UL, 0x1111UL, userBase), (State.Gpr[3], State.Segments[5].Base, State.KernelGsBase));
            Assert.Equal(userBase == 0 ? 0 : selector | 3, State.Segments[5].Selector);
        }
    }

    [Fact]
    public void Descriptors_are_of_ring_3_and_never_gates()
    {
        _machine.Processor.SetLdt(Ldt, 8);
        State.Ldtr = _machine.Cpus[0].GetState().Ldtr;
        _machine.Map(KernelRoot, Ldt, Ldt, Pte.Present);
        _machine.Write(Ldt, 0x00CF_9200_0000_FFFFUL); // data of ring 0, not accessed, in a page for reading
        _machine.Write(Ldt + 8, 0x0000_EC00_0010_0000UL | (ulong)(Handlers & 0xFFFF)); // a call gate to ring 0
        _machine.Write(Ldt + 16, 0UL);
        _machine.Program(a =>
        {
            a.mov(eax, 4);
            a.mov(ds, eax);
            a.mov(__dword_ptr[Data], 0);
            a.mov(__dword_ptr[Data + 4], 12);
            a.call(__fword_ptr[Data]);
        });
        var frame = _machine.Expect(GP).Frame(hasError: true);
        Assert.Equal(12UL, frame[2]);
        Assert.Equal(7 & ~3, State.Segments[3].Selector);
        Assert.Equal(3, State.Segments[3].Dpl);
    }

    [Fact]
    public void The_use_of_the_FPU_is_told_once()
    {
        _machine.Processor.SetTaskSwitched(true);
        State = _machine.Cpus[0].GetState();
        (State.Rip, State.Gpr[4], State.Cr3) = (Text, Stack, KernelRoot);
        _machine.UserProgram(a =>
        {
            a.fnop();
            a.fnop();
            a.ud2();
        });
        Assert.Equal(UserCode, _machine.Expect(NM).Frame()[2]);
        State.Activity = ActivityState.Active;
        State.Rip = Text;
        Assert.Equal(UserCode + 4, _machine.Expect(UD).Frame()[2]);
    }

    [Fact]
    public void A_step_ends_behind_what_was_done_for_the_kernel_too()
    {
        const ulong tf = 0x100;
        _machine.UserProgram(a => a.nop(), flags: 0x202 | tf);
        var frame = _machine.Expect(1).Frame();
        Assert.Equal([UserCode + 1, Code64, 0x202 | tf], frame[2..5]);
        Assert.Equal(0UL, State.Rflags & tf);
        Assert.NotEqual(0UL, State.Dr[6] & 0x4000);

        _machine.Reset();
        _machine.Program(a => Return(a, Text + 0x800, FlatCode & ~3UL, 0x202 | tf, Stack, FlatData));
        _machine.Assemble(Text + 0x800, a => a.mov(rbx, cr0));
        Assert.Equal(Text + 0x803, _machine.Expect(1).Frame()[2]);
        Assert.Equal(0x8005_003BUL & ~8UL, State.Gpr[3]);
    }
}
