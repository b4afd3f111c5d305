using Sharpvisor.Core.Buses;
using Sharpvisor.Devices.Acpi;
using Sharpvisor.Devices.Chipset;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Pci;
using Sharpvisor.Devices.Tests.Pci;
using Sharpvisor.Testing.Guests;
using Sharpvisor.Testing.Interrupts;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Chipset;

public sealed class PiixTests : IDisposable
{
    private readonly PciBench _pci = new();
    private readonly RecordingLine _intr = new();
    private readonly Pic _pic;
    private readonly IsaInterrupts _isa;

    public PiixTests()
    {
        _pic = new Pic(_intr);
        _isa = new IsaInterrupts(_pic, new IoApic(new ApicBus()));
        foreach (var (ports, icw2) in ((IBusDevice, ulong)[])[(_pic.MasterPorts, 0x08), (_pic.SlavePorts, 0x70)])
        {
            ports.Write(0, 1, 0x11);
            ports.Write(1, 1, icw2);
            ports.Write(1, 1, 4);
            ports.Write(1, 1, 1);
        }
    }

    public void Dispose() => _pci.Dispose();

    [Fact]
    public void WiresLeadWhereTheirRegistersSay()
    {
        var bridge = new PiixIsaBridge(_isa);
        _pci.Bus.Add(bridge, 1);
        _pci.Bus.Reset();
        Assert.Equal(0x80808080u, _pci.Read(1, 0x60, 4));
        _pic.ElcrPorts.Write(1, 1, 0x0C); // 10 and 11 are levels
        bridge.Wires[0].Set(true);
        Assert.False(_intr.IsAsserted);
        _pci.Write(1, 0x60, 1, 10);
        Assert.Equal(0x72, _pic.Acknowledge());
        _pic.SlavePorts.Write(0, 1, 0x20);
        _pic.MasterPorts.Write(0, 1, 0x20);
        Assert.True(_intr.IsAsserted); // still a level
        _pci.Write(1, 0x60, 1, 11); // moves while asserted
        Assert.Equal(0x73, _pic.Acknowledge());
        _pic.SlavePorts.Write(0, 1, 0x20);
        _pic.MasterPorts.Write(0, 1, 0x20);
        bridge.Wires[2].Set(true);
        _pci.Write(1, 0x62, 1, 11);
        bridge.Wires[0].Set(false);
        Assert.True(_intr.IsAsserted); // the other one shares it
        bridge.Wires[2].Set(false);
        Assert.False(_intr.IsAsserted);
    }

    [Fact]
    public void AnInterruptIsSharedByAllItsEnds()
    {
        var first = _isa.Share(5);
        var second = _isa.Share(5);
        _pic.ElcrPorts.Write(0, 1, 0x20);
        first.Set(true);
        second.Set(true);
        second.Set(true);
        first.Set(false);
        Assert.True(_intr.IsAsserted);
        second.Set(false);
        Assert.False(_intr.IsAsserted);
    }

    [Fact]
    public void RegisterBlocksLieWhereTheGuestPutsThem()
    {
        var pm = new AcpiPm(new ManualClock(), new RecordingLine(), new RecordingMachine());
        var function = new PiixPowerManagement(pm, new SmBusController(), [1]);
        _pci.Bus.Add(function, 1, 3);
        _pci.Bus.Reset();
        Assert.Equal(0x02u, Config(0x5B, 1) & 2); // there is no SMM to set up
        Assert.Equal(0x08u, Config(0x67, 1));
        Assert.Equal(0xFFFFu, _pci.Ports.Read(0x600, 2));
        ConfigWrite(0x40, 4, 0x601);
        Assert.Equal(0xFFFFu, _pci.Ports.Read(0x600, 2));
        ConfigWrite(0x80, 1, 1);
        Assert.Equal(0u, _pci.Ports.Read(0x600, 2));
        ConfigWrite(0x40, 4, 0xFFFFFFFF);
        Assert.Equal(0xFFC1u, Config(0x40, 4));
        Assert.Equal(0u, _pci.Ports.Read(0xFFC4, 2));
        Assert.Equal(0xFFFFu, _pci.Ports.Read(0x600, 2));
        ConfigWrite(0x90, 4, 0xB100);
        ConfigWrite(0xD2, 1, 1);
        _pci.Ports.Write(0xB104, 1, 0xA1);
        _pci.Ports.Write(0xB102, 1, 0x48); // byte data, start
        Assert.Equal(4u, _pci.Ports.Read(0xB100, 1)); // nobody answers
        _pci.Ports.Write(0xB100, 1, 0x1E);
        Assert.Equal(0u, _pci.Ports.Read(0xB100, 1));
        _pci.Bus.Reset();
        Assert.Equal(0xFFu, _pci.Ports.Read(0xB100, 1));
        function.PlaceAt(0x600, 0xB100);
        Assert.Equal(0u, _pci.Ports.Read(0x604, 2));
    }

