// The sixteen ISA interrupts of a PC, each wired to the PIC and the IOAPIC.
// Follows: ACPI 6.4, 5.2.12.5 (interrupt source override), MultiProcessor Specification 1.4, 3.6.2.3.
// Leaves out: sharing of one ISA interrupt by several devices, which edge-triggered lines can't do.

using Sharpvisor.Core.Interrupts;

namespace Sharpvisor.Devices.Interrupts;

/// <summary>ISA interrupt lines. IRQ 0 is pin 2 of the IOAPIC; the others have the pin of their number.</summary>
public sealed class IsaInterrupts
{
    private readonly IInterruptLine[] _lines = new IInterruptLine[16];

    public IsaInterrupts(Pic pic, IoApic ioApic)
    {
        for (var irq = 0; irq < _lines.Length; irq++)
        {
            var toPic = pic.Input(irq);
            var toIoApic = ioApic.Input(Gsi(irq));
            _lines[irq] = new InterruptInput(irq, (_, asserted) =>
            {
                toPic.Set(asserted);
                toIoApic.Set(asserted);
            });
        }
    }

    /// <summary>The line of an interrupt, 0 to 15. There is no device on 2, the PIC's cascade.</summary>
    public IInterruptLine this[int irq] => _lines[irq];

    /// <summary>The global system interrupt of an ISA interrupt.</summary>
    public static int Gsi(int irq) => irq == 0 ? 2 : irq;
}
