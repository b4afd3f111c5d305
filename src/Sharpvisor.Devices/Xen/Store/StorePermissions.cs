// Who may do what with a node of the Xen store.
// Follows: docs/misc/xenstore.txt of Xen, "Permissions": the first entry names the owner, and what everybody else may do.

using System.Globalization;

namespace Sharpvisor.Devices.Xen.Store;

/// <summary>What a domain may do with a node.</summary>
[Flags]
public enum StoreAccess
{
    None = 0,
    Read = 1,
    Write = 2,
    Both = Read | Write,
}

/// <summary>The right of one domain; in the first place of a list, the owner and the right of all others.</summary>
public readonly record struct StoreRight(int Domain, StoreAccess Access)
{
    /// <summary>As on the wire: n, r, w or b, and the domain's number.</summary>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{"nrwb"[(int)Access]}{Domain}");

    /// <summary>False: it is none.</summary>
    public static bool TryParse(ReadOnlySpan<char> text, out StoreRight right)
    {
        right = default;
        if (text.Length < 2 || "nrwb".IndexOf(text[0], StringComparison.Ordinal) is not (>= 0 and var access)
            || !ushort.TryParse(text[1..], NumberStyles.None, CultureInfo.InvariantCulture, out var domain))
            return false;
        right = new StoreRight(domain, (StoreAccess)access);
        return true;
    }
}

/// <summary>Decides by a node's list of rights.</summary>
internal static class StorePermissions
{
    /// <summary>Domain 0 may everything, as the domain of the back ends.</summary>
    public static bool Allow(IReadOnlyList<StoreRight> rights, int domain, StoreAccess access)
    {
        if (domain == XenStore.PrivilegedDomain || rights[0].Domain == domain)
            return true;
        for (var i = 1; i < rights.Count; i++)
        {
            if (rights[i].Domain == domain)
                return (rights[i].Access & access) == access;
        }

        return (rights[0].Access & access) == access;
    }
}
