using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Translator;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>
/// A function is written over again and again, by other immediates, other instructions, or what was there before, and
/// called each time: what it does is compared with what its image does where it was never anything else.
/// </summary>
public class RewrittenCodeTests
{
    private const ulong Images = 0x400000, Results = 0x600000, Expected = 0x680000;
    private const int ImageSize = 0x400, Generations = 60, ResultSize = 64;

    public static TheoryData<int, ulong, int> Runs
    {
        get
        {
            TheoryData<int, ulong, int> data = [];
            for (var seed = 0; seed < 6; seed++)
            {
                data.Add(seed, 0x58000UL + ((ulong)seed * 7), 1 << (seed % 4));
                data.Add(seed + 100, 0x58F00UL + ((ulong)seed * 3), 8 >> (seed % 4)); // over a page
            }

            return data;
        }
    }

    /// <param name="width">Bytes that the guest compares and writes at once.</param>
    [Theory]
    [MemberData(nameof(Runs))]
    public void Random_code_is_executed_as_it_is_now(int seed, ulong target, int width)
    {
        using var m = new M();
        Rewrite(m, new Random(seed), target, width, Generations);
    }

    /// <summary>The same where all translations go when little code has been made, stale ones too.</summary>
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    public void Random_code_in_a_small_cache(int threshold)
    {
        if (!TranslatorEngine.IsSupported)
            return;
        using var m = new M(engine: new TranslatorEngine { CodeCacheSize = 1 << 20, Threshold = threshold });
        for (var part = 0; part < 4; part++)
        {
            m.Enter(Mode.Long);
            Rewrite(m, new Random(threshold + part), 0x58FA0, 4, 300);
        }

        var statistics = ((TranslatorVcpu)m.Cpu).Statistics;
        Assert.True(statistics.Clears > 0 && statistics.Revived > 0 && statistics.Updated > 0, $"{statistics.Clears} clears, {statistics.Revived} revived, {statistics.Updated} updated");
    }

    private static void Rewrite(M m, Random random, ulong target, int width, int generations)
    {
        List<byte[]> images = [RandomFunction(random)];
        while (images.Count < generations)
        {
            images.Add(random.Next(10) switch
            {
                0 => RandomFunction(random),
                1 => images[random.Next(images.Count)],
                2 => OtherInstruction(images[^1], random),
                _ => OtherImmediates(images[^1], random),
            });
        }

        var image = new byte[ImageSize];
        for (var i = 0; i < images.Count; i++)
        {
            // What is behind the function is not executed, and not the same each time either.
            Array.Fill(image, (byte)0xCC);
            images[i].CopyTo(image, 0);
            m.Write(Images + (ulong)(i * ImageSize), image);
        }

        Run(m, target, width, images.Count);
    }

    /// <summary>What a simple just-in-time compiler does: the same function with other constants, in one page after another.</summary>
    [Theory]
    [InlineData(0)]
    [InlineData(16)]
    public void A_function_with_other_constants_is_revived(int threshold)
    {
        if (!TranslatorEngine.IsSupported)
            return;
        using var m = new M(engine: new TranslatorEngine { Threshold = threshold });
        const int Rounds = 40, Adds = 150;
        m.Program(a =>
        {
            var round = a.CreateLabel();
            var write = a.CreateLabel();
            var call = a.CreateLabel();
            a.Label(ref round);
            a.mov(edi, r8d);
            a.and(edi, 3);
            a.shl(edi, 12);
            a.add(edi, 0x58000);
            a.mov(ebp, edi);
            a.mov(__word_ptr[rdi], 0xC031); // xor eax, eax
            a.add(edi, 2);
            a.xor(ecx, ecx);
            a.Label(ref write);
            a.mov(ebx, ecx);
            a.imul(ebx, r8d);
            a.mov(__byte_ptr[rdi], 5); // add eax, imm32
            a.mov(__dword_ptr[rdi + 1], ebx);
            a.add(edi, 5);
            a.inc(ecx);
            a.cmp(ecx, Adds);
            a.jb(write);
            a.mov(__byte_ptr[rdi], 0xC3);
            a.mov(esi, 20);
            a.Label(ref call);
            a.call(rbp);
            a.add(rdx, rax);
            a.dec(esi);
            a.jnz(call);
            a.inc(r8d);
            a.cmp(r8d, Rounds);
            a.jb(round);
        });
        m.RunToHalt(1L << 40);
        Assert.Equal((ulong)(Adds * (Adds - 1) / 2 * (Rounds * (Rounds - 1) / 2) * 20), m.Rdx);
        var statistics = ((TranslatorVcpu)m.Cpu).Statistics;
        Assert.True(statistics.Revived >= (Rounds - 4) * 3 && statistics.Translations < 40, $"{statistics.Revived} revived, {statistics.Translations} translations");
    }

