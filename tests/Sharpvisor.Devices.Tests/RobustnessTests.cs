using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Acpi;
using Sharpvisor.Devices.Chipset;
using Sharpvisor.Devices.Firmware;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Pci;
using Sharpvisor.Devices.Ps2;
using Sharpvisor.Devices.Serial;
using Sharpvisor.Devices.Timers;
using Sharpvisor.Testing.Char;
using Sharpvisor.Testing.Guests;
using Sharpvisor.Testing.Interrupts;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests;

/// <summary>A guest may write anything anywhere: no device throws, hangs, or answers more than was asked.</summary>
public sealed class RobustnessTests : IDisposable
{
    private static readonly int[] Sizes = [1, 2, 4, 8];

    private readonly GuestMemory _memory = new(1 << 20);
    private readonly ManualClock _clock = new();
    private readonly List<(string Name, IBusDevice Device, uint Length)> _devices = [];
    private readonly List<IMsrDevice> _msrDevices = [];
    private readonly List<IResettable> _resettables = [];
    private readonly LocalApic[] _apics;

    public RobustnessTests()
    {
        var bus = new ApicBus();
        var machine = new RecordingMachine();
        var gate = new MachineGate();
        var errors = new GuestErrorLog(NullLogger.Instance);
        _apics = [new LocalApic(0, _clock, bus), new LocalApic(1, _clock, bus)];
        var pic = new Pic(bus.Lint0);
        bus.Pic = pic;
        var ioApic = new IoApic(bus);
        var isa = new IsaInterrupts(pic, ioApic);
        var hpet = new Hpet(_clock, isa, ioApic);
        var pit = new Pit(_clock, hpet.PitOutput);
        var rtc = new Rtc(_clock, hpet.RtcOutput);
        var uart = new Uart16550(_clock, isa[4], new LimitedCharBackend { Room = 100 }, gate);
        var i8042 = new I8042(isa[1], isa[12], machine, _clock, new Ps2Keyboard(), new Ps2Mouse(_clock));
        var pm = new AcpiPm(_clock, isa[AcpiTables.SciIrq], machine);
        var kvmClock = new KvmClock(_clock, _memory);
        var port92 = new Port92(machine);
        var cf9 = new ResetControl(machine);
        _devices.AddRange([
            ("apic0", _apics[0], 0x1000), ("apic1", _apics[1], 0x1000), ("ioapic", ioApic, 0x100), ("hpet", hpet, Hpet.Length),
            ("pic", pic.MasterPorts, 2), ("slave pic", pic.SlavePorts, 2), ("elcr", pic.ElcrPorts, 2), ("pit", pit, 4),
            ("port 61h", pit.Port61, 1), ("rtc", rtc, 4), ("uart", uart, 8), ("i8042 data", i8042.DataPort, 1),
            ("i8042 command", i8042.CommandPort, 1), ("acpi pm", pm, AcpiPm.Length), ("smi command", pm.SmiCommand, 2),
            ("port 92h", port92, 1), ("cf9", cf9, 1), ("debug exit", new DebugExit(machine), 4),
            ("debugcon", new DebugConsole(new LimitedCharBackend { Room = 0 }, gate, errors), 1), ("post code", new PostCodePort(), 1),
        ]);
        _msrDevices.AddRange([_apics[0], _apics[1], kvmClock]);
        _resettables.AddRange([_apics[0], _apics[1], pic, ioApic, hpet, pit, rtc, uart, i8042, pm, kvmClock, port92, cf9]);
        foreach (var apic in _apics)
            apic.Connect(new RecordingProcessor());
        AddChipset(isa, bus, pm, machine, gate, errors);
    }

