using Sharpvisor.Core.Block;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Virtio;

/// <summary>
/// A buffer that a driver has made available: the parts that the device reads, and those that it writes. A device makes
/// some, has a queue fill them, and uses them again: a request allocates nothing.
/// </summary>
public sealed class DescriptorChain
{
    /// <summary>More parts than this are a mistake of the driver, in whatever tables they lie (as in QEMU).</summary>
    internal const int MaximumParts = 1024;

    private Memory<byte>[] _parts = new Memory<byte>[4];
    private ulong[] _addresses = new ulong[4];
    private int _count, _readable;
    private long _readableLength, _writableLength;

    /// <summary>What the driver has written for the device.</summary>
    public BlockBuffers Readable => new(_parts.AsMemory(0, _readable));

    /// <summary>Where the device's answer goes.</summary>
    public BlockBuffers Writable => new(_parts.AsMemory(_readable, _count - _readable));

    public int ReadableLength => (int)_readableLength;

    public int WritableLength => (int)_writableLength;

    /// <summary>Of a split ring the first descriptor's index, of a packed ring the buffer id.</summary>
    internal ushort Id { get; set; }

    /// <summary>Of a packed ring: how many descriptors it takes there.</summary>
    internal int DescriptorCount { get; set; }

    /// <summary>Which life of the queue it is from; null: from none, or it was given back.</summary>
    internal object? Ring { get; set; }

    internal void Clear()
    {
        _count = _readable = 0;
        _readableLength = _writableLength = 0;
        DescriptorCount = 0;
    }

    /// <summary>Adds a part; what is wrong with it, or null.</summary>
    internal string? Add(GuestMemory memory, in Descriptor descriptor, bool isWritable)
    {
        if (descriptor.Length == 0)
            return "a descriptor without length";
        if (_count == MaximumParts)
            return "a chain of too many descriptors";
        if (!isWritable && _count > _readable)
            return "a readable descriptor behind a writable one";
        if (descriptor.Length > int.MaxValue || !memory.TrySlice(descriptor.Address, (int)descriptor.Length, out var part))
            return "a descriptor outside of memory";
        ref var length = ref isWritable ? ref _writableLength : ref _readableLength;
        if (length + descriptor.Length > int.MaxValue)
            return "a chain of 2 GiB";
        length += descriptor.Length;
        if (_count == _parts.Length)
        {
            Array.Resize(ref _parts, _count * 2);
            Array.Resize(ref _addresses, _count * 2);
        }

        _parts[_count] = part;
        _addresses[_count++] = descriptor.Address;
        _readable += isWritable ? 0 : 1;
        return null;
    }

    /// <summary>The device has written these bytes at the start of the writable parts.</summary>
    internal void MarkWritten(GuestMemory memory, int length)
    {
        for (var i = _readable; i < _count && length > 0; i++)
        {
            memory.MarkWritten(_addresses[i], (ulong)Math.Min(length, _parts[i].Length));
            length -= _parts[i].Length;
        }
    }
}
