using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>Code that changes is executed as it is now: by stores, by repeated moves, by devices, through other addresses.</summary>
public class CodeCoherenceTests
{
    private const byte IncEcx = 0xC1, DecEcx = 0xC9; // the last byte of FF /0 and FF /1

    /// <summary>A store in the same block to an instruction <paramref name="distance"/> bytes behind it, executed before.</summary>
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(70)]
    public void A_store_to_the_same_block(int distance)
    {
        using var m = new M();
        ulong at = 0;
        for (var pass = 0; pass < 2; pass++)
        {
            m.Assemble(M.Code, a =>
            {
                a.mov(__byte_ptr[rbx], al);
                for (var i = 0; i < distance; i++)
                    a.nop();
                a.db(0xFF, IncEcx);
                a.hlt();
            });
            at = M.Code + 2 + (ulong)distance + 1;
            m.Enter(Mode.Long);
            m.Rbx = at;
            m.Rax = pass == 0 ? IncEcx : DecEcx;
            m.RunToHalt();
            Assert.Equal(pass == 0 ? 1u : uint.MaxValue, (uint)m.Rcx);
        }
    }

    [Fact]
    public void A_store_to_the_store_itself()
    {
        using var m = new M();
        m.Assemble(M.Code, a =>
        {
            var again = a.CreateLabel();
            a.Label(ref again);
            a.mov(__word_ptr[rbx], ax); // becomes inc ecx; nop and so on
            a.inc(edx);
            a.cmp(edx, 2);
            a.jb(again);
            a.hlt();
        });
        Assert.Equal(0x66, m.Read<byte>(M.Code));
        m.Rbx = M.Code + 1;
        m.Rax = 0xC1FF; // 66 FF C1: inc cx
        m.RunToHalt();
        Assert.Equal(1UL, m.Rcx);
        Assert.Equal(2UL, m.Rdx);
    }

    public static TheoryData<string> Writers => new() { "add", "xchg", "cmpxchg", "push", "call", "movups", "stosb", "rep stosb", "rep movsb", "bts", "fst", "inc", "cmpxchg8b", "cmpxchg16b", "setz", "sgdt", "fxsave", "locked", "ins" };

    /// <summary>Each way of writing: the code in the next page was executed, changes, and is executed again.</summary>
    [Theory]
    [MemberData(nameof(Writers))]
    public void Every_way_of_writing_is_noticed(string writer)
    {
        using var m = new M();
        const ulong Target = 0x58000;
        byte[] routine = [0xFF, IncEcx, 0xC3, 0, 0, 0, 0, 0, 0x0F, 0x0B];
        m.Write(Target, routine);
        m.Program(a =>
        {
            a.mov(ebp, (int)Target);
            a.call(rbp);
            a.mov(esi, ecx);
            switch (writer)
            {
                case "add": a.add(__byte_ptr[rbp + 1], 8); break;
                case "locked": a.@lock.add(__byte_ptr[rbp + 1], 8); break;
                case "inc": a.inc(__word_ptr[rbp + 2]); break; // ret becomes something else: C4
                case "xchg": a.xchg(__byte_ptr[rbp + 1], al); break;
                case "cmpxchg": a.mov(eax, 0x00C3C1FF); a.mov(edx, 0x00C3C9FF); a.cmpxchg(__dword_ptr[rbp], edx); break;
                case "push": a.mov(rsp, Target + 8); a.push(rdi); a.mov(rsp, M.Stack - 64); break;
                case "call": a.mov(rsp, Target + 8); a.call(a.@F); a.AnonymousLabel(); a.mov(rsp, M.Stack - 64); break;
                case "movups": a.movups(__xmmword_ptr[rbp], xmm0); break;
                case "stosb": a.lea(rdi, __[rbp + 1]); a.stosb(); break;
                case "rep stosb": a.lea(rdi, __[rbp + 1]); a.push(rcx); a.mov(ecx, 1); a.rep.stosb(); a.pop(rcx); break;
                case "rep movsb": a.mov(rsi, M.Data); a.mov(rdi, rbp); a.push(rcx); a.mov(ecx, 8); a.rep.movsb(); a.pop(rcx); a.mov(esi, 1); break;
                case "bts": a.bts(__dword_ptr[rbp], 11); break; // C1 to C9
                case "fst": a.fninit(); a.fld(__qword_ptr[M.Data]); a.fstp(__qword_ptr[rbp]); break;
                case "cmpxchg8b": a.mov(eax, 0x00C3C1FF); a.xor(edx, edx); a.mov(r8, rcx); a.mov(ebx, 0x00C3C9FF); a.xor(ecx, ecx); a.cmpxchg8b(__qword_ptr[rbp]); a.mov(rcx, r8); break;
                case "cmpxchg16b": a.mov(rax, __qword_ptr[rbp]); a.mov(rdx, __qword_ptr[rbp + 8]); a.mov(r8, rcx); a.mov(ebx, 0x00C3C9FF); a.mov(rcx, rdx); a.cmpxchg16b(__xmmword_ptr[rbp]); a.mov(rcx, r8); break;
                case "setz": a.cmp(eax, eax); a.setz(__byte_ptr[rbp + 1]); break; // FF 01: inc [rcx]
                case "sgdt": a.sgdt(__[rbp]); break;
                case "fxsave": a.fxsave(__[rbp]); break;
                case "ins": a.lea(rdi, __[rbp + 1]); a.mov(dx, 0x60); a.insb(); break;
                default: throw new ArgumentOutOfRangeException(nameof(writer));
            }

            a.call(rbp);
            a.nop();
        });
        m.Rax = DecEcx;
        m.Rdi = 0x00C3C9FF;
        m.State.Ymm[0].Q0 = 0x00C3C9FF;
        m.Write(M.Data, 0x00C3C9FFUL);
        var stop = m.Run();
        Assert.Equal(1UL, m.Rsi);
        Assert.False(stop.Vector < 0 && m.Rcx == 2, "the old instruction was executed again");
        if (writer is "add" or "locked" or "xchg" or "cmpxchg" or "push" or "movups" or "stosb" or "rep stosb" or "rep movsb" or "bts" or "cmpxchg8b" or "cmpxchg16b")
        {
            Assert.True(stop.Vector < 0, stop.ToString());
            Assert.Equal(0UL, m.Rcx);
        }
    }

    [Fact]
    public void A_repeated_move_over_itself()
    {
        using var m = new M();
        m.Assemble(M.Code, a =>
        {
            a.rep.movsb();
            a.db(0xFF, IncEcx, 0xFF, IncEcx);
            a.hlt();
        });

        // The move replaces what follows it, itself included, by: rep movsb; dec ecx; dec ecx.
        m.Write(M.Data, 0xF3, 0xA4, 0xFF, DecEcx, 0xFF, DecEcx);
        m.Rsi = M.Data;
        m.Rdi = M.Code;
        m.Rcx = 6;
        m.RunToHalt();
        Assert.Equal(unchecked((uint)-2), (uint)m.Rcx);
    }

    [Fact]
    public void A_device_writes_code()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.inc(ecx);
            a.nop();
        });
        m.RunToHalt();
        m.Write(M.Code, 0xFF, DecEcx);
        m.State.Rip = M.Code;
        m.State.Activity = ActivityState.Active;
        m.RunToHalt();
        Assert.Equal(0UL, m.Rcx);
    }

    [Fact]
    public void Another_linear_address_of_the_same_page()
    {
        using var m = new M();
        m.Map(0x900000, M.Code);
        m.Program(a =>
        {
            a.mov(esi, 2);
            var again = a.CreateLabel();
            a.Label(ref again);
            a.db(0xFF, IncEcx); // at Code + 5
            a.mov(__byte_ptr[rbx], DecEcx);
            a.dec(esi);
            a.jnz(again);
        });
        m.Rbx = 0x900000 + 6;
        m.RunToHalt();
        Assert.Equal(0UL, m.Rcx);

        // And code executed through two addresses, changed through one.
        using var n = new M();
        n.Map(0x900000, 0x58000);
        n.Write(0x58000, 0xFF, IncEcx, 0xC3);
        n.Program(a =>
        {
            a.mov(rax, 0x900000L);
            a.mov(edx, 0x58000);
            a.call(rax);
            a.call(rdx);
            a.mov(__byte_ptr[rdx + 1], DecEcx);
            a.call(rax);
            a.call(rdx);
        });
        n.RunToHalt();
        Assert.Equal(0UL, n.Rcx);
    }

    [Fact]
    public void A_store_to_the_second_page_of_an_instruction()
    {
        using var m = new M();
        const ulong At = 0x58FFE; // mov eax, imm32 with three bytes in the next page
        m.Write(At, 0xB8, 1, 0, 0, 0, 0xC3);
        m.Program(a =>
        {
            a.mov(ebx, (int)At);
            a.call(rbx);
            a.mov(ecx, eax);
            a.mov(__byte_ptr[rbx + 2], 2);
            a.call(rbx);
        });
        m.RunToHalt();
        Assert.Equal(1UL, m.Rcx);
        Assert.Equal(0x201UL, m.Rax);
    }

    [Fact]
    public void An_instruction_across_pages_with_its_second_page_mapped_anew()
    {
        using var m = new M();
        const ulong At = 0x900FFE;
        m.Map(0x900000, 0x600000);
        var entry = m.Map(0x901000, 0x601000);
        m.Write(0x600FFE, 0xB8, 1);
        m.Write(0x601000, 0, 0, 0, 0xC3);
        m.Write(0x602000, 7, 0, 0, 0xC3);
        m.Program(a =>
        {
            a.mov(ebx, (int)At);
            a.call(rbx);
            a.mov(ecx, eax);
            a.mov(__qword_ptr[rsi], rdi);
            a.invlpg(__byte_ptr[rbx + 2]);
            a.call(rbx);
        });
        m.Rsi = entry;
        m.Rdi = 0x602000 | 7;
        m.RunToHalt();
        Assert.Equal(1UL, m.Rcx);
        Assert.Equal(0x701UL, m.Rax);
    }

    [Fact]
    public void The_same_bytes_in_16_and_32_bits_are_different_code()
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Segment(0, 0xFFFFF, 0x809B)); // 16 bits
        m.Write(0x9000, 0xB8, 0x11, 0x11, 0x22, 0x22, 0xF4);
        m.State.Rip = 0x9000;
        m.RunToHalt();
        Assert.Equal(0x22221111UL, m.Rax);
        m.State.Segments[1] = m.Segment(M.Free);
        m.State.Rip = 0x9000;
        m.State.Activity = ActivityState.Active;
        m.Rax = 0;
        m.Run(1); // mov ax, 0x1111; and ah, [bp+si]
        Assert.Equal(0x11UL, m.Rax);
    }

    [Fact]
    public void The_cache_outlives_more_code_than_it_holds()
    {
        using var m = new M(memory: 32 << 20);
        m.Program(a =>
        {
            var again = a.CreateLabel();
            a.Label(ref again);
            a.inc(__byte_ptr[rbx]); // changes the code below, over and over
            a.mov(al, 0);
            a.add(edx, eax);
            a.dec(esi);
            a.jnz(again);
        });
        var at = M.Code + 3;
        Assert.Equal(0xB0, m.Read<byte>(M.Code + 2));
        m.Rbx = at;
        m.Rsi = 3000;
        m.RunToHalt(100_000);
        ulong sum = 0;
        for (var i = 1; i <= 3000; i++)
            sum += (byte)i;
        Assert.Equal(sum, m.Rdx);
    }
}
