using Iced.Intel;
using Sharpvisor.Cpu.Translator;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>Code whose immediates change does what the same code elsewhere does that has had them from the start.</summary>
public class ChangedImmediateTests
{
    private const ulong Target = 0x58000, Fresh = 0x60000, Values = 0x48000;
    private const long Results = 0x4A000, FreshResults = 0x4C000;
    private const long Forever = 1L << 40; // instructions are not counted, as in a real machine

    private static readonly ulong[] s_values =
    [
        0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x7FFF_FFFF_FFFF_FFFF,
        0x8000_0000_0000_0000, 0x8182_8384_8586_8788, 0x8182_8384_8586_8788, ulong.MaxValue, 0x0102_0304_0506_0708,
    ];

    /// <summary>By name: the instruction, the bytes of its immediate, and whether the translation of it is to survive a change.</summary>
    private static readonly Dictionary<string, (byte[] Code, int Size, bool Survives)> s_instructions = new()
    {
        ["mov al, imm8"] = ([0xB0, 0], 1, true),
        ["mov ax, imm16"] = ([0x66, 0xB8, 0, 0], 2, true),
        ["mov eax, imm32"] = ([0xB8, 0, 0, 0, 0], 4, true),
        ["mov rax, imm32 extended"] = ([0x48, 0xC7, 0xC0, 0, 0, 0, 0], 4, true),
        ["mov rax, imm64"] = ([0x48, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0], 8, true),
        ["mov r15, imm64"] = ([0x49, 0xBF, 0, 0, 0, 0, 0, 0, 0, 0], 8, true),
        ["mov [rbx + disp], imm8"] = ([0xC6, 0x83, 0, 0, 4, 0, 0], 1, true),
        ["mov [rbx + disp], imm16"] = ([0x66, 0xC7, 0x83, 0, 0, 4, 0, 0, 0], 2, true),
        ["mov [rbx + disp], imm32"] = ([0xC7, 0x83, 0, 0, 4, 0, 0, 0, 0, 0], 4, true),
        ["mov qword [rbx + disp], imm32"] = ([0x48, 0xC7, 0x83, 0, 0, 4, 0, 0, 0, 0, 0], 4, true),
        ["add al, imm8"] = ([0x04, 0], 1, true),
        ["add eax, imm8 extended"] = ([0x83, 0xC0, 0], 1, true),
        ["add rax, imm8 extended"] = ([0x48, 0x83, 0xC0, 0], 1, true),
        ["add ax, imm16"] = ([0x66, 0x05, 0, 0], 2, true),
        ["add eax, imm32"] = ([0x05, 0, 0, 0, 0], 4, true),
        ["add rax, imm32 extended"] = ([0x48, 0x05, 0, 0, 0, 0], 4, true),
        ["sub r10, imm32"] = ([0x49, 0x81, 0xEA, 0, 0, 0, 0], 4, true),
        ["adc r15, imm8"] = ([0x49, 0x83, 0xD7, 0], 1, true),
        ["sbb eax, imm32"] = ([0x1D, 0, 0, 0, 0], 4, true),
        ["and eax, imm32"] = ([0x25, 0, 0, 0, 0], 4, true),
        ["or rax, imm8"] = ([0x48, 0x83, 0xC8, 0], 1, true),
        ["xor dword [rbx + disp], imm32"] = ([0x81, 0xB3, 0, 0, 4, 0, 0, 0, 0, 0], 4, true),
        ["cmp eax, imm32"] = ([0x3D, 0, 0, 0, 0], 4, true),
        ["test al, imm8"] = ([0xA8, 0], 1, true),
        ["imul eax, eax, imm8"] = ([0x6B, 0xC0, 0], 1, true),
        ["imul r15, r15, imm32"] = ([0x4D, 0x69, 0xFF, 0, 0, 0, 0], 4, true),
        ["shl eax, imm8"] = ([0xC1, 0xE0, 0], 1, false),
        ["rcr rax, imm8"] = ([0x48, 0xC1, 0xD8, 0], 1, false),
        ["shld rax, r15, imm8"] = ([0x4C, 0x0F, 0xA4, 0xF8, 0], 1, false),
        ["bts rax, imm8"] = ([0x48, 0x0F, 0xBA, 0xE8, 0], 1, false),
        ["lea rax, [rax + disp32]"] = ([0x48, 0x8D, 0x80, 0, 0, 0, 0], 4, false),
        ["push imm32, pop rax"] = ([0x68, 0, 0, 0, 0, 0x58], 4, false),
        ["lea rsp, [rsp - 8]; add rsp, imm8; and back"] = ([0x48, 0x83, 0xC4, 0, 0x48, 0x89, 0xE0, 0x4C, 0x89, 0xE4], 1, false),
    };

    public static TheoryData<string, bool> Instructions
    {
        get
        {
            TheoryData<string, bool> data = [];
            foreach (var name in s_instructions.Keys)
            {
                data.Add(name, false);
                data.Add(name, true);
            }

            return data;
        }
    }

