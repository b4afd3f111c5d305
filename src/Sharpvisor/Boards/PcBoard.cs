// The board of a PC: who sits at which address and on which interrupt. The places are those of the IBM PC AT and of
// QEMU's pc machine (I440FX with PIIX), where every operating system looks for them.
// Leaves out: floppy, parallel port.
using Microsoft.Extensions.Logging;
using Sharpvisor.Boot;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Input;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Devices.Acpi;
using Sharpvisor.Devices.Chipset;
using Sharpvisor.Devices.Firmware;
using Sharpvisor.Devices.Ide;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Pci;
using Sharpvisor.Devices.Ps2;
using Sharpvisor.Devices.Serial;
using Sharpvisor.Devices.Timers;
using Sharpvisor.Devices.Vga;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Devices.Xen;

namespace Sharpvisor.Boards;

internal sealed class PcBoard : Board
{
    /// <summary>Slots of the chipset's functions on PCI; the next ones are free.</summary>
    public const int HostBridgeSlot = 0, PiixSlot = 1, VgaSlot = 2, FirstFreeSlot = 3;

    private static readonly (ushort Port, int Irq)[] SerialPorts = [(0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3)];

    /// <summary>Where firmware leads PIRQA to PIRQD, and puts the PIIX4's register blocks.</summary>
    private static readonly byte[] PirqRoutes = [10, 10, 11, 11];
    private const ushort SmBusPort = 0xB100;

    private readonly BoardContext _context;
    private readonly MachineOptions _options;
    private readonly List<IResettable> _resettable = [];
    private readonly KvmClock[] _kvmClocks;
    private readonly Pic _pic;
    private readonly LocalApic[] _apics;
    private readonly IoApic _ioApic;
    private readonly PciBus _pci;
    private readonly Ps2Keyboard _keyboard = new();
    private readonly IPointerInput _mouse;
    private readonly IRegisterPort? _registerPort;
    private readonly StandardVga? _vga;
    private readonly Rtc _rtc;
    private readonly AcpiPm _acpiPm;
    private readonly HostBridge _hostBridge;
    private readonly PiixIsaBridge _isaBridge;
    private readonly PiixPowerManagement _powerManagement;
    private readonly List<int> _serial;
    private readonly PcVirtio _virtio;

