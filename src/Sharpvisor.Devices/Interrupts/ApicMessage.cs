// Messages between local APICs, I/O APIC and devices.
// Follows: Intel SDM volume 3, 11.6 (destination and delivery) and 11.11 (MSI).
namespace Sharpvisor.Devices.Interrupts;

/// <summary>Delivery modes of the ICR, of local vector table entries, of redirection entries and of MSIs.</summary>
public enum DeliveryMode
{
    Fixed = 0,
    LowestPriority = 1,
    Smi = 2,
    Reserved = 3,
    Nmi = 4,
    Init = 5,

    /// <summary>Start-up IPI; from the ICR only.</summary>
    StartUp = 6,

    /// <summary>The vector comes from the PIC; never from the ICR.</summary>
    ExtInt = 7,
}

/// <summary>One interrupt on its way to local APICs.</summary>
/// <param name="Destination">8 bits from an xAPIC, an IOAPIC or an MSI, 32 from an x2APIC.</param>
/// <param name="Logical">The destination is compared with the logical destination registers, not with APIC ids.</param>
/// <param name="Broadcast">Every local APIC is meant: a destination of all ones in its sender's width.</param>
/// <param name="Level">Level triggered: its EOI is told to the IOAPICs.</param>
public readonly record struct ApicMessage(
    uint Destination, bool Logical, bool Broadcast, DeliveryMode Mode, byte Vector, bool Level);
