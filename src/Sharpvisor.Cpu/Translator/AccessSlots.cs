using System.Runtime.InteropServices;
using Sharpvisor.Core.Host;
using Sharpvisor.Cpu.Paging;

namespace Sharpvisor.Cpu.Translator;

/// <summary>What one place of generated code remembers.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct AccessSlot
{
    /// <summary>The entry of the TLB that served this place last. The entry, not this, says whether it still does.</summary>
    public TlbEntry* Entry;

    /// <summary>For the other members of a group, from its check on: what makes a host address of a linear one.</summary>
    public ulong Delta;

    /// <summary>The largest offset in a page at which the accesses do not run over its end.</summary>
    public ulong Limit;

    public ulong Unused;
}

/// <summary>Where a jump to another page is linked: valid at one place and under one key.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct LinkSlot
{
    public ulong PageBase;
    public ulong Key;
}

/// <summary>
/// The access slots of a vCPU's generated code. Each check looks at one known entry of the TLB instead of computing
/// which one; flushing the TLB needs nothing here.
/// </summary>
internal sealed unsafe class AccessSlots : IDisposable
{
    /// <summary>No page begins here.</summary>
    public const ulong Unlinked = 1;

    public const int DeltaOffset = 8, LimitOffset = 16;

    private readonly int _capacity;
    private readonly AccessSlot* _slots;
    private readonly TlbEntry* _empty;

    /// <param name="empty">An entry that nothing ever matches.</param>
    public AccessSlots(TlbEntry* empty, int capacity)
    {
        _empty = empty;
        _capacity = capacity;
        _slots = (AccessSlot*)HostMemory.ReserveLow((ulong)capacity * (ulong)sizeof(AccessSlot));
    }

    public int Used { get; private set; }

    public bool IsFull => Used > _capacity - 256;

    /// <param name="range">Bytes that are covered by the check.</param>
    public AccessSlot* Allocate(int range)
    {
        var slot = _slots + Used++;
        *slot = new AccessSlot { Entry = _empty, Limit = (ulong)(4096 - range) };
        return slot;
    }

    public LinkSlot* AllocateLink()
    {
        var link = (LinkSlot*)(_slots + Used++);
        *link = new LinkSlot { PageBase = Unlinked };
        return link;
    }

    /// <summary>Forgets all slots: the code that uses them is gone.</summary>
    public void Clear() => Used = 0;

    public void Dispose() => HostMemory.Release(_slots, (ulong)_capacity * (ulong)sizeof(AccessSlot));
}
