using Sharpvisor.Cpu.State;
using Sharpvisor.Cpu.Tests.Interpreter;
using Sharpvisor.Cpu.Translator;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Translator;

/// <summary>32-bit code whose FS and GS, or all of whose data segments, have bases and limits.</summary>
public class SegmentedCodeTests
{
    private const ushort FsSelector = M.Free, GsSelector = M.Free + 8, DsSelector = M.Free + 16;

    private static void Prepare(M m, int seed)
    {
        var random = new Random(seed);
        m.Enter(seed % 2 == 0 ? Mode.Paged32 : Mode.Protected32);
        m.SetGdt(FsSelector, Descriptors.Segment((uint)M.Data + 0x1234, 0x3FFF, 0x4093));
        m.SetGdt(GsSelector, Descriptors.Segment((uint)M.Data + 0x4000, 0x1FFF, 0x4093));
        m.SetGdt(DsSelector, Descriptors.Segment((uint)M.Data + 0x800, 0x2FFF, 0x4093));
        m.Program(a =>
        {
            a.mov(ax, FsSelector);
            a.mov(fs, ax);
            a.mov(eax, (uint)GsSelector);
            a.mov(gs, ax);
            if (seed % 3 == 0)
            {
                a.mov(ax, DsSelector);
                a.mov(es, ax);
            }

            a.mov(ax, DsSelector);
            if (seed % 3 != 1)
                a.mov(ds, ax);
            new SegmentedProgram(random, a).Emit();
        });
        var bytes = new byte[0x8000];
        random.NextBytes(bytes);
        m.Memory.TryWrite(M.Data, bytes);
        m.Memory.TryWrite(0x100000 - 0x8000, bytes);
    }

    [Fact]
    public void Random_programs_do_the_same()
    {
        using var pair = new PairOfMachines();
        for (var seed = 0; seed < 200; seed++)
        {
            var stop = pair.Run(m => Prepare(m, seed), $"seed {seed}");
            Assert.True(stop.Vector < 0, $"seed {seed}: {stop}");
            pair.SameMemory(M.Data, 0x10000);
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

        Assert.DoesNotContain("lockstep: 0 ", m.Cpu.DescribeEngine(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0x1FFC, -1)]
    [InlineData(0x1FFD, 13)]
    [InlineData(-4, 13)]
    public void The_last_byte_has_to_be_within_the_limit(int offset, int vector)
    {
        using var pair = new PairOfMachines();
        var stop = pair.Run(m =>
        {
            Prepare(m, 1);
            m.Program(a =>
            {
                a.mov(ax, GsSelector);
                a.mov(gs, ax);
                a.mov(ebx, offset);
                a.add(__dword_ptr.gs[ebx], 5);
            });
        });
        Assert.Equal(vector, stop.Vector);
        pair.SameMemory(M.Data, 0x8000);
    }

    [Fact]
    public void FS_needs_no_exit()
    {
        using var pair = new PairOfMachines();
        pair.Run(m =>
        {
            Prepare(m, 1);
            m.Program(a =>
            {
                a.mov(ax, FsSelector);
                a.mov(fs, ax);
                a.inc(__dword_ptr.fs[0x10]);
                a.push(__dword_ptr.fs[0x10]);
                a.mov(edx, __dword_ptr.cs[(int)M.Code]);
                a.pop(ecx);
            });
        });
        Assert.Equal(0, pair.Left(Iced.Intel.Mnemonic.Inc) + pair.Left(Iced.Intel.Mnemonic.Push));
        Assert.Equal(pair.Translated.Read32(M.Data + 0x1244), (uint)pair.Translated.Rcx);
    }
}
