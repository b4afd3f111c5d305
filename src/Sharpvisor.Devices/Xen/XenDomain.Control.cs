// What a tool stack does with a domain that runs: asks it for a shutdown by the store, and looks at it.
// Follows: docs/misc/xenstore-paths.pandoc of Xen, ~/control/shutdown.

using System.Text;
using Sharpvisor.Devices.Xen.Store;

namespace Sharpvisor.Devices.Xen;

public sealed partial class XenDomain
{
    /// <summary>Where the domain's own part of the store begins.</summary>
    public string Home => StorePath.HomeOf(Number);

    /// <summary>What the domain has been told, or has set, as a parameter; 0 if nothing.</summary>
    public ulong Parameter(HvmParam parameter) => _parameters[(int)parameter];

    /// <summary>
    /// Asks the domain by control/shutdown, which it acknowledges by writing an empty value. One that does not watch for it
    /// yet would find it when it begins to, and go down at once: it is not asked.
    /// </summary>
    /// <param name="request">poweroff, reboot, or halt.</param>
    /// <returns>False: it is not asked.</returns>
    public bool RequestShutdown(string request)
    {
        var path = Home + "/control/shutdown";
        return Store.IsWatched(Number, path)
            && Store.Write(XenStore.PrivilegedDomain, 0, path, Encoding.ASCII.GetBytes(request)) == StoreError.None;
    }
}
