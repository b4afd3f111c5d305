using System.Globalization;
using Sharpvisor.Devices.Xen.Bus;
using Sharpvisor.Devices.Xen.Virtio;
using Sharpvisor.Testing.Virtio;

namespace Sharpvisor.Devices.Tests.Xen.Virtio;

/// <summary>The driver of a virtio device on xenbus, as docs/virtio-xenbus.md has it. All memory that it has is granted.</summary>
internal sealed class VirtioFront : VirtioDriver
{
    public const uint SetStatus = 1, SetFeatures = 2, SetupQueue = 3, WriteConfig = 4;
    public const ulong GrantBit = 1UL << 63;

    /// <summary>Of the first page that the allocator has; the following have the following ones.</summary>
    public const uint FirstReference = 1024;

    private const ulong PageSize = 4096;

    private readonly XenBench _bench;
    private readonly XenVirtio _device;
    private readonly bool _isForeign;

    public VirtioFront(XenBench bench, XenVirtio device, bool isForeign = false) : base(bench.Memory)
    {
        (_bench, _device, _isForeign) = (bench, device, isForeign);
        FirstPage = bench.Memory.Size / 2;
        for (var page = FirstPage; page < bench.Memory.Size; page += PageSize)
            GrantAgain(page);
        Control = bench.AllocatePage();
        bench.Memory.TryWrite(Control, new byte[PageSize]);
        ControlReference = bench.Grant(Control);
        Port = bench.MakePort();
        bench.SetFront(device, "control-ref", ControlReference);
        bench.SetFront(device, "event-channel", Port);
        bench.SetFront(device, "foreign-map", isForeign ? 1 : 0);
    }

    /// <summary>Where its memory begins.</summary>
    public ulong FirstPage { get; }

    public ulong Control { get; }

    public uint ControlReference { get; }

    public uint Port { get; }

    /// <summary>Of each queue that was set up.</summary>
    public List<uint> QueuePorts { get; } = [];

    public uint Number { get; set; }

    public uint Generation => Word(0x4C);

    public uint ConfigurationEvents => Word(0x50);

    public override ulong OfferedFeatures => ulong.Parse(_bench.BackKey(_device, "features")!, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);

    public override byte Status
    {
        get => (byte)Word(0x48);
        set => Assert.Equal(0u, Command(SetStatus, value));
    }

    public void Connect()
    {
        _bench.SetState(_device, XenbusState.Initialised);
        Assert.Equal(XenbusState.Connected, _bench.BackState(_device));
        _bench.SetState(_device, XenbusState.Connected);
    }

    public uint ReferenceOf(ulong guestPhysical) => FirstReference + (uint)((guestPhysical - FirstPage) / PageSize);

    /// <summary>Grants a page by its own reference.</summary>
    /// <param name="frameOf">Another page, to which the reference then leads.</param>
    public void GrantAgain(ulong page, ulong flags = 1, ulong? frameOf = null) =>
        _bench.SetGrant(ReferenceOf(page), flags | (frameOf ?? page) >> 12 << 32);

    public ulong Address(ulong guestPhysical) =>
        _isForeign ? guestPhysical : GrantBit | ((ulong)ReferenceOf(guestPhysical) << 12) | (guestPhysical & (PageSize - 1));

    /// <summary>Asks for something; the answer, which has to come at once.</summary>
    public uint Command(uint command, uint argument0 = 0, uint argument1 = 0, params ReadOnlySpan<ulong> values)
    {
        _bench.Memory.TryWrite(Control + 4, command);
        _bench.Memory.TryWrite(Control + 8, argument0);
        _bench.Memory.TryWrite(Control + 12, argument1);
        for (var i = 0; i < values.Length; i++)
            _bench.Memory.TryWrite(Control + 0x10 + (8 * (ulong)i), values[i]);
        _bench.Memory.TryWrite(Control, ++Number);
        _bench.TakeEvent(Port);
        _bench.Send(Port);
        Assert.Equal(Number, Word(0x40));
        Assert.True(_bench.TakeEvent(Port));
        return Word(0x44);
    }

    public override void Notify(int queue) => _bench.Send(QueuePorts[queue]);

    /// <summary>Whether the first queue has interrupted since this was asked last.</summary>
    public override byte ReadInterruptStatus() => (byte)(_bench.TakeEvent(QueuePorts[0]) ? 1 : 0);

    public override ulong ReadDeviceConfig(uint offset, int size)
    {
        Span<byte> bytes = stackalloc byte[8];
        bytes.Clear();
        _bench.Memory.TryRead(Control + 0x100 + offset, bytes[..size]);
        return BitConverter.ToUInt64(bytes);
    }

    public override void WriteDeviceConfig(uint offset, int size, ulong value) => Assert.Equal(0u, Command(WriteConfig, offset, (uint)size, value));

    protected override void AcceptFeatures(ulong features)
    {
        Assert.Equal(0u, Command(SetFeatures, 0, 0, features));
        Status = (byte)(Status | FeaturesOk);
    }

    protected override void PrepareInterrupts(int queues) => QueuePorts.Clear();

    protected override DriverRing SetUpQueue(int queue, Func<int, DriverRing> create, int? size)
    {
        Allocator.Allocate(0, PageSize);
        var ring = create(size ?? int.Parse(_bench.BackKey(_device, "queue-sizes")!.Split(' ')[queue], CultureInfo.InvariantCulture));
        ring.DeviceAddress = Address;
        QueuePorts.Add(_bench.MakePort());
        Assert.Equal(0u, Command(SetupQueue, (uint)queue, (uint)ring.Size, Address(ring.DescriptorArea), Address(ring.DriverArea), Address(ring.DeviceArea), QueuePorts[queue]));
        return ring;
    }

    private uint Word(ulong offset) => _bench.Memory.TryRead(Control + offset, out uint word) ? word : throw new InvalidOperationException();
}