    /// <summary>PCI as on a PC, and a function with all kinds of registers that random configuration moves about.</summary>
    private void AddChipset(IsaInterrupts isa, ApicBus apicBus, AcpiPm pm, RecordingMachine machine, MachineGate gate, GuestErrorLog errors)
    {
        var ports = new AddressSpace("io", 0x10000, gate, errors);
        var mmio = new AddressSpace("mmio", 1UL << 52, gate, errors);
        var bridge = new PiixIsaBridge(isa);
        var pci = new PciBus(ports, mmio, _memory, bridge.Wires, apicBus);
        var smBus = new SmBusController();
        var function = new PciFunction("test", new PciIdentity(0x1234, 0x5678, 0x030000, 0), interruptPin: 1);
        DmaController bytes = new(1), words = new(2);
        function.AddPortBar(0, 32, words.Ports);
        function.AddMemoryBar(1, _memory.AddRegion("video", 1 << 20));
        function.AddMemoryBar(2, 1 << 16, smBus, is64: true);
        function.AddMsix(70, 4);
        function.AddRom(_memory.AddRegion("rom", 40 << 10));
        function.AddMsi(8, maskable: true);
        pci.Add(new HostBridge(_memory, _memory.AddRegion("bios", 256 << 10)), 0);
        pci.Add(bridge, 1);
        pci.Add(new PiixPowerManagement(pm, smBus, [1, 2]), 1, 3);
        pci.Add(function, 2);
        var config = new PciConfigPorts(pci, new ResetControl(machine));
        var fwCfg = new FwCfg(_memory);
        fwCfg.AddFile("etc/test", new byte[100]);
        var test = new PcTestDevice(isa);
        // Of configuration space both ports, so that random addresses are random functions; and each function by itself.
        _devices.AddRange([
            ("pci config", config, 8), ("dma", bytes.Ports, 16), ("dma 16", words.Ports, 32), ("dma pages", new DmaPageRegisters(), 16),
            ("smbus", smBus, SmBusController.Length), ("gpe", pm.Gpe, AcpiPm.GpeLength), ("fw_cfg", fwCfg.Registers, 2), ("fw_cfg dma", fwCfg.Dma, 8),
            ("testdev", test.Data, 4), ("testdev irq", test.Interrupts, 24), ("testdev flush", test.Flush, 4), ("testdev memory", test.Memory, PcTestDevice.MemoryLength),
            .. pci.Functions.Select(f => ($"config of {f.Name}", (IBusDevice)new ConfigSpace(f), 256u)),
            .. function.Bars.Select(b => (b.Name, b.Device, (uint)b.Size)),
            ("pci ports", new Window(ports), 0x10000), ("pci memory", new Window(mmio), uint.MaxValue),
        ]);
        _resettables.AddRange([pci, config, fwCfg, bytes, words, smBus]);
    }

    private sealed class ConfigSpace(PciFunction function) : IBusDevice
    {
        public ulong Read(uint offset, int size) => function.ReadConfig((int)offset, Math.Min(size, 4));

        public void Write(uint offset, int size, ulong value) => function.WriteConfig((int)offset, Math.Min(size, 4), (uint)value);
    }

    private sealed class Window(AddressSpace space) : IBusDevice
    {
        public ulong Read(uint offset, int size) => space.Read(offset, size);

        public void Write(uint offset, int size, ulong value) => space.Write(offset, size, value);
    }

    public void Dispose() => _memory.Dispose();

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void RandomAccessesOfEverySizeAreAnswered(int seed)
    {
        var random = new Random(seed);
        for (var round = 0; round < 20; round++)
        {
            foreach (var (_, device, length) in _devices)
            {
                for (var i = 0; i < 200; i++)
                {
                    var offset = (uint)random.NextInt64(length);
                    var size = Sizes[random.Next(4)];
                    if (random.Next(2) == 0)
                        device.Read(offset, size);
                    else
                        device.Write(offset, size, RandomValue(random));
                }
            }

            foreach (var device in _msrDevices)
            {
                for (var i = 0; i < 200; i++)
                {
                    var msr = RandomMsr(random);
                    device.TryReadMsr(msr, out var before);
                    // Addresses of the random kvmclock may lie anywhere.
                    device.TryWriteMsr(msr, random.Next(3) == 0 ? before ^ (1UL << random.Next(64)) : RandomValue(random));
                }
            }

            foreach (var apic in _apics)
            {
                apic.TaskPriority = (byte)random.Next(16);
                apic.TscOffset = (long)RandomValue(random);
                Assert.InRange(apic.AcknowledgeInterrupt(), -1, 255);
            }

            _clock.Advance(random.Next(10_000_000));
        }

        foreach (var resettable in _resettables)
            resettable.Reset();
        _clock.Advance(10_000_000_000);
    }

    [Fact]
    public void EveryOffsetTakesAllSizesAndAllOnes()
    {
        foreach (var (_, device, length) in _devices)
        {
            for (var offset = 0u; offset < Math.Min(length, 0x1000); offset++)
            {
                foreach (var size in Sizes)
                {
                    device.Write(offset, size, ulong.MaxValue);
                    device.Read(offset, size);
                    device.Write(offset, size, 0);
                }
            }
        }

        _clock.Advance(1_000_000_000);
    }

    private static ulong RandomValue(Random random) => random.Next(4) switch
    {
        0 => 0,
        1 => ulong.MaxValue,
        2 => (ulong)random.Next(256),
        _ => (ulong)random.NextInt64(long.MinValue, long.MaxValue),
    };

    private static uint RandomMsr(Random random) => random.Next(5) switch
    {
        0 => 0x1B,
        1 => 0x6E0,
        2 => (uint)random.Next(0x800, 0x900),
        3 => 0x4B564D00 + (uint)random.Next(2),
        _ => 0x11 + (uint)random.Next(2),
    };
}
