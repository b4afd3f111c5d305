// Resource descriptors of ACPI devices. Follows ACPI 6.4, 6.4.2 (small) and 6.4.3 (large).
// Leaves out DMA, GPIO, serial buses and extended address spaces.
using System.Buffers.Binary;

namespace Sharpvisor.Devices.Acpi;

/// <summary>Resource descriptors (ACPI 6.4, 6.4.2 and 6.4.3).</summary>
public static class AmlResources
{
    /// <summary>I/O port descriptor (6.4.2.5), 16-bit decode, fixed.</summary>
    public static byte[] Ports(ushort first, byte count) =>
        [0x47, 1, (byte)first, (byte)(first >> 8), (byte)first, (byte)(first >> 8), 1, count];

    /// <summary>IRQ descriptor (6.4.2.1): edge triggered, active high, exclusive.</summary>
    public static byte[] Irq(int irq) => [0x22, (byte)(1 << irq), (byte)(1 << irq >> 8)];

    /// <summary>Extended interrupt descriptor (6.4.3.6): level triggered, active high, shared.</summary>
    public static byte[] SharedInterrupts(params ReadOnlySpan<uint> interrupts)
    {
        var descriptor = new byte[5 + (4 * interrupts.Length)];
        descriptor[0] = 0x89;
        BinaryPrimitives.WriteUInt16LittleEndian(descriptor.AsSpan(1), (ushort)(descriptor.Length - 3));
        descriptor[3] = 0x09;
        descriptor[4] = (byte)interrupts.Length;
        for (var i = 0; i < interrupts.Length; i++)
            BinaryPrimitives.WriteUInt32LittleEndian(descriptor.AsSpan(5 + (4 * i)), interrupts[i]);
        return descriptor;
    }

    /// <summary>32-bit fixed memory range (6.4.3.4).</summary>
    public static byte[] Memory32(uint address, uint length, bool writable)
    {
        var descriptor = new byte[12];
        descriptor[0] = 0x86;
        descriptor[1] = 9;
        descriptor[3] = (byte)(writable ? 1 : 0);
        BinaryPrimitives.WriteUInt32LittleEndian(descriptor.AsSpan(4), address);
        BinaryPrimitives.WriteUInt32LittleEndian(descriptor.AsSpan(8), length);
        return descriptor;
    }

    /// <summary>Bus numbers that a bridge passes on (6.4.3.5.3).</summary>
    public static byte[] BusNumbers(ushort first, ushort last) => WordSpace(2, 0, first, last);

    /// <summary>Ports that a bridge passes on (6.4.3.5.3), the whole range as it is.</summary>
    public static byte[] PortWindow(ushort first, ushort last) => WordSpace(1, 3, first, last);

    /// <summary>Memory that a bridge passes on (6.4.3.5.2): writable.</summary>
    public static byte[] MemoryWindow(uint first, uint last, bool cacheable)
    {
        var descriptor = new byte[26];
        AddressSpace(descriptor, 0x87, 0, (byte)(cacheable ? 3 : 1));
        BinaryPrimitives.WriteUInt32LittleEndian(descriptor.AsSpan(10), first);
        BinaryPrimitives.WriteUInt32LittleEndian(descriptor.AsSpan(14), last);
        BinaryPrimitives.WriteUInt32LittleEndian(descriptor.AsSpan(22), last - first + 1);
        return descriptor;
    }

    private static byte[] WordSpace(byte type, byte typeFlags, ushort first, ushort last)
    {
        var descriptor = new byte[16];
        AddressSpace(descriptor, 0x88, type, typeFlags);
        BinaryPrimitives.WriteUInt16LittleEndian(descriptor.AsSpan(8), first);
        BinaryPrimitives.WriteUInt16LittleEndian(descriptor.AsSpan(10), last);
        BinaryPrimitives.WriteUInt16LittleEndian(descriptor.AsSpan(14), (ushort)(last - first + 1));
        return descriptor;
    }

    /// <summary>What address space descriptors begin with: positive decode by a producer, both limits fixed.</summary>
    private static void AddressSpace(byte[] descriptor, byte tag, byte type, byte typeFlags)
    {
        descriptor[0] = tag;
        BinaryPrimitives.WriteUInt16LittleEndian(descriptor.AsSpan(1), (ushort)(descriptor.Length - 3));
        descriptor[3] = type;
        descriptor[4] = 0x0C;
        descriptor[5] = typeFlags;
    }
}
