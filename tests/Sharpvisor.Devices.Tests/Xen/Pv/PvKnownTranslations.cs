using static Sharpvisor.Devices.Tests.Xen.Pv.PvBench;

namespace Sharpvisor.Devices.Tests.Xen.Pv;

/// <summary>
/// What a processor remembers of its walks. As long as the domain's generation of page tables is the same, a walk would find the
/// same again; one for code as long as that of code is, and that of its root.
/// </summary>
internal sealed class PvKnownTranslations(PvBench bench, Random random)
{
    private readonly Dictionary<(ulong Root, ulong Linear), ulong> _known = [];
    private readonly Dictionary<(ulong Root, ulong Linear), (ulong Entry, long Generation)> _knownCode = [];
    private long _generation, _codeGeneration;

    /// <summary>Walks that were compared with what was known.</summary>
    public int Kept { get; private set; }

    /// <summary>Those for code, of which the generation of all page tables had changed.</summary>
    public int CodeKept { get; private set; }

    public void Check()
    {
        if (_generation != bench.Mmu.TableGeneration)
            _known.Clear();
        if (_codeGeneration != bench.Mmu.CodeGeneration)
            _knownCode.Clear();
        foreach (var ((root, linear), entry) in _known)
        {
            Assert.Equal(entry, Walk(root, linear));
            Kept++;
        }

        foreach (var (place, (entry, generation)) in _knownCode)
        {
            if (generation != bench.Mmu.RootGeneration(place.Root))
            {
                _knownCode.Remove(place);
                continue;
            }

            Assert.Equal(entry, Walk(place.Root, place.Linear));
            CodeKept += _generation == bench.Mmu.TableGeneration ? 0 : 1;
        }

        (_generation, _codeGeneration) = (bench.Mmu.TableGeneration, bench.Mmu.CodeGeneration);
        var processor = bench.Processors[random.Next(bench.Processors.Count)];
        for (var i = 0; i < 20; i++)
        {
            var from = random.Next(2) == 0 && processor.UserRoot != 0 ? processor.UserRoot : processor.KernelRoot;
            var address = random.Next(2) == 0
                ? Base + (Page * (ulong)random.Next(512))
                : (Slot() << 39) | (Slot() << 30) | (Slot() << 21) | (Slot() << 12);
            if (Walk(from, address) is not 0 and var found)
            {
                _known[(from, address)] = found;
                if ((found & NoExecute) == 0)
                    _knownCode[(from, address)] = (found, bench.Mmu.RootGeneration(from));
            }
        }
    }

    private ulong Slot() => (ulong)(random.Next(4) == 0 ? 511 : random.Next(8));

    /// <summary>The entry that maps an address, without what walkers set; 0: there is none.</summary>
    private ulong Walk(ulong root, ulong linear)
    {
        var (entry, rights, noExecute) = (root, W | U, 0UL);
        for (var shift = 39; shift >= 12; shift -= 9)
        {
            Assert.True(bench.Memory.TryRead((entry & FrameMask) + ((linear >> shift & 511) * 8), out entry));
            if ((entry & P) == 0)
                return 0;
            rights &= entry;
            noExecute |= entry & NoExecute;
        }

        return (entry & FrameMask) | P | rights | noExecute;
    }
}
