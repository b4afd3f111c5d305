// The PCI-to-ISA bridge of the PIIX3: which ISA interrupts the wires of PCI lead to.
// Follows: Intel 82371SB (290550), 2.2 (registers of function 0), 2.2.9 (PIRQRC); power-on values as QEMU's PIIX3.
// Leaves out: what its other registers enable or time, such as ISA recovery and X-bus decoding (bytes without effect).

using Sharpvisor.Core.Interrupts;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Devices.Chipset;

/// <summary>Device 1, function 0.</summary>
public sealed class PiixIsaBridge : PciFunction
{
    /// <summary>PIRQRCA; those of PIRQB to PIRQD follow.</summary>
    public const int PirqRouteControl = 0x60;

    private const int WireCount = 4;
    private const byte NotRouted = 0x80;

    private readonly IInterruptLine[] _lines;
    private readonly Wire[] _wires = new Wire[WireCount];

    public PiixIsaBridge(IsaInterrupts isa)
        : base("piix3", new PciIdentity(0x8086, 0x7000, 0x060100, 0))
    {
        _lines = [.. Enumerable.Range(0, 16).Select(isa.Share)];
        for (var i = 0; i < WireCount; i++)
            _wires[i] = new Wire(this);
        for (var offset = PciRegister.HeaderEnd; offset < PciConfigSpace.Size; offset++)
            Config.Define(offset, 1, PowerOn(offset), 0xFF);
        Config.Define(PciRegister.Command, 2, PciRegister.CommandIo | PciRegister.CommandMemory | PciRegister.CommandBusMaster, PciRegister.CommandSerr);
        Config.Define(PciRegister.Status, 2, PciRegister.StatusMediumTiming, clearable: 0xF900);
    }

    /// <summary>PIRQA to PIRQD.</summary>
    public IReadOnlyList<IInterruptLine> Wires => _wires;

    public override void WriteConfig(int offset, int size, uint value)
    {
        base.WriteConfig(offset, size, value);
        if (offset < PirqRouteControl + WireCount && offset + size > PirqRouteControl)
            Route();
    }

    public override void Reset()
    {
        base.Reset();
        Route();
    }

    private static uint PowerOn(int offset) => offset switch
    {
        0x4C => 0x4D, // IORT: recovery times
        0x4E => 0x03, // XBCS: keyboard controller and RTC
        >= PirqRouteControl and < PirqRouteControl + WireCount => NotRouted,
        0x69 => 0x02, // TOM: top of memory
        0x70 => 0x80, // MBIRQ0
        0x76 or 0x77 => 0x0C, // MBDMA
        0x78 => 0x02, // PCSC
        0xA0 => 0x08, // SMICNTL
        0xA8 => 0x0F, // FTMR
        _ => 0,
    };

    private void Route()
    {
        var asserted = 0;
        for (var i = 0; i < WireCount; i++)
        {
            var route = Config.Get8(PirqRouteControl + i);
            if (_wires[i].IsAsserted && route < 16)
                asserted |= 1 << route;
        }

        for (var irq = 0; irq < 16; irq++)
            _lines[irq].Set((asserted & (1 << irq)) != 0);
    }

    private sealed class Wire(PiixIsaBridge bridge) : IInterruptLine
    {
        public bool IsAsserted { get; private set; }

        public void Set(bool asserted)
        {
            if (asserted == IsAsserted)
                return;
            IsAsserted = asserted;
            bridge.Route();
        }
    }
}
