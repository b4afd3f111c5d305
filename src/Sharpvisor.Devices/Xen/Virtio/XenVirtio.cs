// The virtio transport of Xen domains: a device that a front end finds in the store, with rings and buffers in pages that it
// grants and an event channel for each queue.
// Follows: docs/virtio-xenbus.md; VIRTIO 1.2, 2 and 3.1 for all that is virtio's own.
// Leaves out: legacy drivers, shared memory regions, queues that are reset one by one.

using System.Globalization;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Devices.Xen.Bus;

namespace Sharpvisor.Devices.Xen.Virtio;

/// <summary>A virtio device of a Xen domain.</summary>
public sealed class XenVirtio : XenBackEnd, IVirtioTransport
{
    /// <summary>Descriptors of a queue: with no more, each part of a ring lies within a page.</summary>
    public const int MaximumQueueSize = 256;

    /// <summary>Queues of a device: a node of the store names the sizes of all.</summary>
    public const int MaximumQueues = 256;

    /// <summary>Of the protocol.</summary>
    private const int Version = 1;

    private const int MaximumConfigurationWrite = 32;

    private readonly bool _offersForeignMap;
    private readonly uint[] _queuePorts;
    private GrantAddressSpace? _addresses;
    private VirtioControlPage? _control;
    private uint _port;

    /// <param name="number">The domain's number for it.</param>
    /// <param name="offersForeignMap">The front end may name frames that it has not granted.</param>
    /// <exception cref="ArgumentException">The device has queues or a configuration that the transport has no room for.</exception>
    public XenVirtio(int number, VirtioDevice device, GuestMemory memory, bool offersForeignMap = false) : base("virtio", number)
    {
        if (device.Queues.Count > MaximumQueues || device.Queues.Any(q => q.MaximumSize > MaximumQueueSize) || device.ConfigurationLength > VirtioControlPage.ConfigurationRoom)
            throw new ArgumentException("queues or a configuration too long for xenbus", nameof(device));
        Device = device;
        Memory = memory;
        _offersForeignMap = offersForeignMap;
        _queuePorts = new uint[device.Queues.Count];
        device.Connect(this);
    }

    public VirtioDevice Device { get; }

    public GuestMemory Memory { get; }

    public IVirtioAddresses? Addresses => _addresses;

    public bool CanAccessMemory => _control is not null;

    private ulong OfferedFeatures => (Device.OfferedFeatures & ~VirtioFeature.LegacyOnly) | (1UL << VirtioFeature.AccessPlatform);

    void IVirtioTransport.InterruptQueue(int queue) => Notify(_queuePorts[queue]);

    void IVirtioTransport.InterruptConfiguration()
    {
        if (_control is not { } control)
            return;
        Publish();
        control.CountEvent();
        Notify(_port);
    }

    void IVirtioTransport.OnConfigurationChanged() => Publish();

    void IVirtioTransport.OnDeviceReset()
    {
        if (Bus is { } bus)
        {
            foreach (var port in _queuePorts.Where(p => p != 0))
                bus.Domain.Events.Disconnect(port);
        }

        Array.Clear(_queuePorts);
        _addresses?.ReleaseAll();
    }

    protected override IEnumerable<(string Key, string Value)> Describe() =>
    [
        ("version", XenBus.Number(Version)), ("device-type", XenBus.Number((int)Device.Type)),
        ("features", OfferedFeatures.ToString("x", CultureInfo.InvariantCulture)),
        ("queue-sizes", string.Join(' ', Device.Queues.Select(q => XenBus.Number(q.MaximumSize)))),
        ("config-length", XenBus.Number(Device.ConfigurationLength)), ("feature-foreign-map", _offersForeignMap ? "1" : "0"),
    ];

    protected override IEnumerable<(string Key, string Value)> DescribeFrontEnd() => [];

