using Sharpvisor.Core.Interrupts;

namespace Conformance.Guests;

/// <summary>A processor's surroundings without any interrupt.</summary>
internal sealed class NoApic : ILocalInterruptController
{
    public ulong MmioBase => ulong.MaxValue;

    public byte TaskPriority { get; set; }

    public int AcknowledgeInterrupt() => -1;

    public ulong Read(uint offset, int size) => 0;

    public void Write(uint offset, int size, ulong value)
    {
    }

    public bool TryReadMsr(uint msr, out ulong value)
    {
        value = 0;
        return false;
    }

    public bool TryWriteMsr(uint msr, ulong value) => false;
}