    public PcBoard(BoardContext context, MachineOptions options)
    {
        _context = context;
        _options = options;
        var (memory, ports, mmio, gate, clock, errors, control, processorId, logger) = context;

        var apicBus = new ApicBus();
        _apics = [.. Enumerable.Range(0, options.ProcessorCount).Select(i => new LocalApic(i, clock, apicBus))];
        _kvmClocks = [.. LocalApics.Select(_ => new KvmClock(clock, memory))];
        _pic = new Pic(apicBus.Lint0);
        apicBus.Pic = _pic;
        var ioApic = _ioApic = new IoApic(apicBus);
        Isa = new IsaInterrupts(_pic, ioApic);
        MapPorts(0x20, 2, _pic.MasterPorts, "pic");
        MapPorts(0xA0, 2, _pic.SlavePorts, "pic-slave");
        MapPorts(0x4D0, 2, _pic.ElcrPorts, "elcr");
        mmio.Map(IoApic.DefaultAddress, 0x1000, ioApic, "ioapic");

        var hpet = new Hpet(clock, Isa, ioApic);
        mmio.Map(Hpet.DefaultAddress, Hpet.Length, hpet, "hpet");
        var pit = new Pit(clock, hpet.PitOutput);
        MapPorts(0x40, 4, pit, "pit");
        MapPorts(0x61, 1, pit.Port61, "port61");
        _rtc = new Rtc(clock, hpet.RtcOutput);
        MapPorts(0x70, 4, _rtc, "rtc");
        _resettable.AddRange([.. LocalApics, .. _kvmClocks, _pic, ioApic, hpet, pit, _rtc]);
        AddDma();

        var mouse = new Ps2Mouse(clock);
        var vmMouse = new VmMouse(mouse);
        _mouse = vmMouse;
        if (options.HasVmwarePort)
            _registerPort = new VmwarePort(vmMouse, memory.Size);
        var keyboardController = new I8042(Isa[1], Isa[12], control, clock, _keyboard, mouse);
        MapPorts(0x60, 1, keyboardController.DataPort, "i8042-data");
        MapPorts(0x64, 1, keyboardController.CommandPort, "i8042-command");
        var post = new PostCodePort();
        MapPorts(0x80, 1, post, "post");
        var port92 = new Port92(control);
        MapPorts(0x92, 1, port92, "port92");
        _resettable.AddRange([keyboardController, vmMouse, post, port92]);
        _serial = AddSerialPorts(options);

        // PCI with its chipset.
        _isaBridge = new PiixIsaBridge(Isa);
        _pci = new PciBus(ports, mmio, memory, _isaBridge.Wires, apicBus);
        _hostBridge = new HostBridge(memory, PcFirmware.LoadBios(memory, options.Firmware));
        _acpiPm = new AcpiPm(clock, Isa[AcpiTables.SciIrq], control, errors);
        _rtc.Alarm += _acpiPm.OnAlarm;
        _keyboard.Pressed += () => _acpiPm.WakeUp("keyboard");
        mouse.Pressed += () => _acpiPm.WakeUp("mouse");
        var smBus = new SmBusController();
        _powerManagement = new PiixPowerManagement(_acpiPm, smBus, _serial);
        Pci.Add(_hostBridge, HostBridgeSlot);
        Pci.Add(_isaBridge, PiixSlot);
        Pci.Add(_powerManagement, PiixSlot, 3);
        _vga = AddVga(options.VgaBios);
        var reset = new ResetControl(control);
        var pciPorts = new PciConfigPorts(Pci, reset);
        MapPorts(PciConfigPorts.Port, PciConfigPorts.Length, pciPorts, "pci-config");
        MapPorts(AcpiPm.SmiCommandPort, 2, _acpiPm.SmiCommand, "smi-command");
        MapPorts(AcpiPm.GpePort, AcpiPm.GpeLength, _acpiPm.Gpe, "acpi-gpe");
        _resettable.AddRange([reset, pciPorts, _acpiPm, smBus]);

        Firmware = new PcFirmware(options, memory, gate, _rtc, DescribeForAcpi, processorId);
        MapPorts(FwCfg.SelectorPort, 2, Firmware.Config.Registers, "fw_cfg");
        MapPorts(FwCfg.DmaPort, 8, Firmware.Config.Dma, "fw_cfg-dma");
        _resettable.Add(Firmware.Config);

        Ide = new PiixIde(Isa.Share(PiixIde.PrimaryIrq), Isa.Share(PiixIde.SecondaryIrq));
        Pci.Add(Ide, PiixSlot, 1);
        MapChannel(Ide.Channels[0], PiixIde.PrimaryPort, PiixIde.PrimaryControlPort, "ide0");
        MapChannel(Ide.Channels[1], PiixIde.SecondaryPort, PiixIde.SecondaryControlPort, "ide1");
        AddIdeDrives(options.IdeDrives);

        var slots = new PcSlots(context, Pci, Firmware.BootOrder);
        _virtio = new PcVirtio(context, slots, ioApic);
        _virtio.Add(options);
        foreach (var card in options.NetworkCards)
            slots.Add(card, card.Create(context));
        AddTestDevices(options);
        XenDevices.Check(options);
        if (options.Xen is { } xen)
            Xen = AddXen(xen, apicBus);
    }

    public override IReadOnlyList<LocalApic> LocalApics => _apics;

    public override PciBus Pci => _pci;

    public override Pic Pic => _pic;

    public override IoApic IoApic => _ioApic;

    public IsaInterrupts Isa { get; }

    public PcFirmware Firmware { get; }

    public PiixIde Ide { get; }

    public override Ps2Keyboard Keyboard => _keyboard;

    public override IPointerInput Mouse => _mouse;

    public override IRegisterPort? RegisterPort => _registerPort;

    public override StandardVga? Vga => _vga;

    protected override IReadOnlyList<VirtioDevice> PciVirtioDevices => _virtio.Devices;

    public override IReadOnlyList<IMsrDevice> MsrDevices(int index) => Xen is null ? [_kvmClocks[index]] : [Xen.Processors[index]];

    public override void AddKernel(BootPlan plan) => Firmware.AddKernel(plan);

