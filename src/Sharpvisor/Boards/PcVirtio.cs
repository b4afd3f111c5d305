// Where a PC has its virtio devices: on PCI, or, as QEMU's microvm has them, in memory with an interrupt each.
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Acpi;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Devices.Virtio.Transports;

namespace Sharpvisor.Boards;

internal sealed class PcVirtio(BoardContext context, PcSlots slots, IoApic ioApic) : IResettable
{
    /// <summary>Behind the local APICs, where nothing else is and PCI is not; the I/O APIC's inputs that ISA and PCI leave.</summary>
    private const ulong MmioBase = 0xFEF0_0000;
    private const int FirstMmioInput = 16;

    private readonly List<VirtioDevice> _devices = [];
    private readonly List<VirtioMmio> _mmio = [];

    public IReadOnlyList<VirtioDevice> Devices => _devices;

    /// <exception cref="ConfigurationException">Two want one place, or there is none left.</exception>
    public void Add(MachineOptions options)
    {
        // Those that name their place first, so that the others don't take it.
        foreach (var described in options.VirtioDevices.Where(d => d.Connection != VirtioConnection.Xenbus).OrderBy(d => d.Slot is null))
        {
            var device = described.Create(context, options.ProcessorCount);
            _devices.Add(device);
            if (described.Connection == VirtioConnection.Mmio)
                AddMmio(described, device);
            else
                slots.Add(described, new VirtioPci(device, described.Pci with { Vectors = described.Pci.Vectors ?? described.DefaultVectors }));
        }
    }

    public void Reset()
    {
        foreach (var device in _mmio)
            device.Reset();
    }

    /// <summary>Tells of those in memory, by the id that Linux's virtio_mmio looks for.</summary>
    public void Describe(AmlWriter sb)
    {
        for (var i = 0; i < _mmio.Count; i++)
        {
            var number = i;
            sb.Device($"VR{i:X2}", d =>
            {
                d.Name("_HID", "LNRO0005");
                d.Name("_UID", (ulong)number);
                d.Resources(
                    AmlResources.Memory32((uint)MmioBase + ((uint)number * VirtioMmio.Length), VirtioMmio.Length, writable: true),
                    AmlResources.SharedInterrupts((uint)(FirstMmioInput + number)));
            });
        }
    }

    private void AddMmio(VirtioPciDevice described, VirtioDevice device)
    {
        var (number, name) = (_mmio.Count, described.Name);
        if (FirstMmioInput + number >= IoApic.PinCount)
            throw new ConfigurationException($"{name}: no interrupt is left for one more virtio-mmio device; have at most {IoApic.PinCount - FirstMmioInput}, and the others on PCI");
        if (described.BootIndex is not null)
            throw new ConfigurationException($"{name}: firmware starts nothing from virtio-mmio; leave bootindex= out, or have it on PCI");
        var mmio = new VirtioMmio(device, context.Memory, ioApic.Input(FirstMmioInput + number));
        _mmio.Add(mmio);
        context.Mmio.Map(MmioBase + ((ulong)number * VirtioMmio.Length), VirtioMmio.Length, mmio, $"virtio-mmio{number}");
    }
}
