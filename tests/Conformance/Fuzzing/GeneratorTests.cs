using Iced.Intel;

namespace Conformance.Fuzzing;

/// <summary>What the generator should reach it does reach: a blind spot looks like a processor without mistakes.</summary>
[Collection("native code")]
[Trait("Category", "Conformance")]
public sealed class GeneratorTests
{
    private const int Sequences = 6000;

    [Theory]
    [InlineData(64)]
    [InlineData(32)]
    [InlineData(16)]
    public void Every_kind_of_difficulty_occurs(int bitness)
    {
        using var arena = new Arena();
        var generator = new InstructionGenerator(arena, bitness);
        Dictionary<string, int> seen = [];
        for (var seed = 0; seed < Sequences; seed++)
        {
            var test = generator.Generate(seed);
            foreach (var item in test.Items)
            {
                foreach (var kind in Kinds(item.Steps[^1]))
                    seen[kind] = seen.GetValueOrDefault(kind) + 1;
            }
        }

        string[] both =
        [
            "locked", "lock not allowed", "high byte", "repetition", "segment prefix", "useless prefix", "over 15 bytes", "CL count", "constant count",
        ];
        string[] special = bitness switch
        {
            64 => ["changes code", "relative", "32-bit address"],
            32 => ["changes code", "16-bit address", "written code segment"],
            _ => ["16-bit address", "32-bit address", "written code segment"],
        };
        foreach (var kind in both.Concat(special))
            Assert.True(seen.GetValueOrDefault(kind) >= 3, $"{kind}: {seen.GetValueOrDefault(kind)} in {Sequences} sequences");

        IEnumerable<string> Kinds(Step step)
        {
            var instruction = step.Instruction;
            var operands = Enumerable.Range(0, instruction.OpCount).ToArray();
            var memory = operands.Any(i => instruction.GetOpKind(i) == OpKind.Memory);
            if (instruction.HasLockPrefix)
                yield return instruction.Op0Kind == OpKind.Memory && instruction.Code.ToOpCode().CanUseLockPrefix ? "locked" : "lock not allowed";
            if (operands.Any(i => instruction.GetOpKind(i) == OpKind.Register && instruction.GetOpRegister(i) is Register.AH or Register.BH or Register.CH or Register.DH))
                yield return "high byte";
            if (instruction.HasRepPrefix || instruction.HasRepnePrefix)
                yield return "repetition";
            if (instruction.SegmentPrefix != Register.None)
                yield return instruction.SegmentPrefix == Register.CS && instruction.Op0Kind == OpKind.Memory ? "written code segment" : "segment prefix";
            if (step.Prefixes > 0)
                yield return "useless prefix";
            if (step.Prefixes > 0 && InstructionLength(step) > 15)
                yield return "over 15 bytes";
            if (step.Target >= 0 && instruction.Op0Kind == OpKind.Memory)
                yield return "changes code";
            if (instruction.Mnemonic is Mnemonic.Shl or Mnemonic.Rcr or Mnemonic.Shrd)
                yield return instruction.GetOpKind(instruction.OpCount - 1) == OpKind.Register ? "CL count" : "constant count";
            if (memory && instruction.IsIPRelativeMemoryOperand)
                yield return "relative";
            if (memory && instruction.MemoryBase.IsGPR32())
                yield return "32-bit address";
            if (memory && instruction.MemoryBase.IsGPR16())
                yield return "16-bit address";
        }

        int InstructionLength(Step step)
        {
            var bytes = new ByteWriter();
            return Encoder.Create(bitness, bytes).TryEncode(step.Instruction, arena.CodeAddress, out var length, out _) ? (int)length + step.Prefixes : 0;
        }
    }
}
