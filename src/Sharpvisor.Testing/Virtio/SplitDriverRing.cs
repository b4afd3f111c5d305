using Sharpvisor.Core.Memory;

namespace Sharpvisor.Testing.Virtio;

/// <summary>A split ring (VIRTIO 1.2, 2.7), laid out so that a legacy device finds it, too (2.7.2).</summary>
public sealed class SplitDriverRing : DriverRing
{
    private const ushort Next = 1, DeviceWrites = 2, Indirect = 4, NoInterrupt = 1, NoNotify = 1;
    private const ulong PageSize = 4096;

    private readonly Stack<int> _free = new();
    private readonly Dictionary<int, int[]> _chains = [];
    private ushort _available, _notified, _used;

    public SplitDriverRing(GuestMemory memory, GuestAllocator allocator, int size, bool hasEventIndex)
        : base(memory, allocator, size, hasEventIndex)
    {
        var length = (ulong)((16 * size) + 6 + (2 * size));
        DescriptorArea = allocator.Allocate(length + PageSize + 6 + (8 * (ulong)size), PageSize);
        DriverArea = DescriptorArea + (16 * (ulong)size);
        DeviceArea = (DriverArea + 6 + (2 * (ulong)size) + PageSize - 1) & ~(PageSize - 1);
        for (var i = size - 1; i >= 0; i--)
            _free.Push(i);
    }

    public override ulong DescriptorArea { get; }

    public override ulong DriverArea { get; }

    public override ulong DeviceArea { get; }

    public override int FreeDescriptors => _free.Count;

    private ulong UsedEvent => DriverArea + 4 + (2 * (ulong)Size);

    private ulong AvailableEvent => DeviceArea + 4 + (8 * (ulong)Size);

    public override void SuppressInterrupts(bool suppress)
    {
        Write(DriverArea, suppress ? NoInterrupt : (ushort)0);
        Write(UsedEvent, (ushort)(_used + (suppress ? 0x8000 : 0)));
    }

    public override bool NeedsNotification()
    {
        var before = _notified;
        _notified = _available;
        return HasEventIndex ? HasPassed(Read16(AvailableEvent), _available, before) : (Read16(DeviceArea) & NoNotify) == 0;
    }

    public override int Add(IReadOnlyList<GuestBuffer> readable, IReadOnlyList<GuestBuffer> writable, bool indirect = false)
    {
        var count = readable.Count + writable.Count;
        var table = indirect ? Allocator.Allocate(16 * (ulong)count) : DescriptorArea;
        int[] entries = indirect ? [.. Enumerable.Range(0, count)] : [.. Enumerable.Range(0, count).Select(_ => _free.Pop())];
        for (var i = 0; i < count; i++)
        {
            var isLast = i == count - 1;
            var flags = (isLast ? 0 : Next) | (i < readable.Count ? 0 : DeviceWrites);
            var buffer = i < readable.Count ? readable[i] : writable[i - readable.Count];
            WriteDescriptor(table + (16 * (ulong)entries[i]), buffer, (ushort)flags, (ushort)(isLast ? 0 : entries[i + 1]));
        }

        var head = entries[0];
        if (indirect)
        {
            head = _free.Pop();
            WriteDescriptor(DescriptorArea + (16 * (ulong)head), new GuestBuffer(table, 16 * (uint)count), Indirect, 0);
        }

        _chains[head] = indirect ? [head] : entries;
        AddHead((ushort)head);
        return head;
    }

    /// <summary>Makes available whatever a descriptor says.</summary>
    public void AddHead(ushort head)
    {
        Write(DriverArea + 4 + (2 * (ulong)(_available % Size)), head);
        Write(DriverArea + 2, ++_available);
    }

    public override (int Id, uint Written)? TakeUsed()
    {
        if (Read16(DeviceArea + 2) == _used)
            return null;
        var entry = DeviceArea + 4 + (8 * (ulong)(_used % Size));
        var id = (int)Read32(entry);
        _used++;
        if (!_chains.Remove(id, out var chain))
            throw new InvalidOperationException($"the device used chain {id}, which it did not have");
        foreach (var descriptor in chain)
            _free.Push(descriptor);
        if ((Read16(DriverArea) & NoInterrupt) == 0)
            Write(UsedEvent, _used);
        return (id, Read32(entry + 4));
    }
}
