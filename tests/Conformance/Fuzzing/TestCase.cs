using Iced.Intel;

namespace Conformance.Fuzzing;

/// <summary>An instruction with what is known only when the sequence has been laid out.</summary>
/// <param name="Target">
/// For a branch, or a MOV that loads a jump's target: the item it leads to. For a MOV to memory: the item whose last
/// four bytes it changes. Else -1.
/// </param>
/// <param name="Prefix">A byte in front that changes nothing.</param>
/// <param name="Prefixes">How often it is there. More than 15 bytes in all are #GP.</param>
public readonly record struct Step(Instruction Instruction, int Target = -1, byte Prefix = 0, int Prefixes = 0);

/// <summary>One instruction under test, behind the MOVs that make its operands reach where they should.</summary>
public sealed record Item(IReadOnlyList<Step> Steps);

/// <summary>A sequence of instructions and the state to start it from.</summary>
public sealed class TestCase
{
    private readonly int[] _offsets;
    private readonly uint[] _undefined;

    private TestCase(long seed, int bitness, SegmentSet? segments, ulong start, IReadOnlyList<Item> items, in CpuImage initial, ReadOnlyMemory<byte> scratch,
        byte[] code, List<Instruction> instructions, int[] offsets, uint[] undefined)
    {
        Seed = seed;
        Bitness = bitness;
        Segments = segments;
        Start = start;
        Items = items;
        Initial = initial;
        ScratchMemory = scratch;
        Code = code;
        Instructions = instructions;
        _offsets = offsets;
        _undefined = undefined;
    }

    public long Seed { get; }

    public int Bitness { get; }

    /// <summary>Null: flat.</summary>
    public SegmentSet? Segments { get; }

    /// <summary>The first RIP.</summary>
    public ulong Start { get; }

    public ulong End => Start + (ulong)Code.Length;

    public IReadOnlyList<Item> Items { get; }

    public CpuImage Initial { get; }

    public ReadOnlyMemory<byte> ScratchMemory { get; }

    public ReadOnlySpan<byte> Scratch => ScratchMemory.Span;

    public byte[] Code { get; }

    public IReadOnlyList<Instruction> Instructions { get; }

    /// <summary>Encodes a sequence; null when it can't be, does not fit, or depends on flags that are undefined.</summary>
    public static TestCase? TryCreate(long seed, int bitness, ulong start, IReadOnlyList<Item> items, in CpuImage initial, ReadOnlyMemory<byte> scratch, SegmentSet? segments = null)
    {
        List<Instruction> instructions = [];
        List<int> offsets = [];
        var starts = new int[items.Count + 1];
        byte[] code = [];
        for (var pass = 0; pass < 2; pass++)
        {
            instructions.Clear();
            offsets.Clear();
            var writer = new ByteWriter();
            var encoder = Encoder.Create(bitness, writer);
            for (var i = 0; i < items.Count; i++)
            {
                starts[i] = pass == 0 ? writer.Bytes.Count : starts[i];
                foreach (var step in items[i].Steps)
                {
                    var instruction = step.Instruction;
                    if (step.Target >= 0)
                    {
                        var target = start + (ulong)(pass == 0 ? writer.Bytes.Count : starts[Math.Min(step.Target, items.Count)]);
                        if (instruction.Op0Kind != OpKind.Memory)
                            SetTarget(ref instruction, target);
                        else if (step.Target < items.Count && IsPatched(items[step.Target]))
                            instruction.MemoryDisplacement64 = start + (ulong)(pass == 0 ? 0 : starts[step.Target + 1] - 4);
                        else
                            return null; // what it changes was left out
                    }

                    var ip = start + (ulong)writer.Bytes.Count;
                    offsets.Add(writer.Bytes.Count);
                    for (var n = 0; n < step.Prefixes; n++)
                        writer.WriteByte(step.Prefix);
                    if (!encoder.TryEncode(instruction, start + (ulong)writer.Bytes.Count, out _, out _))
                        return null;
                    instruction.Length = writer.Bytes.Count - offsets[^1];
                    instruction.IP = ip; // after the length: Iced keeps the end
                    instructions.Add(instruction);
                }
            }

            starts[items.Count] = writer.Bytes.Count;
            code = [.. writer.Bytes];
        }

        if (code.Length > Arena.MaximumCode - 32 || UndefinedFlags.Track(instructions) is not { } undefined)
            return null;
        return new TestCase(seed, bitness, segments, start, items, initial, scratch, code, instructions, [.. offsets], undefined);
    }

    /// <summary>The same start for other instructions: to make a difference smaller.</summary>
    public TestCase? With(IReadOnlyList<Item> items) => TryCreate(Seed, Bitness, Start, items, Initial, ScratchMemory, Segments);

    /// <summary>Arithmetic flags without a defined value when the run ends at <paramref name="rip"/>.</summary>
    public uint UndefinedFlagsAt(ulong rip)
    {
        if (rip >= End)
            return _undefined[^1];
        var i = IndexAt(rip);
        return _undefined[i] | _undefined[i + 1];
    }

    /// <summary>The instruction that a fault at this address belongs to.</summary>
    public Instruction InstructionAt(ulong rip) => Instructions[IndexAt(rip)];

    public IEnumerable<string> Disassemble()
    {
        var formatter = new NasmFormatter();
        var output = new StringOutput();
        for (var i = 0; i < Instructions.Count; i++)
        {
            var instruction = Instructions[i];
            formatter.Format(instruction, output);
            var bytes = Code.AsSpan(_offsets[i], instruction.Length);
            yield return $"{instruction.IP:x8} {Convert.ToHexStringLower(bytes),-24} {output.ToStringAndReset()}";
        }
    }

    /// <summary>FSTCW and the like are two: WAIT, and behind it what faults.</summary>
    private int IndexAt(ulong rip)
    {
        var i = Array.BinarySearch(_offsets, (int)Math.Min(rip - Start, (ulong)Code.Length));
        return Math.Clamp(i < 0 ? ~i - 1 : i, 0, Instructions.Count - 1);
    }

    private static bool IsPatched(Item item) => item.Steps[^1] is { Prefixes: 0, Instruction: { Code: Iced.Intel.Code.Add_rm32_imm32, Op0Kind: OpKind.Register } };

    private static void SetTarget(ref Instruction instruction, ulong target)
    {
        switch (instruction.Op0Kind)
        {
            case OpKind.NearBranch64 or OpKind.NearBranch32:
                instruction.NearBranch64 = target;
                break;
            case OpKind.NearBranch16:
                instruction.NearBranch16 = (ushort)target;
                break;
            case OpKind.Register when instruction.Op1Kind == OpKind.Immediate16:
                instruction.Immediate16 = (ushort)target;
                break;
            default:
                if (instruction.Op1Kind == OpKind.Immediate64)
                    instruction.Immediate64 = target;
                else
                    instruction.Immediate32 = (uint)target;
                break;
        }
    }
}
