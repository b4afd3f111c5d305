using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>Which exception an instruction raises, and what it pushes: SDM vol. 3, 6.15.</summary>
public class ExceptionTests
{
    [Theory]
    [InlineData(Mode.Real)]
    [InlineData(Mode.Protected16)]
    [InlineData(Mode.Protected32)]
    [InlineData(Mode.Paged32)]
    [InlineData(Mode.Pae)]
    [InlineData(Mode.Long)]
    [InlineData(Mode.Compatibility)]
    public void A_division_by_zero_is_a_fault_at_the_division(Mode mode)
    {
        using var m = new M(mode);
        m.Program(a =>
        {
            a.nop();
            a.div(cl);
        });
        m.State.Rflags |= Rflags.IF | Rflags.DF;
        var rsp = m.Rsp;
        var start = m.State.Rip;
        var stop = m.Expect(Vectors.DE, rip: start + 1);
        Assert.Equal(mode == Mode.Real ? 0x1000 : m.Mode == Mode.Long ? M.Code64 : mode == Mode.Protected16 ? M.Code16 : M.Code32, stop.Cs);
        Assert.Equal(Rflags.IF | Rflags.DF | 2, stop.Flags & 0xFFFF);
        Assert.Equal(mode == Mode.Real ? 0UL : Rflags.RF, stop.Flags & Rflags.RF);
        Assert.Equal(0UL, m.State.Rflags & (Rflags.IF | Rflags.RF));
        Assert.NotEqual(0UL, m.State.Rflags & Rflags.DF);
        if (m.IsLong)
        {
            Assert.Equal(rsp, stop.Rsp);
            Assert.Equal(M.Data32, stop.Ss);
            Assert.Equal(rsp - 40, stop.Frame);
        }
    }

    public static TheoryData<string, int, byte[]> Faults64 => new()
    {
        { "ud2", Vectors.UD, [0x0F, 0x0B] },
        { "lock nop", Vectors.UD, [0xF0, 0x90] },
        { "lock mov to memory", Vectors.UD, [0xF0, 0x89, 0x03] },
        { "lock add to a register", Vectors.UD, [0xF0, 0x01, 0xC0] },
        { "push es", Vectors.UD, [0x06] },
        { "into", Vectors.UD, [0xCE] },
        { "mov cs, ax", Vectors.UD, [0x8E, 0xC8] },
        { "mov rax, cr1", Vectors.UD, [0x0F, 0x20, 0xC8] },
        { "mov cr7, rax", Vectors.UD, [0x0F, 0x22, 0xF8] },
        { "rsm outside of SMM", Vectors.UD, [0x0F, 0xAA] },
        { "sixteen bytes", Vectors.GP, [0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90] },
        { "fifteen bytes with a LOCK that is not allowed", Vectors.UD, [0x2E, 0xF0, 0x67, 0x66, 0x45, 0x0F, 0x3A, 0x40, 0xB4, 0x5E, 0x29, 0x7B, 0x00, 0x00, 0x35] },
        { "vmread", Vectors.UD, [0x0F, 0x78, 0xC0] },
        { "idiv overflow", Vectors.DE, [0x48, 0xC7, 0xC2, 0x01, 0, 0, 0, 0x48, 0xC7, 0xC1, 0x01, 0, 0, 0, 0x48, 0xF7, 0xF9] },
        { "unaligned movaps", Vectors.GP, [0x0F, 0x28, 0x04, 0x25, 0x01, 0x00, 0x04, 0x00] },
        { "unaligned addps", Vectors.GP, [0x0F, 0x58, 0x04, 0x25, 0x08, 0x00, 0x04, 0x00] },
        { "unaligned fxsave", Vectors.GP, [0x0F, 0xAE, 0x04, 0x25, 0x08, 0x00, 0x04, 0x00] },
        { "unaligned cmpxchg16b", Vectors.GP, [0x48, 0x0F, 0xC7, 0x0C, 0x25, 0x08, 0x00, 0x04, 0x00] },
        { "vaddps without OSXSAVE", Vectors.UD, [0xC5, 0xF8, 0x58, 0xC0] },
        { "xgetbv without OSXSAVE", Vectors.UD, [0x0F, 0x01, 0xD0] },
        { "rdfsbase without FSGSBASE", Vectors.UD, [0xF3, 0x48, 0x0F, 0xAE, 0xC0] },
    };

