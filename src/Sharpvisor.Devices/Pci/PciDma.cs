// A PCI function as bus master: guest memory as far as its command register lets it go there.
// Follows: PCI Local Bus Specification 3.0, 6.2.2 (bit 2). Leaves out: an IOMMU; parity.

using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Pci;

/// <summary>
/// Guest memory as a function on the bus reaches it. While the guest has not made it a bus master every access fails,
/// as a transfer that nobody answers does (PCI 3.0, 6.2.2, bit 2 of the command register).
/// </summary>
public readonly struct PciDma(PciFunction function, GuestMemory memory)
{
    public bool TryRead(ulong address, Span<byte> destination) => function.IsBusMaster && memory.TryRead(address, destination);

    public bool TryWrite(ulong address, ReadOnlySpan<byte> source) => function.IsBusMaster && memory.TryWrite(address, source);

    public bool TryRead<T>(ulong address, out T value) where T : unmanaged
    {
        value = default;
        return function.IsBusMaster && memory.TryRead(address, out value);
    }

    public bool TryWrite<T>(ulong address, T value) where T : unmanaged => function.IsBusMaster && memory.TryWrite(address, value);

    /// <summary>A window on guest memory; whoever writes to it says so by <see cref="MarkWritten"/>.</summary>
    public bool TrySlice(ulong address, int length, out Memory<byte> slice)
    {
        slice = default;
        return function.IsBusMaster && memory.TrySlice(address, length, out slice);
    }

    public void MarkWritten(ulong address, ulong length) => memory.MarkWritten(address, length);
}
