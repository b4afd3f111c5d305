// Numbers that devices, queues and transports share.
// Follows: Virtual I/O Device (VIRTIO) 1.2, 2.1 (status), 5 (device types), 6 (feature bits); legacy bits of 6.3.

namespace Sharpvisor.Devices.Virtio;

/// <summary>What a device is (VIRTIO 1.2, 5).</summary>
public enum VirtioDeviceType
{
    Network = 1,
    Block = 2,
    Console = 3,
    Entropy = 4,
    Balloon = 5,
    ScsiHost = 8,
}

/// <summary>Bits of the device status field (VIRTIO 1.2, 2.1).</summary>
public static class VirtioStatus
{
    public const byte Acknowledge = 1, Driver = 2, DriverOk = 4, FeaturesOk = 8, DeviceNeedsReset = 0x40, Failed = 0x80;
}

/// <summary>Numbers of the feature bits that are not a device's own (VIRTIO 1.2, 6 and 6.3).</summary>
public static class VirtioFeature
{
    /// <summary>Legacy: an interrupt when the available ring runs empty, whatever the driver suppresses.</summary>
    public const int NotifyOnEmpty = 24;

    /// <summary>Legacy: headers may lie in descriptors as the driver likes.</summary>
    public const int AnyLayout = 27;

    public const int IndirectDescriptors = 28, EventIndex = 29, Version1 = 32, AccessPlatform = 33, PackedRing = 34;

    /// <summary>Those that a modern driver is not offered.</summary>
    internal const ulong LegacyOnly = (1UL << NotifyOnEmpty) | (1UL << AnyLayout);
}
