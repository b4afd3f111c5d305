// A packed virtqueue: one ring of descriptors that driver and device overwrite in turn.
// Follows: VIRTIO 1.2, 2.8 (2.8.1 wrap counters, 2.8.6 chains, 2.8.7 indirect, 2.8.10 and 2.8.14 suppression).
// Leaves out: VIRTIO_F_IN_ORDER.

using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Virtio;

internal sealed class PackedRing : VirtqueueRing
{
    private const int EventFlags = 2;
    private const ushort EventEnable = 0, EventDisable = 1, EventAtDescriptor = 2, EventFlagMask = 3, WrapBit = 0x8000;

    private readonly RingMemory _descriptors, _driverEvent, _deviceEvent;
    private readonly int _size;
    private int _next, _used, _pushed;
    private bool _nextWrap = true, _usedWrap = true, _hasSignalled;
    private ushort? _deviceEventOffset;

    /// <summary>The flags of the first of some buffers that the driver is to see at once, and where they belong.</summary>
    private (int Offset, ushort Flags)? _held;

    private PackedRing(GuestMemory memory, IVirtioAddresses? addresses, bool hasEventIndex, int size, RingMemory descriptors, RingMemory driverEvent, RingMemory deviceEvent)
        : base(memory, addresses, hasEventIndex)
    {
        _size = size;
        (_descriptors, _driverEvent, _deviceEvent) = (descriptors, driverEvent, deviceEvent);
    }

    public override bool IsEmpty => !IsAvailable(FlagsOf(_next));

    /// <summary>Null: the ring is not where memory is.</summary>
    public static PackedRing? TryCreate(GuestMemory memory, IVirtioAddresses? addresses, bool hasEventIndex, int size, ulong descriptors, ulong driverEvent, ulong deviceEvent) =>
        RingMemory.TryMap(memory, addresses, descriptors, size * Descriptor.Size, 16, isWritable: true, out var table)
        && RingMemory.TryMap(memory, addresses, driverEvent, 4, 4, isWritable: false, out var driver)
        && RingMemory.TryMap(memory, addresses, deviceEvent, 4, 4, isWritable: true, out var device)
            ? new PackedRing(memory, addresses, hasEventIndex, size, table, driver, device)
            : null;

    public override bool TryPop(DescriptorChain chain)
    {
        if (IsEmpty && !AskForNotification())
            return false;
        chain.Clear();
        for (var count = 1; ; count++)
        {
            var descriptor = _descriptors.ReadDescriptor(_next);
            Advance(ref _next, ref _nextWrap, 1);
            var flags = descriptor.PackedFlags;
            var isIndirect = (flags & Descriptor.Indirect) != 0;
            if (isIndirect && count > 1)
                return Fail("an indirect table within a chain");
            if (isIndirect ? !TryAddTable(chain, descriptor) : chain.Add(Memory, Addresses, descriptor, (flags & Descriptor.Write) != 0) is { } fault && !Fail(fault))
                return false;
            if (isIndirect || (flags & Descriptor.Next) == 0)
            {
                chain.Id = descriptor.PackedId;
                chain.DescriptorCount = count;
                return chain.Id < _size || Fail("a buffer id out of range");
            }

            if (count >= _size)
                return Fail("a chain that loops");
        }
    }

    public override void Push(DescriptorChain chain, int written, bool more)
    {
        // Length and id, then the flags, by which the descriptor becomes the driver's. It looks for the first of several.
        const int length = 8, id = 12, flags = 14;
        var at = _used * Descriptor.Size;
        var now = (ushort)((_usedWrap ? Descriptor.Available | Descriptor.Used : 0) | (written > 0 ? Descriptor.Write : 0));
        _descriptors.Write32(at + length, (uint)written);
        _descriptors.Write16(at + id, chain.Id);
        if (more && _held is null)
        {
            _held = (at + flags, now);
        }
        else
        {
            _descriptors.Write16(at + flags, now);
            if (!more && _held is { } first)
            {
                _descriptors.Write16(first.Offset, first.Flags);
                _held = null;
            }
        }

        Advance(ref _used, ref _usedWrap, chain.DescriptorCount);
        _pushed = Math.Min(_pushed + chain.DescriptorCount, ushort.MaxValue);
    }

    public override bool WantsInterrupt()
    {
        Interlocked.MemoryBarrier();
        var before = (ushort)(_used - _pushed);
        _pushed = 0;
        var wasSignalled = _hasSignalled;
        _hasSignalled = true;
        var kind = _driverEvent.Read16(EventFlags) & EventFlagMask;
        if (kind != EventAtDescriptor || !HasEventIndex)
            return kind != EventDisable;
        // The index that the driver waits for as seen from this round of the ring; the one before is below zero.
        var offsetAndWrap = _driverEvent.Read16(0);
        var waitsFor = offsetAndWrap & ~WrapBit;
        if (((offsetAndWrap & WrapBit) != 0) != _usedWrap)
            waitsFor -= _size;
        return !wasSignalled || HasPassed((ushort)waitsFor, (ushort)_used, before);
    }

    private bool TryAddTable(DescriptorChain chain, in Descriptor descriptor)
    {
        if (!TryMapTable(descriptor, out var table))
            return false;
        for (var i = 0; i < table.Length / Descriptor.Size; i++)
        {
            var entry = Descriptor.Read(table.Span, i);
            if (chain.Add(Memory, Addresses, entry, (entry.PackedFlags & Descriptor.Write) != 0) is { } fault)
                return Fail(fault);
        }

        return true;
    }

    private bool AskForNotification()
    {
        var offset = (ushort)(_next | (_nextWrap ? WrapBit : 0));
        if (_deviceEventOffset == offset || (_deviceEventOffset is not null && !HasEventIndex))
            return false;
        _deviceEventOffset = offset;
        if (HasEventIndex)
            _deviceEvent.Write16(0, offset);
        _deviceEvent.Write16(EventFlags, HasEventIndex ? EventAtDescriptor : EventEnable);
        Interlocked.MemoryBarrier();
        return !IsEmpty;
    }

    private ushort FlagsOf(int index) => _descriptors.Read16((index * Descriptor.Size) + 14);

    private bool IsAvailable(ushort flags) => ((flags & Descriptor.Available) != 0) == _nextWrap && ((flags & Descriptor.Used) != 0) != _nextWrap;

    private void Advance(ref int index, ref bool wrap, int by)
    {
        index += by;
        if (index < _size)
            return;
        index -= _size;
        wrap = !wrap;
    }
}
