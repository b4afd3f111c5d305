// A function of a PCI device: header type 0, base address registers, interrupt pin, capabilities.
// Follows: PCI Local Bus Specification 3.0, 6.1 and 6.2; MSI and MSI-X of 6.8. Where a guest can set what makes no
// sense (address registers at 0 or over others), as QEMU's PCI devices do.
// Leaves out: parity and system errors, power management, the built-in self test.

using System.Numerics;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Pci;

/// <summary>Configuration space with what it controls. A device derives from it or owns some.</summary>
public class PciFunction : IResettable
{
    private const int BarCount = 6;

    private readonly List<PciBar> _bars = [];
    private readonly Pin _pin;
    private PciBus? _bus;
    private MsiCapability? _msi;
    private MsixCapability? _msix;

    /// <param name="name">For messages and monitors: "piix3-ide".</param>
    /// <param name="interruptPin">1 for INTA to 4 for INTD, 0 for none.</param>
    public PciFunction(string name, PciIdentity identity, int interruptPin = 0)
    {
        Name = name;
        _pin = new Pin(this);
        InterruptPin = interruptPin;
        Config.Define(PciRegister.VendorId, 2, identity.VendorId);
        Config.Define(PciRegister.DeviceId, 2, identity.DeviceId);
        Config.Define(PciRegister.Command, 2, 0, PciRegister.CommandIo | PciRegister.CommandMemory | PciRegister.CommandBusMaster
            | PciRegister.CommandParity | PciRegister.CommandSerr | PciRegister.CommandInterruptDisable);
        Config.Define(PciRegister.Status, 2, 0, clearable: 0xF900);
        Config.Define(PciRegister.RevisionId, 1, identity.Revision);
        Config.Define(PciRegister.ClassCode, 1, identity.ClassCode);
        Config.Define(PciRegister.ClassCode + 1, 2, identity.ClassCode >> 8);
        Config.Define(PciRegister.CacheLineSize, 1, 0, 0xFF);
        Config.Define(PciRegister.SubsystemVendorId, 2, identity.SubsystemVendorId);
        Config.Define(PciRegister.SubsystemId, 2, identity.SubsystemId);
        Config.Define(PciRegister.InterruptLine, 1, 0, 0xFF);
        Config.Define(PciRegister.InterruptPin, 1, (uint)interruptPin);
    }

    public string Name { get; }

    public PciConfigSpace Config { get; } = new();

    /// <summary>Device number times 8 plus function number; -1 before it is on a bus.</summary>
    public int Devfn { get; private set; } = -1;

    public int InterruptPin { get; }

    /// <summary>INTx: follows the level while the guest has not disabled it (command bit 10).</summary>
    public IInterruptLine Interrupt => _pin;

    public IReadOnlyList<PciBar> Bars => _bars;

    /// <summary>The guest lets this function write to memory: DMA and MSI.</summary>
    public bool IsBusMaster => (Config.Get16(PciRegister.Command) & PciRegister.CommandBusMaster) != 0;

    /// <summary>Guest memory as this function reaches it: nothing while it is no bus master.</summary>
    public PciDma Dma => new(this, Bus.Memory);

    internal PciBus Bus => _bus ?? throw new InvalidOperationException($"{Name} is not on a bus");

    internal bool IntxAsserted { get; private set; }

    /// <summary>Gives the function ports. Offsets that the device sees start at 0 of the register's range.</summary>
    /// <param name="index">Of the base address register, 0 to 5.</param>
    /// <param name="size">A power of two from 4 on.</param>
    public PciBar AddPortBar(int index, uint size, IBusDevice device) =>
        AddBar(index, PciBarKind.Ports, size, device, flags: 1);

    /// <summary>Gives the function memory-mapped registers.</summary>
    /// <param name="size">A power of two from 16 on.</param>
    /// <param name="is64">Uses the next register as well.</param>
    public PciBar AddMemoryBar(int index, ulong size, IBusDevice device, bool prefetchable = false, bool is64 = false) =>
        AddBar(index, is64 ? PciBarKind.Memory64 : PciBarKind.Memory32, size, device, (is64 ? 4u : 0) | (prefetchable ? 8u : 0));

    /// <summary>Gives the function memory that the guest reads and writes directly: video memory, shared memory.</summary>
    /// <remarks>The register's range is the region's size, rounded up to a power of two.</remarks>
    public PciBar AddMemoryBar(int index, MemoryRegion region, bool prefetchable = true, bool is64 = false) =>
        AddMemoryBar(index, BitOperations.RoundUpToPowerOf2(region.Size), new RegionDevice(region, isRom: false), prefetchable, is64);

    /// <summary>Gives the function an expansion ROM, which firmware runs (PCI 3.0, 6.3).</summary>
    public PciBar AddRom(MemoryRegion region) =>
        AddBar(BarCount, PciBarKind.Rom, BitOperations.RoundUpToPowerOf2(region.Size), new RegionDevice(region, isRom: true), flags: 0);

