using System.Text.Json;
using Sharpvisor.Backends.Block;
using Sharpvisor.Devices.Pci;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Qmp;

/// <summary>The commands that only tell something.</summary>
internal sealed partial class QmpCommands
{
    private static readonly string[] Events =
    [
        "BALLOON_CHANGE", "DEVICE_TRAY_MOVED", "GUEST_CRASHLOADED", "GUEST_PANICKED", "POWERDOWN", "RESET", "RESUME", "SHUTDOWN", "STOP", "SUSPEND", "WAKEUP",
    ];

    public void WriteVersion(Utf8JsonWriter w)
    {
        var numbers = _context.Version.Split('.', '-');
        int Number(int i) => i < numbers.Length && int.TryParse(numbers[i], out var number) ? number : 0;
        w.WriteStartObject();
        w.WriteStartObject("qemu");
        w.WriteNumber("micro", Number(2));
        w.WriteNumber("minor", Number(1));
        w.WriteNumber("major", Number(0));
        w.WriteEndObject();
        w.WriteString("package", $"sharpvisor {_context.Version}");
        w.WriteEndObject();
    }

    private void AddQueries()
    {
        AddQuery("query-status", w =>
        {
            var state = Machine.State;
            w.WriteStartObject();
            w.WriteString("status", Words.Of(state));
            w.WriteBoolean("running", state == RunState.Running);
            w.WriteEndObject();
        });
        AddQuery("query-version", WriteVersion);
        AddQuery("query-name", w => WriteObject(w, ("name", Machine.Name)));
        AddQuery("query-uuid", w => WriteObject(w, ("UUID", Machine.Parts.Options.Uuid.ToString("D"))));
        AddQuery("query-kvm", w => WriteObject(w, ("enabled", false), ("present", false)));
        AddQuery("query-target", w => WriteObject(w, ("arch", "x86_64")));
        AddQuery("query-current-machine", w => WriteObject(w, ("wakeup-suspend-support", Machine.Parts.Options.HasSuspendToRam)));
        AddQuery("query-memory-size-summary", w => WriteObject(w, ("base-memory", (long)Machine.Memory.Size), ("plugged-memory", 0L)));
        AddQuery("query-commands", w => WriteNames(w, [.. _all.Keys, "qmp_capabilities"]));
        AddQuery("query-events", w => WriteNames(w, Events));
        AddQuery("query-cpus-fast", WriteProcessors);
        AddQuery("query-chardev", WriteChars);
        AddQuery("query-block", w => WriteArray(w, Machine.Parts.Disks, WriteDisk));
        AddQuery("query-pci", WritePci);
        AddQuery("query-mice", WriteMice);
        Add("query-vnc", [], (_, _) => Task.FromResult<Action<Utf8JsonWriter>?>(WriteVnc));
        Add("query-balloon", [], (_, _) =>
        {
            if (Machine.Balloon is not { } balloon)
                throw new ControlException(ErrorClass.DeviceNotActive, "No balloon device has been activated");
            var actual = (long)balloon.Actual;
            return Task.FromResult<Action<Utf8JsonWriter>?>(w => WriteObject(w, ("actual", actual)));
        });
    }

    private static void WriteObject(Utf8JsonWriter w, params ReadOnlySpan<(string Name, object Value)> members)
    {
        w.WriteStartObject();
        foreach (var (name, value) in members)
            WriteMember(w, name, value);
        w.WriteEndObject();
    }

    private static void WriteArray<T>(Utf8JsonWriter w, IEnumerable<T> items, Action<Utf8JsonWriter, T> write)
    {
        w.WriteStartArray();
        foreach (var item in items)
            write(w, item);
        w.WriteEndArray();
    }

    private static void WriteNames(Utf8JsonWriter w, IEnumerable<string> names) =>
        WriteArray(w, names.Order(StringComparer.Ordinal), (w, name) => WriteObject(w, ("name", name)));

    private void WriteProcessors(Utf8JsonWriter w) => WriteArray(w, Machine.Processors, (w, processor) =>
    {
        w.WriteStartObject();
        w.WriteNumber("cpu-index", processor.Index);
        w.WriteString("qom-path", $"/machine/unattached/device[{processor.Index}]");
        w.WriteNumber("thread-id", ProcessorThreads.IdOf(processor.Index));
        w.WriteString("target", "x86_64");
        w.WriteStartObject("props");
        w.WriteNumber("socket-id", processor.Index);
        w.WriteNumber("core-id", 0);
        w.WriteNumber("thread-id", 0);
        w.WriteEndObject();
        w.WriteEndObject();
    });

    private void WriteChars(Utf8JsonWriter w) => WriteArray(
        w,
        Machine.Parts.Chars.Select(c => new ControlChar(c.Label, c.Backend.Name)).Concat(_context.Chars),
        (w, c) => WriteObject(w, ("label", c.Label), ("filename", c.Name), ("frontend-open", true)));

    private void WriteDisk(Utf8JsonWriter w, MachineDisk disk)
    {
        var drive = disk.Drive;
        using var scope = Machine.Gate.Enter();
        w.WriteStartObject();
        w.WriteString("device", drive.Name);
        w.WriteString("qdev", drive.Name);
        w.WriteString("type", "unknown");
        w.WriteBoolean("removable", disk.IsRemovable);
        w.WriteBoolean("locked", disk.Cdrom?.IsLocked ?? false);
        if (disk.Cdrom is not null)
            w.WriteBoolean("tray_open", disk.Cdrom.IsTrayOpen);
        w.WriteString("io-status", drive.WaitingRequests > 0 ? "nospace" : "ok");
        if (drive.Image is DiskImage image)
        {
            w.WritePropertyName("inserted");
            WriteInserted(w, drive, image);
        }

        w.WriteEndObject();
    }

