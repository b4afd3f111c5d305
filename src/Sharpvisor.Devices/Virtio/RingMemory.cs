using System.Runtime.InteropServices;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Virtio;

/// <summary>
/// A part of a ring in guest memory, which driver and device read and write at the same time: each access is one of the
/// host's, in program order. Little-endian, as the hosts are.
/// </summary>
internal readonly struct RingMemory
{
    private readonly GuestMemory _memory;
    private readonly Memory<byte> _bytes;
    private readonly ulong _address;

    private RingMemory(GuestMemory memory, ulong address, Memory<byte> bytes)
    {
        _memory = memory;
        _address = address;
        _bytes = bytes;
    }

    /// <param name="addresses">Where the address lies; null: it is guest-physical. What it takes in use stays so until all is released.</param>
    /// <param name="isWritable">The device writes there, too.</param>
    /// <returns>False: there is no memory, or not all of it in one piece, or its address is not aligned.</returns>
    public static bool TryMap(GuestMemory memory, IVirtioAddresses? addresses, ulong address, int length, int alignment, bool isWritable, out RingMemory ring)
    {
        ring = default;
        if ((address & (ulong)(alignment - 1)) != 0)
            return false;
        var piece = length;
        if (addresses is not null && (!addresses.TryAcquire(address, isWritable, ref piece, out address, out _) || piece < length))
            return false;
        if (!memory.TrySlice(address, length, out var bytes))
            return false;
        ring = new RingMemory(memory, address, bytes);
        return true;
    }

    public ushort Read16(int offset) => Volatile.Read(ref At<ushort>(offset));

    /// <summary>Seen by the driver after all that was written before.</summary>
    public void Write16(int offset, ushort value)
    {
        Volatile.Write(ref At<ushort>(offset), value);
        _memory.MarkWritten(_address + (ulong)offset, sizeof(ushort));
    }

    public void Write32(int offset, uint value)
    {
        Volatile.Write(ref At<uint>(offset), value);
        _memory.MarkWritten(_address + (ulong)offset, sizeof(uint));
    }

    public void Write64(int offset, ulong value)
    {
        MemoryMarshal.Write(_bytes.Span.Slice(offset, sizeof(ulong)), value);
        _memory.MarkWritten(_address + (ulong)offset, sizeof(ulong));
    }

    public Descriptor ReadDescriptor(int index) => Descriptor.Read(_bytes.Span, index);

    private ref T At<T>(int offset) where T : unmanaged => ref MemoryMarshal.AsRef<T>(_bytes.Span[offset..]);
}

/// <summary>
/// A descriptor as both kinds of ring have it (VIRTIO 1.2, 2.7.5 and 2.8.13); the last two fields change places: in a
/// split ring flags and next, in a packed ring id and flags.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly struct Descriptor
{
    public const int Size = 16;
    public const ushort Next = 1, Write = 2, Indirect = 4, Available = 0x80, Used = 0x8000;

    public readonly ulong Address;
    public readonly uint Length;
    private readonly ushort _first;
    private readonly ushort _second;

    public ushort SplitFlags => _first;

    public ushort SplitNext => _second;

    public ushort PackedId => _first;

    public ushort PackedFlags => _second;

    /// <summary>A copy: the driver may change it meanwhile.</summary>
    public static Descriptor Read(ReadOnlySpan<byte> table, int index) => MemoryMarshal.Read<Descriptor>(table.Slice(index * Size, Size));
}
