using Sharpvisor.Core.Interrupts;
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.Cpuid;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.State;

namespace Conformance.Fuzzing;

/// <summary>A processor with a mistake must be caught: else the fuzzer proves nothing.</summary>
[Collection("native code")]
[Trait("Category", "Conformance")]
public sealed class FuzzerTests
{
    private const int Sequences = 300;

    public delegate void Mistake(ref CpuState state);

    public static TheoryData<string, Mistake> Mistakes => new()
    {
        { "a register", (ref CpuState s) => s.Gpr[11] ^= 1 },
        { "the upper half of a vector", (ref CpuState s) => s.Ymm[15].Q3 ^= 1UL << 63 },
        { "the x87 stack", (ref CpuState s) => s.X87[CpuImage.FxSt0 + 9] ^= 0x80 },
        { "MXCSR", (ref CpuState s) => s.Mxcsr ^= 0x8000 },
    };

    [Theory]
    [MemberData(nameof(Mistakes))]
    public void A_wrong_result_is_found_and_shortened_to_nothing(string what, Mistake mistake)
    {
        using var fuzzer = new Fuzzer(new MistakenEngine(mistake), CpuModel.Parse("sharp64"), 64);
        var finding = fuzzer.Run(1, TimeSpan.MaxValue, Sequences).FirstOrDefault();
        Assert.True(finding is not null, $"{what} was wrong {Sequences} times and nobody noticed");
        Assert.Empty(finding.Test.Items);
    }

    [Fact]
    public void The_same_seed_makes_the_same_sequence()
    {
        using var arena = new Arena();
        var first = new InstructionGenerator(arena, 64).Generate(4711);
        var second = new InstructionGenerator(arena, 64).Generate(4711);
        Assert.Equal(first.Code, second.Code);
        Assert.True(first.Scratch.SequenceEqual(second.Scratch));
        Assert.NotEqual(first.Code, new InstructionGenerator(arena, 64).Generate(4712).Code);
    }

    private sealed class MistakenEngine(Mistake mistake) : ICpuEngine
    {
        public string Name => "mistaken";

        public IVcpu CreateVcpu(int index, CpuEnvironment environment, ILocalInterruptController apic, IReadOnlyList<IMsrDevice> msrs) =>
            new MistakenVcpu(new InterpreterEngine().CreateVcpu(index, environment, apic, msrs), mistake);
    }

    private sealed class MistakenVcpu(IVcpu inner, Mistake mistake) : IVcpu
    {
        public int Index => inner.Index;

        public long InstructionCount => inner.InstructionCount;

        public VcpuExit Run(long budget) => inner.Run(budget);

        public void Kick() => inner.Kick();

        public void WaitForWork() => inner.WaitForWork();

        public CpuState GetState()
        {
            var state = inner.GetState();
            mistake(ref state);
            return state;
        }

        public void SetState(in CpuState state) => inner.SetState(state);

        public DebugEvent DebugEvent => inner.DebugEvent;

        public void SetDebugPoints(DebugPoints points) => inner.SetDebugPoints(points);

        public void SetStepping(in Stepping stepping) => inner.SetStepping(stepping);

        public void Reset() => inner.Reset();

        public string DescribeFault() => inner.DescribeFault();

        public string DescribeEngine() => inner.DescribeEngine();

        public void SetInterruptRequest(bool asserted) => inner.SetInterruptRequest(asserted);

        public void RaiseNmi() => inner.RaiseNmi();

        public void RaiseSmi() => inner.RaiseSmi();

        public void RaiseInit() => inner.RaiseInit();

        public void RaiseStartup(byte vector) => inner.RaiseStartup(vector);

        public void Dispose() => inner.Dispose();
    }
}
