// The board of a PVH domain of Xen's: processors with local APICs, memory, ACPI tables, and nothing else of a PC. All
// devices are Xen's, found in its store.
// Follows: Xen docs/misc/pvh.pandoc; hardware-reduced ACPI (6.4, 4.1) with registers to sleep and to reset by.
// Leaves out: PCI. What firmware does at the end of a sleep: there is no S3.
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Devices.Acpi;
using Sharpvisor.Devices.Chipset;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Xen;

namespace Sharpvisor.Boards;

internal sealed class XenPvhBoard : Board
{
    /// <summary>What Xen's guests write early messages to.</summary>
    private const ushort DebugPort = 0xE9;

    private readonly BoardContext _context;
    private readonly LocalApic[] _apics;

    /// <exception cref="ConfigurationException">Something is to be plugged in that there is no place for.</exception>
    public XenPvhBoard(BoardContext context, MachineOptions options)
    {
        _context = context;
        Check(options, "PVH");
        var bus = new ApicBus();
        _apics = [.. Enumerable.Range(0, options.ProcessorCount).Select(i => new LocalApic(i, context.Clock, bus))];
        context.Ports.Map(AcpiReducedPower.Port, AcpiReducedPower.Length, new AcpiReducedPower(context.Control, context.Logger), "acpi-power");
        if (options.DebugExit is { } exit)
            context.Ports.Map(exit.Port, (ulong)exit.Count, new DebugExit(context.Control), "isa-debug-exit");
        if (options.DebugConsole is { } console)
            context.Ports.Map(console.Port, 1, new DebugConsole(console.Backend, context.Gate, context.Errors), "isa-debugcon");
        if (options.DebugConsole is not { Port: DebugPort })
            context.Ports.Map(DebugPort, 1, new XenDebugPort(context.Logger), "xen-debug");
        Xen = CreateDomain(context, options, options.Xen ?? new XenOptions(XenOptions.DefaultDomain, null), _apics);
        Xen.MemoryMap = [.. E820.ForXen(context.Memory.Below4G, context.Memory.Above4G).Select(e => (e.Address, e.Length, (uint)e.Type))];
    }

    public override IReadOnlyList<LocalApic> LocalApics => _apics;

    public override IReadOnlyList<IMsrDevice> MsrDevices(int index) => [Xen!.Processors[index]];

    public override void AddKernel(BootPlan plan) => throw new ConfigurationException("a PVH domain has no firmware that could start a kernel; leave -bios out");

    public override void PressPowerButton()
    {
        // There is none: the machine asks the domain by the store.
    }

    public override void WakeUp(string source)
    {
        // It never sleeps.
    }

    public override void Reset()
    {
        Xen!.Reset();
        foreach (var apic in _apics)
            apic.Reset();
    }

    public override void PowerDown()
    {
        // There is no S3.
    }

    public override void PowerUp() => Reset();

    public override void ActAsFirmware() => AcpiTables.Place(
        _context.Memory,
        new AcpiOptions
        {
            IsHardwareReduced = true,
            ProcessorCount = _apics.Length,
            SerialPorts = [],
            HasI8042 = false,
            HasHpet = false,
            HasSuspendToRam = false,
            HasSuspendToDisk = false,
        },
        E820.FirmwareStart,
        (int)(E820.OneMiB - E820.FirmwareStart));

    public override uint ActAsResumingFirmware() => 0;

    /// <summary>A domain that has nothing of a PC.</summary>
    internal static void Check(MachineOptions options, string kind)
    {
        if (options.Kernel is null)
            throw new ConfigurationException($"a {kind} domain starts with a kernel: give one with -kernel");
        var unfit = options switch
        {
            { Firmware: not null } => "firmware (-bios)",
            { VgaBios: not null } => "a VGA (-vga std, -vnc, -display curses)",
            { IdeDrives.Count: > 0 } => "an IDE drive (its disks are those of -drive if=xen)",
            _ when options.VirtioDevices.FirstOrDefault(d => d.Connection != VirtioConnection.Xenbus) is { } device =>
                $"a PCI device ({device.Name}; its virtio devices are those on xenbus)",
            { NetworkCards: [var card, ..] } => $"a PCI device ({card.Kind})",
            { Xen.Callback: XenCallbackOffer.Line } => "a line by which events are told (it has no interrupt controller but the local APICs)",
            { HasPciPanicDevice: true } or { HasPciTestDevice: true } => "a PCI device",
            { HasPanicDevice: true } or { HasTestDevice: true } => "an ISA device",
            _ when options.Serial.Any(s => s is not null) => "a serial port: its console is hvc0",
            _ => null,
        };
        if (unfit is not null)
            throw new ConfigurationException($"a {kind} domain has no place for {unfit}; leave it out, or give -machine xenfv");
    }
}
