using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Testing.Virtio;

/// <summary>
/// A driver of a virtio PCI function, by nothing but what a guest has: ports, memory, configuration space (VIRTIO 1.2,
/// 3.1 and 4.1). Each queue's message has the number of the queue plus <see cref="FirstMessage"/> as its data, that of the
/// configuration <see cref="ConfigurationMessage"/>.
/// </summary>
public abstract class VirtioPciDriver
{
    public const byte Acknowledge = 1, Driver = 2, DriverOk = 4, FeaturesOk = 8, NeedsReset = 0x40;
    public const int EventIndex = 29, PackedRing = 34, Version1 = 32;
    public const uint ConfigurationMessage = 0x30, FirstMessage = 0x40;

    private const int PciCommand = 4, PciCapabilities = 0x34;
    private const ulong MessageAddress = 0xFEE0_0000, MsixTable = 0xE010_0000;

    private readonly AddressSpace _ports, _mmio;
    private readonly int _slot;

    protected VirtioPciDriver(AddressSpace ports, AddressSpace mmio, GuestMemory memory, int slot)
    {
        (_ports, _mmio, _slot) = (ports, mmio, slot);
        Memory = memory;
        Allocator = new GuestAllocator(memory, memory.Size / 2, memory.Size);
        WriteConfig(0x14, 4, (uint)MsixTable);
        WriteConfig(PciCommand, 2, 7);
    }

    public GuestAllocator Allocator { get; }

    public IReadOnlyList<DriverRing> Rings { get; private set; } = [];

    public abstract ulong OfferedFeatures { get; }

    public abstract byte Status { get; set; }

    /// <summary>Takes over whether it has a message for each queue.</summary>
    public bool UsesMsix { get; init; }

    protected AddressSpace Ports => _ports;

    protected AddressSpace Mmio => _mmio;

    protected GuestMemory Memory { get; }

    /// <summary>Resets the device, agrees on features, sets its queues up, and starts it.</summary>
    /// <param name="features">What is wanted of what it offers.</param>
    /// <param name="queues">The number of queues to be used, and of descriptors; null: as many as the device has.</param>
    public void Start(ulong features, int queues = 1, int? size = null)
    {
        Negotiate(features);
        features &= OfferedFeatures;
        if (UsesMsix)
            EnableMsix(queues);
        var rings = new List<DriverRing>();
        for (var i = 0; i < queues; i++)
            rings.Add(SetUpQueue(i, length => CreateRing(features, length), size, UsesMsix ? (ushort)(i + 1) : null));
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

    public uint ReadConfig(int offset, int size)
    {
        Select(offset);
        return (uint)_ports.Read(0xCFCu + (uint)(offset & 3), size);
    }

    public void WriteConfig(int offset, int size, uint value)
    {
        Select(offset);
        _ports.Write(0xCFCu + (uint)(offset & 3), size, value);
    }

    /// <summary>The offsets of capabilities with an id.</summary>
    public IEnumerable<int> Capabilities(byte id)
    {
        for (var at = (int)ReadConfig(PciCapabilities, 1); at != 0; at = (int)ReadConfig(at + 1, 1))
        {
            if (ReadConfig(at, 1) == id)
                yield return at;
        }
    }

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

    protected abstract DriverRing SetUpQueue(int queue, Func<int, DriverRing> create, int? size, ushort? vector);

    protected abstract void SetConfigurationVector(ushort vector);

    private DriverRing CreateRing(ulong features, int size)
    {
        var hasEventIndex = (features & (1UL << EventIndex)) != 0;
        return (features & (1UL << PackedRing)) != 0
            ? new PackedDriverRing(Memory, Allocator, size, hasEventIndex)
            : new SplitDriverRing(Memory, Allocator, size, hasEventIndex);
    }

    private void EnableMsix(int queues)
    {
        var at = Capabilities(17).Single();
        WriteConfig(at + 2, 2, 0x8000);
        for (var i = 0; i <= queues; i++)
        {
            var entry = MsixTable + (16 * (ulong)i);
            _mmio.Write(entry, 8, MessageAddress);
            _mmio.Write(entry + 8, 4, i == 0 ? ConfigurationMessage : FirstMessage + (uint)(i - 1));
            _mmio.Write(entry + 12, 4, 0);
        }

        SetConfigurationVector(0);
    }

    private void Select(int offset) => _ports.Write(0xCF8, 4, 0x8000_0000u | (uint)(_slot << 11) | ((uint)offset & 0xFC));
}

/// <summary>By the ports of before virtio 1.0.</summary>
public sealed class LegacyPciDriver : VirtioPciDriver
{
    public const uint Base = 0xC100;

    public LegacyPciDriver(AddressSpace ports, AddressSpace mmio, GuestMemory memory, int slot)
        : base(ports, mmio, memory, slot) => WriteConfig(0x10, 4, Base);

    public override ulong OfferedFeatures => Ports.Read(Base, 4);

    public override byte Status
    {
        get => (byte)Ports.Read(Base + 18, 1);
        set => Ports.Write(Base + 18, 1, value);
    }