    [Theory]
    [MemberData(nameof(Faults64))]
    public void Long_mode_faults(string name, int vector, byte[] code)
    {
        Assert.NotEmpty(name);
        using var m = new M();
        m.Write(M.Code, code);
        m.Write<byte>(M.Code + (ulong)code.Length, 0xF4);
        var stop = m.Expect(vector, vector == Vectors.GP ? 0u : null);
        Assert.InRange(stop.Rip, M.Code, M.Code + 14);
        Assert.Equal(Rflags.RF, stop.Flags & Rflags.RF);
    }

    [Fact]
    public void Breakpoint_and_overflow_are_traps()
    {
        using var m = new M(Mode.Protected32);
        m.Program(a => a.int3());
        var stop = m.Expect(Vectors.BP, rip: M.Code + 1);
        Assert.Equal(0UL, stop.Flags & Rflags.RF);

        m.Enter(Mode.Protected32);
        m.Program(a => a.into());
        m.State.Rflags |= Rflags.OF;
        m.Expect(Vectors.OF, rip: M.Code + 1);
        m.Enter(Mode.Protected32);
        m.RunToHalt();
    }

    [Fact]
    public void Bound_outside_of_the_range_is_a_fault()
    {
        using var m = new M(Mode.Protected32);
        m.Program(a => a.bound(eax, __qword_ptr[M.Data]));
        m.Write(M.Data, 10);
        m.Write(M.Data + 4, 20);
        foreach (var (index, fails) in ((uint, bool)[])[(9, true), (10, false), (20, false), (21, true), (0xFFFFFFFF, true)])
        {
            m.Enter(Mode.Protected32);
            m.Rax = index;
            if (fails)
                m.Expect(Vectors.BR, rip: M.Code);
            else
                m.RunToHalt();
        }
    }

    [Fact]
    public void Device_not_available()
    {
        using var m = new M();
        foreach (var (cr0, code, vector) in ((ulong, Action<Assembler>, int)[])
        [
            (ControlRegisters.TS, a => a.fninit(), Vectors.NM),
            (ControlRegisters.EM, a => a.fninit(), Vectors.NM),
            (ControlRegisters.TS, a => a.addps(xmm0, xmm1), Vectors.NM),
            (ControlRegisters.EM, a => a.addps(xmm0, xmm1), Vectors.UD),
            (ControlRegisters.EM | ControlRegisters.TS, a => a.addps(xmm0, xmm1), Vectors.UD),
            (ControlRegisters.EM, a => a.paddb(mm0, mm1), Vectors.UD),
            (ControlRegisters.TS, a => a.paddb(mm0, mm1), Vectors.NM),
            (ControlRegisters.TS | ControlRegisters.MP, a => a.wait(), Vectors.NM),
            (ControlRegisters.TS, a => a.fxsave(__[M.Data]), Vectors.NM),
            (ControlRegisters.EM, a => a.fxsave(__[M.Data]), Vectors.UD),
            (ControlRegisters.TS, a => a.ldmxcsr(__dword_ptr[M.Data]), Vectors.NM),
        ])
        {
            m.Enter(Mode.Long);
            m.State.Cr0 |= cr0;
            m.Program(code);
            m.Expect(vector, rip: M.Code);
        }

        m.Enter(Mode.Long);
        m.State.Cr0 |= ControlRegisters.TS; // without MP
        m.Program(a => a.wait());
        m.RunToHalt();

        m.Enter(Mode.Long);
        m.State.Cr4 = ControlRegisters.PAE;
        m.Program(a => a.addps(xmm0, xmm1));
        m.Expect(Vectors.UD);
    }

