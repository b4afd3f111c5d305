using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Char;
using Sharpvisor.Boards;
using Sharpvisor.Core.Char;
using Sharpvisor.Core.Net;
using Sharpvisor.Devices.Ide;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Pci;
using Sharpvisor.Devices.Xen.Bus;

namespace Sharpvisor;

/// <summary>A drive of a machine, and what it is on.</summary>
/// <param name="Cdrom">What takes the medium in and out; null: it can't be changed.</param>
public sealed record MachineDisk(BlockDrive Drive, string Kind, AtapiCdrom? Cdrom)
{
    public bool IsRemovable => Cdrom is not null;
}

/// <summary>A NIC of a machine.</summary>
/// <param name="Backend">What its cable leads to; null: nothing.</param>
public sealed record MachineNic(string Kind, MacAddress Address, INetworkBackend? Backend);

/// <summary>A character device of a machine by the label that QEMU has for it: "serial0".</summary>
public sealed record MachineChar(string Label, ICharBackend Backend);

/// <summary>What a machine is put together from, for whoever shows it. Devices are used under <see cref="Machine.Gate"/>.</summary>
public sealed class MachineParts
{
    internal MachineParts(MachineOptions options, Board board)
    {
        Options = options;
        Pci = board.Pci;
        Pic = board.Pic;
        IoApic = board.IoApic;
        LocalApics = board.LocalApics;
        XenBus = board.XenBus;
        HasKeyboard = board.Keyboard is not null;
        Disks =
        [
            .. options.IdeDrives.Select(d => new MachineDisk(d.Drive, d.IsCdrom ? "ide-cd" : "ide-hd", ((PcBoard)board).Ide.Channels[d.Channel].Devices[d.Unit] as AtapiCdrom)),
            .. options.VirtioDevices.OfType<VirtioDisk>().Select(d => new MachineDisk(d.Drive, d.Kind, null)),
            .. options.XenDevices.OfType<XenDisk>().Where(d => !options.IdeDrives.Any(i => i.Drive == d.Drive)).Select(d => new MachineDisk(d.Drive, d.Kind, null)),
        ];
        Nics =
        [
            .. options.VirtioDevices.OfType<VirtioNic>().Select(n => new MachineNic(n.Kind, n.Options.Address, n.Backend)),
            .. options.NetworkCards.Select(c => new MachineNic(c.Kind, c.Address, c.Backend)),
            .. options.XenDevices.OfType<XenNic>().Select(n => new MachineNic(n.Kind, n.Address, n.Backend)),
        ];
        Chars =
        [
            .. options.Serial.Select((backend, i) => backend is null ? null : new MachineChar($"serial{i}", backend)).OfType<MachineChar>(),
            .. options.DebugConsole is { } console ? [new MachineChar("debugcon", console.Backend)] : Array.Empty<MachineChar>(),
            .. options.Xen is { Console: { } xen } ? [new MachineChar("xencons", xen)] : Array.Empty<MachineChar>(),
            .. options.VirtioDevices.OfType<VirtioSerialBus>().SelectMany(b => b.Ports).Where(p => p.Backend is not null)
                .Select((p, i) => new MachineChar(p.Name ?? $"virtconsole{i}", p.Backend!)),
        ];
    }

    public MachineOptions Options { get; }

    /// <summary>Null on a machine without it, as those below.</summary>
    public PciBus? Pci { get; }

    public Pic? Pic { get; }

    public IoApic? IoApic { get; }

    public bool HasKeyboard { get; }

    public IReadOnlyList<LocalApic> LocalApics { get; }

    /// <summary>The devices of the machine's Xen domain; null: it is none.</summary>
    public XenBus? XenBus { get; }

    public IReadOnlyList<MachineDisk> Disks { get; }

    public IReadOnlyList<MachineNic> Nics { get; }

    public IReadOnlyList<MachineChar> Chars { get; }
}
