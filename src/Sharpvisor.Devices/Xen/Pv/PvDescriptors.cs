using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Xen.Pv;

/// <summary>Segment descriptors that a paravirtual domain may have (Xen's check_descriptor).</summary>
internal static class PvDescriptors
{
    private const ulong Present = 1UL << 47, CodeOrData = 1UL << 44, Privilege = 3UL << 45;

    /// <summary>Raises the privilege level to ring 3, where the kernel is. False: a gate or a system segment, which a domain has not.</summary>
    public static bool TryFix(ref ulong descriptor)
    {
        const ulong type = 15UL << 40;
        if ((descriptor & Present) == 0)
            return true;
        if ((descriptor & CodeOrData) == 0)
            return (descriptor & type) == 0; // the second half of a descriptor of 16 bytes looks like that
        descriptor |= Privilege;
        return true;
    }

    /// <summary>The same for a page that becomes part of a table.</summary>
    public static bool TryFixPage(GuestMemory memory, ulong page)
    {
        for (var at = page; at < page + GuestMemory.PageSize; at += sizeof(ulong))
        {
            if (!memory.TryRead(at, out ulong descriptor))
                return false;
            var known = descriptor;
            if (!TryFix(ref descriptor))
                return false;
            if (descriptor != known)
                memory.TryWrite(at, descriptor);
        }

        return true;
    }
}
