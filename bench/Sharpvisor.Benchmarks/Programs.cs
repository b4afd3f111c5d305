using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Benchmarks;

/// <summary>The kind of instructions of a block.</summary>
public enum BlockKind
{
    /// <summary>Integer arithmetic on registers.</summary>
    Alu,

    /// <summary>Loads, stores and read-modify-writes, to a page that hits the TLB.</summary>
    Memory,

    /// <summary>SSE and AVX on registers and memory.</summary>
    Vector,
}

/// <summary>Guest code to measure with. RBX points to memory, EBP counts rounds.</summary>
internal static class Programs
{
    /// <summary>Instructions of <see cref="Body"/> with a jump behind it.</summary>
    public const int BlockLength = 16;

    /// <summary>Rounds of <see cref="Counted"/>.</summary>
    public const int Rounds = 1000;

    /// <summary>The body over and over.</summary>
    public static Action<Assembler> Endless(Action<Assembler> body) => a =>
    {
        var start = a.CreateLabel();
        a.Label(ref start);
        body(a);
        a.jmp(start);
    };

    /// <summary>The body <see cref="Rounds"/> times, then a write to <see cref="BareMachine.KickPort"/>, over and over.</summary>
    /// <remarks>Counted by the guest itself: what an engine counts is approximate.</remarks>
    public static Action<Assembler> Counted(Action<Assembler> body) => a =>
    {
        var start = a.CreateLabel();
        var round = a.CreateLabel();
        a.Label(ref start);
        a.mov(ebp, Rounds);
        a.Label(ref round);
        body(a);
        a.dec(ebp);
        a.jne(round);
        a.@out((byte)BareMachine.KickPort, al);
        a.jmp(start);
    };

    /// <summary>15 instructions of one kind.</summary>
    public static Action<Assembler> Body(BlockKind kind) => a =>
    {
        for (var i = 0; i < 3; i++)
        {
            var at = rbx + (i * 64);
            switch (kind)
            {
                case BlockKind.Alu:
                    a.add(rax, rcx);
                    a.xor(ecx, 0x1234);
                    a.lea(rdx, __[rax + (rcx * 4) + 8]);
                    a.shl(rdx, 3);
                    a.sub(rsi, rdx);
                    break;
                case BlockKind.Memory:
                    a.mov(rax, __qword_ptr[at]);
                    a.add(rax, 3);
                    a.mov(__qword_ptr[at + 8], rax);
                    a.inc(__dword_ptr[at + 16]);
                    a.movzx(ecx, __byte_ptr[at + 24]);
                    break;
                default:
                    a.movaps(xmm0, __xmmword_ptr[at]);
                    a.addps(xmm1, xmm0);
                    a.vpaddd(ymm2, ymm1, ymm0);
                    a.mulsd(xmm3, xmm2);
                    a.movups(__xmmword_ptr[at + 32], xmm1);
                    break;
            }
        }
    };

    /// <summary>Stores a new immediate into an instruction in another cache line, and executes it.</summary>
    public static void Patch(Assembler a)
    {
        var next = a.CreateLabel();
        var immediate = a.CreateLabel();
        a.inc(eax);
        a.mov(__dword_ptr[immediate], eax);
        a.jmp(next);
        for (var i = 0; i < 64; i++)
            a.nop();
        a.Label(ref next);
        a.db(0xB9); // mov ecx, imm32
        a.Label(ref immediate);
        a.dd(0);
    }
}
