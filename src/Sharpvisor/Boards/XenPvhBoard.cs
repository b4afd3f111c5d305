// The board of a PVH domain of Xen's: processors with local APICs, memory, ACPI tables, and nothing else of a PC. All
// devices are Xen's, found in its store.
// Follows: Xen docs/misc/pvh.pandoc; hardware-reduced ACPI (6.4, 4.1) with registers to sleep and to reset by.
// Leaves out: PCI. What firmware does at the end of a sleep: there is no S3.
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Acpi;
using Sharpvisor.Devices.Chipset;
using Sharpvisor.Devices.Xen;

namespace Sharpvisor.Boards;

internal sealed class XenPvhBoard : XenKernelBoard
{
    /// <summary>What Xen's guests write early messages to.</summary>
    private const ushort DebugPort = 0xE9;

    /// <exception cref="ConfigurationException">There is no kernel, or something is to be plugged in that there is no place for.</exception>
    public XenPvhBoard(BoardContext context, MachineOptions options) : base(context, options, "PVH")
    {
        context.Ports.Map(AcpiReducedPower.Port, AcpiReducedPower.Length, new AcpiReducedPower(context.Control, context.Logger), "acpi-power");
        if (options.DebugExit is { } exit)
            context.Ports.Map(exit.Port, (ulong)exit.Count, new DebugExit(context.Control), "isa-debug-exit");
        if (options.DebugConsole is { } console)
            context.Ports.Map(console.Port, 1, new DebugConsole(console.Backend, context.Gate, context.Errors), "isa-debugcon");
        if (options.DebugConsole is not { Port: DebugPort })
            context.Ports.Map(DebugPort, 1, new XenDebugPort(context.Logger), "xen-debug");
        Xen = CreateDomain(context, options, options.Xen ?? new XenOptions(XenOptions.DefaultDomain, null), LocalApics);
        Xen.MemoryMap = [.. E820.ForXen(context.Memory.Below4G, context.Memory.Above4G).Select(e => (e.Address, e.Length, (uint)e.Type))];
    }

    public override void ActAsFirmware() => AcpiTables.Place(
        Context.Memory,
        new AcpiOptions
        {
            IsHardwareReduced = true,
            ProcessorCount = LocalApics.Count,
            SerialPorts = [],
            HasI8042 = false,
            HasHpet = false,
            HasSuspendToRam = false,
            HasSuspendToDisk = false,
        },
        E820.FirmwareStart,
        (int)(E820.OneMiB - E820.FirmwareStart));
}