    private static void WriteInserted(Utf8JsonWriter w, BlockDrive drive, DiskImage image)
    {
        var depth = 0;
        for (var below = image.Backing; below is not null; below = below.Backing)
            depth++;
        w.WriteStartObject();
        w.WriteString("file", image.Name);
        w.WriteString("node-name", drive.Name);
        w.WriteBoolean("ro", drive.IsReadOnly);
        w.WriteString("drv", image.Format);
        if (image.Backing is { } backing)
            w.WriteString("backing_file", backing.Name);
        w.WriteNumber("backing_file_depth", depth);
        w.WriteBoolean("encrypted", false);
        w.WriteString("detect_zeroes", Words.Of(drive.Options.DetectZeroes));
        foreach (var limit in new[] { "bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr", "write_threshold" })
            w.WriteNumber(limit, 0);
        w.WriteStartObject("cache");
        w.WriteBoolean("writeback", drive.WriteCache);
        w.WriteBoolean("direct", drive.Options.Cache is CacheMode.None or CacheMode.DirectSync);
        w.WriteBoolean("no-flush", drive.Options.Cache == CacheMode.Unsafe);
        w.WriteEndObject();
        w.WriteStartObject("image");
        w.WriteString("filename", image.Name);
        w.WriteString("format", image.Format);
        w.WriteNumber("virtual-size", image.Length);
        w.WriteNumber("actual-size", image.AllocatedBytes);
        w.WriteBoolean("dirty-flag", false);
        w.WriteEndObject();
        w.WriteEndObject();
    }

    private void WritePci(Utf8JsonWriter w)
    {
        using var scope = Machine.Gate.Enter();
        w.WriteStartArray();
        w.WriteStartObject();
        w.WriteNumber("bus", 0);
        w.WritePropertyName("devices");
        WriteArray(w, Machine.Parts.Pci?.Functions ?? [], WriteFunction);
        w.WriteEndObject();
        w.WriteEndArray();
    }

    private static void WriteFunction(Utf8JsonWriter w, PciFunction function)
    {
        var config = function.Config;
        w.WriteStartObject();
        w.WriteNumber("bus", 0);
        w.WriteNumber("slot", function.Devfn >> 3);
        w.WriteNumber("function", function.Devfn & 7);
        w.WriteString("qdev_id", function.Name);
        w.WriteStartObject("class_info");
        w.WriteNumber("class", config.Get16(PciRegister.ClassCode + 1));
        w.WriteString("desc", PciClasses.Describe(config.Get16(PciRegister.ClassCode + 1)));
        w.WriteEndObject();
        w.WriteStartObject("id");
        w.WriteNumber("vendor", config.Get16(PciRegister.VendorId));
        w.WriteNumber("device", config.Get16(PciRegister.DeviceId));
        w.WriteNumber("subsystem-vendor", config.Get16(PciRegister.SubsystemVendorId));
        w.WriteNumber("subsystem", config.Get16(PciRegister.SubsystemId));
        w.WriteEndObject();
        w.WriteNumber("irq_pin", function.InterruptPin);
        if (function.InterruptPin != 0)
            w.WriteNumber("irq", config.Get8(PciRegister.InterruptLine));
        w.WritePropertyName("regions");
        WriteArray(w, function.Bars, (w, bar) =>
        {
            w.WriteStartObject();
            w.WriteNumber("bar", bar.Kind == PciBarKind.Rom ? 6 : (bar.Offset - PciRegister.BaseAddress) / 4);
            w.WriteString("type", bar.Kind == PciBarKind.Ports ? "io" : "memory");
            w.WriteNumber("address", (long)(bar.Address ?? ulong.MaxValue));
            w.WriteNumber("size", bar.Size);
            if (bar.Kind != PciBarKind.Ports)
            {
                w.WriteBoolean("prefetch", (config.Get32(bar.Offset) & 8) != 0 && bar.Kind != PciBarKind.Rom);
                w.WriteBoolean("mem_type_64", bar.Kind == PciBarKind.Memory64);
            }

            w.WriteEndObject();
        });
        w.WriteEndObject();
    }

    private void WriteMice(Utf8JsonWriter w)
    {
        bool[] mice;
        using (Machine.Gate.Enter())
            mice = Machine.Mouse is { } mouse ? [mouse.IsAbsolute] : [];
        WriteArray(
            w,
            mice,
            (w, absolute) => WriteObject(w, ("name", absolute ? "vmmouse" : "QEMU PS/2 Mouse"), ("index", 0L), ("current", true), ("absolute", absolute)));
    }

    private void WriteVnc(Utf8JsonWriter w)
    {
        w.WriteStartObject();
        w.WriteBoolean("enabled", _context.Vnc is not null);
        if (_context.Vnc is { } vnc)
        {
            w.WriteString("service", vnc.Port.ToString(System.Globalization.CultureInfo.InvariantCulture));
            w.WriteStartArray("clients");
            w.WriteEndArray();
        }

        w.WriteEndObject();
    }
}
