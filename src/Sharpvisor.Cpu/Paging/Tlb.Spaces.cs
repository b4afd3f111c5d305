using Sharpvisor.Core.Memory;

namespace Sharpvisor.Cpu.Paging;

/// <summary>
/// The tag by PCID: generated code compares addresses only, so the TLB holds one address space at a time, and the entries
/// of the others are set aside until they are switched to again.
/// </summary>
internal sealed unsafe partial class Tlb
{
    /// <summary>Linux uses six PCIDs.</summary>
    private const int MaximumSpaces = 8;

    /// <summary>Entries kept of a space, the latest ones: bringing back costs as much as a few fills in a hundred entries.</summary>
    private const int SpaceLimit = 512;

    /// <summary>Those set aside, the latest last.</summary>
    private readonly List<Space> _spaces = [];

    private readonly Stack<Space> _unused = [];

    /// <summary>How many entries were brought back instead of filled.</summary>
    public long Restored { get; private set; }

    /// <summary>Switches to another address space: what is not global goes, and comes back if it is kept.</summary>
    /// <param name="from">The space to set aside, or -1: its entries are void.</param>
    /// <param name="keep">Entries of <paramref name="to"/> are still good.</param>
    public void SwitchSpace(int from, int to, bool keep, GuestMemory memory)
    {
        if (from == to && keep)
            return;
        var next = Take(to);
        if (from < 0 || from == to || _filledCount >= ListLimit)
            InvalidateNonGlobal();
        else
            SetAside(from);
        if (next is null)
            return;
        if (keep)
            BringBack(next, memory);
        _unused.Push(next);
    }

    /// <summary>Entries of a space that is set aside are void.</summary>
    public void DropSpace(int space)
    {
        if (Take(space) is { } dropped)
            _unused.Push(dropped);
    }

    /// <summary>Takes a space out of those set aside.</summary>
    private Space? Take(int id)
    {
        for (var i = 0; i < _spaces.Count; i++)
        {
            if (_spaces[i].Id == id)
            {
                var space = _spaces[i];
                _spaces.RemoveAt(i);
                return space;
            }
        }

        return null;
    }

    private void DropSpaces()
    {
        foreach (var space in _spaces)
            _unused.Push(space);
        _spaces.Clear();
    }

    private void SetAside(int id)
    {
        if (_spaces.Count == MaximumSpaces)
        {
            _unused.Push(_spaces[0]);
            _spaces.RemoveAt(0);
        }

        var space = _unused.TryPop(out var unused) ? unused : new Space();
        space.Id = id;
        space.Count = 0;
        for (var i = _filledCount - 1; i >= 0; i--)
        {
            ref var entry = ref _entries[_filled[i]];
            if ((entry.Physical & (1 | NoPage)) != 0)
                continue;
            if (space.Count < SpaceLimit)
                space.Add(_filled[i], in entry);
            Invalidate(_filled[i]);
        }

        _filledCount = 0;
        _spaces.Add(space);
    }

    private void BringBack(Space space, GuestMemory memory)
    {
        for (var i = space.Count - 1; i >= 0; i--)
        {
            var slot = space.Slots[i];
            ref var entry = ref _entries[slot];
            entry = space.Entries[i];
            if (entry.WriteTag != _nowhere)
            {
                // Code may have been decoded from the page meanwhile.
                if (Volatile.Read(ref memory.CodeLines(entry.Physical & ~0xFFFUL)) != 0)
                {
                    entry.WriteTag = _nowhere;
                    entry.Physical |= TlbEntry.WritesHeld;
                }
                else
                {
                    NoteWriter(slot);
                }
            }

            _filled[_filledCount++] = slot;
        }

        Restored += space.Count;
    }

    /// <summary>Entries of one address space, and where they belong.</summary>
    private sealed class Space
    {
        public int Id, Count;
        public int[] Slots = new int[64];
        public TlbEntry[] Entries = new TlbEntry[64];

        public void Add(int slot, in TlbEntry entry)
        {
            if (Count == Slots.Length)
            {
                Array.Resize(ref Slots, 2 * Count);
                Array.Resize(ref Entries, 2 * Count);
            }

            Slots[Count] = slot;
            Entries[Count++] = entry;
        }
    }
}
