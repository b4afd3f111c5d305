using Iced.Intel;
using Sharpvisor.Cpu.State;
using Sharpvisor.Cpu.Tests.Interpreter;
using Sharpvisor.Cpu.Translator;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Translator;

/// <summary>Real-mode code in generated code: what no fuzzer can compare with the host's processor.</summary>
public class RealModeTests
{
    /// <summary>Where the segments of random programs lie, and a little above what they reach.</summary>
    private const ulong Region = 0x40000, RegionEnd = 0x80000;
    private const int LowMemory = 0xA0000;

    private static Stop Run(PairOfMachines pair, Action<Assembler> code, Action<M>? prepare = null)
    {
        var stop = pair.Run(m =>
        {
            m.Enter(Mode.Real);
            using var stream = new MemoryStream();
            var assembler = new Assembler(16);
            code(assembler);
            assembler.hlt();
            assembler.Assemble(new StreamCodeWriter(stream), 0);
            Assert.True(m.Memory.TryWrite(M.Code, stream.ToArray()));
            prepare?.Invoke(m);
        });
        pair.SameMemory(0, LowMemory);
        return stop;
    }

    [Fact]
    public void Loading_a_segment_register_needs_no_exit()
    {
        using var pair = new PairOfMachines();
        Run(pair, a =>
        {
            a.mov(ax, 0x4000);
            a.mov(ds, ax);
            a.mov(es, __word_ptr[8]);
            a.push(ds);
            a.pop(fs);
            a.mov(dx, 0x5000);
            a.mov(ss, dx);
            a.mov(sp, 0x100);
            a.push(0x1234);
            a.mov(__word_ptr[0x20], ss);
            a.mov(cx, fs);
            a.mov(bx, __word_ptr.fs[0x20]);
            a.mov(__word_ptr.es[4], bx);
        }, m =>
        {
            m.Write<ushort>(0x40008, 0x4100);
            m.State.Segments[0].Attributes = 0x91; // as protected mode has left it: not writable
        });
        ref var state = ref pair.Translated.State;
        Assert.Equal((0x4000, 0x4100, 0x5000), (state.Segments[3].Selector, state.Segments[0].Selector, state.Segments[2].Selector));
        Assert.Equal((0x5000UL, 0x4000UL), (state.Gpr[3], state.Gpr[1]));
        Assert.Equal(0x5000, pair.Translated.Read<ushort>(0x41004));
        Assert.Equal(0x1234, pair.Translated.Read<ushort>(0x500FE));
        Assert.Equal(0, pair.Left(Mnemonic.Mov) + pair.Left(Mnemonic.Push) + pair.Left(Mnemonic.Pop));
    }

    [Theory]
    [InlineData(0xFFFF, 13)]
    [InlineData(0xFFFE, -1)]
    public void A_word_over_the_end_of_a_segment_faults(int offset, int vector)
    {
        using var pair = new PairOfMachines();
        var stop = Run(pair, a =>
        {
            a.mov(bx, (ushort)offset);
            a.mov(cx, 1);
            a.add(__word_ptr[bx], cx);
        });
        Assert.Equal(vector, stop.Vector);
    }

    [Fact]
    public void Offsets_of_16_bits_wrap_and_those_of_32_do_not()
    {
        using var pair = new PairOfMachines();
        var stop = Run(pair, a =>
        {
            a.mov(ax, 0x4000);
            a.mov(ds, ax);
            a.mov(bx, 0xFFF0);
            a.mov(si, 0x20);
            a.mov(__byte_ptr[bx + si + 4], 0x55); // at 14h
            a.mov(edi, 0x10014);
            a.mov(al, __byte_ptr[edi]);
        });
        Assert.Equal(13, stop.Vector);
        Assert.Equal(0x55, pair.Translated.Read<byte>(0x40014));
    }

    [Fact]
    public void With_large_limits_offsets_of_32_bits_reach_beyond_64_KiB()
    {
        using var pair = new PairOfMachines();
        Run(pair, a =>
        {
            a.mov(ax, 0x1000);
            a.mov(es, ax);
            a.mov(edi, 0x100000);
            a.mov(__dword_ptr.es[edi], 0x12345678);
        }, m => m.State.Segments[0].Limit = uint.MaxValue);
        Assert.Equal(0x12345678u, pair.Translated.Read32(0x110000));
    }

