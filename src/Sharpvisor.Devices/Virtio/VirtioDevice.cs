// What all virtio devices have: status, features, queues, configuration space.
// Follows: VIRTIO 1.2, 2.1 to 2.6 and 3.1 (initialization); for legacy drivers the sections "Legacy Interface" there.
// Leaves out: shared memory regions, exporting objects.

using System.Buffers.Binary;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Core.Tracing;

namespace Sharpvisor.Devices.Virtio;

/// <summary>
/// A device says what it is, fills its configuration space, and serves its queues when it is told to. A transport
/// connects it to a driver; the device names none.
/// </summary>
public abstract class VirtioDevice
{
    private readonly GuestErrorLog _errors;
    private readonly byte[] _configuration;
    private IVirtioTransport? _transport;
    private bool _isBroken;

    /// <param name="name">For messages: "virtio-rng".</param>
    /// <param name="configurationLength">Bytes of its configuration space.</param>
    /// <param name="queueSizes">Descriptors of each queue, powers of two.</param>
    protected VirtioDevice(string name, VirtioDeviceType type, int configurationLength, IEnumerable<int> queueSizes, GuestErrorLog errors)
    {
        Name = name;
        Type = type;
        _configuration = new byte[configurationLength];
        _errors = errors;
        Queues = [.. queueSizes.Select((size, i) => new Virtqueue(this, i, size))];
    }

    public string Name { get; }

    /// <summary>Who is told of requests.</summary>
    public TracePoints? Points { get; set; }

    public VirtioDeviceType Type { get; }

    public IReadOnlyList<Virtqueue> Queues { get; }

    /// <summary>Offers packed rings, which a driver prefers then.</summary>
    public bool OffersPackedRings { get; init; }

    /// <summary>Bits of features that it does not offer though it has them.</summary>
    public ulong WithheldFeatures { get; init; }

    /// <summary>A bit for each feature that the device offers.</summary>
    public ulong OfferedFeatures => (Features | VirtioFeature.LegacyOnly | (1UL << VirtioFeature.IndirectDescriptors)
        | (1UL << VirtioFeature.EventIndex) | (1UL << VirtioFeature.Version1) | (OffersPackedRings ? 1UL << VirtioFeature.PackedRing : 0)) & ~WithheldFeatures;

    /// <summary>Those that the driver has accepted.</summary>
    public ulong AcceptedFeatures { get; private set; }

    /// <summary>The device status field: <see cref="VirtioStatus"/>.</summary>
    public byte Status { get; private set; }

    /// <summary>Changes with each change of the configuration that the driver did not make.</summary>
    public byte ConfigurationGeneration { get; private set; }

    public int ConfigurationLength => _configuration.Length;

    internal ReadOnlySpan<byte> ConfigurationSpace => _configuration;

    internal IVirtioTransport Transport => _transport ?? throw new InvalidOperationException($"{Name} has no transport");

    internal GuestMemory Memory => Transport.Memory;

    /// <summary>
    /// Rings may be touched. A legacy driver may use them before it has said that it is ready, and some do (VIRTIO 1.2,
    /// 3.1.2).
    /// </summary>
    internal bool MayUseQueues => !_isBroken && _transport is { CanAccessMemory: true }
        && ((Status & VirtioStatus.DriverOk) != 0 || !Has(VirtioFeature.Version1));

    /// <summary>The features of this kind of device; those of queues and transports are not its business.</summary>
    protected abstract ulong Features { get; }

    /// <summary>What the driver reads and, where <see cref="OnConfigurationWritten"/> takes it over, writes.</summary>
    protected Span<byte> Configuration => _configuration;

    /// <summary>Whether the driver has accepted a feature.</summary>
    public bool Has(int feature) => (AcceptedFeatures & (1UL << feature)) != 0;

    /// <summary>Serves a queue: takes what there is and begins with it. Must not wait.</summary>
    protected abstract void OnQueueNotify(Virtqueue queue);

    /// <summary>The driver has set the device up.</summary>
    protected virtual void OnDriverReady()
    {
    }

