using System.Runtime.InteropServices;
using Iced.Intel;
using Sharpvisor.Cpu.State;

namespace Conformance.Fuzzing;

/// <summary>Makes test cases: each from its seed alone.</summary>
public sealed class InstructionGenerator
{
    private static readonly byte[] s_pool = Values.MakePool(new Random(7));

    private readonly Arena _arena;
    private readonly int _bitness;
    private readonly InstructionTable _table;
    private readonly SegmentSet[]? _sets;
    private readonly HashSet<Mnemonic> _skipped;

    /// <param name="skipped">Mnemonics to leave out: while a known difference waits to be fixed.</param>
    /// <param name="segmented">With segments that are not flat; code of 16 bits has no others.</param>
    public InstructionGenerator(Arena arena, int bitness, IEnumerable<Mnemonic>? skipped = null, bool segmented = false)
    {
        _arena = arena;
        _bitness = bitness;
        if (segmented || bitness == 16)
            _sets = SegmentSet.Make(arena, bitness);
        _table = bitness switch
        {
            64 => InstructionTable.Bits64,
            32 => segmented ? InstructionTable.Segmented32 : InstructionTable.Bits32,
            _ => InstructionTable.Bits16,
        };
        _skipped = [.. skipped ?? []];
    }

    public TestCase Generate(long seed)
    {
        for (var attempt = 0; ; attempt++)
        {
            var random = new Random(Mix(seed, attempt));
            var segments = _sets?[random.Next(_sets.Length)];
            var initial = MakeState(random, segments);
            var length = random.Next(3) == 0 ? 1 : random.Next(2, 9);
            List<Item> items = [];
            var patched = segments is null && random.Next(16) == 0 && length > 1 ? random.Next(1, length) : 0; // an instruction that an earlier one changes
            var patching = random.Next(patched);
            while (items.Count < length)
            {
                var builder = new ItemBuilder(_arena, _bitness, segments, random, items.Count, length);
                if (patched != 0 && items.Count == patching)
                    items.Add(builder.Patch(patched));
                else if (patched != 0 && items.Count == patched)
                    items.Add(builder.Patched());
                else if (builder.TryBuild(PickCode(random)) is { } item)
                    items.Add(item);
            }

            var scratch = s_pool.AsMemory(random.Next((Values.PoolSize - Arena.ScratchSize) / 8) * 8, Arena.ScratchSize);
            if (TestCase.TryCreate(seed, _bitness, _arena.CodeAddress - (segments?[SegmentSet.CS].Base ?? 0), items, initial, scratch, segments) is { } test)
                return test;
        }
    }

    /// <summary>SplitMix64's finaliser: neighbouring seeds give unrelated sequences, the same on every machine.</summary>
    private int Mix(long seed, int attempt)
    {
        var z = unchecked(((ulong)seed * 0x9E3779B97F4A7C15) + ((ulong)attempt << 48) + (ulong)_bitness + (_sets is null ? 0 : 1000u));
        z = unchecked((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9);
        z = unchecked((z ^ (z >> 27)) * 0x94D049BB133111EB);
        return (int)(z ^ (z >> 31));
    }

    private Code PickCode(Random random)
    {
        while (true)
        {
            var code = _table.Pick(random);
            if (!_skipped.Contains(code.Mnemonic()) && (!code.ToOpCode().IsPrivileged || random.Next(8) == 0))
                return code;
        }
    }

    private CpuImage MakeState(Random random, SegmentSet? segments)
    {
        CpuImage cpu = default;
        var count = _bitness == 64 ? 16 : 8;
        for (var i = 0; i < count; i++)
            cpu.Gpr[i] = _bitness == 64 ? Values.Integer(random) : (uint)Values.Integer(random);
        cpu.Gpr[4] = _arena.ScratchAddress + 8192; // rsp
        if (segments is not null)
        {
            cpu.Gpr[4] -= segments[SegmentSet.SS].Base;
            if (!segments.HasBigStack)
                cpu.Gpr[4] = (ushort)cpu.Gpr[4] | (uint)Values.Integer(random) & 0xFFFF_0000;
        }

        cpu.Rflags = 0x202 | ((ulong)random.Next(0x1000) & UndefinedFlags.Compared);
        MemoryMarshal.Cast<YmmValue, ulong>((Span<YmmValue>)cpu.Ymm)[..(count * 4)].Clear();
        foreach (ref var lane in MemoryMarshal.Cast<YmmValue, ulong>(((Span<YmmValue>)cpu.Ymm)[..count]))
            lane = Values.Lane(random);

        // All exceptions masked, mostly; any rounding, DAZ and FTZ.
        cpu.Mxcsr = 0x1F80u | (uint)(random.Next(4) << 13) | (random.Next(8) == 0 ? 0x8000u : 0) | (random.Next(8) == 0 ? 0x40u : 0)
            | (random.Next(4) == 0 ? (uint)random.Next(64) : 0);
        if (random.Next(16) == 0)
            cpu.Mxcsr &= ~((uint)random.Next(64) << 7);

        var fx = (Span<byte>)cpu.Fx;
        var precision = random.Next(4) switch { 0 => 0x000, 1 => 0x200, _ => 0x300 };
        var masks = random.Next(16) == 0 ? random.Next(0x40) : 0x3F;
        BitConverter.TryWriteBytes(fx, (ushort)(0x40 | masks | precision | (random.Next(4) << 10)));
        BitConverter.TryWriteBytes(fx[2..], (ushort)((random.Next(8) << 11) | (random.Next(4) == 0 ? random.Next(0x40) & masks : 0) | (random.Next(4) == 0 ? random.Next(0x10000) & 0x4700 : 0)));
        fx[4] = (byte)(random.Next(3) switch { 0 => 0, 1 => 0xFF, _ => random.Next(256) });
        for (var i = 0; i < 8; i++)
        {
            var st = fx.Slice(CpuImage.FxSt0 + (16 * i), 10);
            var exponent = random.Next(6) switch { 0 => 0, 1 => 0x7FFF, 2 => random.Next(0x8000), _ => 0x3FFF + random.Next(-70, 70) };
            var mantissa = Values.Integer(random) | (random.Next(8) == 0 ? 0 : 1UL << 63);
            BitConverter.TryWriteBytes(st, mantissa);
            BitConverter.TryWriteBytes(st[8..], (ushort)(exponent | (random.Next(2) << 15)));
        }

        return cpu;
    }
}