    /// <param name="counted">Whether instructions are counted against a budget: blocks look different then.</param>
    [Theory]
    [MemberData(nameof(Instructions))]
    public void Each_kind_of_immediate(string name, bool counted)
    {
        var (code, size, survives) = s_instructions[name];
        using var m = new M();
        var immediate = name switch { "push imm32, pop rax" => 1, "lea rsp, [rsp - 8]; add rsp, imm8; and back" => 3, _ => code.Length - size };
        m.Write(Target, [.. code, 0xC3]);
        for (var i = 0; i < s_values.Length; i++)
        {
            m.Write(Values + (ulong)(i * 8), s_values[i]);
            var fresh = code.ToArray();
            BitConverter.GetBytes(s_values[i]).AsSpan(0, size).CopyTo(fresh.AsSpan(immediate));
            m.Write(Fresh + (ulong)(i * 64), [.. fresh, 0xC3]);
        }

        m.Program(a =>
        {
            var loop = a.CreateLabel();
            a.mov(ebp, (int)Target);
            a.Label(ref loop);
            a.mov(rcx, __qword_ptr[rsi * 8 + (long)Values]);
            switch (size)
            {
                case 1: a.mov(__byte_ptr[rbp + immediate], cl); break;
                case 2: a.mov(__word_ptr[rbp + immediate], cx); break;
                case 4: a.mov(__dword_ptr[rbp + immediate], ecx); break;
                default: a.mov(__qword_ptr[rbp + immediate], rcx); break;
            }

            a.mov(r14, rbp);
            Call(a, Results);
            a.mov(r14, rsi);
            a.shl(r14, 6);
            a.add(r14, (int)Fresh);
            Call(a, FreshResults);
            a.inc(esi);
            a.cmp(esi, s_values.Length);
            a.jb(loop);
        });
        m.RunToHalt(counted ? 10_000 : Forever);
        var results = Enumerable.Range(0, s_values.Length).Select(i => Result(Results, i)).ToArray();
        Assert.Equal(Enumerable.Range(0, s_values.Length).Select(i => Result(FreshResults, i)), results);
        Assert.True(results.Distinct().Count() > 1);
        if (m.Cpu is TranslatorVcpu translator && survives)
            Assert.True(translator.Statistics.Updated >= s_values.Length - 1, $"{translator.Statistics.Updated} updated");

        string Result(long at, int i) => string.Join(' ', Enumerable.Range(0, 5).Select(j => m.Read64((ulong)(at + (i * 64) + (j * 8))).ToString("x")));
    }

    /// <summary>Code changes by each way of writing: whole, in part, or over more than the immediate.</summary>
    [Theory]
    [InlineData("mov byte in the middle")]
    [InlineData("mov over opcode and immediate")]
    [InlineData("add")]
    [InlineData("xchg")]
    [InlineData("lock xadd")]
    [InlineData("rep stosb")]
    [InlineData("movups")]
    [InlineData("push")]
    [InlineData("another address")]
    public void Each_way_of_writing(string way)
    {
        using var m = new M();
        m.Map(0x900000, Target);
        m.Write(Target, 0x90, 0x90, 0xB8, 1, 1, 1, 1, 0xC3);
        m.Program(a =>
        {
            var loop = a.CreateLabel();
            a.mov(ebp, (int)Target);
            a.Label(ref loop);
            a.call(rbp);
            a.add(rdx, rax);
            switch (way)
            {
                case "mov byte in the middle": a.mov(__byte_ptr[rbp + 5], bl); break;
                case "mov over opcode and immediate": a.mov(rax, __qword_ptr[rbp]); a.mov(ecx, ebx); a.shl(rcx, 40); a.xor(rax, rcx); a.mov(__qword_ptr[rbp], rax); break;
                case "add": a.add(__dword_ptr[rbp + 3], ebx); break;
                case "xchg": a.mov(eax, ebx); a.xchg(__dword_ptr[rbp + 3], eax); break;
                case "lock xadd": a.mov(eax, ebx); a.@lock.xadd(__dword_ptr[rbp + 3], eax); break;
                case "rep stosb": a.mov(eax, ebx); a.lea(rdi, __[rbp + 3]); a.mov(ecx, 3); a.rep.stosb(); break;
                case "movups": a.movups(xmm0, __[rbp]); a.movd(xmm1, ebx); a.pslldq(xmm1, 3); a.paddd(xmm0, xmm1); a.movups(__[rbp], xmm0); break;
                case "push": a.mov(rcx, __qword_ptr[rbp]); a.mov(eax, ebx); a.shl(rax, 24); a.xor(rcx, rax); a.mov(r8, rsp); a.lea(rsp, __[rbp + 8]); a.push(rcx); a.mov(rsp, r8); break;
                case "another address": a.mov(__dword_ptr[r9 + 3], ebx); break;
                default: throw new ArgumentOutOfRangeException(nameof(way));
            }

            a.mov(eax, __dword_ptr[rbp + 3]);
            a.add(r10, rax);
            a.inc(ebx);
            a.cmp(ebx, 100);
            a.jb(loop);
            a.call(rbp);
            a.add(rdx, rax);
        });
        m.State.Gpr[9] = 0x900000;
        m.State.Gpr[10] = 0x01010101; // what is there before the first change
        m.RunToHalt(Forever);
        Assert.Equal(m.State.Gpr[10], m.Rdx);
        Assert.NotEqual(101 * 0x01010101UL, m.Rdx);
    }

