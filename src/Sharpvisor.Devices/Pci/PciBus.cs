// PCI bus 0: functions by number, where their address registers put them, and the wires of their interrupt pins.
// Follows: PCI Local Bus Specification 3.0, 3.2.2.3 (configuration), 2.2.6 (interrupt pins). Priorities as on QEMU's
// pc machine: ports of a function cover those of the board; memory of a function lies below RAM and what the board has;
// of two functions the one placed last is seen.
// Leaves out: bridges to further buses, whose functions read as absent.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Pci;

/// <summary>The bus behind a host bridge.</summary>
public sealed class PciBus : IResettable
{
    /// <summary>Priorities of what functions have, over and under the board's 0.</summary>
    internal const int PortPriority = 1, MemoryPriority = -1;

    private readonly AddressSpace _mmio;
    private readonly PciFunction?[] _functions = new PciFunction?[256];
    private readonly List<PciFunction> _unplugged = [];
    private readonly IReadOnlyList<IInterruptLine> _interrupts;
    private readonly int[] _asserted;
    private readonly PciMemoryMap _memoryMap;

    /// <param name="interrupts">
    /// The four wires that the pins lead to: pin INTA of device d to wire (d + 3) mod 4, the next pin to the next wire, as
    /// on QEMU's pc machine (PIRQA to PIRQD).
    /// </param>
    /// <param name="messages">Where message-signalled interrupts go.</param>
    public PciBus(AddressSpace ports, AddressSpace mmio, GuestMemory memory, IReadOnlyList<IInterruptLine> interrupts, IMsiTarget messages)
    {
        Ports = ports;
        _mmio = mmio;
        _memoryMap = new PciMemoryMap(mmio, memory);
        Memory = memory;
        Messages = messages;
        _interrupts = interrupts;
        _asserted = new int[interrupts.Count];
    }

    /// <summary>The functions that are there, by ascending number.</summary>
    public IEnumerable<PciFunction> Functions => _functions.OfType<PciFunction>();

    internal AddressSpace Ports { get; }

    internal GuestMemory Memory { get; }

    internal IMsiTarget Messages { get; }

    /// <summary>Puts a function at a device and function number.</summary>
    /// <exception cref="InvalidOperationException">There is one already.</exception>
    public void Add(PciFunction function, int device, int number = 0)
    {
        var devfn = (device << 3) | number;
        if (device is < 0 or > 31 || number is < 0 or > 7 || _functions[devfn] is not null)
            throw new InvalidOperationException($"{function.Name}: PCI address {device:x2}.{number} is taken by {_functions[devfn & 255]?.Name}");
        _functions[devfn] = function;
        function.Join(this, devfn);
        // Bit 7 of the header type of function 0: look for the others as well.
        if (_functions[device << 3] is { } first && Enumerable.Range(1, 7).Any(n => _functions[(device << 3) | n] is not null))
            first.Config.Define(PciRegister.HeaderType, 1, 0x80);
    }

    /// <summary>Puts a function in the first free slot from <paramref name="device"/> on and returns its device number.</summary>
    /// <exception cref="InvalidOperationException">All slots are taken.</exception>
    public int AddToFreeSlot(PciFunction function, int device = 2)
    {
        while (device < 32 && Enumerable.Range(0, 8).Any(n => _functions[(device << 3) | n] is not null))
            device++;
        if (device == 32)
            throw new InvalidOperationException($"{function.Name}: all 32 PCI slots are taken");
        Add(function, device);
        return device;
    }

    public PciFunction? Find(int devfn) => _functions[devfn & 255];

    /// <summary>A configuration read; all ones where there is no function.</summary>
    public uint ReadConfig(int busNumber, int devfn, int offset, int size) =>
        busNumber == 0 && _functions[devfn & 255] is { } function ? function.ReadConfig(offset, size) : uint.MaxValue;

    public void WriteConfig(int busNumber, int devfn, int offset, int size, uint value)
    {
        if (busNumber == 0)
            _functions[devfn & 255]?.WriteConfig(offset, size, value);
    }

    /// <summary>The wire that a pin leads to.</summary>
    /// <param name="pin">1 for INTA to 4 for INTD.</param>
    public int WireOf(int device, int pin) => (device + 3 + pin - 1) % _interrupts.Count;

    /// <summary>Takes a function away until the next reset: it decodes nothing, and its place reads as empty.</summary>
    public void Unplug(PciFunction function)
    {
        if (_functions[function.Devfn] != function)
            return;
        function.Reset();
        _functions[function.Devfn] = null;
        _unplugged.Add(function);
    }

    public void Reset()
    {
        foreach (var function in _unplugged)
            _functions[function.Devfn] = function;
        _unplugged.Clear();
        foreach (var function in Functions)
            function.Reset();
    }

    /// <summary>Moves what a register decodes; null: nowhere.</summary>
    internal void Place(PciBar bar, ulong? address)
    {
        if (bar.Address == address)
            return;
        var space = bar.Kind == PciBarKind.Ports ? Ports : _mmio;
        if (bar.Mapping is not null)
            space.Unmap(bar.Mapping);
        bar.Mapping = address is { } start
            ? space.Overlay(start, bar.Size, bar.Device, bar.Name, bar.Kind == PciBarKind.Ports ? PortPriority : MemoryPriority)
            : null;
        bar.Address = bar.Mapping?.Start; // what lies outside of the space is nowhere
        if (bar.Kind != PciBarKind.Ports)
            _memoryMap.Update();
    }

    /// <summary>A function's pin has changed: the wire is asserted while one of those that share it is.</summary>
    internal void UpdateInterrupt(PciFunction function)
    {
        var wire = WireOf(function.Devfn >> 3, function.InterruptPin);
        _asserted[wire] += function.IntxAsserted ? 1 : -1;
        _interrupts[wire].Set(_asserted[wire] > 0);
    }
}
