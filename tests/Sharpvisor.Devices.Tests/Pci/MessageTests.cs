using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Devices.Tests.Pci;

public sealed class MessageTests : IDisposable
{
    private readonly PciBench _pci = new();

    public void Dispose() => _pci.Dispose();

    [Fact]
    public void CapabilitiesAreALinkedList()
    {
        var function = _pci.Add(3);
        Assert.Equal(0u, _pci.Read(3, 6, 2) & 0x10);
        function.AddMsi();
        function.AddMsix(4, 1);
        Assert.Equal(0x10u, _pci.Read(3, 6, 2) & 0x10);
        var at = (int)_pci.Read(3, 0x34, 1);
        Assert.Equal(17u, _pci.Read(3, at, 1));
        at = (int)_pci.Read(3, at + 1, 1);
        Assert.Equal(5u, _pci.Read(3, at, 1));
        Assert.Equal(0u, _pci.Read(3, at + 1, 1));
    }

    [Fact]
    public void MsiPutsTheVectorInTheLowBitsThatAreEnabled()
    {
        var function = _pci.Add(3);
        var msi = function.AddMsi(vectors: 4);
        Assert.Equal(0x84u, _pci.Read(3, 0x42, 2));
        _pci.Write(3, 0x44, 4, 0xFEE01003);
        _pci.Write(3, 0x4C, 2, 0x4173);
        msi.Notify(1);
        _pci.Write(3, 0x42, 2, 0x11); // enable, two vectors
        msi.Notify(1);
        Assert.Empty(_pci.Messages); // no bus master
        _pci.Write(3, 4, 2, 4);
        msi.Notify(0);
        msi.Notify(3);
        msi.Notify(4);
        Assert.Equal([(0xFEE01000UL, 0x4172u), (0xFEE01000UL, 0x4173u)], _pci.Messages);
    }

    [Fact]
    public void MaskedMsiWaits()
    {
        var function = _pci.Add(3);
        var msi = function.AddMsi(vectors: 2, maskable: true);
        _pci.Write(3, 4, 2, 4);
        _pci.Write(3, 0x44, 4, 0xFEE00000);
        _pci.Write(3, 0x50, 4, 1);
        _pci.Write(3, 0x42, 2, 0x11);
        msi.Notify(0);
        msi.Notify(0);
        Assert.Empty(_pci.Messages);
        Assert.Equal(1u, _pci.Read(3, 0x54, 4));
        _pci.Write(3, 0x50, 4, 0);
        Assert.Single(_pci.Messages);
        Assert.Equal(0u, _pci.Read(3, 0x54, 4));
    }

    [Fact]
    public void MsixSendsWhatItsTableSays()
    {
        var function = _pci.Add(3);
        var msix = function.AddMsix(3, 1);
        Assert.Equal(0x40u, _pci.Read(3, 0x34, 1));
        Assert.Equal(2u, _pci.Read(3, 0x42, 2));
        Assert.Equal((1UL, 0x801UL), (_pci.Read(3, 0x44, 4), _pci.Read(3, 0x48, 4)));
        _pci.Write(3, 0x14, 4, 0xFEB00000);
        _pci.Write(3, 4, 2, 6);
        _pci.Mmio.Write(0xFEB00010, 4, 0xFEE03000);
        _pci.Mmio.Write(0xFEB00018, 4, 0x51);
        msix.Notify(1);
        _pci.Write(3, 0x42, 2, 0xC000);
        msix.Notify(1);
        Assert.Equal(2u, _pci.Mmio.Read(0xFEB00800, 8));
        _pci.Write(3, 0x42, 2, 0x8000); // the vector is still masked
        Assert.Empty(_pci.Messages);
        _pci.Mmio.Write(0xFEB0001C, 4, 0);
        Assert.Equal([(0xFEE03000UL, 0x51u)], _pci.Messages);
        Assert.Equal(0u, _pci.Mmio.Read(0xFEB00800, 8));
        msix.Notify(1);
        Assert.Equal(2, _pci.Messages.Count);
        msix.Notify(3);
        msix.Notify(-1);
        Assert.Equal(2, _pci.Messages.Count);
        _pci.Bus.Reset();
        Assert.False(msix.IsEnabled);
    }
}
