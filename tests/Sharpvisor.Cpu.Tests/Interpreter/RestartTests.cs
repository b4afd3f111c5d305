using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>A fault in the middle of an instruction leaves every register as it was, so that it can be restarted.</summary>
public class RestartTests
{
    /// <summary>A page that is not mapped, between two that are.</summary>
    private const ulong Hole = 0x200000;

    private static M Machine(Mode mode)
    {
        var m = new M(mode);
        m.Map(Hole, 0, 0);

        // Exceptions are taken on a stack of their own: from CPL 3.
        m.SetPrivilege(3);
        for (var i = 0; i < 16; i++)
            m.State.Gpr[i] = i == 4 ? m.Rsp : 0x1111_1111UL * (ulong)(i + 1);
        m.State.Rflags |= Rflags.CF | Rflags.ZF | Rflags.OF;
        return m;
    }

    private static void ExpectUnchanged(M m, ulong cr2, uint error, ulong? rip = null)
    {
        var before = m.State;
        var stop = m.Run();
        stop.Is(Vectors.PF, error, rip ?? M.Code);
        Assert.Equal(cr2, m.State.Cr2);
        for (var i = 0; i < 16; i++)
        {
            if (i != 4)
                Assert.True(before.Gpr[i] == m.State.Gpr[i], $"register {i} was 0x{before.Gpr[i]:x} and is 0x{m.State.Gpr[i]:x}");
        }

        Assert.Equal(before.Gpr[4], stop.Rsp);
        Assert.Equal((before.Rflags & 0xCFF) | 2, stop.Flags & 0xCFF);
    }

    public static TheoryData<string, ulong, ulong, uint> Cases64 => new()
    {
        // code, rsp (0: mapped), expected CR2, error code; rbx points to the hole
        { "53", Hole + 0x1000, Hole + 0xFF8, 6 }, // push rbx
        { "6653", Hole + 0x1000, Hole + 0xFFE, 6 }, // push bx
        { "FF33", 0, Hole, 4 }, // push [rbx]
        { "FF742408", Hole + 0x1000, Hole + 0x1000 - 8, 6 }, // push [rsp+8]: the source is mapped
        { "5B", Hole, Hole, 4 }, // pop rbx
        { "8F03", 0, Hole, 6 }, // pop [rbx]
        { "E800000000", Hole + 0x1000, Hole + 0xFF8, 6 }, // call
        { "FFD3", Hole + 0x1000, Hole + 0xFF8, 6 }, // call rbx
        { "FF13", 0, Hole, 4 }, // call [rbx]
        { "C3", Hole, Hole, 4 }, // ret
        { "C20800", Hole, Hole, 4 }, // ret 8
        { "C8100000", Hole + 0x1000, Hole + 0xFF8, 6 }, // enter 16, 0
        { "C8000100", Hole + 0x1008 + 0x0F8, Hole + 0xFF8, 6 }, // enter 256, 0: the frame's end is probed
        { "9C", Hole + 0x1000, Hole + 0xFF8, 6 }, // pushfq
        { "9D", Hole, Hole, 4 }, // popfq
        { "0FA0", Hole + 0x1000, Hole + 0xFF8, 6 }, // push fs
        { "48CF", Hole, Hole, 4 }, // iretq
        { "48CB", Hole, Hole, 4 }, // retfq
        { "480FB10B", 0, Hole, 6 }, // cmpxchg [rbx], rcx
        { "F0480FB10B", 0, Hole, 6 }, // lock cmpxchg
        { "480FC10B", 0, Hole, 6 }, // xadd [rbx], rcx
        { "48870B", 0, Hole, 6 }, // xchg [rbx], rcx
        { "480FC70B", 0, Hole, 6 }, // cmpxchg16b [rbx]
        { "0FC70B", 0, Hole, 6 }, // cmpxchg8b [rbx]
        { "48010B", 0, Hole, 6 }, // add [rbx], rcx
        { "48030B", 0, Hole, 4 }, // add rcx, [rbx]
        { "48D30B", 0, Hole, 6 }, // ror [rbx], cl
        { "480FA50B", 0, Hole, 6 }, // shld [rbx], rcx, cl
        { "480FABC3480FAB03", 0, Hole, 6 }, // bts rbx, rax; bts [rbx], rax
        { "48F733", 0, Hole, 4 }, // div [rbx]
        { "48F723", 0, Hole, 4 }, // mul [rbx]
        { "0FC303", 0, Hole, 6 }, // movnti
        { "0F1103", 0, Hole, 6 }, // movups [rbx], xmm0
        { "0F5803", 0, Hole, 4 }, // addps xmm0, [rbx]
        { "DD03", 0, Hole, 4 }, // fld [rbx]
        { "DD1B", 0, Hole, 6 }, // fstp [rbx]
        { "0FAE03", 0, Hole, 6 }, // fxsave
        { "0FAE0B", 0, Hole, 4 }, // fxrstor
    };

