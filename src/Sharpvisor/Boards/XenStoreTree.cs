// What a domain finds in the store when it begins.
// Follows: docs/misc/xenstore-paths.pandoc of Xen.
using System.Globalization;
using System.Text;
using Sharpvisor.Devices.Xen.Store;

namespace Sharpvisor.Boards;

/// <summary>Fills the store with what a tool stack writes for a domain.</summary>
internal static class XenStoreTree
{
    public static void Fill(XenStore store, XenOptions xen, MachineOptions options)
    {
        var home = string.Create(CultureInfo.InvariantCulture, $"/local/domain/{xen.Domain}");
        var memory = Number((long)(options.MemorySize >> 10));
        (string Path, string Value)[] readable =
        [
            ("", ""), ("/name", options.Name), ("/domid", Number(xen.Domain)), ("/vm", $"/vm/{options.Uuid}"),
            ("/memory", ""), ("/memory/target", memory), ("/memory/static-max", memory),
            ("/cpu", ""), ("/device", ""), ("/console", ""), ("/store", ""), ("/control", ""),
            ("/control/platform-feature-xs_reset_watches", "1"), ("/control/platform-feature-multiprocessor-suspend", "1"),
            .. Enumerable.Range(0, options.ProcessorCount).SelectMany(i => new[] { ($"/cpu/{i}", ""), ($"/cpu/{i}/availability", "online") }),
        ];
        foreach (var (path, value) in readable)
            Put(home + path, value, StoreAccess.Read, owner: 0);

        // What the domain itself writes: answers to what it is asked for, and whatever it likes.
        string[] writable = ["/control/shutdown", "/control/feature-poweroff", "/control/feature-reboot", "/control/feature-suspend", "/control/sysrq", "/data", "/drivers", "/feature", "/attr", "/error"];
        foreach (var path in writable)
            Put(home + path, "", StoreAccess.None, owner: xen.Domain);
        Put($"/vm/{options.Uuid}", "", StoreAccess.Read, owner: 0);
        Put($"/vm/{options.Uuid}/uuid", options.Uuid.ToString(), StoreAccess.Read, owner: 0);
        Put($"/vm/{options.Uuid}/name", options.Name, StoreAccess.Read, owner: 0);

        void Put(string path, string value, StoreAccess access, int owner)
        {
            store.Write(XenStore.PrivilegedDomain, 0, path, Encoding.UTF8.GetBytes(value));
            store.SetRights(XenStore.PrivilegedDomain, 0, path, owner == 0 ? [new(0, StoreAccess.None), new(xen.Domain, access)] : [new(owner, access)]);
        }
    }

    private static string Number(long value) => value.ToString(CultureInfo.InvariantCulture);
}
