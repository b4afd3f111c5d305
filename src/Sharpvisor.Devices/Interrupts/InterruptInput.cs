// One numbered input of an interrupt controller, as the device at the other end of the wire has it. No specification has it.
using Sharpvisor.Core.Interrupts;

namespace Sharpvisor.Devices.Interrupts;

/// <summary>A numbered input pin of an interrupt controller, seen from the device that drives it.</summary>
internal sealed class InterruptInput(int number, Action<int, bool> changed) : IInterruptLine
{
    private bool _asserted;

    public void Set(bool asserted)
    {
        if (asserted == _asserted)
            return;
        _asserted = asserted;
        changed(number, asserted);
    }
}
