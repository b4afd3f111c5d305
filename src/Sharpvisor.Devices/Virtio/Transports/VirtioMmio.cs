// The virtio MMIO transport: registers in memory at a place that ACPI tells, and an interrupt.
// Follows: VIRTIO 1.2, 4.2.2 (version 2). Registers are 32 bits wide; other accesses to them read as zero and change
// nothing, as in QEMU. The vendor id is QEMU's, too.
// Leaves out: version 1 (legacy), shared memory regions (their length reads as all ones), QueueReset, whose feature is
// not offered.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Virtio.Transports;

/// <summary>A virtio device with its registers in memory.</summary>
public sealed class VirtioMmio : IBusDevice, IResettable, IVirtioTransport
{
    /// <summary>Bytes of the registers and of the device's configuration behind them.</summary>
    public const uint Length = 0x200;

    private const uint MagicValue = 0x000, Version = 0x004, DeviceId = 0x008, VendorId = 0x00C;
    private const uint DeviceFeatures = 0x010, DeviceFeaturesSel = 0x014, DriverFeatures = 0x020, DriverFeaturesSel = 0x024;
    private const uint QueueSel = 0x030, QueueNumMax = 0x034, QueueNum = 0x038, QueueReady = 0x044, QueueNotify = 0x050;
    private const uint InterruptStatus = 0x060, InterruptAck = 0x064, Status = 0x070;
    private const uint QueueDescLow = 0x080, QueueDescHigh = 0x084, QueueDriverLow = 0x090, QueueDriverHigh = 0x094, QueueDeviceLow = 0x0A0, QueueDeviceHigh = 0x0A4;
    private const uint ShmLenLow = 0x0B0, ShmBaseHigh = 0x0BC, ConfigGeneration = 0x0FC, Config = 0x100;

    private const uint Magic = 0x7472_6976, Version2 = 2, QemuVendor = 0x554D_4551;
    private const byte UsedBuffer = 1, ConfigurationChange = 2;

    private readonly VirtioDevice _device;
    private readonly IInterruptLine _line;
    private byte _interruptStatus;
    private uint _deviceFeaturesSel, _driverFeaturesSel, _queueSel;
    private ulong _driverFeatures;

    public VirtioMmio(VirtioDevice device, GuestMemory memory, IInterruptLine line)
    {
        _device = device;
        _line = line;
        Memory = memory;
        device.Connect(this);
    }

    public GuestMemory Memory { get; }

    public bool CanAccessMemory => true;

    private Virtqueue? Queue => _queueSel < _device.Queues.Count ? _device.Queues[(int)_queueSel] : null;

    public ulong Read(uint offset, int size)
    {
        if (offset >= Config)
            return _device.ReadConfiguration(offset - Config, size);
        return size != 4 ? 0ul : offset switch
        {
            MagicValue => Magic,
            Version => Version2,
            DeviceId => (uint)_device.Type,
            VendorId => QemuVendor,
            DeviceFeatures when _deviceFeaturesSel < 2 => (uint)((_device.OfferedFeatures & ~VirtioFeature.LegacyOnly) >> (32 * (int)_deviceFeaturesSel)),
            QueueNumMax => (uint)(Queue?.MaximumSize ?? 0),
            QueueReady => Queue is { IsEnabled: true } ? 1u : 0,
            InterruptStatus => _interruptStatus,
            Status => _device.Status,
            >= ShmLenLow and <= ShmBaseHigh => uint.MaxValue,
            ConfigGeneration => _device.ConfigurationGeneration,
            _ => 0,
        };
    }

    public void Write(uint offset, int size, ulong value)
    {
        if (offset >= Config)
            _device.WriteConfiguration(offset - Config, size, value);
        else if (size == 4)
            Write(offset, (uint)value);
    }

    public void Reset() => _device.Reset();

    void IVirtioTransport.InterruptQueue(int queue) => Interrupt(UsedBuffer);

    void IVirtioTransport.InterruptConfiguration() => Interrupt(ConfigurationChange);

    void IVirtioTransport.OnDeviceReset()
    {
        _deviceFeaturesSel = _driverFeaturesSel = _queueSel = 0;
        _driverFeatures = 0;
        _interruptStatus = 0;
        _line.Set(false);
    }

    private void Write(uint register, uint value)
    {
        switch (register)
        {
            case DeviceFeaturesSel:
                _deviceFeaturesSel = value;
                break;
            case DriverFeaturesSel:
                _driverFeaturesSel = value;
                break;
            case DriverFeatures when _driverFeaturesSel < 2:
                var shift = 32 * (int)_driverFeaturesSel;
                _driverFeatures = (_driverFeatures & ~((ulong)uint.MaxValue << shift)) | ((ulong)value << shift);
                _device.SetAcceptedFeatures(_driverFeatures & ~VirtioFeature.LegacyOnly);
                break;
            case QueueSel:
                _queueSel = value;
                break;
            case QueueNum:
                Queue?.SetSize((int)Math.Min(value, int.MaxValue));
                break;
            case QueueReady when value == 0:
                Queue?.Reset();
                break;
            case QueueReady:
                Queue?.Enable();
                break;
            case QueueNotify:
                _device.Notify((int)Math.Min(value, int.MaxValue));
                break;
            case InterruptAck:
                _interruptStatus &= (byte)~value;
                _line.Set(_interruptStatus != 0);
                break;
            case Status:
                _device.SetStatus((byte)value, isLegacy: false);
                break;
            default:
                if (Queue is { IsEnabled: false } queue)
                    SetArea(queue, register, value);
                break;
        }
    }

    private static void SetArea(Virtqueue queue, uint register, uint value)
    {
        switch (register)
        {
            case QueueDescLow or QueueDescHigh:
                queue.DescriptorArea = WithHalf(queue.DescriptorArea, register == QueueDescHigh, value);
                break;
            case QueueDriverLow or QueueDriverHigh:
                queue.DriverArea = WithHalf(queue.DriverArea, register == QueueDriverHigh, value);
                break;
            case QueueDeviceLow or QueueDeviceHigh:
                queue.DeviceArea = WithHalf(queue.DeviceArea, register == QueueDeviceHigh, value);
                break;
        }
    }

    private static ulong WithHalf(ulong area, bool isHigh, uint value) =>
        isHigh ? (uint)area | ((ulong)value << 32) : (area & ~(ulong)uint.MaxValue) | value;

    private void Interrupt(byte reason)
    {
        _interruptStatus |= reason;
        _line.Set(true);
    }
}