    /// <summary>
    /// A short function jumps to another place of its page, so that the link between the two lies near its first byte.
    /// Both change, and the second one is executed first, which ends the link.
    /// </summary>
    /// <param name="code">What it begins with, up to the displacement of the jump.</param>
    /// <param name="changed">The byte that is made <paramref name="value"/>.</param>
    [Theory]
    [InlineData(new byte[] { 0x85, 0xC9, 0x0F, 0x84 }, 1, 0xDB)] // test ecx, ecx; je: then test ebx, ebx
    [InlineData(new byte[] { 0x83, 0xF9, 0x00, 0x0F, 0x84 }, 2, 0x01)] // cmp ecx, 0; je
    [InlineData(new byte[] { 0xB1, 0x00, 0xE9 }, 1, 0x01)] // mov cl, 0; jmp
    [InlineData(new byte[] { 0x90, 0xE9 }, 0, 0xF8)] // nop; jmp: then clc
    [InlineData(new byte[] { 0xE9 }, 2, 0x08)] // then to another place
    public void A_jump_and_its_target_change(byte[] code, int changed, byte value)
    {
        const ulong From = 0x58000, To = 0x58400;
        using var tested = new M();
        using var reference = new M(engine: new InterpreterEngine());
        var expected = Steps(reference);
        Assert.Equal(expected, Steps(tested));
        Assert.True(expected.Distinct().Count() >= 3);

        List<ulong> Steps(M m)
        {
            List<ulong> results = [];
            var before = code.Concat(BitConverter.GetBytes((int)(To - From) - code.Length - 4)).ToArray();
            m.Write(From, [.. before, 0xBA, 7, 0, 0, 0, 0xC3]); // mov edx, 7; ret
            m.Write(To, 0xBA, 1, 0, 0, 0, 0xC3);
            m.Write(From + 0x900, 0xBA, 5, 0, 0, 0, 0xC3);
            m.Program(a => a.call(rbp));
            for (var round = 0; round < 3; round++)
            {
                Call(From);
                Call(From);
                m.Write(From + (ulong)changed, value);
                m.Write(To, 0x8D, 0x51, 0x02, 0x90, 0x90, 0xC3); // lea edx, [rcx + 2]; nop; nop; ret
                Call(To);
                Call(From);
                Call(From);
                m.Write(From, before);
                m.Write(To, 0xBA, (byte)(round + 0x10), 0, 0, 0, 0xC3);
                Call(To);
                Call(From);
                m.Write(To, 0x8D, 0x51, 0x03, 0x90, 0x90, 0xC3);
            }

            return results;

            void Call(ulong function)
            {
                m.State.Rip = M.Code;
                m.State.Activity = State.ActivityState.Active;
                m.Rsp = M.Stack;
                m.Rcx = 0;
                m.Rbx = 1;
                m.Rbp = function;
                m.RunToHalt(1L << 40);
                results.Add(m.Rdx);
            }
        }
    }

    private static void Run(M m, ulong target, int width, int count)
    {
        m.Program(a =>
        {
            var next = a.CreateLabel();
            var copy = a.CreateLabel();
            var same = a.CreateLabel();
            a.mov(ebp, (int)target);
            a.Label(ref next);
            a.mov(esi, ebx);
            a.shl(esi, 10);
            a.add(esi, (int)Images);
            a.xor(r13d, r13d);
            a.Label(ref copy);
            switch (width)
            {
                case 1: a.mov(r12b, __byte_ptr[rsi + r13]); a.cmp(r12b, __byte_ptr[rbp + r13]); a.je(same); a.mov(__byte_ptr[rbp + r13], r12b); break;
                case 2: a.mov(r12w, __word_ptr[rsi + r13]); a.cmp(r12w, __word_ptr[rbp + r13]); a.je(same); a.mov(__word_ptr[rbp + r13], r12w); break;
                case 4: a.mov(r12d, __dword_ptr[rsi + r13]); a.cmp(r12d, __dword_ptr[rbp + r13]); a.je(same); a.mov(__dword_ptr[rbp + r13], r12d); break;
                default: a.mov(r12, __qword_ptr[rsi + r13]); a.cmp(r12, __qword_ptr[rbp + r13]); a.je(same); a.mov(__qword_ptr[rbp + r13], r12); break;
            }

            a.Label(ref same);
            a.add(r13d, width);
            a.cmp(r13d, ImageSize);
            a.jb(copy);
            a.mov(edi, ebx);
            a.shl(edi, 6);
            Call(a, rbp, Results);
            Call(a, rbp, Results); // linked by now
            Call(a, rsi, Expected);
            a.inc(ebx);
            a.cmp(ebx, count);
            a.jb(next);
        });
        m.RunToHalt(1L << 40);
        var results = new byte[count * ResultSize];
        var expected = new byte[count * ResultSize];
        Assert.True(m.Memory.TryRead(Results, results) && m.Memory.TryRead(Expected, expected));
        for (var i = 0; i < count; i++)
            Assert.True(results.AsSpan(i * ResultSize, ResultSize).SequenceEqual(expected.AsSpan(i * ResultSize, ResultSize)), $"generation {i}");
        Assert.True(Enumerable.Range(0, count).Select(i => Convert.ToHexString(expected, i * ResultSize, ResultSize)).Distinct().Count() > count / 2);
    }