    [Fact]
    public void FirmwarelessBootPlacesEverything()
    {
        var a = _pci.Add(2);
        var b = _pci.Add(3, pin: 2);
        a.AddMemoryBar(0, 0x1000, new Registers(0xA0));
        a.AddPortBar(1, 64, new Registers(0xA1));
        b.AddMemoryBar(0, 16 << 20, new Registers(0xB0), is64: true);
        b.AddPortBar(2, 16, new Registers(0xB2));
        _pci.Add(4, pin: 0).AddMemoryBar(0, 1UL << 32, new Registers(0), is64: true); // no room
        PciAssignment.Assign(_pci.Bus, 0x8000_0000, [10, 10, 11, 11]);
        Assert.Equal((0xFCFFF000UL, 0xC000UL), (a.Bars[0].Address, a.Bars[1].Address));
        Assert.Equal((0xFD000000UL, 0xC040UL), (b.Bars[0].Address, b.Bars[1].Address));
        Assert.Equal(0xA0u, _pci.Mmio.Read(0xFCFFF000, 1));
        Assert.Equal(0xB2u, _pci.Ports.Read(0xC04F, 1));
        Assert.Null(_pci.Bus.Find(4 << 3)!.Bars[0].Address);
        Assert.Equal((10u, 11u), (_pci.Read(2, 0x3C, 1), _pci.Read(3, 0x3C, 1)));
    }

    [Fact]
    public void DmaControllersKeepWhatIsProgrammed()
    {
        var dma = new DmaController(2).Ports;
        dma.Write(0x18, 1, 0); // clear the flip-flop
        dma.Write(0x04, 1, 0x34);
        dma.Write(0x04, 1, 0x12);
        Assert.Equal((0x34UL, 0x12UL, 0x34UL), (dma.Read(0x04, 1), dma.Read(0x04, 1), dma.Read(0x04, 1)));
        dma.Write(0x18, 1, 0);
        Assert.Equal(0x34UL, dma.Read(0x04, 1));
        Assert.Equal(0xFFUL, dma.Read(0x1E, 1)); // all masked
        dma.Write(0x14, 1, 2); // unmask channel 2
        Assert.Equal(0xFBUL, dma.Read(0x1E, 1));
        dma.Write(0x1C, 1, 0);
        Assert.Equal(0xF0UL, dma.Read(0x1E, 1));
        dma.Write(0x1A, 1, 0); // master clear
        Assert.Equal(0xFFUL, dma.Read(0x1E, 1));
    }

    [Fact]
    public void TestDeviceDrivesInterruptsAndKeepsItsRegisters()
    {
        var test = new PcTestDevice(_isa);
        test.Data.Write(0, 4, 0x12345678);
        Assert.Equal(0x3456UL, test.Data.Read(1, 2));
        test.Data.Write(3, 1, 0xAB);
        Assert.Equal(0xAB345678UL, test.Data.Read(0, 4));
        test.Memory.Write(0xFFF8, 8, 0x1122334455667788);
        Assert.Equal(0x11223344UL, test.Memory.Read(0xFFFC, 4));
        test.Interrupts.Write(6, 1, 1);
        Assert.Equal(0x0E, _pic.Acknowledge());
        test.Interrupts.Write(6, 1, 0);
        test.Interrupts.Write(23, 1, 1); // beyond ISA's
        test.Flush.Write(0, 4, 0x1000);
    }

    [Fact]
    public void PciTestDeviceCountsWrites()
    {
        _pci.Bus.Add(new PciTestDevice(), 5);
        _pci.Bus.Reset();
        Assert.Equal(0x00051B36u, _pci.Read(5, 0, 4));
        Assert.Equal(0x00FF0000u, _pci.Read(5, 8, 4));
        PciAssignment.Assign(_pci.Bus, 0x8000_0000, [10, 10, 11, 11]);
        foreach (var (space, at, name, data) in ((AddressSpace, ulong, string, uint)[])
            [(_pci.Mmio, _pci.Bus.Find(5 << 3)!.Bars[0].Address!.Value, "mmio", 2048), (_pci.Ports, _pci.Bus.Find(5 << 3)!.Bars[1].Address!.Value, "portio", 131)])
        {
            Assert.Equal(0UL, space.Read(at + 4, 4));
            space.Write(at, 1, 0);
            Assert.Equal(data, space.Read(at + 4, 4));
            Assert.Equal(name, string.Concat(Enumerable.Range(16, name.Length).Select(i => (char)space.Read(at + (uint)i, 1))));
            space.Write(at + data, 1, 0xFA);
            space.Write(at + data, 1, 0xFB);
            space.Write(at + data, 1, 0xFA);
            Assert.Equal(2UL, space.Read(at + 12, 4));
            space.Write(at, 1, 1); // by an event: not counted
            space.Write(at + data + 1, 1, 0xFA);
            Assert.Equal(0UL, space.Read(at + 12, 4));
            space.Write(at, 1, 9);
            Assert.Equal(0UL, space.Read(at + 4, 4));
        }
    }

    private ulong Config(int offset, int size)
    {
        _pci.Ports.Write(0xCF8, 4, 0x80000B00u | ((uint)offset & 0xFC));
        return _pci.Ports.Read(0xCFCu + (uint)(offset & 3), size);
    }

    private void ConfigWrite(int offset, int size, ulong value)
    {
        _pci.Ports.Write(0xCF8, 4, 0x80000B00u | ((uint)offset & 0xFC));
        _pci.Ports.Write(0xCFCu + (uint)(offset & 3), size, value);
    }
}
