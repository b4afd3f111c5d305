using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.State;
using Sharpvisor.Cpu.Tests.Interpreter;
using Sharpvisor.Cpu.Translator;

namespace Sharpvisor.Cpu.Tests.Translator;

/// <summary>The same program on the translator and on the interpreter, whatever engine the other tests run on.</summary>
internal sealed class PairOfMachines(Func<ICpuEngine, BareMachine> make) : IDisposable
{
    public PairOfMachines()
        : this(engine => new BareMachine(engine: engine))
    {
    }

    public BareMachine Translated { get; } = make(new TranslatorEngine { Threshold = 0, CodeCacheSize = 8 << 20 });

    public BareMachine Interpreted { get; } = make(new InterpreterEngine());

    /// <summary>How often generated code has left an instruction to the interpreter.</summary>
    public long Left(Mnemonic mnemonic) => ((TranslatorVcpu)Translated.Cpu).Statistics.Calls[(int)mnemonic];

    public void Dispose()
    {
        Translated.Dispose();
        Interpreted.Dispose();
    }

    /// <summary>Runs both and demands that they end alike. The translator's end. It does not count instructions, as usual.</summary>
    public Stop Run(Action<BareMachine> prepare, string about = "")
    {
        prepare(Interpreted);
        prepare(Translated);
        var expected = Interpreted.Run(100_000);
        Assert.Equal(VcpuExit.Halted, expected.Exit);
        var actual = Translated.Run(1L << 40);
        Assert.True(expected.Exit == actual.Exit && expected.Vector == actual.Vector, $"{about} {actual}, not {expected}");
        if (expected.Vector >= 0)
        {
            for (var slot = expected.HasError ? -1 : 0; slot < 5; slot++)
                Assert.True(expected.Slot(slot) == actual.Slot(slot), $"{actual}, not {expected}: slot {slot} of the frame is 0x{actual.Slot(slot):x}, not 0x{expected.Slot(slot):x}");
        }

        ref var one = ref Interpreted.State;
        ref var other = ref Translated.State;
        for (var i = 0; i < 16; i++)
            Assert.True(one.Gpr[i] == other.Gpr[i], $"{about} register {i} is 0x{other.Gpr[i]:x}, not 0x{one.Gpr[i]:x}");
        Assert.Equal(one.Rip, other.Rip);
        Assert.True(one.Rflags == other.Rflags, $"{about} flags are 0x{other.Rflags:x}, not 0x{one.Rflags:x}");
        Assert.Equal(one.Cr2, other.Cr2);
        Assert.Equal(one.KernelGsBase, other.KernelGsBase);
        for (var i = 0; i < 6; i++)
            Assert.Equal(one.Segments[i], other.Segments[i]);
        return actual;
    }

    /// <summary>Demands that both have the same in a range of physical memory.</summary>
    public void SameMemory(ulong start, int length)
    {
        var one = new byte[length];
        var other = new byte[length];
        Assert.True(Interpreted.Memory.TryRead(start, one) && Translated.Memory.TryRead(start, other));
        var at = one.AsSpan().CommonPrefixLength(other);
        Assert.True(at == length, $"memory at 0x{start + (ulong)at:x} differs");
    }
}