    [Fact]
    public void A_small_stack_wraps_and_keeps_the_upper_half_of_ESP()
    {
        using var pair = new PairOfMachines();
        Run(pair, a =>
        {
            a.mov(esp, 0x12340002);
            a.push(0x1111);
            a.push(0x2222);
            a.mov(ebp, 0xABCD0000);
            a.pop(bx);
            a.mov(bp, sp);
            a.leave();
        }, m => m.State.Segments[2] = m.State.Segments[2] with { Selector = 0x4000, Base = 0x40000 });
        Assert.Equal(0x2222, pair.Translated.Read<ushort>(0x4FFFE));
        Assert.Equal(0x12340002UL, pair.Translated.State.Gpr[4]);
        Assert.Equal(0xABCD1111UL, pair.Translated.State.Gpr[5]);
    }

    /// <summary>The same bytes at other places of their segments: a jump goes another way where it wraps round.</summary>
    [Theory]
    [InlineData(0x0000)]
    [InlineData(0x0010)]
    [InlineData(0x0FFF)]
    [InlineData(0x0800)]
    public void A_jump_wraps_round_at_64_KiB(int segmentsBefore)
    {
        using var pair = new PairOfMachines();
        var stop = pair.Run(m =>
        {
            m.Enter(Mode.Real);
            var start = 0x20000UL;
            var @base = start - (ulong)(segmentsBefore * 16);
            var ip = (uint)(start - @base);
            m.State.Segments[1] = m.State.Segments[1] with { Selector = (ushort)(@base >> 4), Base = @base };
            m.State.Rip = ip;
            m.State.Gpr[1] = 3;
            // inc ax; jmp -100h; there: dec cx; jnz back; hlt
            m.Write(start, 0x40, 0xE9, 0xFD, 0xFE);
            var target = @base + ((ip + 4 - 0x103) & 0xFFFF);
            m.Write(target, 0x49, 0x0F, 0x85, 0xFA, 0x00, 0xF4);
        });
        Assert.True(stop.Exit == VcpuExit.Halted && stop.Vector < 0, stop.ToString());
        Assert.Equal((3UL, 0UL), (pair.Translated.State.Gpr[0], pair.Translated.State.Gpr[1]));
    }

    [Theory]
    [InlineData(0x66, 0xE9, 0x00, 0x00, 0x01, 0x00)] // jmp +10000h
    [InlineData(0x66, 0xE8, 0x00, 0x00, 0x01, 0x00)] // call
    [InlineData(0x66, 0x0F, 0x85, 0x00, 0x00, 0x01, 0x00)] // jnz
    [InlineData(0x66, 0x68, 0x00, 0x00, 0x01, 0x00, 0x66, 0xC3)] // push 10000h; ret
    [InlineData(0x66, 0xB8, 0x00, 0x00, 0x01, 0x00, 0x66, 0xFF, 0xD0)] // mov eax, 10000h; call eax
    [InlineData(0x66, 0xB8, 0x00, 0x00, 0x01, 0x00, 0x66, 0xFF, 0xE0)]
    public void A_branch_out_of_the_segment_faults_itself(params int[] code)
    {
        using var pair = new PairOfMachines();
        var stop = Run(pair, a => a.db([.. code.Select(b => (byte)b)]));
        Assert.Equal(13, stop.Vector);
    }

    [Fact]
    public void Code_that_runs_to_the_end_of_its_segment_faults_there()
    {
        using var pair = new PairOfMachines();
        var stop = pair.Run(m =>
        {
            m.Enter(Mode.Real);
            m.Write(M.Code + 0xFFFC, 0x40, 0x40, 0x40, 0x40);
            m.State.Rip = 0xFFFC;
        });
        Assert.Equal((13, 4UL), (stop.Vector, pair.Translated.State.Gpr[0]));
    }

    [Fact]
    public void An_instruction_over_the_limit_is_not_executed()
    {
        using var pair = new PairOfMachines();
        var stop = pair.Run(m =>
        {
            m.Enter(Mode.Protected16); // in real mode the handler would have the same limit
            m.Write(M.Code, 0x40, 0xB8, 0x34, 0x12, 0xF4);
            m.State.Segments[1].Limit = 2;
        });
        Assert.Equal((13, 1UL), (stop.Vector, pair.Translated.State.Gpr[0]));
    }

