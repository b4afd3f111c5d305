using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Virtio;

namespace Sharpvisor.Devices.Xen.Virtio;

/// <summary>
/// Addresses of a front end: with bit 63 a grant reference and an offset in its page, whose use the domain sees while it
/// lasts; without, guest-physical, if the domain may give those.
/// </summary>
internal sealed class GrantAddressSpace(GrantTable grants) : IVirtioAddresses
{
    /// <summary>Tells a grant from a frame.</summary>
    public const ulong GrantBit = 1UL << 63;

    private const int PageShift = 12, InUse = -2;

    /// <summary>Pages in use, and for each that is free where the next free one is.</summary>
    private GrantedPage[] _pages = [];
    private int[] _nextFree = [];
    private int _free = -1;
    private uint _life = 1;

    /// <summary>The back end offers it, and the front end wants it.</summary>
    public bool AllowsForeign { get; set; }

    public bool TryAcquire(ulong address, bool isWritable, ref int length, out ulong guestPhysical, out ulong use)
    {
        use = 0;
        guestPhysical = address;
        var isForeign = (address & GrantBit) == 0;
        if (isForeign && (!AllowsForeign || grants.Frames is null))
            return AllowsForeign;
        var offset = (int)(address & (GuestMemory.PageSize - 1));
        GrantedPage page;
        if (isForeign)
        {
            if (!grants.TryAcquirePage(address - (ulong)offset, isWritable, out page))
                return false;
        }
        else
        {
            var reference = (address & ~GrantBit) >> PageShift;
            if (reference > uint.MaxValue || !grants.TryAcquire((uint)reference, isWritable, out page))
                return false;
        }

        length = Math.Min(length, GuestMemory.PageSize - offset);
        guestPhysical = page.Page + (ulong)offset;
        use = Keep(page);
        return true;
    }

    public void Release(ulong use)
    {
        if (use >> 32 != _life)
            return;
        var index = (int)(uint)use;
        grants.Release(_pages[index]);
        _nextFree[index] = _free;
        _free = index;
    }

    /// <summary>Ends all uses; those who have one need not know.</summary>
    public void ReleaseAll()
    {
        for (var i = 0; i < _pages.Length; i++)
        {
            if (_nextFree[i] == InUse)
                grants.Release(_pages[i]);
        }

        (_pages, _nextFree, _free) = ([], [], -1);
        _life++;
    }

    private ulong Keep(in GrantedPage page)
    {
        if (_free < 0)
            Grow();
        var index = _free;
        (_free, _nextFree[index]) = (_nextFree[index], InUse);
        _pages[index] = page;
        return ((ulong)_life << 32) | (uint)index;
    }

    private void Grow()
    {
        var old = _pages.Length;
        Array.Resize(ref _pages, Math.Max(64, 2 * old));
        Array.Resize(ref _nextFree, _pages.Length);
        for (var i = _pages.Length - 1; i >= old; i--)
        {
            _nextFree[i] = _free;
            _free = i;
        }
    }
}
