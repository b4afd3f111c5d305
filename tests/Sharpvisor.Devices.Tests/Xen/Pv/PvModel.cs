using Sharpvisor.Devices.Xen.Pv;

namespace Sharpvisor.Devices.Tests.Xen.Pv;

/// <summary>Counts all references of a domain's frames from what lies in its memory, the slow and simple way.</summary>
internal sealed class PvModel(PvBench bench)
{
    private readonly Dictionary<ulong, Counts> _counts = [];

    /// <summary>Finds what differs from the domain's own counts.</summary>
    /// <param name="acquired">Frames that a back end holds, and whether to write.</param>
    public static void Check(PvBench bench, IEnumerable<(ulong Frame, bool IsWritable)>? acquired = null) => new PvModel(bench).Check(acquired ?? []);

    private void Check(IEnumerable<(ulong Frame, bool IsWritable)> acquired)
    {
        var frames = Enumerable.Range(0, (int)bench.Layout.PageCount).Select(bench.Mfn).ToList();
        foreach (var frame in frames)
        {
            var info = bench.Mmu.Describe(frame);
            if (info.IsAllocated)
                Of(frame).References++;
            if (info.IsPinned)
                Visit(frame, (int)info.Type);
        }

        foreach (var processor in bench.Processors)
        {
            Visit(processor.KernelRoot / PvBench.Page, 4);
            if (processor.UserRoot != 0)
                Visit(processor.UserRoot / PvBench.Page, 4);
        }

        foreach (var (frame, isWritable) in acquired)
            Use(frame, isWritable);

        ulong owned = 0;
        foreach (var frame in frames)
        {
            var (info, counts) = (bench.Mmu.Describe(frame), Of(frame));
            Assert.True(info.References == counts.References && info.TypeCount == counts.TypeCount, $"frame {frame:x}: {info}, counted {counts.References} and {counts.TypeCount} as {counts.Type}");
            Assert.True(info.TypeCount == 0 || info.Type == counts.Type, $"frame {frame:x}: {info}, counted as {counts.Type}");
            Assert.True(info.TypeCount == 0 || info.Type > PvFrameType.Level4 || info.Linear == counts.Linear, $"frame {frame:x}: {info}, linear {counts.Linear}");
            owned += info.References == 0 ? 0UL : 1;
        }

        Assert.Equal(owned, bench.Mmu.PageCount);
    }

    private void Visit(ulong table, int level)
    {
        var counts = Of(table);
        counts.References++;
        counts.TypeCount++;
        counts.SetType((PvFrameType)level, table);
        if (counts.IsVisited)
            return;
        counts.IsVisited = true;
        for (var i = 0; i < 512; i++)
        {
            Assert.True(bench.Memory.TryRead((table * PvBench.Page) + (ulong)(i * 8), out ulong entry));
            var frame = (entry & PvBench.FrameMask) / PvBench.Page;
            if ((entry & PvBench.P) == 0 || (level == 4 && i is >= 256 and < 272))
                continue;
            if (level == 1)
            {
                if (frame - (PvLayout.SharedPages / PvBench.Page) >= PvLayout.SharedPageCount)
                    Use(frame, (entry & PvBench.W) != 0);
            }
            else if ((int)bench.Mmu.Describe(frame).Type != level)
            {
                Visit(frame, level - 1);
            }
            else if (frame != table)
            {
                Assert.Equal(0UL, entry & PvBench.W);
                counts.Linear++;
                Of(frame).Linear--;
                Visit(frame, level);
            }
        }
    }

    private void Use(ulong frame, bool isWritable)
    {
        var counts = Of(frame);
        counts.References++;
        if (!isWritable)
            return;
        counts.TypeCount++;
        counts.SetType(PvFrameType.Writable, frame);
    }

    private Counts Of(ulong frame)
    {
        Assert.True(bench.Layout.IsDomainRam(frame), $"frame {frame:x} is no memory of the domain");
        if (!_counts.TryGetValue(frame, out var counts))
            _counts.Add(frame, counts = new Counts());
        return counts;
    }

    private sealed class Counts
    {
        public uint References { get; set; }

        public uint TypeCount { get; set; }

        public PvFrameType Type { get; private set; }

        public int Linear { get; set; }

        public bool IsVisited { get; set; }

        public void SetType(PvFrameType type, ulong frame)
        {
            Assert.True(Type == PvFrameType.None || Type == type, $"frame {frame:x} is used as {Type} and {type}");
            Type = type;
        }
    }
}
