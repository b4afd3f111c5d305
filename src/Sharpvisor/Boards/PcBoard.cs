// The board of a PC: who sits at which address and on which interrupt. The places are those of the IBM PC AT and of
// QEMU's pc machine (I440FX with PIIX), where every operating system looks for them.
// Leaves out: PCI and all that sits on it, floppy, parallel port, DMA controllers.
using Sharpvisor.Boot;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Devices.Acpi;
using Sharpvisor.Devices.Chipset;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Ps2;
using Sharpvisor.Devices.Serial;
using Sharpvisor.Devices.Timers;

namespace Sharpvisor.Boards;

internal sealed class PcBoard
{
    /// <summary>Where <see cref="ActAsFirmware"/> puts the ACPI RSDP.</summary>
    public const ulong RsdpAddress = E820.FirmwareStart;

    private static readonly (ushort Port, int Irq)[] SerialPorts = [(0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3)];

    private readonly BoardContext _context;
    private readonly List<IResettable> _resettable = [];
    private readonly KvmClock[] _kvmClocks;
    private readonly AcpiPm _acpiPm;
    private readonly AcpiOptions _acpi;

    public PcBoard(BoardContext context, MachineOptions options)
    {
        _context = context;
        var (_, ports, mmio, gate, clock, errors, control) = context;

        var apicBus = new ApicBus();
        LocalApics = [.. Enumerable.Range(0, options.ProcessorCount).Select(i => new LocalApic(i, clock, apicBus))];
        _kvmClocks = [.. LocalApics.Select(_ => new KvmClock(clock, context.Memory))];
        var pic = new Pic(apicBus.Lint0);
        apicBus.Pic = pic;
        var ioApic = new IoApic(apicBus);
        var isa = new IsaInterrupts(pic, ioApic);
        MapPorts(0x20, 2, pic.MasterPorts, "pic");
        MapPorts(0xA0, 2, pic.SlavePorts, "pic-slave");
        MapPorts(0x4D0, 2, pic.ElcrPorts, "elcr");
        mmio.Map(IoApic.DefaultAddress, 0x1000, ioApic, "ioapic");

        var hpet = new Hpet(clock, isa, ioApic);
        mmio.Map(Hpet.DefaultAddress, Hpet.Length, hpet, "hpet");
        var pit = new Pit(clock, hpet.PitOutput);
        MapPorts(0x40, 4, pit, "pit");
        MapPorts(0x61, 1, pit.Port61, "port61");
        var rtc = new Rtc(clock, hpet.RtcOutput);
        rtc.SetMemorySize(context.Memory.Below4G, context.Memory.Above4G);
        MapPorts(0x70, 4, rtc, "rtc");

        var keyboard = new I8042(isa[1], isa[12], control);
        MapPorts(0x60, 1, keyboard.DataPort, "i8042-data");
        MapPorts(0x64, 1, keyboard.CommandPort, "i8042-command");
        var post = new PostCodePort();
        MapPorts(0x80, 1, post, "post");
        var port92 = new Port92(control);
        MapPorts(0x92, 1, port92, "port92");
        var reset = new ResetControl(control);
        MapPorts(0xCF9, 1, reset, "reset-control");
        _acpiPm = new AcpiPm(clock, isa[AcpiTables.SciIrq], control);
        MapPorts(AcpiPm.DefaultPort, AcpiPm.Length, _acpiPm, "acpi-pm");
        MapPorts(AcpiPm.SmiCommandPort, 2, _acpiPm.SmiCommand, "smi-command");
        _resettable.AddRange([.. LocalApics, .. _kvmClocks, pic, ioApic, hpet, pit, rtc, keyboard, post, port92, reset, _acpiPm]);

        var serial = AddSerialPorts(options, isa);
        if (options.DebugExit is { } exit)
            MapPorts(exit.Port, exit.Count, new DebugExit(control), "isa-debug-exit");
        if (options.DebugConsole is { } console)
            MapPorts(console.Port, 1, new DebugConsole(console.Backend, gate, errors), "isa-debugcon");
        _acpi = new AcpiOptions { ProcessorCount = options.ProcessorCount, SerialPorts = serial };
    }

    /// <summary>By number of the processor.</summary>
    public IReadOnlyList<LocalApic> LocalApics { get; }

    /// <summary>The MSRs that processor <paramref name="index"/> has beyond its own.</summary>
    public IReadOnlyList<IMsrDevice> MsrDevices(int index) => [_kvmClocks[index]];

    public void Connect(int index, IProcessorSignals processor) => LocalApics[index].Connect(processor);

    public void PressPowerButton() => _acpiPm.PressPowerButton();

    public void Reset()
    {
        foreach (var device in _resettable)
            device.Reset();
    }

    /// <summary>Leaves behind what firmware would: the ACPI tables, and the first local APIC in virtual wire mode.</summary>
    public void ActAsFirmware()
    {
        AcpiTables.Place(_context.Memory, _acpi, RsdpAddress, (int)(E820.OneMiB - RsdpAddress));
        LocalApics[0].SetVirtualWireMode();
    }

    private List<int> AddSerialPorts(MachineOptions options, IsaInterrupts isa)
    {
        if (options.Serial.Count > SerialPorts.Length)
            throw new ConfigurationException($"{options.Serial.Count} serial ports: a PC has {SerialPorts.Length} at most; give fewer -serial");
        var lines = SerialPorts.Select(p => p.Irq).Distinct().ToDictionary(irq => irq, irq => new SharedInterruptLine(isa[irq]));
        List<int> present = [];
        for (var i = 0; i < options.Serial.Count; i++)
        {
            if (options.Serial[i] is not { } backend)
                continue;
            var (port, irq) = SerialPorts[i];
            var uart = new Uart16550(_context.Clock, lines[irq].Add(), backend, _context.Gate);
            MapPorts(port, 8, uart, $"com{i + 1}");
            _resettable.Add(uart);
            present.Add(i + 1);
        }

        return present;
    }

    private void MapPorts(ushort port, int count, IBusDevice device, string name)
    {
        try
        {
            _context.Ports.Map(port, (ulong)count, device, name);
        }
        catch (InvalidOperationException e)
        {
            throw new ConfigurationException($"{e.Message}; give another iobase", e);
        }
    }
}