    protected override string? TryConnect()
    {
        if (ReadFrontNumber("control-ref") is not { } reference)
            return "no control page";
        if (ReadFrontNumber("event-channel") is not { } port)
            return "no event channel";
        var isForeign = ReadFrontNumber("foreign-map") == 1;
        if (isForeign && !_offersForeignMap)
            return "foreign addresses, which were not offered";
        var domain = Bus!.Domain;
        if (!domain.Grants.TryAcquire(reference, writable: true, out var page))
            return "a control page that is not granted";
        if (!domain.Events.TryConnect(port, OnCommand, () => _port = 0))
        {
            domain.Grants.Release(page);
            return "an event channel that is not for us";
        }

        _port = port;
        _addresses = new GrantAddressSpace(domain.Grants) { AllowsForeign = isForeign };
        _control = new VirtioControlPage(Memory, page);
        Publish();
        return null;
    }

    protected override bool TryDisconnect()
    {
        if (_control is not { } control)
            return true;
        Device.Reset();
        if (_port != 0)
            Bus!.Domain.Events.Disconnect(_port);
        Bus!.Domain.Grants.Release(control.Page);
        (_control, _addresses, _port) = (null, null, 0);
        return true;
    }

    protected override void OnAbandoned()
    {
        (_control, _port) = (null, 0);
        Array.Clear(_queuePorts);
        Device.Reset();
        _addresses = null;
    }

    /// <summary>The front end has sent on its first event channel. One command each time: the next one needs another event.</summary>
    private void OnCommand()
    {
        if (_control is not { } control || !control.TryRead(out var request))
            return;
        var error = Perform(request);
        if (error != XenError.None)
            Bus!.Errors.Report(Name, "a command that makes no sense", $"{request.Command} {request.Argument(0)} {request.Argument(1)}");
        Publish();
        control.Answer((uint)-(int)error);
        Notify(_port);
    }

    private XenError Perform(in VirtioRequest request)
    {
        switch (request.Command)
        {
            case VirtioCommand.SetStatus when request.Argument(0) <= byte.MaxValue:
                Device.SetStatus((byte)request.Argument(0), isLegacy: false);
                return XenError.None;
            case VirtioCommand.SetFeatures when (request.Value(0) & ~OfferedFeatures) == 0:
                Device.SetAcceptedFeatures(request.Value(0));
                return XenError.None;
            case VirtioCommand.SetupQueue:
                return SetUpQueue(request);
            case VirtioCommand.WriteConfiguration when request.Argument(1) is > 0 and <= MaximumConfigurationWrite:
                for (var done = 0u; done < request.Argument(1); done += 8)
                    Device.WriteConfiguration(request.Argument(0) + done, (int)Math.Min(8, request.Argument(1) - done), request.Value((int)(done / 8)));
                return XenError.None;
            default:
                return request.Command is >= VirtioCommand.SetStatus and <= VirtioCommand.WriteConfiguration ? XenError.EINVAL : XenError.ENOSYS;
        }
    }

    private XenError SetUpQueue(in VirtioRequest request)
    {
        var (index, size, port) = (request.Argument(0), request.Argument(1), request.Value(3));
        if (index >= Device.Queues.Count || port > uint.MaxValue)
            return XenError.EINVAL;
        var queue = Device.Queues[(int)index];
        if (queue.IsEnabled || size == 0 || size > queue.MaximumSize || (Device.Status & VirtioStatus.DriverOk) != 0)
            return XenError.EINVAL;
        if (!Bus!.Domain.Events.TryConnect((uint)port, () => Device.Notify((int)index), () => _queuePorts[index] = 0))
            return XenError.EINVAL;
        _queuePorts[index] = (uint)port;
        queue.SetSize((int)size);
        (queue.DescriptorArea, queue.DriverArea, queue.DeviceArea) = (request.Value(0), request.Value(1), request.Value(2));
        queue.Enable();
        return XenError.None;
    }

    private void Publish() => _control?.Publish(Device.Status, Device.ConfigurationSpace);

    private void Notify(uint port)
    {
        if (port != 0)
            Bus?.Domain.Events.Notify(port);
    }
}
