using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Pci;
using Sharpvisor.Testing.Interrupts;

namespace Sharpvisor.Devices.Tests.Pci;

/// <summary>A PCI bus with recording wires, seen through the configuration ports.</summary>
internal sealed class PciBench : IMsiTarget, IDisposable
{
    public PciBench(ulong memorySize = 2 << 20)
    {
        var errors = new GuestErrorLog(NullLogger.Instance);
        var gate = new MachineGate();
        Ports = new AddressSpace("io", 0x10000, gate, errors);
        Mmio = new AddressSpace("mmio", 1UL << 52, gate, errors);
        Memory = new GuestMemory(memorySize);
        Bus = new PciBus(Ports, Mmio, Memory, Wires, this);
        Ports.Map(PciConfigPorts.Port, PciConfigPorts.Length, new PciConfigPorts(Bus), "pci-config");
    }

    public GuestMemory Memory { get; }

    public AddressSpace Ports { get; }

    public AddressSpace Mmio { get; }

    public RecordingLine[] Wires { get; } = [new(), new(), new(), new()];

    public List<(ulong Address, uint Data)> Messages { get; } = [];

    public PciBus Bus { get; }

    public static PciIdentity Identity => new(0x1234, 0x5678, 0x028000, 3);

    public PciFunction Add(int device, int pin = 1)
    {
        var function = new PciFunction("test", Identity, pin);
        Bus.Add(function, device);
        return function;
    }

    public ulong Read(int device, int offset, int size)
    {
        Select(device, offset);
        return Ports.Read(0xCFCu + (uint)(offset & 3), size);
    }

    public void Write(int device, int offset, int size, ulong value)
    {
        Select(device, offset);
        Ports.Write(0xCFCu + (uint)(offset & 3), size, value);
    }

    public void Send(ulong address, uint data) => Messages.Add((address, data));

    public void Dispose() => Memory.Dispose();

    private void Select(int device, int offset) => Ports.Write(0xCF8, 4, 0x8000_0000u | (uint)(device << 11) | ((uint)offset & 0xFC));
}

internal sealed class Registers(ulong answer) : IBusDevice
{
    public List<(uint Offset, int Size, ulong Value)> Writes { get; } = [];

    public ulong Read(uint offset, int size) => answer;

    public void Write(uint offset, int size, ulong value) => Writes.Add((offset, size, value));
}
