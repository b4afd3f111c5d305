using Sharpvisor.Core.Memory;

namespace Sharpvisor.Testing.Virtio;

/// <summary>A driver of a virtio device, by nothing but what a guest has (VIRTIO 1.2, 3.1).</summary>
public abstract class VirtioDriver
{
    public const byte Acknowledge = 1, Driver = 2, DriverOk = 4, FeaturesOk = 8, NeedsReset = 0x40;
    public const int EventIndex = 29, PackedRing = 34, Version1 = 32;

    protected VirtioDriver(GuestMemory memory)
    {
        Memory = memory;
        Allocator = new GuestAllocator(memory, memory.Size / 2, memory.Size);
    }

    public GuestAllocator Allocator { get; }

    public IReadOnlyList<DriverRing> Rings { get; private set; } = [];

    public abstract ulong OfferedFeatures { get; }

    public abstract byte Status { get; set; }

    protected GuestMemory Memory { get; }

    /// <summary>Resets the device, agrees on features, sets its queues up, and starts it.</summary>
    /// <param name="features">What is wanted of what it offers.</param>
    /// <param name="queues">The number of queues to be used, and of descriptors; null: as many as the device has.</param>
    public void Start(ulong features, int queues = 1, int? size = null)
    {
        Negotiate(features);
        features &= OfferedFeatures;
        PrepareInterrupts(queues);
        var rings = new List<DriverRing>();
        for (var i = 0; i < queues; i++)
            rings.Add(SetUpQueue(i, length => CreateRing(features, length), size));
        Rings = rings;
        Status = (byte)(Status | DriverOk);
    }

    /// <summary>Resets the device and agrees on features, and no more.</summary>
    public void Negotiate(ulong features)
    {
        Status = 0;
        while (Status != 0)
            Thread.Yield();
        Status = Acknowledge;
        Status = Acknowledge | Driver;
        AcceptFeatures(features & OfferedFeatures);
    }

    public abstract void Notify(int queue);

    /// <summary>Notifies the device if it wants that.</summary>
    public void NotifyIfNeeded(int queue)
    {
        if (Rings[queue].NeedsNotification())
            Notify(queue);
    }

    /// <summary>Reads what interrupts there were, and clears it.</summary>
    public abstract byte ReadInterruptStatus();

    public abstract ulong ReadDeviceConfig(uint offset, int size);

    public abstract void WriteDeviceConfig(uint offset, int size, ulong value);

    /// <summary>Writes bytes to memory of their own.</summary>
    public GuestBuffer Put(ReadOnlySpan<byte> bytes)
    {
        var at = Allocator.Allocate((ulong)bytes.Length);
        if (!Memory.TryWrite(at, bytes))
            throw new InvalidOperationException("no guest memory");
        return new GuestBuffer(at, (uint)bytes.Length);
    }

    public byte[] Get(GuestBuffer buffer)
    {
        var bytes = new byte[buffer.Length];
        return Memory.TryRead(buffer.Address, bytes) ? bytes : throw new InvalidOperationException("no guest memory");
    }

    protected abstract void AcceptFeatures(ulong features);

    /// <param name="create">Makes a ring of as many descriptors.</param>
    /// <param name="size">The number of descriptors; null: as many as the device has.</param>
    protected abstract DriverRing SetUpQueue(int queue, Func<int, DriverRing> create, int? size);

    protected virtual void PrepareInterrupts(int queues)
    {
    }

    private DriverRing CreateRing(ulong features, int size)
    {
        var hasEventIndex = (features & (1UL << EventIndex)) != 0;
        return (features & (1UL << PackedRing)) != 0
            ? new PackedDriverRing(Memory, Allocator, size, hasEventIndex)
            : new SplitDriverRing(Memory, Allocator, size, hasEventIndex);
    }
}
