using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>Far transfers, gates, returns and system calls between privileges and modes.</summary>
public class TransferTests
{
    private static void FarPointer(M m, ulong at, uint offset, ushort selector)
    {
        m.Write(at, offset);
        m.Write(at + 4, selector);
    }

    private static void Target(M m, ulong at = 0x50000) => m.Write<byte>(at, 0xF4);

    [Theory]
    [InlineData(0, 0x409B, 13, 0)]
    [InlineData(0x2000, 0x409B, 13, 0x2000)]
    [InlineData(0x80, 0x409B, -1, 0)]
    [InlineData(0x80, 0x401B, 11, 0x80)]
    [InlineData(0x80, 0x4093, 13, 0x80)] // data
    [InlineData(0x83, 0x409B, 13, 0x80)] // RPL above CPL
    [InlineData(0x80, 0x40FB, 13, 0x80)] // DPL 3, not conforming
    [InlineData(0x80, 0x40FF, 13, 0x80)] // conforming, but less privileged
    [InlineData(0x83, 0x409F, -1, 0)] // conforming: RPL does not matter
    [InlineData(0x80, 0x0082, 13, 0x80)]
    public void Far_jumps(int selector, uint attributes, int vector, uint error)
    {
        foreach (var call in (bool[])[false, true])
        {
            using var m = new M(Mode.Protected32);
            m.SetGdt(M.Free, Descriptors.Segment(0, 0xFFFFF, attributes | 0x8000));
            FarPointer(m, M.Data, 0x50000, (ushort)selector);
            Target(m);
            m.Program(a =>
            {
                if (call)
                    a.call(__fword_ptr[M.Data]);
                else
                    a.jmp(__fword_ptr[M.Data]);
            });
            if (vector >= 0)
            {
                m.Expect(vector, error, M.Code);
                continue;
            }

            m.RunToHalt();
            Assert.Equal(0x50001UL, m.State.Rip);
            Assert.Equal(0x80, m.State.Segments[1].Selector); // RPL is CPL
            if (call)
            {
                Assert.Equal(M.Stack - 8, m.Rsp);
                Assert.Equal(M.Code + 6, m.Read32(m.Rsp));
                Assert.Equal(M.Code32, m.Read32(m.Rsp + 4));
            }
        }
    }

