using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Chipset;
using Sharpvisor.Devices.Tests.Pci;

namespace Sharpvisor.Devices.Tests.Chipset;

public sealed class HostBridgeTests : IDisposable
{
    private readonly PciBench _pci = new();
    private readonly MemoryRegion _rom;
    private readonly HostBridge _bridge;

    public HostBridgeTests()
    {
        _rom = _pci.Memory.AddRegion("bios", 0x40000);
        _rom.Bytes(0, 0x40000).Fill(0x55);
        _rom.Bytes(0x3FFF0, 1)[0] = 0xEA; // F000:FFF0
        _rom.Bytes(0x20000, 1)[0] = 0xE0; // E000:0000
        _bridge = new HostBridge(_pci.Memory, _rom);
        _pci.Bus.Add(_bridge, 0);
        _pci.Bus.Reset();
    }

    public void Dispose() => _pci.Dispose();

    [Fact]
    public void AtPowerOnTheRomIsSeenBelow1MiB()
    {
        Assert.Equal(0x12378086u, _pci.Read(0, 0, 4));
        Assert.Equal((byte)0xEA, Byte(0xFFFF0));
        Assert.Equal((byte)0xE0, Byte(0xE0000));
        Assert.Null(Byte(0xC0000));
        Assert.False(_pci.Memory.TryWrite(0xF0000, (byte)1));
        Assert.Equal(2u, _pci.Read(0, 0x72, 1));
    }

    [Theory]
    [InlineData(0x59, 4, 0xF0000u, 0x10000u)]
    [InlineData(0x5A, 0, 0xC0000u, 0x4000u)]
    [InlineData(0x5A, 4, 0xC4000u, 0x4000u)]
    [InlineData(0x5D, 0, 0xD8000u, 0x4000u)]
    [InlineData(0x5F, 4, 0xEC000u, 0x4000u)]
    public void EachSegmentHasFourStates(int register, int shift, uint start, uint length)
    {
        var rom = Byte(start);
        Pam(register, 2 << shift); // read the bus, write RAM: how firmware copies itself
        Assert.True(_pci.Memory.TryWrite(start, (byte)0x11));
        Assert.Equal(rom, Byte(start));
        Pam(register, 1 << shift); // a ROM in RAM
        Assert.Equal((byte)0x11, Byte(start));
        Assert.False(_pci.Memory.TryWrite(start, (byte)0x22));
        Pam(register, 3 << shift);
        Assert.True(_pci.Memory.TryWrite(start + length - 1, (byte)0x33));
        Assert.Equal((byte)0x33, Byte(start + length - 1));
        if (start + length < 0x100000)
            Assert.NotEqual(Byte(start + length), Byte(start)); // the next one is as it was
        Pam(register, 0);
        Assert.Equal(rom, Byte(start));
        Assert.False(_pci.Memory.TryWrite(start, (byte)0x44));
    }

    [Fact]
    public void ResetShowsTheRomAgain()
    {
        _bridge.ShadowAll();
        Assert.True(_pci.Memory.TryWrite(0xFFFF0, (byte)0));
        Assert.Equal((byte)0, Byte(0xFFFF0));
        _pci.Bus.Reset();
        Assert.Equal((byte)0xEA, Byte(0xFFFF0));
    }

    [Fact]
    public void ShadowRamComesBackWithItsAttributes()
    {
        _bridge.ShadowAll();
        _pci.Memory.TryWrite(0xFFFF0, (byte)1);
        var attributes = _bridge.MemoryAttributes;
        _pci.Bus.Reset();
        _bridge.MemoryAttributes = attributes;
        Assert.Equal((byte)1, Byte(0xFFFF0));
        Assert.Equal(0x30u, _pci.Read(0, 0x59, 1));
    }

    /// <summary>Video memory that is seen directly is hidden as the window's registers are, whatever was first.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void SmramLiesOverVideoMemory(bool openedFirst)
    {
        var video = _pci.Memory.AddRegion("video", 0x10000);
        video.Bytes(0, 1)[0] = 0x99;
        if (openedFirst)
            _pci.Write(0, 0x72, 1, 0x4A);
        _pci.Memory.Map(0xA0000, video);
        Assert.Equal(openedFirst ? (byte)0 : (byte)0x99, Byte(0xA0000));
        _pci.Write(0, 0x72, 1, 0x4A);
        Assert.Equal((byte)0, Byte(0xA0000));
        _pci.Memory.TryWrite(0xA0000, (byte)1);
        Assert.Equal(0x99, video.Bytes(0, 1)[0]);
        _pci.Write(0, 0x72, 1, 0x0A);
        Assert.Equal((byte)0x99, Byte(0xA0000));
    }

    [Fact]
    public void SmramOpensTheVgaWindowUntilItIsLocked()
    {
        Assert.Null(Byte(0xA0000));
        _pci.Write(0, 0x72, 1, 0x4A);
        Assert.True(_pci.Memory.TryWrite(0xA0000, (byte)7));
        Assert.Equal((byte)7, Byte(0xA0000));
        _pci.Write(0, 0x72, 1, 0x0A);
        Assert.Null(Byte(0xA0000));
        _pci.Write(0, 0x72, 1, 0x5A); // open and lock: locking closes
        Assert.Null(Byte(0xA0000));
        _pci.Write(0, 0x72, 1, 0x4A);
        Assert.Equal(0x1Au, _pci.Read(0, 0x72, 1));
        Assert.Null(Byte(0xA0000));
        _pci.Bus.Reset();
        _pci.Write(0, 0x72, 1, 0x4A);
        Assert.Equal((byte)7, Byte(0xA0000));
    }

    [Fact]
    public void WithoutFirmwareTheBusIsEmpty()
    {
        using var other = new PciBench();
        other.Bus.Add(new HostBridge(other.Memory, null), 0);
        other.Bus.Reset();
        Assert.False(other.Memory.TryRead(0xFFFF0, out byte _));
    }

    private void Pam(int register, int value) => _pci.Write(0, register, 1, (ulong)value);

    private byte? Byte(uint address) => _pci.Memory.TryRead(address, out byte value) ? value : null;
}