    [Fact]
    public void X87_exceptions_wait_for_the_next_x87_instruction()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.fninit();
            a.mov(__word_ptr[M.Data], 0x37B); // zero divide unmasked
            a.fldcw(__word_ptr[M.Data]);
            a.fld1();
            a.fldz();
            a.fdivp(st1, st0);
            a.mov(eax, 1);
            a.fnop();
        });
        m.Expect(Vectors.MF);
        Assert.Equal(1UL, m.Rax);
        Assert.NotEqual(0, m.State.X87[2] & 4); // FSW.ZE
    }

    [Fact]
    public void Simd_exceptions_are_faults_that_leave_the_destination()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.ldmxcsr(__dword_ptr[M.Data]);
            a.divps(xmm0, xmm1);
        });
        m.Write(M.Data, 0x1D80u); // divide by zero unmasked
        m.State.Ymm[0].Q0 = 0x3F8000003F800000;
        m.Expect(Vectors.XM, rip: M.Code + 8);
        Assert.Equal(0x3F8000003F800000UL, m.State.Ymm[0].Q0);
        Assert.NotEqual(0u, m.State.Mxcsr & 4);

        m.Enter(Mode.Long);
        m.State.Ymm[0].Q0 = 0x3F8000003F800000;
        m.State.Cr4 &= ~ControlRegisters.OSXMMEXCPT;
        m.Expect(Vectors.UD, rip: M.Code + 8);
    }

    [Fact]
    public void Mxcsr_with_reserved_bits_is_a_general_protection_fault()
    {
        using var m = new M();
        m.Program(a => a.ldmxcsr(__dword_ptr[M.Data]));
        m.Write(M.Data, 0x11F80u);
        m.Expect(Vectors.GP, 0, M.Code);
        Assert.Equal(0x1F80u, m.State.Mxcsr);
    }

    [Theory]
    [InlineData(0x0000_8000_0000_0000UL)]
    [InlineData(0xFFFF_7FFF_FFFF_FFFFUL)]
    [InlineData(0x0000_7FFF_FFFF_FFFFUL)]
    public void Addresses_that_are_not_canonical(ulong address)
    {
        using var m = new M();
        m.Rbx = m.Rbp = address;
        m.Program(a => a.mov(rax, __qword_ptr[rbx]));
        m.Expect(Vectors.GP, 0, M.Code);

        m.Enter(Mode.Long);
        m.Rbx = m.Rbp = address;
        m.Program(a => a.mov(__qword_ptr[rbp], rax));
        m.Expect(Vectors.SS, 0, M.Code);

        m.Enter(Mode.Long);
        m.Rbx = address;
        m.Program(a => a.movups(xmm0, __[rbx]));
        m.Expect(Vectors.GP, 0, M.Code);
    }

    [Fact]
    public void Stacks_that_are_not_canonical()
    {
        const ulong Bad = 0x0000_8000_0000_0000;
        foreach (var code in (Action<Assembler>[])
        [
            a => a.push(rax), a => a.pop(rax), a => a.push(1), a => a.call(rax), a => a.ret(), a => a.pushfq(), a => a.popfq(),
            a => a.enter(0, 0), a => a.iretq(), a => a.db(0x48, 0xCB), a => a.push(__qword_ptr[M.Data]), a => a.call(__qword_ptr[M.Data]),
            a => a.pop(__qword_ptr[M.Data]), a => a.push(fs), a => a.pop(fs), a => a.call(__fword_ptr[M.Data]),
        ])
        {
            using var m = new M();
            m.SetGate(Vectors.SS, M.Handlers + 0xC0, M.Code64, ist: 1);
            m.Program(code);
            m.Rax = m.Rbx = M.Code;
            m.Write(M.Data, M.Code | ((ulong)M.Code64 << 32));
            m.Rsp = Bad + 4; // as a place to push to and to pop from
            var stop = m.Expect(Vectors.SS, 0, M.Code);
            Assert.Equal(Bad + 4, stop.Rsp);
        }
    }

    [Fact]
    public void Branches_to_addresses_that_are_not_canonical_fault_where_they_are()
    {
        const ulong Bad = 0x0000_8000_0000_0000;
        foreach (var code in (Action<Assembler>[])[a => a.jmp(rax), a => a.call(rax), a => a.ret(), a => a.jmp(__qword_ptr[M.Data]), a => a.call(__qword_ptr[M.Data]), a => a.ret(16)])
        {
            using var m = new M();
            m.Program(code);
            m.Rax = Bad;
            m.Rsp = M.Stack - 8;
            m.Write(M.Stack - 8, Bad);
            m.Write(M.Data, Bad);
            var stop = m.Expect(Vectors.GP, 0, M.Code);
            Assert.Equal(M.Stack - 8, stop.Rsp);
        }
    }
}
