// An ISA interrupt that two devices drive, as COM1 and COM3 do: asserted while one of them asserts it.
using Sharpvisor.Core.Interrupts;

namespace Sharpvisor.Boards;

internal sealed class SharedInterruptLine(IInterruptLine line)
{
    private int _asserted;

    public IInterruptLine Add() => new Input(this);

    private sealed class Input(SharedInterruptLine shared) : IInterruptLine
    {
        private bool _isAsserted;

        public void Set(bool asserted)
        {
            if (asserted == _isAsserted)
                return;
            _isAsserted = asserted;
            shared._asserted += asserted ? 1 : -1;
            shared.Line.Set(shared._asserted > 0);
        }
    }

    private IInterruptLine Line => line;
}