    /// <summary>Message-signalled interrupts: <see cref="MsiCapability.Notify"/> of what is returned.</summary>
    /// <param name="vectors">1 to 32, a power of two.</param>
    public MsiCapability AddMsi(int vectors = 1, bool is64 = true, bool maskable = false, int offset = 0) =>
        _msi = new MsiCapability(this, vectors, is64, maskable, offset);

    /// <summary>MSI-X with table and pending bits in a memory register of their own.</summary>
    /// <param name="vectors">1 to 2048.</param>
    /// <param name="barIndex">Of the register that the capability takes.</param>
    public MsixCapability AddMsix(int vectors, int barIndex, int offset = 0) =>
        _msix = new MsixCapability(this, vectors, barIndex, offset);

    /// <summary>A guest's read of 1, 2 or 4 bytes.</summary>
    public virtual uint ReadConfig(int offset, int size) => Config.Read(offset, size);

    /// <summary>A guest's write of 1, 2 or 4 bytes.</summary>
    public virtual void WriteConfig(int offset, int size, uint value)
    {
        Config.Write(offset, size, value);
        if (offset < PciRegister.HeaderEnd)
            UpdateHeader();
        _msi?.OnConfigWritten();
        _msix?.OnConfigWritten();
    }

    public virtual void Reset()
    {
        _pin.Clear();
        Config.Reset();
        _msix?.Reset();
        UpdateHeader();
    }

    internal void Join(PciBus bus, int devfn)
    {
        if (_bus is not null)
            throw new InvalidOperationException($"{Name} is on a bus already");
        _bus = bus;
        Devfn = devfn;
    }

    /// <summary>A message from this function: nothing while it is no bus master, as its write would not reach the bus.</summary>
    internal void SendMessage(ulong address, uint data)
    {
        if (IsBusMaster)
            Bus.Messages.Send(address, data);
    }

    internal static int BarOffset(int index) => PciRegister.BaseAddress + (4 * index);

    private PciBar AddBar(int index, PciBarKind kind, ulong size, IBusDevice device, uint flags)
    {
        var offset = kind == PciBarKind.Rom ? PciRegister.RomBaseAddress : BarOffset(index);
        var minimum = kind switch { PciBarKind.Ports => 4u, PciBarKind.Rom => 2048u, _ => 16u };
        if (!BitOperations.IsPow2(size) || size < minimum || (kind != PciBarKind.Memory64 && size > 1UL << 31))
            throw new ArgumentOutOfRangeException(nameof(size), size, "not a power of two that the register can hold");
        if (kind != PciBarKind.Rom && (index < 0 || index >= BarCount - (kind == PciBarKind.Memory64 ? 1 : 0)))
            throw new ArgumentOutOfRangeException(nameof(index), index, "there are registers 0 to 5");
        if (_bars.Exists(b => b.Offset == offset || (b.Kind == PciBarKind.Memory64 && b.Offset + 4 == offset)))
            throw new InvalidOperationException($"{Name}: base address register 0x{offset:x} is taken");
        var bar = new PciBar($"{Name} {(kind == PciBarKind.Rom ? "rom" : $"bar{index}")}", offset, kind, size, device);
        var mask = ~(size - 1);
        // Of a port register the upper half is writable too: it reads back, and what lies past 64 Ki is not decoded.
        Config.Define(offset, 4, flags, (uint)mask | (kind == PciBarKind.Rom ? 1u : 0));
        if (kind == PciBarKind.Memory64)
            Config.Define(offset + 4, 4, 0, (uint)(mask >> 32));
        _bars.Add(bar);
        return bar;
    }

    private void UpdateHeader()
    {
        if (_bus is null)
            return;
        foreach (var bar in _bars)
            _bus.Place(bar, bar.Decode(Config));
        UpdatePin();
    }

    private void UpdatePin()
    {
        var command = Config.Get16(PciRegister.Command);
        var status = Config.Get16(PciRegister.Status) & ~PciRegister.StatusInterrupt;
        Config.Set16(PciRegister.Status, (ushort)(status | (_pin.IsAsserted ? PciRegister.StatusInterrupt : 0)));
        var asserted = _pin.IsAsserted && (command & PciRegister.CommandInterruptDisable) == 0;
        if (asserted == IntxAsserted)
            return;
        IntxAsserted = asserted;
        Bus.UpdateInterrupt(this);
    }

    private sealed class Pin(PciFunction function) : IInterruptLine
    {
        public bool IsAsserted { get; private set; }

        public void Set(bool asserted)
        {
            if (asserted == IsAsserted || function.InterruptPin == 0)
                return;
            IsAsserted = asserted;
            function.UpdatePin();
        }

        public void Clear() => IsAsserted = false;
    }
}