    [Theory]
    [InlineData(0xE2)]
    [InlineData(0xE1)]
    [InlineData(0xE0)]
    [InlineData(0xE3)]
    public void Loops_count_in_CX_or_in_ECX(int opcode)
    {
        using var pair = new PairOfMachines();
        foreach (var prefix in (bool[])[false, true])
        {
            foreach (var count in (uint[])[1, 5, 0x7FFF])
            {
                Run(pair, a =>
                {
                    var again = a.CreateLabel();
                    var over = a.CreateLabel();
                    a.Label(ref again);
                    a.inc(ax);
                    a.cmp(ax, 3);
                    if (prefix)
                        a.db(0x67);
                    switch (opcode)
                    {
                        case 0xE2:
                            a.loop(again);
                            break;
                        case 0xE1:
                            a.loope(again);
                            break;
                        case 0xE0:
                            a.loopne(again);
                            break;
                        default:
                            a.jcxz(over);
                            a.inc(bx);
                            break;
                    }

                    a.Label(ref over);
                    a.pushf();
                    a.pop(dx);
                }, m => m.State.Gpr[1] = count);
            }
        }
    }

    [Fact]
    public void High_bytes_work_with_memory()
    {
        using var pair = new PairOfMachines();
        Run(pair, a =>
        {
            a.mov(si, 0x4000);
            a.mov(bx, 0x1234);
            a.mov(__byte_ptr[si], bh);
            a.mov(dh, __byte_ptr[si]);
            a.add(ah, __byte_ptr[si]);
            a.stc();
            a.adc(__byte_ptr[si], dh);
            a.xchg(__byte_ptr[si], ch);
        });
        Assert.Equal(0, pair.Left(Mnemonic.Mov) + pair.Left(Mnemonic.Add) + pair.Left(Mnemonic.Adc) + pair.Left(Mnemonic.Xchg));
    }

    [Fact]
    public void Vex_instructions_do_not_exist()
    {
        using var pair = new PairOfMachines();
        var stop = Run(pair, a => a.db(0xC4, 0xE2, 0x78, 0xF2, 0xC1)); // andn
        Assert.Equal(6, stop.Vector);
    }

    /// <summary>Random programs of instructions that firmware uses.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void Random_programs_do_the_same(int part)
    {
        using var pair = new PairOfMachines();
        for (var seed = part * 1000; seed < (part * 1000) + 150; seed++)
        {
            pair.Run(m => Prepare(m, seed), $"seed {seed}");
            pair.SameMemory(0, LowMemory);
        }
    }

    [Fact]
    public void Random_programs_in_lockstep()
    {
        using var m = new M(engine: new TranslatorEngine { Lockstep = true, Threshold = 0, CodeCacheSize = 8 << 20 });
        for (var seed = 0; seed < 40; seed++)
        {
            Prepare(m, seed);
            Assert.Equal(VcpuExit.Halted, m.Run(1L << 30).Exit);
        }

        Assert.DoesNotContain("lockstep: 0 ", m.Cpu.DescribeEngine());
    }

    private static void Prepare(M m, int seed)
    {
        var random = new Random(seed);
        m.Enter(Mode.Real);
        var bytes = new byte[RegionEnd - Region];
        random.NextBytes(bytes);
        m.Memory.TryWrite(Region, bytes);
        var offset = random.Next(2) == 0 ? 0UL : (ulong)random.Next(0xFFF) * 16; // of the code, in its segment
        m.State.Segments[1] = m.State.Segments[1] with { Selector = (ushort)((M.Code - offset) >> 4), Base = M.Code - offset };
        m.State.Rip = offset;
        m.Memory.TryWrite(M.Code, new RealModeProgram(random).Assemble(offset));
        for (var i = 0; i < 8; i++)
            m.State.Gpr[i] = (uint)random.NextInt64();
        m.Rsp = M.SmallStack;
        foreach (var i in (int[])[0, 2, 3, 4, 5])
        {
            var selector = (ushort)(0x4000 + (random.Next(0x10) * 0x123));
            m.State.Segments[i] = m.State.Segments[i] with { Selector = selector, Base = (ulong)selector << 4 };
        }
    }
}
