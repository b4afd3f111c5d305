// What a domain finds in the store when it begins: what libxl writes for a domain, and of OpenXT's keys those that mean
// something here. Values are those of the machine; a key that would have to be made up is left out.
// Follows: docs/misc/xenstore-paths.pandoc and docs/misc/console.txt of Xen.
// Leaves out: /libxl and /tool, which are the tool stack's own and which no guest may read; devices, which their back ends write.
using System.Globalization;
using System.Text;
using Sharpvisor.Backends.Char;
using Sharpvisor.Boot;
using Sharpvisor.Core.Char;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Devices.Xen.Store;

namespace Sharpvisor.Boards;

/// <summary>Fills the store with what a tool stack writes for a domain.</summary>
internal static class XenStoreTree
{
    /// <summary>Bytes that a console's back end keeps at most, as libxl asks for. Ours takes them out of the ring only when it can pass them on.</summary>
    private const int ConsoleLimit = 1 << 20;

    /// <summary>KiB of the standard VGA.</summary>
    private const int VideoMemory = Devices.Vga.StandardVga.MemorySize >> 10;

    public static void Fill(XenStore store, XenDomain domain, XenOptions xen, MachineOptions options)
    {
        var home = domain.Home;
        foreach (var (path, value) in Tree(domain, xen, options))
            Put(home + path, value, StoreAccess.Read, owner: 0);

        // What the domain itself writes: answers to what it is asked for, and whatever it likes.
        string[] writable =
        [
            "/control/shutdown", "/control/feature-poweroff", "/control/feature-reboot", "/control/feature-suspend", "/control/feature-s3", "/control/feature-s4",
            "/control/sysrq", "/data", "/drivers", "/feature", "/attr", "/error",
        ];
        foreach (var path in writable)
            Put(home + path, "", StoreAccess.None, owner: xen.Domain);
        foreach (var (path, value) in Description(options))
            Put($"/vm/{options.Uuid}{path}", value, StoreAccess.Read, owner: 0);

        void Put(string path, string value, StoreAccess access, int owner)
        {
            store.Write(XenStore.PrivilegedDomain, 0, path, Encoding.UTF8.GetBytes(value));
            store.SetRights(XenStore.PrivilegedDomain, 0, path, owner == 0 ? [new(0, StoreAccess.None), new(xen.Domain, access)] : [new(owner, access)]);
        }
    }

    /// <summary>Below /local/domain/N, what the domain may read.</summary>
    private static IEnumerable<(string Path, string Value)> Tree(XenDomain domain, XenOptions xen, MachineOptions options)
    {
        var memory = Number((long)(options.MemorySize >> 10));
        List<(string, string)> tree =
        [
            ("", ""), ("/name", options.Name), ("/domid", Number(xen.Domain)), ("/vm", $"/vm/{options.Uuid}"),
            ("/memory", ""), ("/memory/target", memory), ("/memory/static-max", memory), ("/memory/videoram", Number(options.VgaBios is null ? 0 : VideoMemory)),
            ("/cpu", ""), ("/device", ""),
            ("/control", ""), ("/control/platform-feature-xs_reset_watches", "1"),
            .. Enumerable.Range(0, options.ProcessorCount).SelectMany(i => new[] { ($"/cpu/{i}", ""), ($"/cpu/{i}/availability", "online") }),
            ("/store", ""), ("/store/port", Number((long)domain.Parameter(HvmParam.StorePort))), ("/store/ring-ref", Number((long)domain.Parameter(HvmParam.StorePage))),
            ("/console", ""), ("/console/type", options.Kind == MachineKind.XenPv ? "xenconsoled" : "ioemu"), ("/console/limit", Number(ConsoleLimit)),
            ("/console/port", Number((long)domain.Parameter(HvmParam.ConsolePort))), ("/console/ring-ref", Number((long)domain.Parameter(HvmParam.ConsolePage))),
            .. Line("/console", xen.Console),
        ];
        if (options.Kind != MachineKind.XenHvm)
            return tree;
        tree.AddRange([("/platform", ""), ("/platform/acpi", "1"), ("/platform/acpi_s3", Flag(options.HasSuspendToRam)), ("/platform/acpi_s4", Flag(options.HasSuspendToDisk))]);
        tree.AddRange([("/platform/apic", "1"), ("/platform/pae", "1"), ("/platform/nx", "1"), ("/platform/hpet", "1"), ("/platform/viridian", "0")]);
        tree.AddRange([("/hvmloader", ""), ("/hvmloader/allow-memory-relocate", "0")]);
        if (options.Firmware is { } firmware)
            tree.AddRange([("/hvmloader/bios", BiosOf(firmware)), ("/hvmloader/seabios-legacy-load-roms", "1")]);
        var serial = options.Serial.Count > 0 ? options.Serial[0] : null;
        if (serial is not null)
            tree.AddRange([("/serial", ""), ("/serial/0", ""), ("/serial/0/limit", Number(ConsoleLimit)), .. Line("/serial/0", serial)]);
        return tree;
    }

    /// <summary>Below /vm/UUID.</summary>
    private static IEnumerable<(string Path, string Value)> Description(MachineOptions options)
    {
        yield return ("", "");
        yield return ("/uuid", options.Uuid.ToString());
        yield return ("/name", options.Name);
        var start = (DateTimeOffset.UtcNow - DateTimeOffset.UnixEpoch).TotalSeconds;
        yield return ("/start_time", start.ToString("F2", CultureInfo.InvariantCulture));
        yield return ("/image", "");
        if (options.Kind == MachineKind.XenHvm)
            yield return ("/image/ostype", "hvm");
        else if (options.Kind == MachineKind.XenPv)
            yield return ("/image/ostype", "linux"); // whatever it is
        if (options.Kernel is { } kernel)
        {
            yield return ("/image/kernel", kernel.Name);
            yield return ("/image/cmdline", options.CommandLine);
        }

        if (options.Initrd is { } initrd)
            yield return ("/image/ramdisk", initrd.Name);
        if (options.Kind == MachineKind.XenHvm)
            yield return ("/rtc/timeoffset", "0"); // the clock has UTC
    }

    /// <summary>Where a line leads on the host: a terminal has a name there, anything else has none.</summary>
    private static IEnumerable<(string Path, string Value)> Line(string at, ICharBackend? backend) => backend is PtyCharBackend pty
        ? [($"{at}/output", "pty"), ($"{at}/tty", pty.Path)]
        : [($"{at}/tty", "")];

    /// <summary>By the name of the file: the firmware itself does not say what it is.</summary>
    private static string BiosOf(BootSource firmware) => firmware.Name.Contains("ovmf", StringComparison.OrdinalIgnoreCase) ? "ovmf" : "seabios";

    private static string Flag(bool isSet) => isSet ? "1" : "0";

    private static string Number(long value) => value.ToString(CultureInfo.InvariantCulture);
}
