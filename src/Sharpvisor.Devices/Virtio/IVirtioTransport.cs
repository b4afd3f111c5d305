using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Virtio;

/// <summary>What carries a device's queues and registers to a driver: PCI, MMIO, xenbus. The device drives this side of it.</summary>
public interface IVirtioTransport
{
    /// <summary>Where rings and buffers lie.</summary>
    GuestMemory Memory { get; }

    /// <summary>Where addresses lie that a driver writes into rings; null: they are guest-physical.</summary>
    IVirtioAddresses? Addresses => null;

    /// <summary>False while the guest does not let the device reach memory: nothing is taken from rings or put there.</summary>
    bool CanAccessMemory { get; }

    /// <summary>Tells the driver that a queue has used buffers.</summary>
    void InterruptQueue(int queue);

    /// <summary>Tells the driver that configuration or status have changed.</summary>
    void InterruptConfiguration();

    /// <summary>The configuration has changed: a driver that is not ready yet sees it, too, without an interrupt.</summary>
    void OnConfigurationChanged()
    {
    }

    /// <summary>The device was reset: interrupts and vectors go back to what they were at power-on.</summary>
    void OnDeviceReset();
}