    /// <summary>The driver has reset the device, or the machine was. What is under way must not touch the guest's memory afterwards.</summary>
    protected virtual void OnReset()
    {
    }

    /// <summary>The driver writes a byte of the configuration; the device changes it, if it can be changed.</summary>
    protected virtual void OnConfigurationWritten(int offset, byte value)
    {
    }

    /// <summary>Tells the driver that the device has changed its configuration.</summary>
    protected void OnConfigurationChanged()
    {
        ConfigurationGeneration++;
        _transport?.OnConfigurationChanged();
        if ((Status & VirtioStatus.DriverOk) != 0)
            Transport.InterruptConfiguration();
    }

    /// <summary>The driver did what makes no sense: it is told so, and nothing more happens until it resets the device.</summary>
    /// <param name="kind">What it did, the same text each time.</param>
    protected internal void Break(string kind, string detail = "")
    {
        if (_isBroken)
            return;
        _isBroken = true;
        ReportError(kind, detail);
        if (!Has(VirtioFeature.Version1))
            return;
        Status |= VirtioStatus.DeviceNeedsReset;
        Transport.InterruptConfiguration();
    }

    internal void ReportError(string kind, string detail = "") => _errors.Report(Name, kind, detail);

    internal void Connect(IVirtioTransport transport)
    {
        if (_transport is not null)
            throw new InvalidOperationException($"{Name} has a transport already");
        _transport = transport;
    }

    /// <summary>The driver writes the device status field.</summary>
    /// <param name="isLegacy">By a register of before 1.0: there is nothing to agree on then.</param>
    internal void SetStatus(byte status, bool isLegacy)
    {
        if (status == 0)
        {
            Reset();
            return;
        }

        // The device's own bit stays; features that don't go together are not agreed to (3.1.1, step 6).
        var before = Status;
        status = (byte)((status & ~VirtioStatus.DeviceNeedsReset) | (before & VirtioStatus.DeviceNeedsReset));
        if (!isLegacy && (status & ~before & VirtioStatus.FeaturesOk) != 0 && !Has(VirtioFeature.Version1))
            status &= unchecked((byte)~VirtioStatus.FeaturesOk);
        Status = status;
        if ((status & ~before & VirtioStatus.DriverOk) == 0)
            return;
        OnDriverReady();
        foreach (var queue in Queues)
            Notify(queue.Index); // what a driver may have made available too early
    }

    /// <summary>The driver accepts features, as long as it has not said that it is through with that.</summary>
    internal void SetAcceptedFeatures(ulong features)
    {
        if ((Status & (VirtioStatus.FeaturesOk | VirtioStatus.DriverOk)) != 0)
            ReportError("features accepted too late");
        else
            AcceptedFeatures = features & OfferedFeatures;
    }

    /// <summary>A little-endian value of 1, 2, 4 or 8 bytes; bytes behind the end are all ones.</summary>
    internal ulong ReadConfiguration(uint offset, int size)
    {
        Span<byte> value = stackalloc byte[8];
        value.Fill(0xFF);
        if (offset < _configuration.Length)
            _configuration.AsSpan((int)offset, (int)Math.Min(size, _configuration.Length - offset)).CopyTo(value);
        return BinaryPrimitives.ReadUInt64LittleEndian(value);
    }

    internal void WriteConfiguration(uint offset, int size, ulong value)
    {
        for (var i = 0; i < size && offset + i < _configuration.Length; i++)
            OnConfigurationWritten((int)offset + i, (byte)(value >> (8 * i)));
    }

    /// <summary>The driver says that a queue has something for the device.</summary>
    internal void Notify(int queue)
    {
        if (queue >= Queues.Count)
            ReportError("a notification of a queue that is not there", $"queue {queue}");
        else if (Queues[queue].IsEnabled && MayUseQueues)
            OnQueueNotify(Queues[queue]);
    }

    internal void Reset()
    {
        Status = 0;
        AcceptedFeatures = 0;
        _isBroken = false;
        foreach (var queue in Queues)
            queue.Reset();
        OnReset();
        Transport.OnDeviceReset();
    }
}
