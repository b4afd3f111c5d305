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

    /// <summary>Pages that a chain takes in use where addresses are grants: as many as a domain can grant.</summary>
    private const int MaximumUses = 32768;

    private Memory<byte>[] _parts = new Memory<byte>[4];
    private ulong[] _addresses = new ulong[4];
    private ulong[] _uses = [];
    private int _count, _readable, _useCount;
    private IVirtioAddresses? _space;
    private long _readableLength, _writableLength;

    /// <summary>What the driver has written for the device.</summary>
    public BlockBuffers Readable => new(_parts.AsMemory(0, _readable));

    /// <summary>Where the device's answer goes.</summary>
    public BlockBuffers Writable => new(_parts.AsMemory(_readable, _count - _readable));

    public int ReadableLength => (int)_readableLength;

    public int WritableLength => (int)_writableLength;

    /// <summary>How many parts the answer's place has.</summary>
    public int WritableParts => _count - _readable;

    /// <summary>Of a split ring the first descriptor's index, of a packed ring the buffer id.</summary>
    internal ushort Id { get; set; }

    /// <summary>Of a packed ring: how many descriptors it takes there.</summary>
    internal int DescriptorCount { get; set; }

    /// <summary>Which life of the queue it is from; null: from none, or it was given back.</summary>
    internal object? Ring { get; set; }

    /// <summary>Where one of the writable parts lies: for devices to which the place itself is the message.</summary>
    public (ulong Address, ulong Length) WritablePlace(int part)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(part);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(part, WritableParts);
        return (_addresses[_readable + part], (ulong)_parts[_readable + part].Length);
    }

    internal void Clear()
    {
        _count = _readable = _useCount = 0;
        _readableLength = _writableLength = 0;
        DescriptorCount = 0;
    }

    /// <summary>Adds a part; what is wrong with it, or null.</summary>
    /// <param name="addresses">Where its address lies; null: it is guest-physical.</param>
    internal string? Add(GuestMemory memory, IVirtioAddresses? addresses, in Descriptor descriptor, bool isWritable)
    {
        if (descriptor.Length == 0)
            return "a descriptor without length";
        if (_count == MaximumParts)
            return "a chain of too many descriptors";
        if (!isWritable && _count > _readable)
            return "a readable descriptor behind a writable one";
        Memory<byte> part = default;
        if (descriptor.Length > int.MaxValue || (addresses is null && !memory.TrySlice(descriptor.Address, (int)descriptor.Length, out part)))
            return "a descriptor outside of memory";
        ref var length = ref isWritable ? ref _writableLength : ref _readableLength;
        if (length + descriptor.Length > int.MaxValue)
            return "a chain of 2 GiB";
        length += descriptor.Length;
        if (addresses is not null)
            return AddPages(memory, addresses, descriptor, isWritable);
        Append(descriptor.Address, part, isWritable);
        return null;
    }

    /// <summary>Ends the use of what the transport had to take in use.</summary>
    internal void Release()
    {
        for (var i = 0; i < _useCount; i++)
            _space!.Release(_uses[i]);
        _useCount = 0;
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

    /// <summary>A part whose pages are wherever the transport finds them; neighbours become one.</summary>
    private string? AddPages(GuestMemory memory, IVirtioAddresses addresses, in Descriptor descriptor, bool isWritable)
    {
        _space = addresses;
        var end = descriptor.Address + descriptor.Length;
        for (var address = descriptor.Address; address != end;)
        {
            var length = (int)(end - address);
            if (_useCount == MaximumUses)
                return "a chain of more pages than a domain can grant";
            if (!addresses.TryAcquire(address, isWritable, ref length, out var at, out var use))
                return "a descriptor that the device may not reach";
            if (use != 0)
                Hold(use);
            address += (ulong)length;
            if (_count > (isWritable ? _readable : 0) && _addresses[_count - 1] + (ulong)_parts[_count - 1].Length == at
                && memory.TrySlice(_addresses[_count - 1], _parts[_count - 1].Length + length, out var both))
            {
                _parts[_count - 1] = both;
                continue;
            }

            if (_count == MaximumParts)
                return "a chain of too many descriptors";
            if (!memory.TrySlice(at, length, out var part))
                return "a descriptor outside of memory";
            Append(at, part, isWritable);
        }

        return null;
    }

    private void Hold(ulong use)
    {
        if (_useCount == _uses.Length)
            Array.Resize(ref _uses, Math.Max(8, _useCount * 2));
        _uses[_useCount++] = use;
    }

    private void Append(ulong address, Memory<byte> part, bool isWritable)
    {
        if (_count == _parts.Length)
        {
            Array.Resize(ref _parts, _count * 2);
            Array.Resize(ref _addresses, _count * 2);
        }

        _parts[_count] = part;
        _addresses[_count++] = address;
        _readable += isWritable ? 0 : 1;
    }
}
