using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>Short loops, which a translator may execute otherwise in their first round than in later ones.</summary>
public class LoopTests
{
    /// <summary>What loops work on: three pages, in memory in another order; the page behind them is not mapped.</summary>
    private const ulong Area = 0x200000, AreaSize = 0x3000, Hole = Area + AreaSize;

    private static readonly AssemblerRegister64[] s_wide = [rax, rdx, rbx, r8, r9, r10, r11, r12];
    private static readonly AssemblerRegister32[] s_narrow = [eax, edx, ebx, r8d, r9d, r10d, r11d, r12d];
    private static readonly AssemblerRegister16[] s_words = [ax, dx, bx, r8w, r9w, r10w, r11w, r12w];

    public static TheoryData<int> Seeds => [.. Enumerable.Range(1, 12)];

    /// <summary>
    /// Random loops end as they do on the interpreter: at their end, behind a jump out of the middle, or with a page
    /// fault in some round, with the same registers, flags and memory.
    /// </summary>
    [Theory]
    [MemberData(nameof(Seeds))]
    public void A_random_loop_ends_as_on_the_interpreter(int seed)
    {
        var random = new Random(seed);
        using var tested = new M();
        using var reference = new M(engine: new InterpreterEngine());
        var faults = 0;
        for (var run = 0; run < 120; run++)
        {
            var programSeed = random.Next();
            var budgetSeed = random.Next(2) == 0 ? random.Next() : -1;
            var expected = Run(reference, programSeed, -1);
            var actual = Run(tested, programSeed, budgetSeed);
            Assert.Equal(expected.Vector, actual.Vector);
            var what = $"seed {seed}, run {run}: {Convert.ToHexString(expected.Code)}";
            for (var i = 0; i < 16; i++)
                Assert.True(expected.State.Gpr[i] == actual.State.Gpr[i], $"{what}: register {i} is 0x{actual.State.Gpr[i]:x}, not 0x{expected.State.Gpr[i]:x}");
            Assert.Equal(expected.State.Rip, actual.State.Rip);
            Assert.True(expected.State.Rflags == actual.State.Rflags, $"{what}: flags are 0x{actual.State.Rflags:x}, not 0x{expected.State.Rflags:x}");
            Assert.Equal(expected.State.Cr2, actual.State.Cr2);
            Assert.Equal(expected.Flags, actual.Flags);
            Assert.True(expected.Memory.AsSpan().SequenceEqual(actual.Memory), $"{what}: other memory");
            faults += expected.Vector == Vectors.PF ? 1 : 0;
        }

        Assert.InRange(faults, 1, 119);
    }

    /// <summary>The loop writes over an instruction of its own, in the middle of its rounds.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(50)]
    public void A_loop_changes_itself(int round)
    {
        using var m = new M();
        m.Program(a =>
        {
            var loop = a.CreateLabel();
            a.Label(ref loop);
            a.cmp(ebx, round);
            a.mov(r8, rsi);
            a.cmove(r8, rdi);
            a.mov(__dword_ptr[r8], eax);
            a.inc(ebx);
            a.add(rdx, 1);
            a.cmp(ebx, ecx);
            a.jne(loop);
        });
        var code = new byte[64];
        Assert.True(m.Memory.TryRead(M.Code, code));
        m.Rdi = M.Code + (ulong)code.AsSpan().IndexOf(new byte[] { 0x48, 0x83, 0xC2, 0x01 });
        m.Rsi = M.Data;
        m.Rax = 0x05C28348; // add rdx, 5
        m.Rcx = 100;
        m.RunToHalt();
        Assert.Equal((ulong)(round + (5 * (100 - round))), m.Rdx);
    }

    /// <summary>An invariant place whose page is taken away by the loop itself faults in that round, not later.</summary>
    [Fact]
    public void A_loop_unmaps_what_it_reads()
    {
        using var m = new M();
        var entry = m.Map(Area, M.Data);
        m.Program(a =>
        {
            var loop = a.CreateLabel();
            a.Label(ref loop);
            a.mov(rax, __[rdi]);
            a.inc(ebx);
            a.cmp(ebx, 40);
            a.mov(r8, r9);
            a.cmove(r8, rsi);
            a.and(__qword_ptr[r8], -2);
            a.invlpg(__[rdi]);
            a.cmp(ebx, 100);
            a.jne(loop);
        });
        m.Rdi = Area;
        m.Rsi = entry;
        m.State.Gpr[9] = M.Data + 8;
        m.Expect(Vectors.PF, 0, M.Code);
        Assert.Equal(40UL, m.Rbx);
    }

