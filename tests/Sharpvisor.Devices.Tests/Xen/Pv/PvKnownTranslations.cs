using static Sharpvisor.Devices.Tests.Xen.Pv.PvBench;

namespace Sharpvisor.Devices.Tests.Xen.Pv;

/// <summary>
/// What a processor remembers of its walks. As long as the domain's generation of page tables is the same, a walk would find the
/// same again.
/// </summary>
internal sealed class PvKnownTranslations(PvBench bench, Random random)
{
    private readonly Dictionary<(ulong Root, ulong Linear), ulong> _known = [];
    private long _generation, _rootGeneration;

    /// <summary>Walks that were compared with what was known.</summary>
    public int Kept { get; private set; }

    public void Check()
    {
        if (_generation != bench.Mmu.TableGeneration || _rootGeneration != bench.Mmu.RootGeneration)
            _known.Clear();
        (_generation, _rootGeneration) = (bench.Mmu.TableGeneration, bench.Mmu.RootGeneration);
        foreach (var ((root, linear), entry) in _known)
        {
            Assert.Equal(entry, Walk(root, linear));
            Kept++;
        }

        var processor = bench.Processors[random.Next(bench.Processors.Count)];
        for (var i = 0; i < 20; i++)
        {
            var from = random.Next(2) == 0 && processor.UserRoot != 0 ? processor.UserRoot : processor.KernelRoot;
            var address = random.Next(2) == 0
                ? Base + (Page * (ulong)random.Next(512))
                : (Slot() << 39) | (Slot() << 30) | (Slot() << 21) | (Slot() << 12);
            if (Walk(from, address) is not 0 and var found)
                _known[(from, address)] = found;
        }
    }

    private ulong Slot() => (ulong)(random.Next(4) == 0 ? 511 : random.Next(8));

    /// <summary>The entry that maps an address, without what walkers set; 0: there is none.</summary>
    private ulong Walk(ulong root, ulong linear)
    {
        var (entry, rights) = (root, W | U);
        for (var shift = 39; shift >= 12; shift -= 9)
        {
            Assert.True(bench.Memory.TryRead((entry & FrameMask) + ((linear >> shift & 511) * 8), out entry));
            if ((entry & P) == 0)
                return 0;
            rights &= entry;
        }

        return (entry & FrameMask) | P | rights;
    }
}
