// What firmware does with PCI before it starts a system: places every address register, turns functions on, and tells
// them their interrupts. For a boot without firmware.
// Follows: PCI Firmware Specification 3.0, 3.5 (state at hand-over); the places are those that SeaBIOS chooses on QEMU's
// pc machine: ports from C000h on, memory in the PCI hole, below the I/O APIC.
// Leaves out: bridges; functions for which there is no room stay where they are, off.

namespace Sharpvisor.Devices.Pci;

/// <summary>Assigns addresses as PC firmware does.</summary>
public static class PciAssignment
{
    private const ulong FirstPort = 0xC000, PortEnd = 0x10000, MemoryEnd = 0xFEC0_0000;

    /// <summary>Places what has no place yet.</summary>
    /// <param name="holeStart">The first address behind RAM below 4 GiB.</param>
    /// <param name="interrupts">ISA interrupts of the four wires.</param>
    public static void Assign(PciBus bus, ulong holeStart, IReadOnlyList<int> interrupts)
    {
        // The largest first, each aligned to its size, so that no room is lost; memory from the end of the hole down.
        var port = FirstPort;
        var memory = MemoryEnd;
        var bars = bus.Functions.SelectMany(f => f.Bars.Select(b => (Function: f, Bar: b))).OrderByDescending(x => x.Bar.Size).ToList();
        foreach (var (function, bar) in bars)
        {
            if (bar.Kind == PciBarKind.Ports)
            {
                var at = Align(port, bar.Size);
                if (at + bar.Size > PortEnd)
                    continue;
                function.WriteConfig(bar.Offset, 4, (uint)at);
                port = at + bar.Size;
                Enable(function, PciRegister.CommandIo);
            }
            else
            {
                if (bar.Size > memory - holeStart)
                    continue;
                var at = (memory - bar.Size) & ~(bar.Size - 1);
                if (at < holeStart)
                    continue;
                function.WriteConfig(bar.Offset, 4, (uint)at); // of a ROM this is its place, not its enable bit
                memory = at;
                Enable(function, PciRegister.CommandMemory);
            }
        }

        foreach (var function in bus.Functions.Where(f => f.InterruptPin != 0))
        {
            function.WriteConfig(PciRegister.InterruptLine, 1, (uint)interrupts[bus.WireOf(function.Devfn >> 3, function.InterruptPin)]);
        }
    }

    private static void Enable(PciFunction function, ushort bit) =>
        function.WriteConfig(PciRegister.Command, 2, (uint)(function.Config.Get16(PciRegister.Command) | bit));

    private static ulong Align(ulong address, ulong size) => (address + size - 1) & ~(size - 1);
}