    /// <summary>Displacements that are the last there are, before and behind what moves the access.</summary>
    [Theory]
    [InlineData(int.MaxValue, 1)]
    [InlineData(int.MinValue, -1)]
    public void A_moving_access_has_the_largest_displacement(int displacement, int step)
    {
        using var m = new M();
        m.Write(M.Data, [.. Enumerable.Range(0, 200).Select(i => (byte)i)]);
        m.Program(a =>
        {
            var loop = a.CreateLabel();
            a.Label(ref loop);
            a.movzx(eax, __byte_ptr[rdi + displacement]);
            a.add(rdx, rax);
            a.add(rdi, step);
            a.movzx(eax, __byte_ptr[rdi + displacement]);
            a.add(rbx, rax);
            a.dec(ecx);
            a.jne(loop);
        });
        m.Rdi = M.Data + 60 - (ulong)(long)displacement;
        m.Rcx = 50;
        m.RunToHalt();
        Assert.Equal((ulong)Enumerable.Range(0, 50).Sum(i => 60 + (step * i)), m.Rdx);
        Assert.Equal((ulong)Enumerable.Range(1, 50).Sum(i => 60 + (step * i)), m.Rbx);
    }

    private static (int Vector, CpuState State, ulong Flags, byte[] Memory, byte[] Code) Run(M m, int seed, int budgetSeed)
    {
        var random = new Random(seed);
        m.Enter(Mode.Long);
        var area = new byte[AreaSize];
        random.NextBytes(area);
        m.Write(Area, area);
        m.Map(Area, Area + 0x2000);
        m.Map(Area + 0x1000, Area);
        m.Map(Area + 0x2000, Area + 0x1000);
        m.Map(Hole, 0, 0);

        // Another place for each, so that no translation of the last one is met.
        var code = M.Code + ((ulong)random.Next(0x3000) & ~1UL);
        var end = m.Assemble(code, a => EmitLoop(a, random));
        m.State.Rip = code;
        for (var i = 0; i < 16; i++)
        {
            if (i != 4)
                m.State.Gpr[i] = random.Next(3) == 0 ? (ulong)random.Next(10) : (ulong)random.NextInt64();
        }

        m.Rcx = (ulong)random.Next(2, random.Next(2) == 0 ? 20 : 400);
        m.Rsi = Area + (ulong)random.Next(0x1000);
        m.Rdi = Area + 0x400 + (ulong)random.Next(0x1C00);
        m.Rbp = Area + 0x400 + ((ulong)random.Next(0x1C00) & ~15UL);
        m.State.Gpr[13] = (ulong)(long)random.Next(-200, 200);
        m.State.Rflags = 2 | ((ulong)random.Next() & 0xCD5 & ~0x400UL);
        var budgets = budgetSeed < 0 ? null : new Random(budgetSeed);
        var stop = m.Run(budgets?.Next(1, 60) ?? 100_000);
        for (var i = 0; stop.Exit != VcpuExit.Halted && i < 100_000; i++)
            stop = m.Continue(budgets?.Next(1, 60) ?? 100_000);
        Assert.True(stop.Exit == VcpuExit.Halted, stop.ToString());
        var memory = new byte[AreaSize];
        Assert.True(m.Memory.TryRead(Area, memory));
        var bytes = new byte[end - code];
        Assert.True(m.Memory.TryRead(code, bytes));
        return (stop.Vector, m.State, stop.Vector < 0 ? 0 : stop.Flags, memory, bytes);
    }

    internal static void EmitLoop(Assembler a, Random random)
    {
        var loop = a.CreateLabel();
        var leave = a.CreateLabel();
        a.Label(ref loop);
        var count = random.Next(1, 14);
        var moves = random.Next(count);
        for (var i = 0; i < count; i++)
        {
            EmitOne(a, random, leave);
            if (i == moves)
                EmitMoves(a, random);
        }

        switch (random.Next(5))
        {
            case 0:
                a.dec(rcx);
                a.jne(loop);
                break;
            case 1:
                a.sub(ecx, 1);
                a.mov(__qword_ptr[rdi], rdx); // the flags are still wanted
                a.ja(loop);
                break;
            case 2:
                a.add(rsi, random.Next(1, 80));
                a.cmp(rsi, Register(random) switch { 0 => rbp, _ => rdi });
                a.lea(rcx, __[rcx - 1]);
                a.jrcxz(leave);
                a.jne(loop);
                break;
            case 3:
                a.dec(ecx);
                a.je(leave);
                a.jmp(loop);
                break;
            default:
                // The jump back is followed by more of the block.
                a.dec(ecx);
                a.jg(loop);
                EmitOne(a, random, leave);
                EmitOne(a, random, leave);
                break;
        }

        a.Label(ref leave);
        a.hlt();
    }

