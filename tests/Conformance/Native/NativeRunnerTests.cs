using Conformance.Fuzzing;
using Iced.Intel;

namespace Conformance.Native;

/// <summary>The oracle itself, against what the SDM says.</summary>
[Collection("native code")]
[Trait("Category", "Conformance")]
public sealed class NativeRunnerTests : IDisposable
{
    private readonly Arena _arena = new();
    private readonly NativeRunner _runner;

    public NativeRunnerTests()
    {
        _runner = new NativeRunner(_arena);
    }

    public void Dispose() => _arena.Dispose();

    [Fact]
    public void Registers_and_flags_go_in_and_come_out()
    {
        CpuImage cpu = default;
        for (var i = 0; i < 16; i++)
        {
            cpu.Gpr[i] = 0x1111_1111_1111_1111UL * (ulong)i;
            cpu.Ymm[i].Q0 = (ulong)i;
            cpu.Ymm[i].Q3 = ~(ulong)i;
        }

        cpu.Gpr[0] = ulong.MaxValue;
        cpu.Rflags = 0x202;
        cpu.Mxcsr = 0x7F80;
        cpu.Fx[0] = 0x7F;
        cpu.Fx[1] = 0x0F;
        var outcome = Run(64, cpu, Instruction.Create(Code.Add_rm64_r64, Register.RAX, Register.R15),
            Instruction.Create(Code.VEX_Vpaddq_ymm_ymm_ymmm256, Register.YMM0, Register.YMM1, Register.YMM2));

        Assert.Equal(Outcome.End, outcome.Vector);
        Assert.Equal(0xFFFF_FFFF_FFFF_FFFEUL, outcome.Cpu.Gpr[0]);
        Assert.Equal(0x4444_4444_4444_4444UL, outcome.Cpu.Gpr[4]); // a stack pointer to nowhere
        Assert.Equal(UndefinedFlags.Cf | UndefinedFlags.Af | UndefinedFlags.Sf, (uint)outcome.Cpu.Rflags & UndefinedFlags.Compared);
        Assert.Equal(3UL, outcome.Cpu.Ymm[0].Q0);
        Assert.Equal(unchecked(~1UL + ~2UL), outcome.Cpu.Ymm[0].Q3);
        Assert.Equal(~15UL, outcome.Cpu.Ymm[15].Q3);
        Assert.Equal(0x7F80u, outcome.Cpu.Mxcsr);
        Assert.Equal(0x0F, outcome.Cpu.Fx[1]);
    }

    [Fact]
    public void Faults_are_caught_with_the_stack_pointer_anywhere()
    {
        CpuImage cpu = default;
        cpu.Rflags = 0x202;
        cpu.Mxcsr = 0x1F80;
        cpu.Gpr[1] = 7;
        var divide = Run(64, cpu, Instruction.Create(Code.Inc_rm32, Register.ECX), Instruction.Create(Code.Div_rm64, Register.RBX));
        Assert.Equal((0, _arena.CodeAddress + 2, 8UL), (divide.Vector, divide.Rip, divide.Cpu.Gpr[1]));

        Assert.Equal(6, Run(64, cpu, Instruction.Create(Code.Ud2)).Vector);
        Assert.Equal(13, Run(64, cpu, Instruction.Create(Code.Hlt)).Vector);

        cpu.Gpr[3] = _arena.UnmappedAddress + 16;
        var page = Run(64, cpu, Instruction.Create(Code.Mov_rm64_r64, new MemoryOperand(Register.RBX), Register.RAX));
        Assert.Equal((14, 6u, _arena.UnmappedAddress + 16), (page.Vector, page.ErrorCode, page.Cr2));

        cpu.Gpr[3] = _arena.ReadOnlyAddress;
        page = Run(64, cpu, Instruction.Create(Code.Mov_rm64_r64, new MemoryOperand(Register.RBX), Register.RAX));
        Assert.Equal((14, 7u, _arena.ReadOnlyAddress), (page.Vector, page.ErrorCode, page.Cr2));

        cpu.Gpr[3] = 0x8000_0000_0000_0000;
        Assert.Equal(13, Run(64, cpu, Instruction.Create(Code.Mov_r64_rm64, Register.RAX, new MemoryOperand(Register.RBX))).Vector);
        cpu.Gpr[5] = 0x8000_0000_0000_0000;
        Assert.Equal(12, Run(64, cpu, Instruction.Create(Code.Mov_r64_rm64, Register.RAX, new MemoryOperand(Register.RBP))).Vector);
    }

    [Fact]
    public void The_runtimes_own_exceptions_work_afterwards()
    {
        CpuImage cpu = default;
        cpu.Rflags = 0x202;
        cpu.Mxcsr = 0x1F80;
        for (var i = 0; i < 100; i++)
        {
            Assert.Equal(6, Run(64, cpu, Instruction.Create(Code.Ud2)).Vector);
            Assert.Throws<DivideByZeroException>(() => 1 / (int)cpu.Gpr[0]);
            string? nothing = null;
            Assert.Throws<NullReferenceException>(() => nothing!.Length);
        }
    }

    [Fact]
    public void Code_of_32_bits_runs_and_faults()
    {
        CpuImage cpu = default;
        cpu.Rflags = 0x202;
        cpu.Mxcsr = 0x1F80;
        cpu.Gpr[0] = 0x1B;
        cpu.Gpr[4] = 0x1234;
        var outcome = Run(32, cpu, Instruction.Create(Code.Aaa), Instruction.Create(Code.Inc_r32, Register.ESP));
        Assert.Equal((Outcome.End, 0x101UL, 0x1235UL), (outcome.Vector, outcome.Cpu.Gpr[0] & 0xFFFF, outcome.Cpu.Gpr[4]));
        Assert.Equal(0, Run(32, cpu, Instruction.Create(Code.Aam_imm8, 0)).Vector);
    }

    [Theory]
    [InlineData(64, false)]
    [InlineData(32, false)]
    [InlineData(32, true)]
    [InlineData(16, true)]
    public void The_host_gives_the_same_result_twice(int bitness, bool segmented)
    {
        var generator = new InstructionGenerator(_arena, bitness, segmented: segmented);
        var cases = Enumerable.Range(0, 400).Select(seed => generator.Generate(seed)).ToArray();
        var first = cases.Select(_ => new Outcome()).ToArray();
        var second = cases.Select(_ => new Outcome()).ToArray();
        _runner.Run(cases, first);
        _runner.Run(cases, second);
        for (var i = 0; i < cases.Length; i++)
            Assert.Null(Comparison.Difference(cases[i], first[i], second[i]));
        Assert.InRange(first.Count(o => o.Vector == Outcome.End), 200, 399);
        Assert.True(first.Select(o => o.Vector).Distinct().Count() >= 4);
    }

    private Outcome Run(int bitness, in CpuImage cpu, params Instruction[] instructions)
    {
        var items = instructions.Select(i => new Item([new Step(i)])).ToArray();
        var test = TestCase.TryCreate(0, bitness, _arena.CodeAddress, items, cpu, new byte[Arena.ScratchSize]);
        Assert.NotNull(test);
        var outcome = new Outcome();
        _runner.Run([test], [outcome]);
        return outcome;
    }
}
