using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Tests.Pci;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Devices.Virtio.Transports;
using Sharpvisor.Testing.Block;
using Sharpvisor.Testing.Virtio;

namespace Sharpvisor.Devices.Tests.Virtio;

/// <summary>A virtio function on a PCI bus, and a driver of it.</summary>
internal sealed class VirtioBench : IDisposable
{
    public const ulong AllFeatures = ulong.MaxValue;
    public const int Slot = 3;

    public VirtioBench(Func<GuestErrorLog, VirtioDevice> create, bool legacy = false, bool msix = true, VirtioPciOptions? options = null)
    {
        Function = new VirtioPci(create(Errors), options ?? new VirtioPciOptions());
        Pci.Bus.Add(Function, Slot);
        Function.Reset();
        Driver = legacy
            ? new LegacyPciDriver(Pci.Ports, Pci.Mmio, Pci.Memory, Slot) { UsesMsix = msix }
            : new ModernPciDriver(Pci.Ports, Pci.Mmio, Pci.Memory, Slot) { UsesMsix = msix };
    }

    public PciBench Pci { get; } = new(16 << 20);

    public GuestErrorLog Errors { get; } = new(NullLogger.Instance);

    public VirtioPci Function { get; }

    public VirtioPciDriver Driver { get; }

    public GuestMemory Memory => Pci.Memory;

    /// <summary>The wire that INTA of the slot leads to.</summary>
    public bool IsIntxAsserted => Pci.Wires[(Slot + 3) % 4].IsAsserted;

    /// <summary>The messages of queue 0 that have come since this was asked last.</summary>
    public int TakeMessages(uint data = VirtioPciDriver.FirstMessage)
    {
        var count = Pci.Messages.Count(m => m.Data == data);
        Pci.Messages.RemoveAll(m => m.Data == data);
        return count;
    }

    public static VirtioBench Disk(out MemoryDrive drive, bool legacy = false, bool msix = true, VirtioBlkOptions? options = null, int sectors = 4096, bool readOnly = false)
    {
        var disk = drive = new MemoryDrive(sectors, "virtio0") { IsReadOnly = readOnly, CanDiscard = true };
        for (var i = 0; i < disk.Bytes.Length; i++)
            disk.Bytes[i] = (byte)((i * 7) ^ (i >> 9));
        return new VirtioBench(errors => new VirtioBlk(disk, options ?? new VirtioBlkOptions(), errors) { OffersPackedRings = true }, legacy, msix);
    }

    /// <summary>Makes a request of a disk available.</summary>
    /// <returns>Its id, and where its status will be.</returns>
    public (int Id, GuestBuffer Status) AddRequest(uint type, ulong sector, GuestBuffer[] toDevice, GuestBuffer[] fromDevice, int queue = 0, bool indirect = false)
    {
        Span<byte> header = stackalloc byte[16];
        BitConverter.TryWriteBytes(header, type);
        BitConverter.TryWriteBytes(header[8..], sector);
        var status = Driver.Put([0xEE]);
        var id = Driver.Rings[queue].Add([Driver.Put(header), .. toDevice], [.. fromDevice, status], indirect);
        return (id, status);
    }

    /// <summary>Does a request; its status. It must complete at once.</summary>
    public byte Request(uint type, ulong sector, GuestBuffer[] toDevice, GuestBuffer[] fromDevice, bool indirect = false)
    {
        var (id, status) = AddRequest(type, sector, toDevice, fromDevice, indirect: indirect);
        Driver.NotifyIfNeeded(0);
        var used = Driver.Rings[0].TakeUsed();
        Assert.Equal(id, used?.Id);
        Assert.Equal(1 + (uint)fromDevice.Sum(b => b.Length), used?.Written);
        return Driver.Get(status)[0];
    }

    public void Dispose() => Pci.Dispose();
}
