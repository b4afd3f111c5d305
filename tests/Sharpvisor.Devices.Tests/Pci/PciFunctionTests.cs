using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Devices.Tests.Pci;

public sealed class PciFunctionTests : IDisposable
{
    private readonly PciBench _pci = new();

    public void Dispose() => _pci.Dispose();

    [Fact]
    public void HeaderSaysWhoItIs()
    {
        _pci.Add(3);
        Assert.Equal(0x56781234u, _pci.Read(3, 0, 4));
        Assert.Equal(0x02800003u, _pci.Read(3, 8, 4));
        Assert.Equal(0x80u, _pci.Read(3, 10, 1));
        Assert.Equal(0x11001AF4u, _pci.Read(3, 0x2C, 4));
        Assert.Equal(1u, _pci.Read(3, 0x3D, 1));
        Assert.Equal(0xFFFFFFFFu, _pci.Read(4, 0, 4));
        _pci.Write(3, 0, 4, 0);
        Assert.Equal(0x1234u, _pci.Read(3, 0, 2));
        _pci.Ports.Write(0xCF8, 4, 0x1800); // not enabled
        Assert.Equal(0xFFFFFFFFu, _pci.Ports.Read(0xCFC, 4));
        _pci.Ports.Write(0xCF8, 4, 0x8001_1800); // another bus
        Assert.Equal(0xFFFFFFFFu, _pci.Ports.Read(0xCFC, 4));
        _pci.Ports.Write(0xCF8, 2, 0); // bytes do not change the address
        Assert.Equal(0x80011800u, _pci.Ports.Read(0xCF8, 4));
    }

    [Theory]
    [InlineData(0x10, 0xFFFFFFF1u)]
    [InlineData(0x14, 0xFFFFF000u)]
    [InlineData(0x18, 0xFC00000Cu)]
    [InlineData(0x1C, 0xFFFFFFFFu)]
    [InlineData(0x20, 0u)]
    public void WritingOnesTellsTheSize(int register, uint expected)
    {
        var function = _pci.Add(3);
        function.AddPortBar(0, 16, new Registers(0));
        function.AddMemoryBar(1, 4096, new Registers(0));
        function.AddMemoryBar(2, 64 << 20, new Registers(0), prefetchable: true, is64: true);
        _pci.Write(3, 4, 2, 3);
        _pci.Write(3, register, 4, uint.MaxValue);
        Assert.Equal(expected, _pci.Read(3, register, 4));
        Assert.All(function.Bars.Where(b => b.Kind != PciBarKind.Memory64), b => Assert.Null(b.Address));
    }

    [Fact]
    public void AnAddressIsDecodedWhileTheCommandRegisterSaysSo()
    {
        var function = _pci.Add(3);
        function.AddPortBar(0, 16, new Registers(0x11));
        function.AddMemoryBar(1, 4096, new Registers(0x22));
        function.AddMemoryBar(2, 4096, new Registers(0x33), is64: true);
        _pci.Write(3, 0x10, 4, 0xC000);
        _pci.Write(3, 0x14, 4, 0xFEB00000);
        _pci.Write(3, 0x18, 4, 0);
        _pci.Write(3, 0x1C, 4, 0x10);
        Assert.Equal(0xFFu, _pci.Ports.Read(0xC000, 1));
        _pci.Write(3, 4, 2, 1);
        Assert.Equal(0x11u, _pci.Ports.Read(0xC00F, 1));
        Assert.Equal(0xFFu, _pci.Mmio.Read(0xFEB00000, 1));
        _pci.Write(3, 4, 2, 2);
        Assert.Equal(0xFFu, _pci.Ports.Read(0xC000, 1));
        Assert.Equal(0x22u, _pci.Mmio.Read(0xFEB00FFF, 1));
        Assert.Equal(0x33u, _pci.Mmio.Read(0x10_0000_0000, 1));
        _pci.Write(3, 0x14, 4, 0xFEC00000);
        Assert.Equal(0xFFu, _pci.Mmio.Read(0xFEB00FFF, 1));
        Assert.Equal(0x22u, _pci.Mmio.Read(0xFEC00000, 1));
        _pci.Bus.Reset();
        Assert.Equal(0xFFu, _pci.Mmio.Read(0xFEC00000, 1));
        Assert.Equal(0u, _pci.Read(3, 0x14, 4));
    }

    [Fact]
    public void OfTwoAtOnePlaceTheLaterIsSeenAndTheOtherOneReturns()
    {
        _pci.Mmio.Map(0xFEC00000, 0x1000, new Registers(0x99), "board");
        _pci.Ports.Map(0xC004, 4, new Registers(0x98), "board");
        foreach (var (device, answer) in ((int, ulong)[])[(3, 0x11), (4, 0x22)])
        {
            var function = _pci.Add(device);
            function.AddMemoryBar(0, 0x2000, new Registers(answer));
            function.AddPortBar(1, 8, new Registers(answer));
            _pci.Write(device, 4, 2, 3);
            _pci.Write(device, 0x10, 4, 0xFEC00000);
            _pci.Write(device, 0x14, 4, 0xC000);
        }

        Assert.Equal(0x99u, _pci.Mmio.Read(0xFEC00000, 1)); // the board's memory lies above, its ports below
        Assert.Equal(0x22u, _pci.Mmio.Read(0xFEC01000, 1));
        Assert.Equal(0x22u, _pci.Ports.Read(0xC004, 1));
        _pci.Write(4, 4, 2, 0);
        Assert.Equal(0x11u, _pci.Mmio.Read(0xFEC01000, 1));
        _pci.Write(3, 4, 2, 0);
        Assert.Equal(0xFFu, _pci.Mmio.Read(0xFEC01000, 1));
        Assert.Equal(0x98u, _pci.Ports.Read(0xC004, 1));
    }

