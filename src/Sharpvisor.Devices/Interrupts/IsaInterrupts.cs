// The sixteen ISA interrupts of a PC, each wired to the PIC and the IOAPIC.
// Follows: ACPI 6.4, 5.2.12.5 (interrupt source override), MultiProcessor Specification 1.4, 3.6.2.3.
// Leaves out: nothing; what shares an interrupt is wired together, which works for levels and, as on ISA, hardly for edges.

using Sharpvisor.Core.Interrupts;

namespace Sharpvisor.Devices.Interrupts;

/// <summary>ISA interrupt lines. IRQ 0 is pin 2 of the IOAPIC; the others have the pin of their number.</summary>
public sealed class IsaInterrupts
{
    private readonly Line[] _lines = new Line[16];
    private readonly IInterruptLine[] _inputs = new IInterruptLine[16];

    public IsaInterrupts(Pic pic, IoApic ioApic)
    {
        for (var irq = 0; irq < _lines.Length; irq++)
        {
            _lines[irq] = new Line(pic.Input(irq), ioApic.Input(Gsi(irq)));
            _inputs[irq] = Share(irq);
        }
    }

    /// <summary>The line of an interrupt, 0 to 15, for its one device. There is none on 2, the PIC's cascade.</summary>
    public IInterruptLine this[int irq] => _inputs[irq];

    /// <summary>One more end of an interrupt's line: it is asserted while one of them asserts it.</summary>
    public IInterruptLine Share(int irq) => new InterruptInput(irq, (i, asserted) => _lines[i].Count(asserted));

    /// <summary>The global system interrupt of an ISA interrupt.</summary>
    public static int Gsi(int irq) => irq == 0 ? 2 : irq;

    private sealed class Line(IInterruptLine toPic, IInterruptLine toIoApic)
    {
        private int _asserted;

        public void Count(bool asserted)
        {
            _asserted += asserted ? 1 : -1;
            toPic.Set(_asserted > 0);
            toIoApic.Set(_asserted > 0);
        }
    }
}