    [Theory]
    [MemberData(nameof(Cases64))]
    public void Long_mode(string code, ulong rsp, ulong cr2, uint error)
    {
        using var m = Machine(Mode.Long);
        var bytes = Convert.FromHexString(code);
        if (code.StartsWith("480FABC3", StringComparison.Ordinal))
        {
            bytes = bytes[4..]; // the bit index is zero
            m.Rax = 0;
        }

        m.Write(M.Code, bytes);
        m.Rbx = Hole;
        if (rsp != 0)
            m.Rsp = rsp;
        ExpectUnchanged(m, cr2, error);
    }

    [Theory]
    [InlineData("60", 0x1010, 0xFF0 + 0xC, 6)] // pusha, after four pushes
    [InlineData("61", 0xFF0, 0x1000, 4)] // popa, with the second page missing
    [InlineData("C8000002", 0x1004, 0xFFC, 6)] // enter 0, 2: the second push
    [InlineData("C9", 0, 0, 4)] // leave
    [InlineData("A5", 0, 0, 4)] // movsd
    [InlineData("A7", 0, 0, 4)] // cmpsd
    [InlineData("AB", 0, 0, 6)] // stosd
    [InlineData("AF", 0, 0, 4)] // scasd
    [InlineData("AD", 0, 0, 4)] // lodsd
    public void Protected_mode(string code, int stack, int expected, uint error)
    {
        using var m = Machine(Mode.Paged32);
        var bytes = Convert.FromHexString(code);
        m.Write(M.Code, bytes);
        m.Rbp = M.UserStack + 0x100;
        var cr2 = Hole + (ulong)expected;
        if (code == "61")
        {
            m.Rsp = Hole - 0x10; // the fifth value lies in the hole
            cr2 = Hole;
        }
        else if (stack != 0)
        {
            m.Rsp = Hole + (ulong)stack;
        }
        else
        {
            m.Rbp = m.Rsi = m.Rdi = Hole;
            if (code == "A7")
                m.Rsi = M.Data;
        }

        ExpectUnchanged(m, cr2, error);
    }

    [Fact]
    public void Movs_with_a_fault_at_the_destination_does_not_move_the_source()
    {
        using var m = Machine(Mode.Long);
        m.Program(a => a.movsq());
        m.Rsi = M.Data;
        m.Rdi = Hole;
        ExpectUnchanged(m, Hole, 6);
    }

    [Theory]
    [InlineData(false, 1)]
    [InlineData(true, 1)]
    [InlineData(false, 4)]
    [InlineData(true, 8)]
    public void Repeated_moves_stop_at_the_element_that_faults(bool backwards, int size)
    {
        using var m = Machine(Mode.Long);
        var before = 0x20UL;
        m.Program(a =>
        {
            a.nop();
            if (size == 1)
                a.rep.movsb();
            else if (size == 4)
                a.rep.movsd();
            else
                a.rep.movsq();
        });
        m.Rcx = 0x100;
        m.Rsi = M.Data + 0x800;
        m.Rdi = backwards ? Hole + 0x1000 + before - (ulong)size : Hole - before;
        if (backwards)
            m.State.Rflags |= Rflags.DF;
        for (ulong i = 0; i < 0x800; i++)
            m.Write(M.Data + 0x400 + i, (byte)(i * 7));
        var stop = m.Expect(Vectors.PF, 6, M.Code + 1);
        Assert.Equal(backwards ? Hole + 0x1000 - (ulong)size : Hole, m.State.Cr2);
        Assert.Equal(0x100 - (before / (ulong)size), m.Rcx);
        Assert.Equal(m.State.Cr2, m.Rdi);
        Assert.Equal(backwards ? M.Data + 0x800 - before : M.Data + 0x800 + before, m.Rsi);
        for (ulong i = 0; i < before; i++)
        {
            var at = backwards ? Hole + 0x1000 + i : Hole - before + i;
            var from = backwards ? M.Data + 0x800 + (ulong)size - before + i : M.Data + 0x800 + i;
            Assert.Equal(m.Read<byte>(from), m.Read<byte>(at));
        }

        Assert.Equal(Rflags.RF, stop.Flags & Rflags.RF);
    }

