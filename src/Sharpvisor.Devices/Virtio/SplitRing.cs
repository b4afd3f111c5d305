// A split virtqueue: descriptor table, available ring, used ring.
// Follows: VIRTIO 1.2, 2.7 (2.7.5 descriptors, 2.7.5.3 indirect, 2.7.6 available ring, 2.7.7 suppression, 2.7.8 used ring).
// Leaves out: VIRTIO_F_IN_ORDER.

using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Virtio;

internal sealed class SplitRing : VirtqueueRing
{
    private const int Index = 2, Entries = 4, UsedEntry = 8;
    private const ushort NoInterrupt = 1;

    private readonly RingMemory _descriptors, _available, _used;
    private readonly int _size;
    private ushort _lastAvailable, _usedIndex, _signalled;
    private ushort? _availableEvent;
    private bool _hasSignalled;

    private SplitRing(GuestMemory memory, IVirtioAddresses? addresses, bool hasEventIndex, int size, RingMemory descriptors, RingMemory available, RingMemory used)
        : base(memory, addresses, hasEventIndex)
    {
        _size = size;
        (_descriptors, _available, _used) = (descriptors, available, used);
    }

    public override bool IsEmpty => _available.Read16(Index) == _lastAvailable;

    /// <summary>Null: the rings are not where memory is.</summary>
    public static SplitRing? TryCreate(GuestMemory memory, IVirtioAddresses? addresses, bool hasEventIndex, int size, ulong descriptors, ulong available, ulong used)
    {
        var events = hasEventIndex ? 2 : 0;
        return int.IsPow2(size)
            && RingMemory.TryMap(memory, addresses, descriptors, size * Descriptor.Size, 16, isWritable: false, out var table)
            && RingMemory.TryMap(memory, addresses, available, Entries + (2 * size) + events, 2, isWritable: false, out var availableRing)
            && RingMemory.TryMap(memory, addresses, used, Entries + (UsedEntry * size) + events, 4, isWritable: true, out var usedRing)
            ? new SplitRing(memory, addresses, hasEventIndex, size, table, availableRing, usedRing)
            : null;
    }

    public override bool TryPop(DescriptorChain chain)
    {
        if (IsEmpty && !AskForNotification())
            return false;
        if ((ushort)(_available.Read16(Index) - _lastAvailable) > _size)
            return Fail("an available index that jumps");
        var head = _available.Read16(Entries + (2 * (_lastAvailable & (_size - 1))));
        _lastAvailable++;
        chain.Clear();
        chain.Id = head;
        return TryWalk(chain, head);
    }

    public override void Push(DescriptorChain chain, int written, bool more)
    {
        var entry = Entries + (UsedEntry * (_usedIndex & (_size - 1)));
        _used.Write64(entry, chain.Id | ((ulong)(uint)written << 32));
        _usedIndex++;
        if (!more)
            _used.Write16(Index, _usedIndex);
    }

    public override bool WantsInterrupt()
    {
        // The driver writes what it waits for and then looks for used buffers: the other way round here.
        Interlocked.MemoryBarrier();
        if (!HasEventIndex)
            return (_available.Read16(0) & NoInterrupt) == 0;
        var wants = !_hasSignalled || HasPassed(_available.Read16(Entries + (2 * _size)), _usedIndex, _signalled);
        _hasSignalled = true;
        _signalled = _usedIndex;
        return wants;
    }

    /// <summary>Has the driver notify the device of the next buffer; true: there is one already.</summary>
    private bool AskForNotification()
    {
        if (!HasEventIndex || _availableEvent == _lastAvailable)
            return false;
        _availableEvent = _lastAvailable;
        _used.Write16(Entries + (UsedEntry * _size), _lastAvailable);
        Interlocked.MemoryBarrier();
        return !IsEmpty;
    }

    private bool TryWalk(DescriptorChain chain, int index)
    {
        Memory<byte> indirect = default;
        var isIndirect = false;
        var limit = _size;
        for (var count = 1; ; count++)
        {
            if (index >= limit)
                return Fail("a descriptor index out of range");
            if (count > limit)
                return Fail("a chain that loops");
            var descriptor = isIndirect ? Descriptor.Read(indirect.Span, index) : _descriptors.ReadDescriptor(index);
            if ((descriptor.SplitFlags & Descriptor.Indirect) != 0)
            {
                if (isIndirect)
                    return Fail("an indirect table within an indirect table");
                if (!TryMapTable(descriptor, out indirect))
                    return false;
                isIndirect = true;
                limit = indirect.Length / Descriptor.Size;
                index = 0;
                count = 0;
                continue;
            }

            if (chain.Add(Memory, Addresses, descriptor, (descriptor.SplitFlags & Descriptor.Write) != 0) is { } fault)
                return Fail(fault);
            if ((descriptor.SplitFlags & Descriptor.Next) == 0)
                return true;
            index = descriptor.SplitNext;
        }
    }
}
