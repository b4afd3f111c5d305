// The page tables that a paravirtual domain starts with, made by its frames (pfn): Intel SDM volume 3, 4.5 (4-level paging).
// Present bits and rights are those that Xen's domain builder gives (tools/libs/guest/xg_dom_x86.c).
using System.Runtime.InteropServices;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Xen.Pv;

namespace Sharpvisor.Boot;

internal sealed class PvPageTables
{
    private const int Entries = 512, Levels = 4;
    private const ulong Page = GuestMemory.PageSize;
    private const ulong Present = 1, Writable = 2, User = 4, Accessed = 0x20, Dirty = 0x40;
    private const ulong PageBits = Present | Writable | Accessed, TableBits = Present | Writable | User | Accessed | Dirty;

    private readonly List<Table> _tables = [];
    private readonly Dictionary<(int Level, ulong Prefix), Table> _byPlace = [];
    private readonly ulong _pageCount;
    private ulong _next;

    /// <param name="first">Frame of the top table; the others follow.</param>
    /// <param name="pageCount">Frames of the domain: others are left out of the mappings.</param>
    public PvPageTables(ulong first, ulong pageCount)
    {
        _next = first;
        _pageCount = pageCount;
        Root = first;
        Get(Levels, 0);
    }

    /// <summary>Frame of the top table.</summary>
    public ulong Root { get; }

    public int Count => _tables.Count;

    /// <summary>The next tables are made from this frame on.</summary>
    public void Continue(ulong frame) => _next = frame;

    /// <summary>Makes the tables of a range.</summary>
    public void Reserve(ulong linear, ulong pages)
    {
        const ulong leaf = Page * Entries;
        var leaves = ((linear % leaf) + (pages * Page) + leaf - 1) / leaf;
        for (ulong i = 0; i < leaves; i++)
            GetLeaf(linear + (i * leaf));
    }

    /// <summary>Maps frames that follow each other, writable.</summary>
    public void Map(ulong linear, ulong pages, ulong frame)
    {
        Reserve(linear, pages);
        for (ulong i = 0; i < pages && frame + i < _pageCount; i++)
        {
            var at = linear + (i * Page);
            GetLeaf(at).Entries[Index(at, 1)] = ((frame + i) * Page) | PageBits;
        }
    }

    /// <summary>Puts the tables where they belong. They themselves are mapped read-only.</summary>
    public void WriteTo(GuestMemory memory, PvLayout layout)
    {
        var frames = _tables.Select(t => t.Frame).ToHashSet();
        var contents = new ulong[Entries];
        foreach (var table in _tables)
        {
            for (var i = 0; i < Entries; i++)
            {
                var entry = table.Entries[i];
                if (entry != 0)
                {
                    var frame = entry / Page;
                    entry = (layout.ToMachine(frame) * Page) | (entry & (Page - 1) & ~(table.Level == 1 && frames.Contains(frame) ? Writable : 0));
                }

                contents[i] = entry;
            }

            memory.TryWrite(layout.ToMachine(table.Frame) * Page, MemoryMarshal.AsBytes(contents.AsSpan()));
        }
    }

    private static int Index(ulong linear, int level) => (int)(linear >> (12 + (9 * (level - 1)))) & (Entries - 1);

    private Table GetLeaf(ulong linear)
    {
        var table = _byPlace[(Levels, 0)];
        for (var level = Levels; level > 1; level--)
        {
            var below = Get(level - 1, linear >> (12 + (9 * (level - 1))));
            table.Entries[Index(linear, level)] = (below.Frame * Page) | TableBits;
            table = below;
        }

        return table;
    }

    private Table Get(int level, ulong prefix)
    {
        if (!_byPlace.TryGetValue((level, prefix), out var table))
        {
            table = new Table(level, _next++, new ulong[Entries]);
            _byPlace.Add((level, prefix), table);
            _tables.Add(table);
        }

        return table;
    }

    /// <param name="Entries">With the domain's frames, not the machine's.</param>
    private sealed record Table(int Level, ulong Frame, ulong[] Entries);
}
