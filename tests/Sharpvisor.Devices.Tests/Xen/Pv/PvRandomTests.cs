using Sharpvisor.Devices.Xen;
using Sharpvisor.Devices.Xen.Pv;
using static Sharpvisor.Devices.Tests.Xen.Pv.PvBench;

namespace Sharpvisor.Devices.Tests.Xen.Pv;

/// <summary>
/// Random domains. The tame one does only what processors would let it do: after each call all counts are those of a recount, and
/// at its end nothing is left. The wild one writes where it likes, too: nothing throws, and it stays where it is.
/// </summary>
public sealed class PvRandomTests
{
    /// <summary>Frames that all happens to, so that they meet: by their likely level.</summary>
    private const int First = 600, Levels = 5, PerLevel = 4, Count = Levels * PerLevel, Kinds = 14;

    private static readonly int Rounds = int.TryParse(Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_COUNT"), out var count) && count > 1000 ? count : 1000;

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void The_counts_of_a_tame_domain_are_right(int seed)
    {
        using var bench = new PvBench(4 << 20);
        var random = new Random(seed);
        Prepare(bench, random);
        List<(ulong Frame, bool IsWritable)> acquired = [];
        var successes = new int[Kinds];
        var known = new PvKnownTranslations(bench, random);
        for (var round = 0; round < Rounds; round++)
        {
            var kind = random.Next(Kinds);
            if (Step(bench, random, kind, acquired))
                successes[kind]++;
            PvModel.Check(bench, acquired);
            known.Check();
        }

        Assert.InRange(known.Kept, Rounds, int.MaxValue);
        Assert.InRange(known.CodeKept, Rounds / 10, int.MaxValue);
        Assert.All(successes, n => Assert.True(n > 0, string.Join(' ', successes)));

        // All goes: what is left is what there was at first.
        foreach (var (frame, isWritable) in acquired)
            bench.Mmu.Release(frame, isWritable);
        foreach (var processor in bench.Processors)
            Assert.Equal(XenError.None, bench.Mmu.SetRoots(processor, bench.Mfn(Root) * Page, 0));

        for (var i = First; i < First + Count; i++)
        {
            if (bench.Frame(i).IsPinned)
                Assert.Equal(0, bench.Unpin(i));
        }

        for (var i = 0; i < 512; i++)
        {
            bench.Update(bench.At(4, i), bench.Entry(i, P | (i is >= 1 and <= 4 ? 0 : W)));
            if (i != 0)
                bench.Update(bench.At(3, i), 0);
        }

        for (var i = First; i < First + Count; i++)
            Assert.Equal((0u, bench.Frame(i).IsAllocated ? 1u : 0u), (bench.Frame(i).TypeCount, bench.Frame(i).References));
        PvModel.Check(bench);
        Assert.False(bench.Errors.Counts.ContainsKey("xen-pv: the references of a frame are wrong"));
    }

    [Theory]
    [InlineData(11)]
    [InlineData(12)]
    public void A_wild_domain_does_no_harm(int seed)
    {
        using var bench = new PvBench(4 << 20);
        var random = new Random(seed);
        Prepare(bench, random);
        List<(ulong Frame, bool IsWritable)> acquired = [];
        for (var round = 0; round < Rounds * 10; round++)
        {
            switch (random.Next(4))
            {
                case 0:
                    // Behind Xen's back: tables change that are in use.
                    bench.Put(First + random.Next(Count), Slot(random), Value(bench, random));
                    break;
                case 1:
                    ulong number = random.Next(5) switch { 0 => 1, 1 => 12, 2 => 14, 3 => 22, _ => 26 };
                    bench.Call(number, Word(bench, random), Word(bench, random) & 0xFFFF, Word(bench, random), Word(bench, random));
                    break;
                default:
                    Step(bench, random, random.Next(Kinds), acquired);
                    break;
            }

            if (random.Next(500) == 0)
            {
                bench.Reset();
                Prepare(bench, random);
                acquired.Clear();
            }
        }

        Assert.True(bench.Errors.Counts.ContainsKey("xen-pv: the references of a frame are wrong"));
        bench.Reset();
        PvModel.Check(bench);
    }

    private static bool Step(PvBench bench, Random random, int kind, List<(ulong Frame, bool IsWritable)> acquired)
    {
        var frame = First + random.Next(Count);
        var level = random.Next(4) == 0 ? random.Next(1, 5) : LevelOf(frame);
        var processor = bench.Processors[random.Next(bench.Processors.Count)];
        foreach (var each in bench.Processors)
            Restore(bench, each);
        switch (kind)
        {
            case 0:
                // An ordinary store, which a mapping lets the domain do as long as the page is no table.
                if (bench.Frame(frame) is { TypeCount: > 0, Type: not PvFrameType.Writable } or { References: 0 })
                    return false;
                bench.Put(frame, Slot(random), Value(bench, random, LevelOf(frame)));
                return true;
            case 1 or 2:
                return bench.Update(bench.At(frame, Slot(random)), Value(bench, random, LevelOf(frame)), (ulong)(random.Next(2) * 2)) == 0;
            case 3:
                return level is >= 1 and <= 4 && bench.Pin(frame, level) == 0;
            case 4:
                return bench.Unpin(frame) == 0;
            case 5:
                return bench.Call(26, Put(bench, 5, bench.Mfn(random.Next(3) == 0 ? Root : frame)), 1, 0, 0x7FF0, processor) == 0;
            case 6:
                return bench.Call(26, Put(bench, 15, random.Next(3) == 0 ? 0 : bench.Mfn(frame)), 1, 0, 0x7FF0, processor) == 0;
            case 7:
                return bench.Map(Base + ((ulong)random.Next(16, 512) * Page), Value(bench, random, 1), (ulong)random.Next(8)) == 0;
            case 8:
                return bench.Store(bench.At(frame, Slot(random)), Value(bench, random, 1));
            case 9:
                return bench.Reserve(1, [bench.Mfn(frame)]) == 1;
            case 10:
                return bench.Reserve(6, [(ulong)frame]) == 1;
            case 11:
                if (acquired.Count > 0 && random.Next(2) == 0)
                {
                    var (held, isWritable) = acquired[^1];
                    acquired.RemoveAt(acquired.Count - 1);
                    bench.Mmu.Release(held, isWritable);
                    return true;
                }

                var writes = random.Next(2) == 0;
                if (!bench.Mmu.TryAcquire(bench.Mfn(frame), writes))
                    return false;
                acquired.Add((bench.Mfn(frame), writes));
                return true;
            case 12:
                // A table in the place of one below.
                var tables = Enumerable.Range(First, Count).Where(f => bench.Frame(f) is { TypeCount: > 0, Type: PvFrameType.Level2 or PvFrameType.Level3 or PvFrameType.Level4 }).ToArray();
                var pairs = tables.SelectMany(t => tables.Where(o => o != t && bench.Frame(o).Type == bench.Frame(t).Type).Select(o => (Table: t, Other: o))).ToArray();
                if (pairs.Length == 0)
                    return false;
                var (table, other) = pairs[random.Next(pairs.Length)];
                return bench.Update(bench.At(table, Slot(random)), bench.Entry(other, P | U)) == 0;
            default:
                return random.Next(2) == 0 ? bench.Exchange([bench.Mfn(frame)], 0, [(ulong)frame], 0) == 0 : bench.Extended((uint)random.Next(16, 18), bench.Mfn(frame), bench.Mfn(9)) == 0;
        }
    }

    /// <summary>A processor whose tables do not map the arguments of calls gets the first ones; a wild domain may not have these any more.</summary>
    private static void Restore(PvBench bench, PvProcessor processor)
    {
        if (!processor.TryRead(ArgumentAt(0), new byte[1]) && bench.Mmu.SetRoots(processor, bench.Mfn(Root) * Page, processor.UserRoot) != XenError.None)
            bench.Reset();
    }

    /// <summary>One mmuext_op as an argument.</summary>
    private static ulong Put(PvBench bench, uint command, ulong first)
    {
        bench.PutArgument(16, command);
        bench.PutArgument(24, first);
        return ArgumentAt(16);
    }

    /// <summary>Tables refer to such that are one level lower.</summary>
    private static void Prepare(PvBench bench, Random random)
    {
        for (var frame = First; frame < First + Count; frame++)
        {
            for (var i = 0; i < 3; i++)
                bench.Put(frame, Slot(random), Value(bench, random, LevelOf(frame)));
        }

        // The kernel's mappings, where a table of the domain's is used as its top.
        for (var i = 0; i < PerLevel; i++)
            bench.Put(First + i, 511, bench.Entry(2, P | W | U));
    }

    private static int LevelOf(int frame) => 4 - ((frame - First) / PerLevel);

    private static int Slot(Random random) => random.Next(8) switch { 0 => 256, 1 => 511, 2 => random.Next(512), var n => n };

    private static ulong Value(PvBench bench, Random random, int level = 0)
    {
        if (random.Next(4) == 0)
            return 0;
        var frame = random.Next(12) switch
        {
            0 => First + random.Next(Count),
            1 => random.Next(16),
            _ => First + Math.Min(Count - PerLevel, (5 - level) * PerLevel) + random.Next(PerLevel),
        };
        var bits = P | (random.Next(3) == 0 ? 0 : W) | ((ulong)random.Next(2) * A) | ((ulong)random.Next(2) * D) | ((ulong)random.Next(2) * NoExecute) | U;
        return random.Next(40) switch
        {
            0 => (ulong)random.NextInt64() | P,
            1 => bench.Entry(frame, bits | (1UL << random.Next(64))),
            _ => bench.Entry(frame, bits),
        };
    }

    private static ulong Word(PvBench bench, Random random) => random.Next(6) switch
    {
        0 => (ulong)random.NextInt64(),
        1 => (ulong)random.NextInt64() >> random.Next(64),
        2 => bench.Entry(First + random.Next(Count), (ulong)random.Next(8)),
        3 => ArgumentAt(random.Next(512) * 8),
        4 => 0x7FF0,
        _ => (ulong)random.Next(16),
    };
}