    [Theory]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(8)]
    [InlineData(16)]
    public void Accesses_across_pages_fault_on_the_page_that_fails(int size)
    {
        foreach (var write in (bool[])[false, true])
        {
            // The second page fails.
            using var m = Machine(Mode.Long);
            m.Program(a => Access(a, size, write));
            m.Rbx = Hole - 1;
            ExpectUnchanged(m, Hole, write ? 6u : 4u);
            Assert.Equal(0, m.Read<byte>(Hole - 1)); // nothing was written

            // The first one fails.
            using var n = Machine(Mode.Long);
            n.Program(a => Access(a, size, write));
            n.Rbx = Hole + 0xFFF;
            ExpectUnchanged(n, Hole + 0xFFF, write ? 6u : 4u);
        }
    }

    [Fact]
    public void Accesses_across_pages_meet_both_pages()
    {
        using var m = Machine(Mode.Long);
        m.Map(0x300000, 0x41000);
        m.Map(0x301000, 0x48000);
        m.SetPrivilege(0);
        m.Program(a =>
        {
            a.mov(__qword_ptr[rbx], rax);
            a.mov(rcx, __qword_ptr[rbx]);
            a.movups(xmm1, __xmmword_ptr[rbx - 3]);
            a.@lock.add(__qword_ptr[rbx], rax);
        });
        m.Rbx = 0x300FFD;
        m.Rax = 0x8877665544332211;
        m.RunToHalt();
        Assert.Equal(m.Rax, m.Rcx);
        Assert.Equal(m.Rax << 24, m.State.Ymm[1].Q0 & ~0xFFFFFFUL);
        var sum = m.Rax * 2;
        Assert.Equal((uint)sum & 0xFFFFFF, m.Read32(0x41FFC) >> 8);
        Assert.Equal((sum >> 24) & 0xFFFFFFFFFF, m.Read64(0x48000) & 0xFFFFFFFFFF);
    }

    [Fact]
    public void An_instruction_across_pages_faults_on_the_second_page()
    {
        using var m = Machine(Mode.Long);
        m.Write(Hole - 2, 0x48, 0xB8); // mov rax, imm64
        m.State.Rip = Hole - 2;
        ExpectUnchanged(m, Hole, 0x14, Hole - 2);

        // One that ends with the page does not touch the next.
        m.Enter(Mode.Long);
        m.Map(Hole, 0, 0);
        m.Write(Hole - 2, 0x0F, 0x0B);
        m.State.Rip = Hole - 2;
        m.Expect(Vectors.UD, rip: Hole - 2);
    }

    private static void Access(Assembler a, int size, bool write)
    {
        switch (size, write)
        {
            case (2, false): a.mov(ax, __word_ptr[rbx]); break;
            case (2, true): a.mov(__word_ptr[rbx], ax); break;
            case (4, false): a.mov(eax, __dword_ptr[rbx]); break;
            case (4, true): a.mov(__dword_ptr[rbx], eax); break;
            case (8, false): a.mov(rax, __qword_ptr[rbx]); break;
            case (8, true): a.mov(__qword_ptr[rbx], rax); break;
            case (16, false): a.movups(xmm0, __xmmword_ptr[rbx]); break;
            default: a.movups(__xmmword_ptr[rbx], xmm0); break;
        }
    }
}
