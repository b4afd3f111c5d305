using Sharpvisor.Core.Interrupts;

namespace Sharpvisor.Testing.Interrupts;

/// <summary>An interrupt line with nothing behind it: its level, and how often it rose.</summary>
public sealed class RecordingLine : IInterruptLine
{
    public bool IsAsserted { get; private set; }

    public int Rises { get; private set; }

    public void Set(bool asserted)
    {
        if (asserted && !IsAsserted)
            Rises++;
        IsAsserted = asserted;
    }
}
