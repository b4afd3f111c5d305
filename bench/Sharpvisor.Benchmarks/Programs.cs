using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Benchmarks;

/// <summary>A block of guest code of one kind.</summary>
public enum BlockKind
{
    /// <summary>Integer arithmetic on registers.</summary>
    Alu,

    /// <summary>Loads, stores and read-modify-writes, with a page that hits the TLB.</summary>
    Memory,

    /// <summary>SSE and AVX on registers and memory.</summary>
    Vector,
}

/// <summary>Guest code to measure with. RBX points to memory.</summary>
internal static class Programs
{
    /// <summary>Instructions of each <see cref="BlockKind"/>, the jump at the end included.</summary>
    public const int BlockLength = 16;

    /// <summary>One block that jumps to its own start.</summary>
    public static Action<Assembler> Block(BlockKind kind) => a =>
    {
        var start = a.CreateLabel();
        a.Label(ref start);
        for (var i = 0; i < 3; i++)
        {
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
                    a.mov(rax, __qword_ptr[rbx + (i * 64)]);
                    a.add(rax, 3);
                    a.mov(__qword_ptr[rbx + (i * 64) + 8], rax);
                    a.inc(__dword_ptr[rbx + (i * 64) + 16]);
                    a.movzx(ecx, __byte_ptr[rbx + (i * 64) + 24]);
                    break;
                default:
                    a.movaps(xmm0, __xmmword_ptr[rbx + (i * 64)]);
                    a.addps(xmm1, xmm0);
                    a.vpaddd(ymm2, ymm1, ymm0);
                    a.mulsd(xmm3, xmm2);
                    a.movups(__xmmword_ptr[rbx + (i * 64) + 32], xmm1);
                    break;
            }
        }

        a.jmp(start);
    };

    /// <summary>Instructions without their jump, over and over.</summary>
    public static Action<Assembler> Loop(Action<Assembler> body) => a =>
    {
        var start = a.CreateLabel();
        a.Label(ref start);
        body(a);
        a.jmp(start);
    };
}
