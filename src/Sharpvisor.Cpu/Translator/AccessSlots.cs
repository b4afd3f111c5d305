using System.Runtime.InteropServices;
using Sharpvisor.Core.Host;
using Sharpvisor.Cpu.Paging;

namespace Sharpvisor.Cpu.Translator;

/// <summary>What one place of generated code remembers.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct AccessSlot
{
    /// <summary>Address of the entry of the TLB that served this place last.</summary>
    public uint Entry;

    /// <summary>How often it was another one.</summary>
    public uint Misses;

    public const int MissesOffset = 4;
}

/// <summary>Where a jump to another page is linked: valid at one place and under one key.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct LinkSlot
{
    public ulong PageBase;
    public ulong Key;
}

/// <summary>
/// What places of generated code remember, densely packed. The entry of the TLB, not the slot that names it, says whether it still does, so flushing the TLB needs
/// nothing here, and a check need not compute where to look.
/// </summary>
internal sealed unsafe class AccessSlots : IDisposable
{
    /// <summary>No page begins here.</summary>
    public const ulong Unlinked = 1;

    private readonly ulong _size;
    private readonly byte* _memory;
    private readonly uint _empty;
    private ulong _used;

    /// <param name="empty">An entry that nothing ever matches.</param>
    public AccessSlots(TlbEntry* empty, ulong size)
    {
        _empty = checked((uint)(ulong)empty);
        _size = size;
        _memory = (byte*)HostMemory.ReserveLow(size);
    }

    public ulong Used => _used;

    public bool IsFull => _used > _size - 4096;

    public AccessSlot* Allocate()
    {
        var slot = (AccessSlot*)Take((ulong)sizeof(AccessSlot));
        *slot = new AccessSlot { Entry = _empty };
        return slot;
    }

    /// <summary>Room for what the members of a group need from its check on: what makes a host address of a linear one.</summary>
    public ulong* AllocateDelta() => (ulong*)Take(8);

    public LinkSlot* AllocateLink()
    {
        var link = (LinkSlot*)Take(16);
        *link = new LinkSlot { PageBase = Unlinked };
        return link;
    }

    /// <summary>Forgets all slots: the code that uses them is gone.</summary>
    public void Clear() => _used = 0;

    public void Dispose() => HostMemory.Release(_memory, _size);

    private void* Take(ulong size)
    {
        _used = (_used + (size - 1)) & ~(Math.Min(size, 8) - 1);
        var p = _memory + _used;
        _used += size;
        return p;
    }
}
