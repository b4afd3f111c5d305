using System.Runtime.InteropServices;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Xen.Pv;

namespace Sharpvisor.Tests.Guests;

/// <summary>Counts anew, from the page tables in memory, what the domain's frames are used for. For a machine that stands still.</summary>
internal sealed class PvRecount(GuestMemory memory, PvMmu mmu, int processors)
{
    private const ulong Page = GuestMemory.PageSize, Present = 1, Writable = 2, FrameMask = 0x000F_FFFF_FFFF_F000;

    private readonly Dictionary<ulong, (uint References, uint Types, PvFrameType Type)> _counts = [];
    private readonly HashSet<ulong> _visited = [];

    /// <returns>How many tables there are, and references that are of no table.</returns>
    public (int Tables, long Held) Check()
    {
        var frames = Enumerable.Range(0, (int)mmu.Layout.PageCount).Select(pfn => mmu.Layout.ToMachine((ulong)pfn)).ToList();
        foreach (var frame in frames)
        {
            var info = mmu.Describe(frame);
            if (info.IsAllocated)
                Add(frame, PvFrameType.None);
            if (info.IsPinned)
                Visit(frame, info.Type);
        }

        for (var i = 0; i < processors; i++)
        {
            var (kernel, user) = mmu.RootsOf(i);
            Visit(kernel, PvFrameType.Level4);
            if (user != 0)
                Visit(user, PvFrameType.Level4);
        }

        long held = 0;
        foreach (var frame in frames)
        {
            var (info, counts) = (mmu.Describe(frame), _counts.GetValueOrDefault(frame));
            var isTable = info is { TypeCount: > 0, Type: <= PvFrameType.Level4 };
            Assert.True(info.References >= counts.References && info.TypeCount >= counts.Types, $"frame {frame:x}: {info}, counted {counts}");
            Assert.True(counts.Types == 0 || info.Type == counts.Type, $"frame {frame:x}: {info}, counted {counts}");
            Assert.True(!isTable || (info.References == counts.References && info.TypeCount == counts.Types), $"table {frame:x}: {info}, counted {counts}");
            held += info.References - counts.References;
        }

        return (_visited.Count, held);
    }

    private void Visit(ulong table, PvFrameType type)
    {
        Add(table, type);
        if (!_visited.Add(table))
            return;
        var entries = new ulong[512];
        Assert.True(memory.TryRead(table * Page, MemoryMarshal.AsBytes(entries.AsSpan())));
        for (var i = 0; i < entries.Length; i++)
        {
            var frame = (entries[i] & FrameMask) / Page;
            if ((entries[i] & Present) == 0 || (type == PvFrameType.Level4 && i is >= 256 and < 272))
                continue;
            if (type > PvFrameType.Level1)
                Visit(frame, type - 1);
            else if (mmu.Layout.IsDomainRam(frame))
                Add(frame, (entries[i] & Writable) != 0 ? PvFrameType.Writable : PvFrameType.None);
        }
    }

    private void Add(ulong frame, PvFrameType type)
    {
        ref var counts = ref CollectionsMarshal.GetValueRefOrAddDefault(_counts, frame, out _);
        counts.References++;
        if (type == PvFrameType.None)
            return;
        Assert.True(counts.Types == 0 || counts.Type == type, $"frame {frame:x} is used as {counts.Type} and {type}");
        counts.Types++;
        counts.Type = type;
    }
}
