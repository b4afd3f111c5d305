// A base address register of a PCI function, and what it shows: ports, memory, or an expansion ROM.
// Follows: PCI Local Bus Specification 3.0, 6.2.5.

using Sharpvisor.Core.Buses;

namespace Sharpvisor.Devices.Pci;

public enum PciBarKind
{
    Ports,
    Memory32,
    Memory64,

    /// <summary>The expansion ROM's, which has an enable bit of its own.</summary>
    Rom,
}

/// <summary>A range of a function's registers or memory, whose address the guest chooses (PCI 3.0, 6.2.5).</summary>
public sealed class PciBar
{
    internal PciBar(string name, int offset, PciBarKind kind, ulong size, IBusDevice device)
    {
        Name = name;
        Offset = offset;
        Kind = kind;
        Size = size;
        Device = device;
    }

    public string Name { get; }

    /// <summary>Of its register in configuration space.</summary>
    public int Offset { get; }

    public PciBarKind Kind { get; }

    /// <summary>In bytes, a power of two.</summary>
    public ulong Size { get; }

    public IBusDevice Device { get; }

    /// <summary>Where it is decoded now; null while it is not.</summary>
    public ulong? Address { get; internal set; }

    internal AddressSpace.Mapping? Mapping { get; set; }

    /// <summary>The address that the registers say, or null when the function does not answer there.</summary>
    internal ulong? Decode(PciConfigSpace config)
    {
        var command = config.Get16(PciRegister.Command);
        ulong low = config.Get32(Offset);
        if (Kind == PciBarKind.Ports)
        {
            var port = low & ~(Size - 1) & ~3UL;
            return (command & PciRegister.CommandIo) != 0 && port != 0 && port + Size <= 0x10000 ? port : null;
        }

        if ((command & PciRegister.CommandMemory) == 0 || (Kind == PciBarKind.Rom && (low & 1) == 0))
            return null;
        if (Kind == PciBarKind.Memory64)
            low |= (ulong)config.Get32(Offset + 4) << 32;
        var address = low & ~(Size - 1);
        // Zero is "not placed". A guest that sizes the register leaves all ones in it, and the last byte of the space is
        // never decoded for the same reason.
        var end = address + Size - 1;
        var isPlaced = address != 0 && end > address && (Kind == PciBarKind.Memory64 ? end != ulong.MaxValue : end < uint.MaxValue);
        return isPlaced ? address : null;
    }
}
