// How often clusters are used, for a check: a sparse table, since a file may claim to be much longer than it is.
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Qcow2;

internal sealed class Qcow2UseCounts
{
    private const int PageBits = 6;

    /// <summary>About 2 GiB of memory.</summary>
    private const int PageLimit = 6 << 20;

    private readonly Dictionary<long, uint[]> _pages = [];

    /// <summary>The cluster after the last one that is used.</summary>
    public long End { get; private set; }

    public ulong this[long cluster] => _pages.TryGetValue(cluster >> PageBits, out var page) ? page[cluster & ((1 << PageBits) - 1)] : 0;

    public void Add(long cluster, int uses)
    {
        if (!_pages.TryGetValue(cluster >> PageBits, out var page))
        {
            if (_pages.Count == PageLimit)
                throw new BlockException("is too large, and too scattered, to be checked");
            _pages[cluster >> PageBits] = page = new uint[1 << PageBits];
        }

        page[cluster & ((1 << PageBits) - 1)] += (uint)uses;
        End = Math.Max(End, cluster + 1);
    }

    /// <summary>The clusters that are used, and how often.</summary>
    public IEnumerable<(long Cluster, ulong Uses)> All()
    {
        foreach (var (number, page) in _pages)
        {
            for (var i = 0; i < page.Length; i++)
            {
                if (page[i] != 0)
                    yield return ((number << PageBits) + i, page[i]);
            }
        }
    }
}
