// What the ACPI tables of a machine have to tell. Leaves out everything that a PC of 1996 has not: NUMA, hot plugging, MCFG.
namespace Sharpvisor.Devices.Acpi;

/// <summary>What a machine has that its ACPI tables tell.</summary>
public sealed record AcpiOptions
{
    public required int ProcessorCount { get; init; }

    /// <summary>No PC around the processors: no PM1 block, no I/O APIC, no RTC; <see cref="AcpiReducedPower"/> is at its port.</summary>
    public bool IsHardwareReduced { get; init; }

    /// <summary>The standard serial ports that are present: 1 for COM1 to 4 for COM4.</summary>
    public IReadOnlyList<int> SerialPorts { get; init; } = [1];

    /// <summary>The keyboard controller at ports 60h and 64h.</summary>
    public bool HasI8042 { get; init; } = true;

    public bool HasHpet { get; init; } = true;

    public bool HasVga { get; init; }

    /// <summary>A PCI host bridge with the PIIX's interrupt router.</summary>
    public bool HasPci { get; init; }

    /// <summary>Where the PCI hole begins: the first address behind RAM below 4 GiB.</summary>
    public uint PciHoleStart { get; init; }

    /// <summary>fw_cfg at port 510h.</summary>
    public bool HasFwCfg { get; init; }

    /// <summary>pvpanic at port 505h.</summary>
    public bool HasPanicPort { get; init; }

    /// <summary>The guest may suspend itself to RAM (S3), and to a disk (S4).</summary>
    public bool HasSuspendToRam { get; init; } = true;

    public bool HasSuspendToDisk { get; init; } = true;

    /// <summary>Comparators of the HPET.</summary>
    public int HpetTimers { get; init; } = 3;

    /// <summary>Adds further devices to <c>\_SB</c>: virtio-mmio windows.</summary>
    public Action<AmlWriter>? AddDevices { get; init; }
}
