using Sharpvisor.Core.Memory;

namespace Sharpvisor.Testing.Virtio;

/// <summary>A packed ring (VIRTIO 1.2, 2.8).</summary>
public sealed class PackedDriverRing : DriverRing
{
    private const ushort Next = 1, DeviceWrites = 2, Indirect = 4, Available = 0x80, Used = 0x8000, WrapBit = 0x8000;
    private const ushort EventDisable = 1, EventAtDescriptor = 2;

    private readonly Stack<int> _freeIds = new();
    private readonly Dictionary<int, int> _lengths = [];
    private int _next, _used, _added, _free;
    private bool _nextWrap = true, _usedWrap = true;

    public PackedDriverRing(GuestMemory memory, GuestAllocator allocator, int size, bool hasEventIndex)
        : base(memory, allocator, size, hasEventIndex)
    {
        DescriptorArea = allocator.Allocate(16 * (ulong)size);
        DriverArea = allocator.Allocate(4);
        DeviceArea = allocator.Allocate(4);
        _free = size;
        for (var i = size - 1; i >= 0; i--)
            _freeIds.Push(i);
        SuppressInterrupts(false);
    }

    public override ulong DescriptorArea { get; }

    public override ulong DriverArea { get; }

    public override ulong DeviceArea { get; }

    public override int FreeDescriptors => _free;

    public override void SuppressInterrupts(bool suppress)
    {
        Write(DriverArea, (ushort)(_used | (_usedWrap ? WrapBit : 0)));
        Write(DriverArea + 2, suppress ? EventDisable : HasEventIndex ? EventAtDescriptor : (ushort)0);
    }

    public override bool NeedsNotification()
    {
        var before = (ushort)(_next - _added);
        _added = 0;
        var flags = Read16(DeviceArea + 2);
        if (flags != EventAtDescriptor)
            return flags != EventDisable;
        var at = Read16(DeviceArea);
        var waitsFor = at & ~WrapBit;
        if (((at & WrapBit) != 0) != _nextWrap)
            waitsFor -= Size;
        return HasPassed((ushort)waitsFor, (ushort)_next, before);
    }

    public override int Add(IReadOnlyList<GuestBuffer> readable, IReadOnlyList<GuestBuffer> writable, bool indirect = false)
    {
        var id = _freeIds.Pop();
        var count = readable.Count + writable.Count;
        List<(GuestBuffer Buffer, int Flags)> descriptors =
            [.. readable.Select(b => (b, 0)), .. writable.Select(b => (b, (int)DeviceWrites))];
        if (indirect)
        {
            var table = Allocator.Allocate(16 * (ulong)count);
            for (var i = 0; i < count; i++)
                WriteDescriptor(table + (16 * (ulong)i), descriptors[i].Buffer, 0, (ushort)descriptors[i].Flags);
            descriptors = [(new GuestBuffer(table, 16 * (uint)count), Indirect)];
        }

        AddDescriptors(descriptors, (ushort)id);
        _lengths[id] = descriptors.Count;
        return id;
    }

    /// <summary>Makes descriptors available as they are, the first one last.</summary>
    public void AddDescriptors(IReadOnlyList<(GuestBuffer Buffer, int Flags)> descriptors, ushort id)
    {
        var first = (Address: 0UL, Flags: (ushort)0);
        for (var i = 0; i < descriptors.Count; i++)
        {
            var (buffer, flags) = descriptors[i];
            flags |= (i < descriptors.Count - 1 ? Next : 0) | (_nextWrap ? Available : Used);
            var at = DescriptorArea + (16 * (ulong)_next);
            WriteDescriptor(at, buffer, id, i == 0 ? (ushort)(_nextWrap ? 0 : Available) : (ushort)flags);
            if (i == 0)
                first = (at + 14, (ushort)flags);
            if (++_next == Size)
                (_next, _nextWrap) = (0, !_nextWrap);
        }

        Write(first.Address, first.Flags);
        _added += descriptors.Count;
        _free -= descriptors.Count;
    }

    public override (int Id, uint Written)? TakeUsed()
    {
        var at = DescriptorArea + (16 * (ulong)_used);
        var flags = Read16(at + 14);
        if (((flags & Available) != 0) != _usedWrap || ((flags & Used) != 0) != _usedWrap)
            return null;
        var id = (int)Read16(at + 12);
        if (!_lengths.Remove(id, out var length))
            throw new InvalidOperationException($"the device used buffer {id}, which it did not have");
        _freeIds.Push(id);
        _free += length;
        _used += length;
        if (_used >= Size)
            (_used, _usedWrap) = (_used - Size, !_usedWrap);
        if (HasEventIndex && Read16(DriverArea + 2) != EventDisable)
            SuppressInterrupts(false);
        return (id, Read32(at + 8));
    }
}