    [Fact]
    public void A_far_jump_beyond_the_limit()
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Segment(0, 0x4FFFF, 0x409B));
        FarPointer(m, M.Data, 0x50000, M.Free);
        m.Program(a => a.jmp(__fword_ptr[M.Data]));
        m.Expect(Vectors.GP, 0, M.Code);
    }

    /// <summary>Near branches out of the code segment fault where they are, with all registers as they were.</summary>
    [Fact]
    public void Near_branches_beyond_the_limit()
    {
        const uint Beyond = 0x12000;
        foreach (var code in (Action<Assembler>[])
        [
            a => a.jmp(Beyond), a => a.call(Beyond), a => a.jz(Beyond), a => a.jmp(eax), a => a.call(eax), a => a.jmp(__dword_ptr[M.Data]),
            a => a.call(__dword_ptr[M.Data]), a => a.ret(), a => a.ret(4), a => a.loop(M.Code + 0x70), a => a.jecxz(M.Code + 0x70),
        ])
        {
            using var m = new M(Mode.Protected32);
            m.SetGdt(M.Free, Descriptors.Segment(0, (uint)M.Code + 0x60, 0x409B));
            m.State.Segments[1] = m.Segment(M.Free);
            m.State.Rflags |= Rflags.ZF;
            m.Rax = Beyond;
            m.Write(M.Data, Beyond);
            m.Rsp -= 4;
            m.Write(m.Rsp, Beyond);
            m.Program(code);
            m.Rcx = m.Read<byte>(M.Code) == 0xE2 ? 2UL : 0;
            var rcx = m.Rcx;
            m.Expect(Vectors.GP, 0, M.Code);
            Assert.Equal(rcx, m.Rcx);
            Assert.Equal(M.Stack - 4 - 16, m.Rsp);
        }
    }

    [Fact]
    public void Conforming_code_keeps_the_privilege()
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Segment(0, 0xFFFFF, 0xC09F));
        m.SetPrivilege(3);
        m.Program(a => a.db(0xEA, 0, 0, 5, 0, (byte)M.Free, 0));
        m.Assemble(0x50000, a =>
        {
            a.mov(eax, cs);
            a.cli();
        });
        var stop = m.Expect(Vectors.GP, 0, 0x50002);
        Assert.Equal(M.Free + 3u, m.Rax);
        Assert.Equal(M.Free + 3, stop.Cs);
    }

    // --- call gates ---

    [Theory]
    [InlineData(0)]
    [InlineData(3)]
    [InlineData(31)]
    public void A_call_gate_to_more_privilege_copies_parameters(int count)
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Gate(0x50000, M.Code32, 12, 3, count));
        Target(m);
        m.SetPrivilege(3);
        m.Rsp -= 4UL * 40;
        for (ulong i = 0; i < 40; i++)
            m.Write(m.Rsp + (4 * i), (uint)(0x1000 + i));
        var rsp = m.Rsp;
        m.Program(a => a.db(0x9A, 0, 0, 0, 0, (byte)(M.Free | 3), 0));
        m.RunToHalt();
        Assert.Equal(M.Stack0 - 16 - (4UL * (ulong)count), m.Rsp);
        Assert.Equal(M.Code + 7, m.Read32(m.Rsp));
        Assert.Equal(M.UserCode32, m.Read32(m.Rsp + 4));
        for (ulong i = 0; i < (ulong)count; i++)
            Assert.Equal(0x1000 + i, m.Read32(m.Rsp + 8 + (4 * i)));
        Assert.Equal(rsp, m.Read32(m.Rsp + 8 + (4 * (ulong)count)));
        Assert.Equal(M.UserData, m.Read32(m.Rsp + 12 + (4 * (ulong)count)));
        Assert.Equal(M.Code32, m.State.Segments[1].Selector);
        Assert.Equal(M.Data32, m.State.Segments[2].Selector);

        // And back, dropping them from both stacks.
        m.Write(0x50000, 0xCA, (byte)(4 * count), 0); // retf n
        m.State.Activity = ActivityState.Active;
        m.State.Rip = 0x50000;
        var before = m.Rsp;
        m.State.Segments[3] = m.Segment(M.Data32);
        m.Write(M.Code + 7, 0xCD, 3); // int 3: DPL 3
        var stop = m.Expect(Vectors.BP, rip: M.Code + 9);
        Assert.Equal(rsp + (4 * (ulong)count), stop.Rsp);
        Assert.Equal(M.UserCode32, stop.Cs);
        Assert.Equal(M.UserData, stop.Ss);
        Assert.Equal(0, m.State.Segments[3].Selector); // a segment of DPL 0 is gone
        Assert.Equal(M.UserData, m.State.Segments[0].Selector);
        Assert.NotEqual(before, m.Rsp);
    }

    [Fact]
    public void A_16_bit_call_gate_pushes_words()
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Gate(0x4321_9000, M.Code32, 4, 3, 2)); // the upper half of the offset is ignored
        Target(m, 0x9000);
        m.SetPrivilege(3);
        m.Write(M.UserStack, 0xBBBBAAAAu);
        m.Program(a => a.db(0x9A, 0, 0, 0, 0, (byte)(M.Free | 3), 0));
        m.RunToHalt();
        Assert.Equal(0x9001UL, m.State.Rip);
        Assert.Equal(M.Stack0 - 12, m.Rsp);
        Assert.Equal(M.UserCode32, m.Read<ushort>(m.Rsp + 2));
        Assert.Equal(0xBBBBAAAAu, m.Read32(m.Rsp + 4));
        Assert.Equal(M.UserStack & 0xFFFF, m.Read<ushort>(m.Rsp + 8));
    }

    [Theory]
    [InlineData(0, 3, true, 0x08, 13, 0x80)] // DPL of the gate
    [InlineData(3, 3, false, 0x08, 11, 0x80)]
    [InlineData(3, 3, true, 0, 13, 0)]
    [InlineData(3, 3, true, 0x10, 13, 0x10)] // to data
    [InlineData(3, 3, true, 0x2000, 13, 0x2000)]
    [InlineData(3, 0, true, 0x33, 13, 0x30)] // to less privilege
    public void Bad_call_gates(int dpl, int cpl, bool present, int target, int vector, uint error)
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Gate(0x50000, (ushort)target, 12, dpl, 0, present));
        m.SetPrivilege(cpl);
        m.Program(a => a.db(0x9A, 0, 0, 0, 0, (byte)((int)M.Free | cpl), 0));
        m.Expect(vector, error, M.Code);
    }

    [Fact]
    public void A_jump_through_a_gate_does_not_change_privilege()
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Gate(0x50000, M.Code32, 12, 3));
        m.SetPrivilege(3);
        m.Program(a => a.db(0xEA, 0, 0, 0, 0, (byte)(M.Free | 3), 0));
        m.Expect(Vectors.GP, M.Code32, M.Code);
        m.Enter(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Gate(0x50000, M.Code32, 12, 3));
        Target(m);
        m.RunToHalt();
        Assert.Equal(0x50001UL, m.State.Rip);
    }

    [Theory]
    [InlineData(Mode.Long)]
    [InlineData(Mode.Compatibility)]
    public void A_64_bit_call_gate(Mode mode)
    {
        using var m = new M(mode);
        m.Map(0xFFFF_8000_0000_0000, 0x50000);
        m.SetGdt(M.Free, Descriptors.Gate(0, M.Code64, 12, 3), 0xFFFF_8000);
        Target(m);
        FarPointer(m, M.Data, 0, M.Free | 3);
        m.SetPrivilege(3);
        m.Program(a => a.call(__fword_ptr[M.Data]));
        m.RunToHalt();
        Assert.Equal(0xFFFF_8000_0000_0001UL, m.State.Rip);
        Assert.Equal(M.Stack0 - 32, m.Rsp);
        Assert.Equal(M.Code + (mode == Mode.Long ? 7UL : 6), m.Read64(m.Rsp));
        Assert.Equal(mode == Mode.Long ? M.UserCode64 : M.UserCode32, m.Read64(m.Rsp + 8));
        Assert.Equal(M.UserStack, m.Read64(m.Rsp + 16));
        Assert.Equal(M.UserData, m.Read64(m.Rsp + 24));
        Assert.Equal(0, m.State.Segments[2].Selector);

        // Not to 32-bit code, and not with a type in the upper half.
        foreach (var (low, high, error) in ((ulong, ulong, uint)[])
            [(Descriptors.Gate(0, M.Code32, 12, 3), 0, M.Code32), (Descriptors.Gate(0, M.Code64, 12, 3), 0x0100_0000_0000, M.Free), (Descriptors.Gate(0, M.Code64, 4, 3), 0, M.Free)])
        {
            m.Enter(mode);
            m.SetGdt(M.Free, low, high);
            m.SetPrivilege(3);
            m.Expect(Vectors.GP, error, M.Code);
        }
    }

    // --- returns ---

    [Theory]
    [InlineData(0x08, -1, 0)]
    [InlineData(0x33, -1, 0)]
    [InlineData(0, 13, 0)]
    [InlineData(0x0B, 13, 0x08)] // RPL 3 to DPL 0
    [InlineData(0x30, 13, 0x30)]
    [InlineData(0x10, 13, 0x10)]
    [InlineData(0x2000, 13, 0x2000)]
    public void Far_returns(int selector, int vector, uint error)
    {
        using var m = new M(Mode.Protected32);
        m.Write(M.Stack - 16, 0x50000u);
        m.Write(M.Stack - 12, (uint)selector);
        m.Write(M.Stack - 8, (uint)M.UserStack);
        m.Write(M.Stack - 4, (uint)M.UserData);
        m.Rsp = M.Stack - 16;
        m.Write(0x50000, 0xCC);
        m.Program(a => a.retf());
        if (vector >= 0)
        {
            m.Expect(vector, error, M.Code);
            return;
        }

        var stop = m.Expect(Vectors.BP, rip: 0x50001);
        Assert.Equal(selector, stop.Cs);
        if (selector == 0x33)
        {
            Assert.Equal(M.UserStack, stop.Rsp);
            Assert.Equal(0, m.State.Segments[3].Selector);
        }
        else
        {
            Assert.Equal(M.Stack - 8 - 12, m.Rsp);
        }
    }

    [Theory]
    [InlineData(0, 13, 0)]
    [InlineData(0x10, 13, 0x10)]
    [InlineData(0x38, 13, 0x38)]
    [InlineData(0x33, 13, 0x30)]
    public void Returns_to_user_mode_check_the_stack_segment(int ss, int vector, uint error)
    {
        using var m = new M(Mode.Protected32);
        m.Program(a => a.iretd());
        m.Rsp = M.Stack - 20;
        foreach (var (value, i) in ((uint, ulong)[])[(0x50000, 0), (M.UserCode32, 1), (2, 2), ((uint)M.UserStack, 3), ((uint)ss, 4)])
            m.Write(m.Rsp + (4 * i), value);
        m.Expect(vector, error, M.Code);
    }

    [Fact]
    public void Iret_restores_flags_by_privilege()
    {
        const ulong All = Rflags.CF | Rflags.IF | Rflags.IOPL | Rflags.DF | Rflags.NT | Rflags.AC | Rflags.ID | Rflags.OF;
        foreach (var (cpl, iopl, expected) in ((int, ulong, ulong)[])
        [
            (0, 0, All),
            (3, 0, All & ~(Rflags.IOPL | Rflags.IF)),
            (3, 0x3000, All),
        ])
        {
            using var m = new M();
            m.SetPrivilege(cpl);
            m.State.Rflags |= iopl;
            m.Program(a => a.iretq());
            m.Rsp -= 40;
            var values = new ulong[] { 0x50000UL, m.State.Segments[1].Selector, All | 0x8028, M.UserStack - 0x100, m.State.Segments[2].Selector };
            for (var i = 0; i < 5; i++)
                m.Write(m.Rsp + (ulong)(8 * i), values[i]);
            m.Write(0x50000, 0xCC);
            var stop = m.Expect(Vectors.BP, rip: 0x50001);
            Assert.Equal(expected | 2, stop.Flags);
            Assert.Equal(M.UserStack - 0x100, stop.Rsp);
        }
    }

    [Fact]
    public void Iret_from_64_bits_to_compatibility_mode()
    {
        using var m = new M();
        m.Program(a => a.iretq());
        m.Rsp -= 40;
        var values = new ulong[] { 0x50000UL, M.UserCode32, 2, M.UserStack, M.UserData };
        for (var i = 0; i < 5; i++)
            m.Write(m.Rsp + (ulong)(8 * i), values[i]);
        m.Assemble(0x50000, a =>
        {
            a.mov(eax, 0xFFFFFFFF);
            a.inc(eax); // 48 as REX would do something else
            a.push(eax);
            a.int3();
        }, 32);
        var stop = m.Expect(Vectors.BP);
        Assert.Equal(M.UserStack - 4, stop.Rsp);
        Assert.Equal(M.UserCode32, stop.Cs);
        Assert.Equal(0UL, m.Rax);
    }

    [Fact]
    public void Iret_with_nt_in_long_mode_and_to_a_bad_address()
    {
        using var m = new M();
        m.Program(a => a.iretq());
        m.State.Rflags |= Rflags.NT;
        m.Expect(Vectors.GP, 0, M.Code);

        m.Enter(Mode.Long);
        m.Rsp -= 40;
        var values = new ulong[] { 0x0000_8000_0000_0000UL, M.Code64, 2, M.Stack, M.Data32 };
        for (var i = 0; i < 5; i++)
            m.Write(m.Rsp + (ulong)(8 * i), values[i]);
        m.Expect(Vectors.GP, 0, M.Code);
    }

    // --- virtual-8086 mode ---

    private static void EnterVm86(M m, ulong flags = 0)
    {
        m.Program(a => a.iretd());
        m.Rsp = M.Stack - 36;
        foreach (var (value, i) in ((uint, ulong)[])[(0, 0), (0x5000, 1), ((uint)(Rflags.VM | flags | 2), 2), (0x8000, 3), (0x2000, 4), (0x4000, 5), (0x4100, 6), (0x4200, 7), (0x4300, 8)])
            m.Write(m.Rsp + (4 * i), value);
    }

    [Fact]
    public void Virtual_8086_mode_and_back()
    {
        using var m = new M(Mode.Protected32);
        EnterVm86(m, Rflags.IF);
        m.Assemble(0x50000, a =>
        {
            a.mov(ax, ds);
            a.push(ax);
            a.mov(bx, 0x1234);
            a.mov(es, bx);
            a.mov(__dword_ptr[0x10], ebx);
            a.ud2();
        }, 16);
        var stop = m.Expect(Vectors.UD);
        Assert.Equal(0x4100UL, m.Rax);
        Assert.Equal(0x4100, m.Read<ushort>(0x27FFE));
        Assert.Equal(0x1234u, m.Read32(0x41010));
        Assert.Equal(M.Stack0 - 36, m.Rsp);
        Assert.Equal(0x5000, stop.Cs);
        Assert.Equal(Rflags.VM | Rflags.IF, stop.Flags & (Rflags.VM | Rflags.IF));
        Assert.Equal(0x7FFEUL, stop.Rsp);
        Assert.Equal(new ulong[] { 0x2000, 0x1234, 0x4100, 0x4200, 0x4300 }, Enumerable.Range(4, 5).Select(stop.Slot));
        Assert.Equal(0UL, m.State.Rflags & Rflags.VM);
        foreach (var i in (int[])[0, 3, 4, 5])
            Assert.Equal(0, m.State.Segments[i].Selector);
    }

    [Theory]
    [InlineData("FA", false)] // cli
    [InlineData("FB", false)] // sti
    [InlineData("9C", false)] // pushf
    [InlineData("9D", false)] // popf
    [InlineData("CD21", false)] // int
    [InlineData("CD03", false)]
    [InlineData("CF", false)] // iret
    [InlineData("F4", true)] // hlt: with any IOPL
    [InlineData("0F06", true)] // clts
    [InlineData("0F20C0", true)] // mov eax, cr0
    public void Sensitive_instructions_of_virtual_8086_mode(string code, bool always)
    {
        using var m = new M(Mode.Protected32);
        EnterVm86(m);
        m.Write(0x50000, Convert.FromHexString(code));
        m.Expect(Vectors.GP, 0, 0);
        m.Enter(Mode.Protected32);
        EnterVm86(m, Rflags.IOPL);
        m.Write(0x50000 + ((ulong)code.Length / 2), 0x0F, 0x0B);
        var stop = m.Run();
        Assert.Equal(always, stop.Vector == Vectors.GP && stop.Error == 0 && stop.Rip == 0);
    }

    [Fact]
    public void Int3_of_virtual_8086_mode_is_not_sensitive()
    {
        using var m = new M(Mode.Protected32);
        EnterVm86(m);
        m.Write(0x50000, 0xCC);
        m.Expect(Vectors.BP, rip: 1);
    }

    [Fact]
    public void Virtual_8086_interrupts_need_a_handler_of_privilege_0()
    {
        using var m = new M(Mode.Protected32);
        EnterVm86(m, Rflags.IOPL);
        m.SetGate(0x21, 0x9000, M.UserCode32, dpl: 3);
        m.Write(0x50000, 0xCD, 0x21);
        m.Expect(Vectors.GP, M.UserCode32 & ~3u, 0);
    }

    // --- system calls ---

    [Fact]
    public void Syscall_and_sysret()
    {
        using var m = new M();
        m.State.Star = (0x30UL << 48) | (0x08UL << 32);
        m.State.Lstar = 0x58000;
        m.State.Fmask = Rflags.IF | Rflags.DF | Rflags.CF;
        m.SetPrivilege(3);
        m.State.Rflags |= Rflags.IF | Rflags.DF | Rflags.CF | Rflags.ZF | Rflags.RF;
        m.Assemble(M.Code, a =>
        {
            a.syscall();
            a.int3();
        });
        m.Assemble(0x58000, a =>
        {
            a.pushfq();
            a.pop(rbx);
            a.mov(edi, cs);
            a.mov(esi, ss);
            a.mov(rdx, rcx);
            a.sysretq();
        });
        var stop = m.Expect(Vectors.BP, rip: M.Code + 3);
        Assert.Equal(Rflags.ZF | 2, m.Rbx);
        Assert.Equal(8UL, m.Rdi);
        Assert.Equal(16UL, m.Rsi);
        Assert.Equal(M.Code + 2, m.Rdx);
        Assert.Equal(M.UserCode64, stop.Cs);
        Assert.Equal(M.UserData, stop.Ss);
        Assert.Equal(Rflags.IF | Rflags.DF | Rflags.CF | Rflags.ZF | 2, stop.Flags);
        Assert.Equal(stop.Flags, m.State.Gpr[11]);
        Assert.Equal(M.UserStack, stop.Rsp);
    }

    [Fact]
    public void Sysret_to_compatibility_mode_and_its_faults()
    {
        using var m = new M();
        m.State.Star = 0x30UL << 48;
        m.Program(a => a.sysret());
        m.Rcx = 0xFFFFFFFF_00050000;
        m.State.Gpr[11] = Rflags.IF;
        m.Write(0x50000, 0xCC);
        var stop = m.Expect(Vectors.BP, rip: 0x50001);
        Assert.Equal(M.UserCode32, stop.Cs);

        m.Enter(Mode.Long);
        m.Program(a => a.sysretq());
        m.Rcx = 0x0000_8000_0000_0000;
        stop = m.Expect(Vectors.GP, 0, M.Code);
        Assert.Equal(M.Code64, stop.Cs); // still in the kernel

        m.Enter(Mode.Long);
        m.SetPrivilege(3);
        m.Expect(Vectors.GP, 0, M.Code);
        m.Enter(Mode.Long);
        m.State.Efer &= ~ControlRegisters.SCE;
        m.Expect(Vectors.UD, rip: M.Code);
        m.Enter(Mode.Compatibility);
        m.Write(M.Code, 0x0F, 0x05);
        m.Expect(Vectors.UD, rip: M.Code);
    }

    [Theory]
    [InlineData(Mode.Protected32)]
    [InlineData(Mode.Compatibility)]
    [InlineData(Mode.Long)]
    public void Sysenter_and_sysexit(Mode mode)
    {
        using var m = new M(mode);
        var kernel = m.IsLong ? 64 : 32;
        m.State.SysenterCs = mode == Mode.Long ? 0x21UL : 0x23; // the low bits don't count
        m.State.SysenterEip = 0x58000;
        m.State.SysenterEsp = M.Stack0;
        m.SetPrivilege(3);
        m.State.Rflags |= Rflags.IF;
        m.Assemble(M.Code, a =>
        {
            a.sysenter();
            a.int3();
        });
        m.Assemble(0x58000, a =>
        {
            a.mov(ebx, cs);
            a.mov(esi, ss);
            a.mov(ebp, esp);
            a.mov(edx, (uint)M.Code + 2);
            a.mov(ecx, (uint)M.UserStack - 16);
            if (mode == Mode.Long)
                a.sysexitq();
            else
                a.sysexit();
        }, kernel);
        var stop = m.Expect(Vectors.BP, rip: M.Code + 3);
        Assert.Equal(0x20UL, m.Rbx);
        Assert.Equal(0x28UL, m.Rsi);
        Assert.Equal(M.Stack0, m.Rbp);
        Assert.Equal(0x20 + (mode == Mode.Long ? 32 : 16) + 3, stop.Cs);
        Assert.Equal(0x20 + (mode == Mode.Long ? 40 : 24) + 3, stop.Ss);
        Assert.Equal(M.UserStack - 16, stop.Rsp);
        Assert.Equal(0UL, stop.Flags & Rflags.IF);

        m.Enter(mode);
        m.SetPrivilege(3);
        m.Expect(Vectors.GP, 0, M.Code); // IA32_SYSENTER_CS is null
        m.Enter(mode);
        m.State.SysenterCs = 0x20;
        m.SetPrivilege(3);
        m.Write(M.Code, 0x0F, 0x35);
        m.Expect(Vectors.GP, 0, M.Code); // SYSEXIT is for CPL 0
    }

    [Fact]
    public void Swapgs_and_the_bases()
    {
        using var m = new M();
        m.State.Cr4 |= ControlRegisters.FSGSBASE;
        m.State.KernelGsBase = 0xFFFF_8000_0000_1000;
        m.State.Segments[5].Base = 0x40000;
        m.Write(0x40008, 55u);
        m.Program(a =>
        {
            a.mov(eax, __dword_ptr.gs[8]);
            a.swapgs();
            a.rdgsbase(rbx);
            a.mov(rcx, 0x41000);
            a.wrfsbase(rcx);
            a.rdfsbase(edx);
            a.swapgs();
            a.mov(rcx, 0x0000_8000_0000_0000);
            a.wrgsbase(rcx);
        });
        m.Expect(Vectors.GP, 0);
        Assert.Equal(55UL, m.Rax);
        Assert.Equal(0xFFFF_8000_0000_1000, m.Rbx);
        Assert.Equal(0x41000UL, m.Rdx);
        Assert.Equal(0x40000UL, m.State.Segments[5].Base);

        m.Enter(Mode.Long);
        m.SetPrivilege(3);
        m.Program(a => a.swapgs());
        m.Expect(Vectors.GP, 0, M.Code);
        m.Enter(Mode.Protected32);
        m.Write(M.Code, 0x0F, 0x01, 0xF8);
        m.Expect(Vectors.UD, rip: M.Code);
    }

    [Fact]
    public void In_64_bit_mode_the_bases_of_ds_es_ss_cs_are_zero()
    {
        using var m = new M();
        foreach (var i in (int[])[0, 1, 2, 3])
            m.State.Segments[i].Base = 0x1000_0000;
        m.Write(M.Data, 7u);
        m.Program(a =>
        {
            a.mov(eax, __dword_ptr[M.Data]);
            a.push(rax);
            a.mov(edi, (int)M.Data + 8);
            a.stosd();
        });
        m.RunToHalt();
        Assert.Equal(7u, m.Read32(M.Data + 8));
    }
}
