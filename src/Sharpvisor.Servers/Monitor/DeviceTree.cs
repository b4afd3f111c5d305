// info qtree: what sits on which bus, in the form of QEMU's. Devices are named as in info pci and info mtree, and have the
// properties that a user can choose; leaves out QEMU's properties of its own.
using System.Globalization;
using System.Text;
using Sharpvisor.Core.Buses;
using Sharpvisor.Devices.Pci;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Monitor;

/// <summary>Used under the machine's gate.</summary>
internal sealed class DeviceTree
{
    private const int Step = 2;

    private readonly Machine _machine;
    private readonly StringBuilder _text = new();

    /// <summary>Ports of the board itself, by the device that answers at them.</summary>
    private readonly ILookup<string, AddressSpace.Section> _ports;

    private DeviceTree(Machine machine)
    {
        _machine = machine;
        _ports = machine.Ports.Sections.Where(s => !s.Mapping.IsOverlay).ToLookup(s => Home(s.Mapping.Name), StringComparer.Ordinal);
    }

    public static string Describe(Machine machine)
    {
        var tree = new DeviceTree(machine);
        tree.WriteSystem();
        return tree._text.ToString();
    }

    /// <summary>The chip that a port's device is a part of; all others are behind the ISA bridge.</summary>
    private static string Home(string name) => name switch
    {
        "pci-config" => "i440fx",
        "smbus" => "piix4-pm",
        _ when name.StartsWith("acpi", StringComparison.Ordinal) => "piix4-pm",
        _ when name.StartsWith("ide", StringComparison.Ordinal) => "piix3-ide",
        _ => "piix3",
    };

    private void WriteSystem()
    {
        Bus(0, "main-system-bus", "System");
        foreach (var group in _machine.Mmio.Sections.Where(s => !s.Mapping.IsOverlay).GroupBy(s => s.Mapping.Name))
        {
            Device(1, group.Key);
            foreach (var section in group)
                Line(2, $"mmio {section.Start:x16}/{section.End - section.Start:x16}");
        }

        WriteXen();
        if (_machine.Parts.Pci is not { } pci)
        {
            WriteIsa(1);
            return;
        }

        Device(1, "i440FX-pcihost");
        Bus(2, "pci.0", "PCI");
        var seen = new Dictionary<string, int>(StringComparer.Ordinal);
        foreach (var function in pci.Functions.OrderBy(f => f.Devfn))
        {
            seen[function.Name] = seen.GetValueOrDefault(function.Name) + 1;
            WriteFunction(function, seen[function.Name] - 1);
        }
    }

    /// <param name="index">How many of its kind come before it.</param>
    private void WriteFunction(PciFunction function, int index)
    {
        const int depth = 3;
        var config = function.Config;
        var address = $"{function.Devfn >> 3:x2}.{function.Devfn & 7}";
        Device(depth, function.Name);
        Line(depth + 1, $"addr = {address}");
        var subsystem = $"{config.Get16(PciRegister.SubsystemVendorId):x4}:{config.Get16(PciRegister.SubsystemId):x4}";
        Line(depth + 1, $"class {PciClasses.Describe(config.Get16(PciRegister.ClassCode + 1))}, addr 00:{address}, pci id {config.Get16(PciRegister.VendorId):x4}:{config.Get16(PciRegister.DeviceId):x4} (sub {subsystem})");
        foreach (var bar in function.Bars)
        {
            var number = bar.Kind == PciBarKind.Rom ? 6 : (bar.Offset - PciRegister.BaseAddress) / 4;
            var at = bar.Address ?? ulong.MaxValue; // QEMU's for a register that is nowhere
            Line(depth + 1, $"bar {number}: {(bar.Kind == PciBarKind.Ports ? "i/o" : "mem")} at 0x{at:x} [0x{unchecked(at + bar.Size - 1):x}]");
        }

        if (function.Name == "piix3")
            WriteIsa(depth + 1);
        else
            WritePorts(depth + 1, _ports[function.Name]);
        if (function.Name == "piix3-ide")
            WriteIde(depth + 1);
        WriteVirtio(depth + 1, function.Name, index);
        if (_machine.Parts.Nics.Where(n => n.Kind == function.Name).ElementAtOrDefault(index) is { } nic)
            WriteNic(depth + 1, nic);
    }

