// The two 8259A interrupt controllers of a PC with their edge/level control registers.
// Follows: Intel 8259A data sheet (231468); the ELCR of Intel 82371AB (PIIX4) 4.2.5 "Interrupt Control".
// Leaves out: 8080 mode (ICW1 call address), buffered mode and single mode, which mean nothing on a PC; LTIM of ICW1,
// which PIIX replaces by the ELCR.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Interrupts;

namespace Sharpvisor.Devices.Interrupts;

/// <summary>Master and slave PIC: ports 20h to 21h, A0h to A1h and 4D0h to 4D1h.</summary>
public sealed class Pic : IResettable
{
    private const int Cascade = 2;

    private readonly I8259A _master;
    private readonly I8259A _slave;
    private readonly InterruptInput[] _inputs = new InterruptInput[16];

    /// <param name="output">INTR: LINT0 of the processors.</param>
    public Pic(IInterruptLine output)
    {
        _master = new I8259A(isMaster: true, output.Set);
        _slave = new I8259A(isMaster: false, asserted => _master.SetInput(Cascade, asserted));
        for (var irq = 0; irq < 16; irq++)
            _inputs[irq] = new InterruptInput(irq, SetInput);
        MasterPorts = new BytePorts(_master.Read, (offset, value) => Write(_master, offset, value));
        SlavePorts = new BytePorts(_slave.Read, (offset, value) => Write(_slave, offset, value));
        ElcrPorts = new BytePorts(offset => Chip(offset).Elcr, (offset, value) => Chip(offset).Elcr = value);
        Reset();
    }

    /// <summary>An interrupt is about to end: who drives a line without being told when to let go of it looks whether it still has to.</summary>
    public event Action? EndingInterrupt;

    /// <summary>Ports 20h and 21h.</summary>
    public IBusDevice MasterPorts { get; }

    /// <summary>Ports A0h and A1h.</summary>
    public IBusDevice SlavePorts { get; }

    /// <summary>Ports 4D0h and 4D1h.</summary>
    public IBusDevice ElcrPorts { get; }

    /// <summary>The input of an ISA interrupt, 0 to 15; 2 is the cascade and leads nowhere.</summary>
    public IInterruptLine Input(int irq) => _inputs[irq];

    /// <summary>The interrupt-acknowledge cycle: takes the highest request in service and gives its vector.</summary>
    public int Acknowledge()
    {
        var irq = _master.Acknowledge();
        return irq == Cascade ? _slave.Vector(_slave.Acknowledge()) : _master.Vector(irq);
    }

    /// <summary>The state as QEMU's monitor shows it, with the gate held.</summary>
    public string Describe() => _slave.Describe(1) + _master.Describe(0);

    public void Reset()
    {
        _slave.Reset();
        _master.Reset();
    }

    private void Write(I8259A chip, uint offset, byte value)
    {
        if (I8259A.EndsInterrupt(offset, value))
            EndingInterrupt?.Invoke();
        chip.Write(offset, value);
    }

    private I8259A Chip(uint offset) => (offset & 1) == 0 ? _master : _slave;

    private void SetInput(int irq, bool asserted)
    {
        if (irq >= 8)
            _slave.SetInput(irq - 8, asserted);
        else if (irq != Cascade)
            _master.SetInput(irq, asserted);
    }
}