    [Fact]
    public void PinsThatShareAWireAreOneLevel()
    {
        var a = _pci.Add(3);
        var b = _pci.Add(7);
        a.Interrupt.Set(true);
        b.Interrupt.Set(true);
        Assert.True(_pci.Wires[2].IsAsserted);
        Assert.Equal(8u, _pci.Read(3, 6, 2) & 8);
        _pci.Write(3, 4, 2, 0x400); // interrupt disable
        Assert.True(_pci.Wires[2].IsAsserted);
        b.Interrupt.Set(false);
        Assert.False(_pci.Wires[2].IsAsserted);
        _pci.Write(3, 4, 2, 0);
        Assert.True(_pci.Wires[2].IsAsserted);
        _pci.Bus.Reset();
        Assert.False(_pci.Wires[2].IsAsserted);
    }

    [Fact]
    public void DmaNeedsABusMaster()
    {
        var function = _pci.Add(3);
        Assert.False(function.Dma.TryWrite(0x1000, 1u));
        _pci.Write(3, 4, 2, 4);
        Assert.True(function.Dma.TryWrite(0x1000, 1u));
        Assert.True(function.Dma.TryRead(0x1000, out uint value));
        Assert.Equal(1u, value);
    }

    [Fact]
    public void OtherFunctionsOfADeviceAreAnnouncedByTheFirst()
    {
        _pci.Add(1);
        Assert.Equal(0u, _pci.Read(1, 14, 1));
        _pci.Bus.Add(new PciFunction("second", PciBench.Identity), 1, 1);
        Assert.Equal(0x80u, _pci.Read(1, 14, 1));
        Assert.Throws<InvalidOperationException>(() => _pci.Bus.Add(new PciFunction("third", PciBench.Identity), 1, 1));
        Assert.Equal(2, _pci.Bus.AddToFreeSlot(new PciFunction("other", PciBench.Identity)));
    }

    [Fact]
    public void MemoryIsSeenWhereItsRegisterSays()
    {
        var region = _pci.Memory.AddRegion("video", 0x4000);
        var rom = _pci.Memory.AddRegion("rom", 0x3000);
        region.Bytes(0x1000, 1)[0] = 0x5A;
        rom.Bytes(0x1000, 1)[0] = 0xA5;
        var function = _pci.Add(3);
        function.AddMemoryBar(0, region);
        function.AddRom(rom);
        Assert.Equal(8u, _pci.Read(3, 0x10, 4));
        _pci.Write(3, 0x30, 4, uint.MaxValue);
        Assert.Equal(0xFFFFC001u, _pci.Read(3, 0x30, 4));
        _pci.Write(3, 0x10, 4, 0xE0000000);
        _pci.Write(3, 0x30, 4, 0xE0010000);
        _pci.Write(3, 4, 2, 2);
        Assert.True(_pci.Memory.TryRead(0xE0001000, out byte value));
        Assert.Equal(0x5A, value);
        Assert.False(_pci.Memory.TryRead(0xE0011000, out value)); // not enabled
        _pci.Write(3, 0x30, 4, 0xE0010001);
        Assert.True(_pci.Memory.TryRead(0xE0011000, out value));
        Assert.Equal(0xA5, value);
        Assert.False(_pci.Memory.TryWrite(0xE0011000, (byte)0));
        Assert.False(_pci.Memory.TryRead(0xE0013000, out value)); // behind the region's end
        Assert.Equal(0xFFu, _pci.Mmio.Read(0xE0013000, 1));
        _pci.Write(3, 0x10, 4, 0xE0010000); // over the ROM, and placed later
        Assert.True(_pci.Memory.TryRead(0xE0011000, out value));
        Assert.Equal(0x5A, value);
        _pci.Write(3, 0x10, 4, 0x100000); // below RAM
        Assert.True(_pci.Memory.TryRead(0x101000, out value));
        Assert.Equal(0, value);
        Assert.True(_pci.Memory.TryRead(0xE0011000, out value));
        Assert.Equal(0xA5, value);
        _pci.Bus.Reset();
        Assert.Empty(_pci.Memory.Mappings);
    }

    [Fact]
    public void PartsOfPagesAndHighAddressesGoByTheBus()
    {
        var region = _pci.Memory.AddRegion("video", 0x2000);
        _pci.Mmio.Map(0xE0000800, 4, new Registers(0x77), "board");
        var function = _pci.Add(3);
        function.AddMemoryBar(0, region, is64: true);
        _pci.Write(3, 0x10, 4, 0xE0000000);
        _pci.Write(3, 4, 2, 2);
        Assert.False(_pci.Memory.TryRead(0xE0000000, out byte _)); // its page is shared with another device
        Assert.True(_pci.Memory.TryRead(0xE0001000, out byte _));
        Assert.Equal(0x77u, _pci.Mmio.Read(0xE0000800, 1));
        _pci.Mmio.Write(0xE0000804, 4, 0x12345678);
        Assert.Equal(0x5678u, _pci.Mmio.Read(0xE0000804, 2));
        _pci.Write(3, 0x14, 4, 0x20);
        Assert.Equal(0x12345678u, _pci.Mmio.Read(0x20_E000_0804, 4));
        Assert.Empty(_pci.Memory.Mappings);
    }
}
