// Memory behind a base address register, access by access, where it can't be mapped as memory.
// Follows: PCI Local Bus Specification 3.0, 6.2.5.

using System.Buffers.Binary;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Pci;

/// <summary>Memory as a bus sees it, for the accesses that do not go to it directly: parts of pages, addresses above 4 GiB.</summary>
internal sealed class RegionDevice(MemoryRegion region, bool isRom) : IBusDevice
{
    public MemoryRegion Region => region;

    public bool IsRom => isRom;

    public ulong Read(uint offset, int size)
    {
        Span<byte> value = stackalloc byte[8];
        value.Fill(0xFF);
        Part(offset, size).CopyTo(value);
        return BinaryPrimitives.ReadUInt64LittleEndian(value);
    }

    public void Write(uint offset, int size, ulong value)
    {
        if (isRom)
            return;
        Span<byte> source = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(source, value);
        var part = Part(offset, size);
        source[..part.Length].CopyTo(part);
        region.MarkWritten(offset, (ulong)part.Length);
    }

    /// <summary>What there is of it: behind the end of a region that is no power of two there is nothing.</summary>
    private Span<byte> Part(uint offset, int size) =>
        offset >= region.Size ? [] : region.Bytes(offset, (int)Math.Min((ulong)size, region.Size - offset));
}
