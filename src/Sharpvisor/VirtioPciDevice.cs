using System.Security.Cryptography;
using Sharpvisor.Backends.Block;
using Sharpvisor.Boards;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Net;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Devices.Virtio.Transports;

namespace Sharpvisor;

/// <summary>How a driver reaches a virtio device.</summary>
public enum VirtioConnection
{
    /// <summary>As a function on the PC's PCI bus.</summary>
    Pci,

    /// <summary>By registers in memory, where ACPI tells of them (virtio-mmio).</summary>
    Mmio,

    /// <summary>By the store, grants and event channels of a Xen domain (docs/virtio-xenbus.md).</summary>
    Xenbus,
}

/// <summary>A virtio device, on the PC's PCI bus unless <see cref="Connection"/> says something else.</summary>
public abstract record VirtioPciDevice : PciDevice
{
    /// <summary>What it is reached by.</summary>
    public VirtioConnection Connection { get; init; }

    /// <summary>On xenbus: the guest may have it reach all its memory, not only what it grants, if its driver wants that.</summary>
    public bool OffersForeignMap { get; init; }

    /// <summary>By which registers drivers see it.</summary>
    public VirtioPciOptions Pci { get; init; } = new();

    /// <summary>Offers packed rings.</summary>
    public bool OffersPackedRings { get; init; }

    /// <summary>Bits of features that it does not offer though it has them.</summary>
    public ulong WithheldFeatures { get; init; }

    /// <summary>Messages of MSI-X when nothing else is said; null: one for each queue and one for the configuration.</summary>
    internal virtual int? DefaultVectors => null;

    /// <summary>For messages: the name of the -device.</summary>
    internal string Name => Connection == VirtioConnection.Pci ? Kind : Kind[..^"-pci".Length] + (Connection == VirtioConnection.Mmio ? "-device" : "-xenbus");

    internal abstract VirtioDevice Create(BoardContext context, int processors);
}

/// <summary>A virtio disk.</summary>
public sealed record VirtioDisk(BlockDrive Drive) : VirtioPciDevice
{
    /// <summary>Request queues; null: one for each processor.</summary>
    public int? QueueCount { get; init; }

    public VirtioBlkOptions Options { get; init; } = new();

    /// <summary>The name that QEMU has for the drive of an if=virtio: "virtio0".</summary>
    public static string NameOf(int index) => $"virtio{index}";

    internal override string Kind => "virtio-blk-pci";

    internal override (string Kind, string Unit)? BootPath => ("scsi", "disk@0,0");

    internal override VirtioDevice Create(BoardContext context, int processors)
    {
        if (!Drive.HasMedium)
            throw new ConfigurationException($"{Drive.Name}: a virtio disk needs an image; give it a file");
        var options = Options with
        {
            QueueCount = QueueCount ?? processors,
            Geometry = Options.Geometry ?? Devices.Ide.DiskGeometry.Of(Drive.SectorCount, Drive.FirstSector.Span),
        };
        Drive.Connect(context.Gate, context.Control);
        return new VirtioBlk(Drive, options, context.Errors) { OffersPackedRings = OffersPackedRings, WithheldFeatures = WithheldFeatures };
    }
}

/// <summary>A source of random numbers for the guest: the host's.</summary>
public sealed record VirtioEntropy : VirtioPciDevice
{
    internal override string Kind => "virtio-rng-pci";

    internal override VirtioDevice Create(BoardContext context, int processors) =>
        new VirtioRng(part => RandomNumberGenerator.Fill(part.Span), context.Errors) { OffersPackedRings = OffersPackedRings, WithheldFeatures = WithheldFeatures };
}

/// <summary>A memory balloon, which <see cref="Machine.Balloon"/> drives.</summary>
public sealed record VirtioMemoryBalloon : VirtioPciDevice
{
    public VirtioBalloonOptions Options { get; init; } = new();

    internal override string Kind => "virtio-balloon-pci";

    internal override VirtioDevice Create(BoardContext context, int processors) =>
        new VirtioBalloon(Options, context.Errors) { OffersPackedRings = OffersPackedRings, WithheldFeatures = WithheldFeatures };
}

/// <summary>A virtio NIC.</summary>
/// <param name="Backend">What its cable leads to; null: nothing. It belongs to the machine from now on.</param>
public sealed record VirtioNic(INetworkBackend? Backend) : VirtioPciDevice
{
    public VirtioNetOptions Options { get; init; } = new();

    internal override string Kind => "virtio-net-pci";

    internal override (string Kind, string Unit)? BootPath => ("ethernet", "ethernet-phy@0");

    internal override IEnumerable<IAsyncDisposable> Backends => Backend is null ? [] : [Backend];

    internal override VirtioDevice Create(BoardContext context, int processors)
    {
        if (Options.QueuePairs is < 1 or > VirtioNet.MaximumQueuePairs)
            throw new ConfigurationException($"{Kind}: {Options.QueuePairs} pairs of queues; give 1 to {VirtioNet.MaximumQueuePairs}");
        if (Options.Mtu is < 68 or > 65535)
            throw new ConfigurationException($"{Kind}: an MTU of {Options.Mtu}; give 68 to 65535");
        if (Options.Address.IsGroup)
            throw new ConfigurationException($"{Kind}: {Options.Address} is an address of a group; give one whose first byte is even");
        var nic = new VirtioNet(Options, Backend, context.Gate, context.Errors) { OffersPackedRings = OffersPackedRings, WithheldFeatures = WithheldFeatures };
        Backend?.Attach(nic);
        return nic;
    }
}
