using Sharpvisor.Core.Interrupts;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>An interrupt controller that gives the vectors it was told to.</summary>
internal sealed class ScriptedApic : ILocalInterruptController
{
    public Queue<int> Vectors { get; } = [];

    public IProcessorSignals? Signals { get; set; }

    public ulong MmioBase { get; set; } = ulong.MaxValue;

    public byte TaskPriority { get; set; }

    public int AcknowledgeInterrupt()
    {
        if (!Vectors.TryDequeue(out var vector))
            vector = -1;
        if (Vectors.Count == 0)
            Signals?.SetInterruptRequest(false);
        return vector;
    }

    /// <summary>Asserts INTR with a vector to give.</summary>
    public void Request(IProcessorSignals cpu, int vector)
    {
        Signals = cpu;
        Vectors.Enqueue(vector);
        cpu.SetInterruptRequest(true);
    }

    public ulong Read(uint offset, int size) => 0x1234_5678;

    public void Write(uint offset, int size, ulong value)
    {
    }

    public bool TryReadMsr(uint msr, out ulong value)
    {
        value = 0xFEE0_0900;
        return msr == 0x1B;
    }

    public bool TryWriteMsr(uint msr, ulong value) => msr == 0x1B;
}
