// The registers of a virtio PCI device before virtio 1.0, in ports.
// Follows: VIRTIO 1.2, 4.1.4.10 (legacy registers), 2.7.2 (where a legacy queue's parts lie).
// Leaves out: accesses to parts of a register, which read as all ones, as in QEMU.

using Sharpvisor.Core.Buses;

namespace Sharpvisor.Devices.Virtio.Transports;

internal sealed class VirtioLegacyRegisters(VirtioPci function) : IBusDevice
{
    private const uint HostFeatures = 0, GuestFeatures = 4, QueueAddress = 8, QueueSize = 12, QueueSelect = 14, QueueNotify = 16, DeviceStatus = 18;
    private const uint InterruptStatus = 19, ConfigurationVector = 20, QueueVector = 22, HeaderEnd = 20, HeaderEndWithMsix = 24;
    private const int PageShift = 12;

    private readonly VirtioDevice _device = function.Device;
    private int _selected;

    private uint ConfigurationStart => LengthOfHeader(function.IsMsixEnabled);

    private Virtqueue? Queue => _selected < _device.Queues.Count ? _device.Queues[_selected] : null;

    /// <summary>The device's configuration follows.</summary>
    public static uint LengthOfHeader(bool hasMsix) => hasMsix ? HeaderEndWithMsix : HeaderEnd;

    public ulong Read(uint offset, int size) => offset >= ConfigurationStart
        ? _device.ReadConfiguration(offset - ConfigurationStart, size)
        : offset switch
        {
            HostFeatures => (uint)_device.OfferedFeatures,
            GuestFeatures => (uint)_device.AcceptedFeatures,
            QueueAddress => Queue is { } queue ? queue.DescriptorArea >> PageShift : 0,
            QueueSize => (ulong)(Queue?.MaximumSize ?? 0),
            QueueSelect => (uint)_selected,
            DeviceStatus => _device.Status,
            InterruptStatus => function.ClearInterruptStatus(),
            ConfigurationVector => function.ConfigurationVector,
            QueueVector => function.GetQueueVector(_selected),
            _ => ulong.MaxValue,
        };

    public void Write(uint offset, int size, ulong value)
    {
        if (offset >= ConfigurationStart)
        {
            _device.WriteConfiguration(offset - ConfigurationStart, size, value);
            return;
        }

        switch (offset)
        {
            case GuestFeatures:
                _device.SetAcceptedFeatures((uint)value);
                break;
            case QueueAddress:
                SetQueueAddress((uint)value);
                break;
            case QueueSelect:
                _selected = (ushort)value;
                break;
            case QueueNotify:
                _device.Notify((ushort)value);
                break;
            case DeviceStatus:
                SetStatus((byte)value);
                break;
            case ConfigurationVector:
                function.ConfigurationVector = (ushort)value;
                break;
            case QueueVector:
                function.SetQueueVector(_selected, (ushort)value);
                break;
        }
    }

    private void SetStatus(byte value)
    {
        _device.SetStatus(value, isLegacy: true);
        // Linux before 2.6.34 does not do it itself.
        if (value == (VirtioStatus.Acknowledge | VirtioStatus.Driver))
            function.BecomeBusMaster();
    }

    private void SetQueueAddress(uint page)
    {
        if (page == 0)
        {
            _device.Reset();
            return;
        }

        if (Queue is not { } queue)
            return;
        var (descriptors, size) = ((ulong)page << PageShift, (ulong)queue.Size);
        queue.DescriptorArea = descriptors;
        queue.DriverArea = descriptors + (size * Descriptor.Size);
        queue.DeviceArea = (queue.DriverArea + 6 + (2 * size) + ((1UL << PageShift) - 1)) & ~((1UL << PageShift) - 1);
        queue.Enable();
    }
}