    /// <summary>What lets accesses move on by a constant in each round.</summary>
    private static void EmitMoves(Assembler a, Random random)
    {
        switch (random.Next(6))
        {
            case 0: a.inc(r13); break;
            case 1: a.dec(r13); break;
            case 2: a.add(r13, random.Next(-9, 10)); break;
            case 3: a.lea(r13, __[r13 + random.Next(-9, 10)]); break;
            case 4: a.sub(r13, 2); break;
        }

        switch (random.Next(5))
        {
            case 0: a.add(rsi, random.Next(100)); break;
            case 1: a.lea(rsi, __[rsi + 16]); break;
            case 2: a.sub(rsi, random.Next(30)); break;
            case 3: a.inc(rsi); break;
        }
    }

    private static int Register(Random random) => random.Next(8);

    private static void EmitOne(Assembler a, Random random, Label leave)
    {
        var x = Register(random);
        var y = Register(random);
        var constant = random.Next(2) == 0 ? random.Next(-3, 4) : random.Next();
        switch (random.Next(35))
        {
            case 0: a.add(s_wide[x], s_wide[y]); break;
            case 1: a.adc(s_narrow[x], s_narrow[y]); break;
            case 2: a.sub(s_wide[x], constant); break;
            case 3: a.cmp(s_narrow[x], s_narrow[y]); break;
            case 4: a.cmp(s_words[x], s_words[y]); break;
            case 5: a.and(s_narrow[x], constant); break;
            case 6: a.test(s_wide[x], s_wide[y]); break;
            case 7: a.ror(s_narrow[x], 1); break;
            case 8: a.shl(s_wide[x], cl); a.add(s_wide[y], s_wide[x]); break; // which leaves no flag undefined
            case 9: a.inc(s_narrow[x]); break;
            case 10: a.setc(al); break;
            case 11: a.cmovbe(s_wide[x], s_wide[y]); break;
            case 12: a.imul(s_wide[x], s_wide[y], constant); a.cmp(s_wide[x], constant); break;
            case 13: a.mov(s_wide[x], __[rdi + random.Next(-64, 64)]); break;
            case 14: a.mov(__[rdi + random.Next(-64, 64)], s_narrow[x]); break;
            case 15: a.mov(s_narrow[x], __[rsi + random.Next(16)]); break;
            case 16: a.add(__dword_ptr[rsi], constant); break;
            case 17: a.add(s_wide[x], __[rdi + (rcx * 4)]); break;
            case 18: a.mov(__word_ptr[rdi + (rcx * 2) + 8], s_words[x]); break;
            case 19: a.cmp(__byte_ptr[rsi], (sbyte)constant); break;
            case 20: a.sub(__qword_ptr[rsi + 4], s_wide[x]); break;
            case 21: a.lea(s_wide[x], __[rsi + (s_wide[y] * 4) + 3]); break;
            case 22: a.push(s_wide[x]); a.pop(s_wide[y]); break;
            case 23: a.movaps(xmm1, __[rbp + (16 * random.Next(4))]); a.movups(__[rdi], xmm1); break;
            case 24: a.xchg(s_narrow[x], s_narrow[y]); break;
            case 25: a.@lock.add(__dword_ptr[rdi + 8], s_narrow[x]); break;
            case 26: a.cmp(s_wide[x], s_wide[y]); a.je(leave); break;
            case 27: a.mov(s_wide[x], __[rdi + r13]); break;
            case 28: a.mov(__[rdi + (r13 * 2) + 5], s_words[x]); break;
            case 29: a.add(__dword_ptr[rbp + (r13 * 4)], s_narrow[x]); break;
            case 30: a.xor(s_wide[x], __[rbp + (r13 * 8) + 8]); break;
            case 31: a.movups(xmm2, __[rsi]); a.movups(__[rsi + 16], xmm2); break;
            case 32: a.push(__qword_ptr[rdi + (r13 * 4)]); a.pop(s_wide[x]); break;
            case 33: a.adc(s_narrow[x], __[rsi + (r13 * 4)]); break;
            default: a.bt(s_narrow[x], (byte)random.Next(32)); a.sbb(s_narrow[y], s_narrow[y]); break;
        }
    }
}