    private XenDomain AddXen(XenOptions options, ApicBus bus)
    {
        var platform = new XenPlatform(Unplug, _context.Logger);
        _pci.AddToFreeSlot(platform, FirstFreeSlot);
        MapPorts(XenPlatform.UnplugPort, XenPlatform.UnplugLength, platform.UnplugPorts, "xen-unplug");
        var domain = CreateDomain(_context, _options, options, _apics);
        domain.Callback.Lines = [.. Enumerable.Range(0, IoApic.PinCount).Select(gsi => gsi < 16 ? Isa.Share(gsi) : _ioApic.Input(gsi))];
        domain.Callback.Pin = (platform.Devfn, platform.Interrupt);
        bus.SamplingLines += domain.Callback.Update;
        _pic.EndingInterrupt += domain.Callback.Update;
        return domain;
    }

    private void Unplug(XenUnplug what)
    {
        const int networkClass = 2;
        _context.Logger.LogInformation("the guest takes emulated devices away: {What}", what);
        for (var place = 0; place < 4; place++)
        {
            var isTaken = what.HasFlag(XenUnplug.Disks) || (what.HasFlag(XenUnplug.AuxiliaryDisks) && place > 0);
            if (isTaken && Ide.Channels[place / 2].Devices[place % 2] is AtaDisk)
                Ide.Channels[place / 2].Unplug(place % 2);
        }

        if (!what.HasFlag(XenUnplug.Nics))
            return;
        foreach (var nic in Pci.Functions.Where(f => f.Config.Get8(PciRegister.ClassCode + 2) == networkClass).ToList())
            Pci.Unplug(nic);
    }

    public override void PressPowerButton() => _acpiPm.PressPowerButton();

    public override void WakeUp(string source) => _acpiPm.WakeUp(source);

    public override void Reset()
    {
        ResetDevices(standbyToo: true);
        Firmware.Reset();
    }

    public override void PowerDown() => KeepShadow(() => ResetDevices(standbyToo: false));

    public override void PowerUp()
    {
        KeepShadow(Reset);
        Firmware.RequestResume();
        _acpiPm.ReportWakeUp();
    }

    private void KeepShadow(Action reset)
    {
        var attributes = _hostBridge.MemoryAttributes;
        reset();
        _hostBridge.MemoryAttributes = attributes;
    }

    private void ResetDevices(bool standbyToo)
    {
        // PCI first, so that what functions hold on to is let go of before the interrupt controllers forget it.
        Pci.Reset();
        _virtio.Reset();
        Xen?.Reset();
        foreach (var device in _resettable)
        {
            if (standbyToo || (device != _rtc && device != _acpiPm))
                device.Reset();
        }
    }

    /// <summary>RAM below 1 MiB with the ACPI and SMBIOS tables, PCI with addresses and interrupts, and the first local APIC in virtual wire mode.</summary>
    public override void ActAsFirmware()
    {
        SetUpChipset();
        Firmware.PlaceTables();
    }

    public override uint ActAsResumingFirmware()
    {
        SetUpChipset();
        return AcpiTables.WakingVector(_context.Memory, PcFirmware.RsdpAddress);
    }

    private void SetUpChipset()
    {
        const uint elcrSecond = 1, irq10And11 = 0x0C;
        _hostBridge.ShadowAll();
        Ide.EnableChannels();
        _powerManagement.PlaceAt(AcpiPm.DefaultPort, SmBusPort);
        for (var i = 0; i < PirqRoutes.Length; i++)
            _isaBridge.WriteConfig(PiixIsaBridge.PirqRouteControl + i, 1, PirqRoutes[i]);
        _pic.ElcrPorts.Write(elcrSecond, 1, irq10And11);
        PciAssignment.Assign(Pci, _context.Memory.Below4G, [.. PirqRoutes]);
        _powerManagement.WriteConfig(PciRegister.InterruptLine, 1, AcpiTables.SciIrq);
        Vga?.SetTextMode();
        LocalApics[0].SetVirtualWireMode();
    }

    private AcpiOptions DescribeForAcpi() => new()
    {
        HasSuspendToRam = _options.HasSuspendToRam,
        HasSuspendToDisk = _options.HasSuspendToDisk,
        ProcessorCount = LocalApics.Count,
        SerialPorts = _serial,
        HasVga = Pci.Functions.Any(f => f.Config.Get8(PciRegister.ClassCode + 2) == 3),
        HasPci = true,
        PciHoleStart = (uint)_context.Memory.Below4G,
        HasFwCfg = true,
        HasPanicPort = _options.HasPanicDevice,
        AddDevices = _virtio.Describe,
    };