    /// <summary>A block stores to immediates of its own: behind the store, before it, and of the store itself.</summary>
    [Fact]
    public void A_block_changes_itself()
    {
        using var m = new M();
        m.Assemble(M.Code, a =>
        {
            var loop = a.CreateLabel();
            a.Label(ref loop);
            a.db(0x41, 0xB9, 0, 0, 0, 0); // mov r9d, imm32
            a.add(r10, r9);
            a.mov(__dword_ptr[r11], ebx);
            a.db(0xB8, 0, 0, 0, 0); // mov eax, imm32
            a.add(rdx, rax);
            a.mov(__dword_ptr[r12], ebx);
            a.db(0x41, 0x80, 0x45, 0, 1); // add byte [r13], 1
            a.movzx(ecx, __byte_ptr[r13]);
            a.add(r14, rcx);
            a.dec(ebx);
            a.jnz(loop);
            a.hlt();
        });
        var code = new byte[64];
        Assert.True(m.Memory.TryRead(M.Code, code));
        var before = M.Code + 2;
        var behind = M.Code + (ulong)code.AsSpan().IndexOf(new byte[] { 0xB8, 0, 0, 0, 0 }) + 1;
        var self = M.Code + (ulong)code.AsSpan().IndexOf(new byte[] { 0x41, 0x80, 0x45, 0 }) + 4;
        m.Rbx = 50;
        m.State.Gpr[11] = behind;
        m.State.Gpr[12] = before;
        m.State.Gpr[13] = self;
        m.RunToHalt(Forever);
        Assert.Equal(50UL * 51 / 2, m.Rdx);
        Assert.Equal((50UL * 51 / 2) - 1, m.State.Gpr[10]);
        Assert.Equal(254UL, m.State.Gpr[14]); // 2 + 4 + .. + 128, then it adds 0
    }

    /// <summary>A device writes new immediates between two runs.</summary>
    [Fact]
    public void A_device_writes_immediates()
    {
        using var m = new M();
        m.Program(a => a.mov(rax, 0x1122334455667788));
        for (ulong i = 1; i < 20; i++)
        {
            m.Write(M.Code + 2, i * 0x0123_4567_89AB_CDEF);
            m.State.Rip = M.Code;
            m.State.Activity = State.ActivityState.Active;
            m.RunToHalt(Forever);
            Assert.Equal(i * 0x0123_4567_89AB_CDEF, m.Rax);
        }

        if (m.Cpu is TranslatorVcpu translator)
            Assert.True(translator.Statistics.Revived >= 18, $"{translator.Statistics.Revived} revived");
    }

    /// <summary>Code that changes each time it is executed is translated all the same when it has been executed often enough.</summary>
    [Fact]
    public void What_changes_each_time_is_worth_a_translation()
    {
        if (!TranslatorEngine.IsSupported)
            return;
        using var m = new M(engine: new TranslatorEngine { Threshold = 16 });
        m.Write(Target, 0xB8, 0, 0, 0, 0, 0xC3);
        m.Program(a =>
        {
            var loop = a.CreateLabel();
            a.mov(ebp, (int)Target);
            a.Label(ref loop);
            a.mov(__dword_ptr[rbp + 1], ebx);
            a.call(rbp);
            a.add(rdx, rax);
            a.inc(ebx);
            a.cmp(ebx, 500);
            a.jb(loop);
        });
        m.RunToHalt(Forever);
        Assert.Equal(499UL * 500 / 2, m.Rdx);
        var statistics = ((TranslatorVcpu)m.Cpu).Statistics;
        Assert.True(statistics.Updated > 450 && statistics.Translations < 10, $"{statistics.Updated} updated, {statistics.Translations} translations");
    }

    /// <summary>Registers, a word of memory and flags before and after a call of R14, into the results of round RSI.</summary>
    private static void Call(Assembler a, long results)
    {
        a.mov(ebx, (int)M.Data);
        a.mov(rax, 0x1122334455667788);
        a.mov(r15, 0x99AABBCCDDEEFF00);
        a.mov(r10, 0x0102030405060708);
        a.mov(r12, rsp);
        a.sub(r12, 8);
        a.mov(__qword_ptr[rbx + 0x40000], r10);
        a.xor(ecx, ecx);
        a.stc();
        a.call(r14);
        a.pushfq();
        a.pop(rcx);
        a.and(ecx, 0x8C5); // not AF: what leaves it undefined may leave it as it was
        a.mov(rdi, rsi);
        a.shl(rdi, 6);
        a.mov(__qword_ptr[rdi + results], rax);
        a.mov(__qword_ptr[rdi + results + 8], r15);
        a.mov(__qword_ptr[rdi + results + 16], r10);
        a.mov(rax, __qword_ptr[rbx + 0x40000]);
        a.mov(__qword_ptr[rdi + results + 24], rax);
        a.mov(__qword_ptr[rdi + results + 32], rcx);
    }
}
