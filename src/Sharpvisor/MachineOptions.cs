using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Boot;
using Sharpvisor.Core.Char;
using Sharpvisor.Cpu;

namespace Sharpvisor;

/// <summary>What a machine is made of. <see cref="MachineBuilder"/> fills it in.</summary>
public sealed record MachineOptions
{
    public const int MaximumProcessors = 64;

    /// <summary>The PCI hole takes at least the last 512 MiB below 4 GiB.</summary>
    public const ulong LargestBelow4G = 0xE000_0000;

    public string Name { get; init; } = "sharpvisor";

    public MachineKind Kind { get; init; }

    /// <summary>Bytes of RAM.</summary>
    public ulong MemorySize { get; init; } = 512UL << 20;

    public int ProcessorCount { get; init; } = 1;

    /// <summary>A processor model with optional ,+feature and ,-feature.</summary>
    public string Cpu { get; init; } = "sharp64";

    /// <summary>How much of the RAM lies below 4 GiB at most, in bytes; the rest starts at 4 GiB. Null: as QEMU's pc machine.</summary>
    public ulong? MaximumBelow4G { get; init; }

    /// <summary>A BIOS image.</summary>
    public BootSource? Firmware { get; init; }

    /// <summary>The option ROM of the standard VGA that the machine has; null: it has none, and no screen.</summary>
    public BootSource? VgaBios { get; init; }

    public BootOptions Boot { get; init; } = new();

    /// <summary>What firmware and SMBIOS give as the machine's id.</summary>
    public Guid Uuid { get; init; }

    public BootSource? Kernel { get; init; }

    /// <summary>The Xen domain that the guest finds itself in; null: no Xen.</summary>
    public XenOptions? Xen { get; init; }

    /// <summary>How the kernel is started. Null: through firmware where there is firmware, else directly.</summary>
    public BootWay? KernelBoot { get; init; }

    public BootSource? Initrd { get; init; }

    /// <summary>What a multiboot kernel finds in memory.</summary>
    public IReadOnlyList<BootModule> Modules { get; init; } = [];

    public string CommandLine { get; init; } = "";

    /// <summary>What COM1 to COM4 lead to; null where there is no port.</summary>
    public IReadOnlyList<ICharBackend?> Serial { get; init; } = [];

    /// <summary>What is on the IDE controller.</summary>
    public IReadOnlyList<IdeDrive> IdeDrives { get; init; } = [];

    /// <summary>Virtio devices, in the order in which they get their places on PCI.</summary>
    public IReadOnlyList<VirtioPciDevice> VirtioDevices { get; init; } = [];

    /// <summary>NICs that are not virtio's, which get their places behind those.</summary>
    public IReadOnlyList<E1000Card> NetworkCards { get; init; } = [];

    /// <summary>What the guest finds in the store of its Xen domain.</summary>
    public IReadOnlyList<XenDevice> XenDevices { get; init; } = [];

    /// <summary>All that is plugged in.</summary>
    internal IEnumerable<PciDevice> PciDevices => VirtioDevices.Concat<PciDevice>(NetworkCards);

    /// <summary>What becomes of it when the guest powers off, resets or crashes; changed later by <see cref="Machine.Actions"/>.</summary>
    public MachineActions Actions { get; init; } = new();

    /// <summary>pvpanic on the ISA bus, by which a guest says that it has crashed.</summary>
    public bool HasPanicDevice { get; init; }

    /// <summary>The same on PCI, in the first free slot.</summary>
    public bool HasPciPanicDevice { get; init; }

    /// <summary>No processor executes anything until <see cref="Machine.ResumeAsync(CancellationToken)"/>.</summary>
    public bool StartPaused { get; init; }

    /// <summary>QEMU's pc-testdev, for low-level test kernels.</summary>
    public bool HasTestDevice { get; init; }

    /// <summary>QEMU's pci-testdev, in the first free slot.</summary>
    public bool HasPciTestDevice { get; init; }

    /// <summary>The guest may suspend itself to RAM (ACPI S3). As QEMU's PIIX4_PM.disable_s3, the other way round.</summary>
    public bool HasSuspendToRam { get; init; } = true;

    /// <summary>The guest may suspend itself to a disk (ACPI S4), which ends the machine.</summary>
    public bool HasSuspendToDisk { get; init; } = true;

    /// <summary>VMware's backdoor port, by which drivers of its mouse get positions. As QEMU's vmport=.</summary>
    public bool HasVmwarePort { get; init; } = true;

    /// <summary>The first port and the number of ports of isa-debug-exit; null for none.</summary>
    public (ushort Port, int Count)? DebugExit { get; init; }

    /// <summary>The port of a debug console and where it leads; null for none.</summary>
    public (ushort Port, ICharBackend Backend)? DebugConsole { get; init; }

    /// <summary>What runs the processors; null for the interpreter.</summary>
    public ICpuEngine? Engine { get; init; }

    /// <summary>What the processors write to the debug log.</summary>
    public CpuTrace? Trace { get; init; }

    /// <summary>Takes each guest error and unassigned access, for <c>-d guest_errors,unimp</c>.</summary>
    public Action<string>? GuestErrorTrace { get; init; }

    public ILogger Logger { get; init; } = NullLogger.Instance;

    /// <summary>Each once: one may be an IDE drive and a Xen domain's disk.</summary>
    internal IEnumerable<BlockDrive> Drives =>
        IdeDrives.Select(d => d.Drive).Concat(VirtioDevices.OfType<VirtioDisk>().Select(d => d.Drive)).Concat(XenDevices.OfType<XenDisk>().Select(d => d.Drive)).Distinct();

    /// <summary>What of the host's is used while the machine runs, the guest's last words first. The machine's own.</summary>
    internal IEnumerable<IAsyncDisposable> Backends =>
    [
        .. Serial.OfType<IAsyncDisposable>(), .. DebugConsole is { } console ? [console.Backend] : Array.Empty<IAsyncDisposable>(),
        .. Xen is { Console: { } xenConsole } ? [xenConsole] : Array.Empty<IAsyncDisposable>(),
        .. PciDevices.SelectMany(d => d.Backends), .. XenDevices.SelectMany(d => d.Backends), .. Drives,
    ];

    /// <summary>What is read when the machine starts and at each reset. The machine's own, too.</summary>
    internal IEnumerable<BootSource> Files =>
        new[] { Firmware, VgaBios, Kernel, Initrd }.Concat(Modules.Select(m => m.Source)).Concat(PciDevices.Select(d => d.Rom)).OfType<BootSource>();

    /// <summary>RAM below 4 GiB: less when that makes the rest begin at a whole GiB, as QEMU's pc machine decides it.</summary>
    internal ulong Below4GLimit
    {
        get
        {
            const ulong gib = 1UL << 30;
            var limit = Math.Min(MaximumBelow4G ?? ulong.MaxValue, LargestBelow4G);
            return MemorySize < limit ? MemorySize : Math.Min(limit, 3 * gib) & ~0xFFFUL;
        }
    }
}