    private static void Call(Assembler a, AssemblerRegister64 function, ulong results)
    {
        AssemblerRegister64[] registers = [rax, rcx, rdx, r8, r9, r10, r11, r15];
        for (var i = 0; i < registers.Length; i++)
            a.mov(registers[i], 0x0123_4567_89AB_CDEF * (i + 1));
        a.cmp(ebx, 3);
        a.call(function);
        for (var i = 0; i < registers.Length; i++)
            a.mov(__qword_ptr[rdi + (long)results + (i * 8)], registers[i]);
    }

    private static byte[] RandomFunction(Random random)
    {
        var a = new Assembler(64);
        for (var i = random.Next(20, 90); i > 0; i--)
            Emit(a, random);
        a.ret();
        var stream = new MemoryStream();
        a.Assemble(new StreamCodeWriter(stream), 0);
        return stream.ToArray();
    }

    private static void Emit(Assembler a, Random random)
    {
        AssemblerRegister64[] wide = [rax, rcx, rdx, r8, r9, r10, r11, r15];
        AssemblerRegister32[] narrow = [eax, ecx, edx, r8d, r9d, r10d, r11d, r15d];
        var x = random.Next(8);
        var y = random.Next(8);
        var constant = random.Next() * random.Next(2) + random.Next(-128, 128);
        switch (random.Next(14))
        {
            case 0: a.mov(narrow[x], constant); break;
            case 1: a.mov(wide[x], random.NextInt64()); break;
            case 2: a.add(wide[x], constant); break;
            case 3: a.sub(narrow[x], constant); break;
            case 4: a.xor(narrow[x], constant); break;
            case 5: a.adc(wide[x], constant); break;
            case 6: a.add(wide[x], wide[y]); break;
            case 7: a.shl(narrow[x], (byte)random.Next(40)); break;
            case 8: a.lea(wide[x], __[wide[y] + random.Next(1000)]); break;
            case 9: a.imul(narrow[x], narrow[y], constant); break;
            case 10: a.cmp(wide[x], constant); break;
            case 11: a.setb(cl); break;
            case 12: a.push(constant); a.pop(wide[x]); break;
            default:
                {
                    var skip = a.CreateLabel();
                    a.test(narrow[x], constant);
                    if (random.Next(2) == 0)
                        a.jz(skip);
                    else
                        a.jnz(skip);
                    a.add(narrow[y], constant);
                    a.Label(ref skip);
                    a.nop();
                    break;
                }
        }
    }

    private static byte[] OtherImmediates(byte[] image, Random random)
    {
        var result = image.ToArray();
        foreach (var (instruction, offsets) in Decode(image))
        {
            if (instruction.FlowControl == FlowControl.Next && offsets.HasImmediate && random.Next(4) == 0)
                random.NextBytes(result.AsSpan((int)instruction.IP + offsets.ImmediateOffset, offsets.ImmediateSize));
        }

        return result;
    }

    /// <summary>Registers or operation of one instruction change, its length and the places of others do not.</summary>
    private static byte[] OtherInstruction(byte[] image, Random random)
    {
        var result = image.ToArray();
        var choices = Decode(image).Where(d => d.Instruction.Mnemonic is Mnemonic.Mov or Mnemonic.Lea or Mnemonic.Imul or Mnemonic.Shl).ToArray();
        if (choices.Length == 0)
            return OtherImmediates(image, random);
        var (at, _) = choices[random.Next(choices.Length)];
        result.AsSpan((int)at.IP, at.Length).Fill(0x90);
        return result;
    }

    private static IEnumerable<(Instruction Instruction, ConstantOffsets Offsets)> Decode(byte[] image)
    {
        var decoder = Decoder.Create(64, new ByteArrayCodeReader(image));
        while (decoder.IP < (ulong)image.Length)
        {
            var instruction = decoder.Decode();
            yield return (instruction, decoder.GetConstantOffsets(instruction));
        }
    }
}