    /// <summary>What a Xen domain finds in the store.</summary>
    private void WriteXen()
    {
        const string prefix = "xen-";
        var (disks, nics) = (_machine.Parts.Disks.Where(d => d.Kind.StartsWith(prefix, StringComparison.Ordinal)), _machine.Parts.Nics.Where(n => n.Kind.StartsWith(prefix, StringComparison.Ordinal)));
        if (!disks.Any() && !nics.Any())
            return;
        Bus(1, "xen-bus", "xen-bus");
        foreach (var disk in disks)
        {
            Device(2, disk.Kind);
            Line(3, $"drive = \"{disk.Drive.Name}\"");
        }

        foreach (var nic in nics)
        {
            Device(2, nic.Kind);
            WriteNic(3, nic);
        }
    }

    private void WriteNic(int depth, MachineNic nic)
    {
        Line(depth, $"mac = \"{nic.Address}\"");
        Line(depth, $"netdev = \"{nic.Backend?.Name}\"");
    }

    private void WriteIsa(int depth)
    {
        if (!_ports["piix3"].Any())
            return;
        Bus(depth, "isa.0", "ISA");
        foreach (var group in _ports["piix3"].GroupBy(s => s.Mapping.Name))
        {
            Device(depth + 1, group.Key);
            if (group.Key.StartsWith("com", StringComparison.Ordinal) && int.TryParse(group.Key.AsSpan(3), NumberStyles.None, CultureInfo.InvariantCulture, out var number)
                && _machine.Parts.Chars.FirstOrDefault(c => c.Label == $"serial{number - 1}") is { } line)
                Line(depth + 2, $"chardev = \"{line.Label}\"");
            WritePorts(depth + 2, group);
        }
    }

    private void WriteIde(int depth)
    {
        foreach (var channel in _machine.Parts.Options.IdeDrives.GroupBy(d => d.Channel).OrderBy(g => g.Key))
        {
            Bus(depth, $"ide.{channel.Key}", "IDE");
            foreach (var drive in channel.OrderBy(d => d.Unit))
            {
                Device(depth + 1, drive.IsCdrom ? "ide-cd" : "ide-hd");
                Line(depth + 2, $"drive = \"{drive.Drive.Name}\"");
                Line(depth + 2, $"unit = {drive.Unit}");
            }
        }
    }

    private void WriteVirtio(int depth, string kind, int index)
    {
        if (_machine.Parts.Disks.Where(d => d.Kind == kind).ElementAtOrDefault(index) is { } disk)
            Line(depth, $"drive = \"{disk.Drive.Name}\"");
        if (kind != "virtio-serial-pci" || _machine.Parts.Options.VirtioDevices.OfType<VirtioSerialBus>().Where(b => b.Connection == VirtioConnection.Pci).ElementAtOrDefault(index) is not { } bus)
            return;
        Bus(depth, $"virtio-serial-bus.{index}", "virtio-serial-bus");
        foreach (var port in bus.Ports)
        {
            Device(depth + 1, port.IsConsole ? "virtconsole" : "virtserialport");
            Line(depth + 2, $"chardev = \"{_machine.Parts.Chars.FirstOrDefault(c => c.Backend == port.Backend)?.Label}\"");
            if (port.Name is { } name)
                Line(depth + 2, $"name = \"{name}\"");
        }
    }

    private void WritePorts(int depth, IEnumerable<AddressSpace.Section> ports)
    {
        foreach (var port in ports)
            Line(depth, $"isa ports 0x{port.Start:x}-0x{port.End - 1:x} ({port.Mapping.Name})");
    }

    private void Bus(int depth, string name, string type)
    {
        Line(depth, $"bus: {name}");
        Line(depth + 1, $"type {type}");
    }

    private void Device(int depth, string name) => Line(depth, $"dev: {name}, id \"\"");

    private void Line(int depth, string text) => _text.Append(' ', depth * Step).Append(text).Append('\n');
}