    private void AddDma()
    {
        var bytes = new DmaController(1);
        var words = new DmaController(2);
        var pages = new DmaPageRegisters();
        var highPages = new DmaPageRegisters();
        MapPorts(0x00, 16, bytes.Ports, "dma");
        MapPorts(0xC0, 32, words.Ports, "dma-16");
        MapPorts(0x81, 15, pages, "dma-page");
        MapPorts(0x480, 8, highPages, "dma-high-page");
        _resettable.AddRange([bytes, words, pages, highPages]);
    }

    private void AddIdeDrives(IReadOnlyList<IdeDrive> drives)
    {
        foreach (var drive in drives)
        {
            var device = drive.Create();
            try
            {
                Ide.Channels[drive.Channel].Attach(drive.Unit, device);
            }
            catch (InvalidOperationException e)
            {
                throw new ConfigurationException($"{e.Message}; give one of them another index", e);
            }

            drive.Drive.Connect(_context.Gate, _context.Control);
            if (device is AtaDisk disk)
                Firmware.Disks[(drive.Channel * 2) + drive.Unit] = disk.Geometry;
            if (drive.BootIndex is { } index)
                Firmware.BootOrder.Add(index, $"/pci@i0cf8/ide@{PiixSlot},1/drive@{drive.Channel}/disk@{drive.Unit}");
        }
    }

    private void MapChannel(IdeChannel channel, ushort port, ushort controlPort, string name)
    {
        MapPorts(port, 8, channel.CommandBlock, name);
        MapPorts(controlPort, 1, channel.ControlBlock, $"{name}-control");
    }

    private StandardVga? AddVga(BootSource? bios)
    {
        if (bios is null)
            return null;
        FirmwareFiles.CheckOptionRom(bios);
        var vga = new StandardVga(_context.Memory, _context.Clock, bios.Read(0, (int)bios.Length));
        Pci.Add(vga, VgaSlot);
        MapPorts(StandardVga.PortBase, StandardVga.PortCount, vga.Ports, "vga");
        MapPorts(StandardVga.DisplayPortBase, StandardVga.DisplayPortCount, vga.DisplayPorts, "vga-dispi");
        _context.Mmio.Map(StandardVga.WindowBase, StandardVga.WindowLength, vga.Window, "vga-window");
        return vga;
    }

    private void AddTestDevices(MachineOptions options)
    {
        if (options.DebugExit is { } exit)
            MapPorts(exit.Port, exit.Count, new DebugExit(_context.Control), "isa-debug-exit");
        if (options.DebugConsole is { } console)
            MapPorts(console.Port, 1, new DebugConsole(console.Backend, _context.Gate, _context.Errors), "isa-debugcon");
        if (options.HasPanicDevice)
            MapPorts(PvPanic.Port, 1, new PvPanic(_context.Control), "pvpanic");
        if (options.HasPciPanicDevice)
            Pci.AddToFreeSlot(new PvPanicPci(_context.Control), FirstFreeSlot);
        if (options.HasPciTestDevice)
            Pci.AddToFreeSlot(new PciTestDevice(), FirstFreeSlot);
        if (!options.HasTestDevice)
            return;
        var test = new PcTestDevice(Isa);
        MapPorts(PcTestDevice.DataPort, PcTestDevice.PortLength, test.Data, "pc-testdev");
        MapPorts(PcTestDevice.FlushPort, PcTestDevice.PortLength, test.Flush, "pc-testdev-flush");
        MapPorts(PcTestDevice.BytePort, PcTestDevice.PortLength, test.Data, "pc-testdev-byte");
        MapPorts(PcTestDevice.InterruptPort, PcTestDevice.InterruptLength, test.Interrupts, "pc-testdev-irq");
        _context.Mmio.Map(PcTestDevice.MemoryAddress, PcTestDevice.MemoryLength, test.Memory, "pc-testdev-iomem");
    }

    private List<int> AddSerialPorts(MachineOptions options)
    {
        if (options.Serial.Count > SerialPorts.Length)
            throw new ConfigurationException($"{options.Serial.Count} serial ports: a PC has {SerialPorts.Length} at most; give fewer -serial");
        List<int> present = [];
        for (var i = 0; i < options.Serial.Count; i++)
        {
            if (options.Serial[i] is not { } backend)
                continue;
            var (port, irq) = SerialPorts[i];
            var uart = new Uart16550(_context.Clock, Isa.Share(irq), backend, _context.Gate);
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
