// The registers of a virtio PCI device from virtio 1.0 on, in memory: common configuration, interrupt status, the
// device's configuration, notifications.
// Follows: VIRTIO 1.2, 4.1.4.3 to 4.1.4.6; the places are those of QEMU, a page for each part.
// Leaves out: queue_notify_data and queue_reset, whose features are not offered.

using Sharpvisor.Core.Buses;

namespace Sharpvisor.Devices.Virtio.Transports;

internal sealed class VirtioModernRegisters(VirtioPci function) : IBusDevice
{
    public const uint Length = 0x4000;

    private const uint Common = 0x0000, InterruptStatus = 0x1000, DeviceConfiguration = 0x2000, Notification = 0x3000, PartLength = 0x1000;
    private const uint NotifyMultiplier = 4;

    private const uint DeviceFeatureSelect = 0x00, DeviceFeature = 0x04, DriverFeatureSelect = 0x08, DriverFeature = 0x0C, ConfigurationVector = 0x10;
    private const uint QueueCount = 0x12, DeviceStatus = 0x14, ConfigurationGeneration = 0x15, QueueSelect = 0x16, QueueSize = 0x18, QueueVector = 0x1A;
    private const uint QueueEnable = 0x1C, QueueNotifyOffset = 0x1E, QueueDescriptors = 0x20, QueueDriver = 0x28, QueueDevice = 0x30, CommonEnd = 0x38;

    private readonly VirtioDevice _device = function.Device;
    private uint _deviceFeatureSelect, _driverFeatureSelect;
    private ulong _driverFeatures;
    private int _selected;

    /// <summary>What the capabilities tell: their type, and where the parts lie.</summary>
    public static IReadOnlyList<(uint Type, uint Offset, uint Length, uint NotifyMultiplier)> Parts { get; } =
    [
        (1, Common, PartLength, 0), (3, InterruptStatus, PartLength, 0), (4, DeviceConfiguration, PartLength, 0), (2, Notification, PartLength, NotifyMultiplier),
    ];

    private Virtqueue? Queue => _selected < _device.Queues.Count ? _device.Queues[_selected] : null;

    public ulong Read(uint offset, int size) => (offset & ~(PartLength - 1)) switch
    {
        Common when size == 8 => Read(offset, 4) | (Read(offset + 4, 4) << 32),
        Common => ReadCommon(offset),
        InterruptStatus => offset == InterruptStatus ? function.ClearInterruptStatus() : 0ul,
        DeviceConfiguration => _device.ReadConfiguration(offset - DeviceConfiguration, size),
        _ => 0,
    };

    public void Write(uint offset, int size, ulong value)
    {
        switch (offset & ~(PartLength - 1))
        {
            case Common when size == 8:
                WriteCommon(offset, (uint)value);
                WriteCommon(offset + 4, (uint)(value >> 32));
                break;
            case Common:
                WriteCommon(offset, (uint)value);
                break;
            case DeviceConfiguration:
                _device.WriteConfiguration(offset - DeviceConfiguration, size, value);
                break;
            case Notification:
                _device.Notify((int)((offset - Notification) / NotifyMultiplier));
                break;
        }
    }

    public void Reset()
    {
        _deviceFeatureSelect = _driverFeatureSelect = 0;
        _driverFeatures = 0;
        _selected = 0;
    }

    private uint ReadCommon(uint offset) => offset switch
    {
        DeviceFeatureSelect => _deviceFeatureSelect,
        DeviceFeature => Half(_device.OfferedFeatures & ~VirtioFeature.LegacyOnly, _deviceFeatureSelect),
        DriverFeatureSelect => _driverFeatureSelect,
        DriverFeature => Half(_driverFeatures, _driverFeatureSelect),
        ConfigurationVector => function.ConfigurationVector,
        QueueCount => (uint)_device.Queues.Count,
        DeviceStatus => _device.Status,
        ConfigurationGeneration => _device.ConfigurationGeneration,
        QueueSelect => (uint)_selected,
        QueueSize => (uint)(Queue?.Size ?? 0),
        QueueVector => function.GetQueueVector(_selected),
        QueueEnable => Queue is { IsEnabled: true } ? 1u : 0,
        QueueNotifyOffset => (uint)_selected,
        _ when Queue is { } queue && offset is >= QueueDescriptors and < CommonEnd && offset % 4 == 0 => (uint)(AreaOf(queue, offset) >> (offset % 8 == 0 ? 0 : 32)),
        _ => 0,
    };

    private void WriteCommon(uint offset, uint value)
    {
        switch (offset)
        {
            case DeviceFeatureSelect:
                _deviceFeatureSelect = value;
                break;
            case DriverFeatureSelect:
                _driverFeatureSelect = value;
                break;
            case DriverFeature when _driverFeatureSelect < 2:
                var shift = 32 * (int)_driverFeatureSelect;
                _driverFeatures = (_driverFeatures & ~((ulong)uint.MaxValue << shift)) | ((ulong)value << shift);
                _device.SetAcceptedFeatures(_driverFeatures & ~VirtioFeature.LegacyOnly);
                break;
            case ConfigurationVector:
                function.ConfigurationVector = (ushort)value;
                break;
            case DeviceStatus:
                _device.SetStatus((byte)value, isLegacy: false);
                break;
            case QueueSelect:
                _selected = (ushort)value;
                break;
            case QueueSize:
                Queue?.SetSize((ushort)value);
                break;
            case QueueVector:
                function.SetQueueVector(_selected, (ushort)value);
                break;
            case QueueEnable when (ushort)value == 1:
                Queue?.Enable();
                break;
            case >= QueueDescriptors and < CommonEnd when offset % 4 == 0 && Queue is { IsEnabled: false } queue:
                SetArea(queue, offset, value);
                break;
        }
    }

    private static uint Half(ulong value, uint index) => index < 2 ? (uint)(value >> (32 * (int)index)) : 0;

    private static ulong AreaOf(Virtqueue queue, uint offset) => (offset & ~7u) switch
    {
        QueueDescriptors => queue.DescriptorArea,
        QueueDriver => queue.DriverArea,
        _ => queue.DeviceArea,
    };

    private static void SetArea(Virtqueue queue, uint offset, uint value)
    {
        var area = AreaOf(queue, offset);
        area = offset % 8 == 0 ? (area & ~(ulong)uint.MaxValue) | value : (uint)area | ((ulong)value << 32);
        switch (offset & ~7u)
        {
            case QueueDescriptors:
                queue.DescriptorArea = area;
                break;
            case QueueDriver:
                queue.DriverArea = area;
                break;
            default:
                queue.DeviceArea = area;
                break;
        }
    }
}
