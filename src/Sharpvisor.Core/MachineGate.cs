namespace Sharpvisor.Core;

/// <summary>
/// The one lock of a machine's devices. Whoever enters a device (a bus access of a vCPU, an expired timer, input
/// from the host) holds it, so that a device needs no lock of its own and sees one caller at a time.
/// </summary>
/// <remarks>Re-entrant on one thread: a device may touch another one. Never wait for the host while holding it.</remarks>
public sealed class MachineGate
{
    private readonly Lock _lock = new();

    /// <summary>True when the calling thread holds the gate.</summary>
    public bool IsHeld => _lock.IsHeldByCurrentThread;

    /// <summary>Enters the gate until the result is disposed: <c>using (gate.Enter()) { … }</c>.</summary>
    public Lock.Scope Enter() => _lock.EnterScope();
}
