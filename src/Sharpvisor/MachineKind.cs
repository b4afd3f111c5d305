namespace Sharpvisor;

/// <summary>What a machine looks like to its guest: QEMU's -machine.</summary>
public enum MachineKind
{
    /// <summary>A PC with i440FX and PIIX.</summary>
    Pc,

    /// <summary>The same PC as a domain of Xen's: HVM with Xen's platform device on PCI.</summary>
    XenHvm,

    /// <summary>A domain of Xen's without a PC around it: PVH. Local APICs, ACPI tables, and what Xen offers.</summary>
    XenPvh,

    /// <summary>A domain of Xen's without any hardware: pure PV. Its kernel is in ring 3 and asks the hypervisor for all.</summary>
    XenPv,
}