    private uint ConfigStart => Base + (UsesMsix && (ReadConfig(Capabilities(17).Single() + 2, 2) & 0x8000) != 0 ? 24u : 20);

    public override void Notify(int queue) => Ports.Write(Base + 16, 2, (uint)queue);

    public override byte ReadInterruptStatus() => (byte)Ports.Read(Base + 19, 1);

    public override ulong ReadDeviceConfig(uint offset, int size) => Ports.Read(ConfigStart + offset, size);

    public override void WriteDeviceConfig(uint offset, int size, ulong value) => Ports.Write(ConfigStart + offset, size, value);

    protected override void AcceptFeatures(ulong features) => Ports.Write(Base + 4, 4, (uint)features);

    protected override DriverRing SetUpQueue(int queue, Func<int, DriverRing> create, int? size, ushort? vector)
    {
        Ports.Write(Base + 14, 2, (uint)queue);
        var ring = create((int)Ports.Read(Base + 12, 2)); // there is no choice
        if (vector is { } number)
            Ports.Write(Base + 22, 2, number);
        Ports.Write(Base + 8, 4, ring.DescriptorArea >> 12);
        return ring;
    }

    protected override void SetConfigurationVector(ushort vector) => Ports.Write(Base + 20, 2, vector);
}

/// <summary>By the memory of virtio 1.0, where the capabilities say that it lies.</summary>
public sealed class ModernPciDriver : VirtioPciDriver
{
    public const ulong Base = 0xE020_0000;

    private readonly ulong _common, _notify, _isr, _device;
    private readonly uint _multiplier;

    public ModernPciDriver(AddressSpace ports, AddressSpace mmio, GuestMemory memory, int slot)
        : base(ports, mmio, memory, slot)
    {
        WriteConfig(0x20, 4, (uint)Base);
        foreach (var at in Capabilities(9))
        {
            var address = Base + ReadConfig(at + 8, 4);
            switch (ReadConfig(at + 3, 1))
            {
                case 1:
                    _common = address;
                    break;
                case 2:
                    _notify = address;
                    _multiplier = ReadConfig(at + 16, 4);
                    break;
                case 3:
                    _isr = address;
                    break;
                case 4:
                    _device = address;
                    break;
            }
        }
    }

    public override ulong OfferedFeatures
    {
        get
        {
            Mmio.Write(_common, 4, 0);
            var low = Mmio.Read(_common + 4, 4);
            Mmio.Write(_common, 4, 1);
            return low | (Mmio.Read(_common + 4, 4) << 32);
        }
    }

    public override byte Status
    {
        get => (byte)Mmio.Read(_common + 20, 1);
        set => Mmio.Write(_common + 20, 1, value);
    }

    public byte Generation => (byte)Mmio.Read(_common + 21, 1);

    public override void Notify(int queue)
    {
        Mmio.Write(_common + 22, 2, (uint)queue);
        Mmio.Write(_notify + (_multiplier * Mmio.Read(_common + 30, 2)), 2, (uint)queue);
    }

    public override byte ReadInterruptStatus() => (byte)Mmio.Read(_isr, 1);

    public override ulong ReadDeviceConfig(uint offset, int size) => Mmio.Read(_device + offset, size);

    public override void WriteDeviceConfig(uint offset, int size, ulong value) => Mmio.Write(_device + offset, size, value);

    /// <summary>Has a queue's parts lie anywhere.</summary>
    public void PlaceQueue(int queue, int size, ulong descriptors, ulong driver, ulong device)
    {
        Mmio.Write(_common + 22, 2, (uint)queue);
        Mmio.Write(_common + 24, 2, (uint)size);
        foreach (var (register, value) in new[] { (0x20u, descriptors), (0x28u, driver), (0x30u, device) })
        {
            Mmio.Write(_common + register, 4, (uint)value);
            Mmio.Write(_common + register + 4, 4, value >> 32);
        }

        Mmio.Write(_common + 28, 2, 1);
    }

    protected override void AcceptFeatures(ulong features)
    {
        for (var half = 0; half < 2; half++)
        {
            Mmio.Write(_common + 8, 4, (uint)half);
            Mmio.Write(_common + 12, 4, (uint)(features >> (32 * half)));
        }

        Status = (byte)(Status | FeaturesOk);
        if ((Status & FeaturesOk) == 0)
            throw new InvalidOperationException($"the device refuses the features 0x{features:x}");
    }

    protected override DriverRing SetUpQueue(int queue, Func<int, DriverRing> create, int? size, ushort? vector)
    {
        Mmio.Write(_common + 22, 2, (uint)queue);
        var ring = create(size ?? (int)Mmio.Read(_common + 24, 2));
        if (vector is { } number)
            Mmio.Write(_common + 26, 2, number);
        PlaceQueue(queue, ring.Size, ring.DescriptorArea, ring.DriverArea, ring.DeviceArea);
        return ring;
    }

    protected override void SetConfigurationVector(ushort vector) => Mmio.Write(_common + 16, 2, vector);
}
