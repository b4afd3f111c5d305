using Sharpvisor.Core.Interrupts;

namespace Sharpvisor.Testing.Interrupts;

/// <summary>The pins of a processor that executes nothing.</summary>
public sealed class RecordingProcessor : IProcessorSignals
{
    public bool InterruptRequest { get; private set; }

    public int Nmis { get; private set; }

    public int Smis { get; private set; }

    public int Inits { get; private set; }

    /// <summary>The vectors of start-up IPIs, in order.</summary>
    public List<byte> Startups { get; } = [];

    public void SetInterruptRequest(bool asserted) => InterruptRequest = asserted;

    public void RaiseNmi() => Nmis++;

    public void RaiseSmi() => Smis++;

    public void RaiseInit() => Inits++;

    public void RaiseStartup(byte vector) => Startups.Add(vector);
}
