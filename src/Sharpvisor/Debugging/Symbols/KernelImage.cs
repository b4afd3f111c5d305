// Where Linux for x86-64 lies: its image is mapped between __START_KERNEL_map (ffffffff80000000) and the modules
// (ffffffffc0000000), wherever KASLR has put it (Documentation/arch/x86/x86_64/mm.rst). Nothing else is mapped there.
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Debugging.Symbols;

/// <summary>The kernel's page tables and what they map of its image.</summary>
internal sealed class KernelImage
{
    public const ulong MapStart = 0xFFFF_FFFF_8000_0000, MapLast = 0xFFFF_FFFF_BFFF_FFFF;

    /// <summary>An image of a kernel is 20 to 60 MiB; while it starts, more is mapped.</summary>
    private const ulong MaximumSize = 192 << 20, PlausibleSize = 8 << 20;

    private readonly List<LinearRun> _runs;

    private KernelImage(CpuState tables, List<LinearRun> runs)
    {
        Tables = tables;
        _runs = runs;
    }

    /// <summary>A state whose CR3 has the kernel's own page tables.</summary>
    public CpuState Tables { get; }

    /// <summary>The first mapped address.</summary>
    public ulong Start => _runs[0].Linear;

    private int Size => (int)Math.Min(_runs[^1].Linear + _runs[^1].Length - Start, MaximumSize);

    /// <returns>Null: no processor's page tables map a kernel.</returns>
    public static KernelImage? Find(IGuestView view)
    {
        KernelImage? best = null;
        HashSet<ulong> seen = [];
        for (var i = 0; i < view.ProcessorCount; i++)
        {
            var state = view.GetState(i);
            const ulong Pg = 1UL << 31, Lma = 1 << 10, Tables = 0x000F_FFFF_FFFF_F000, UserTables = 0x1000;
            if ((state.Cr0 & Pg) == 0 || (state.Efer & Lma) == 0)
                continue;
            // With page table isolation a process has two: the kernel's, and behind them the user's without most of the kernel.
            foreach (var root in (ReadOnlySpan<ulong>)[state.Cr3 & Tables, state.Cr3 & Tables & ~UserTables])
            {
                if (!seen.Add(root))
                    continue;
                state.Cr3 = root;
                List<LinearRun> runs = [];
                LinearMappings.Visit(in state, view.ReadPhysical, MapStart, MapLast, run =>
                {
                    runs.Add(run);
                    return runs.Count < 100_000;
                });
                if (runs.Count == 0)
                    continue;
                var image = new KernelImage(state, runs);
                if (best is null || image.MappedSize > best.MappedSize)
                    best = image;
                if (best.MappedSize >= PlausibleSize)
                    return best;
            }
        }

        return best;
    }

    /// <summary>The image's bytes from <see cref="Start"/> on; holes are zeroes.</summary>
    public byte[] Read(IGuestView view)
    {
        var image = new byte[Size];
        foreach (var run in _runs)
        {
            var offset = run.Linear - Start;
            if (offset < (ulong)image.Length)
                view.ReadPhysical(run.Physical, image.AsSpan((int)offset, (int)Math.Min(run.Length, (ulong)image.Length - offset)));
        }

        return image;
    }

    private ulong MappedSize => _runs.Aggregate(0UL, (sum, r) => sum + r.Length);
}
