namespace Sharpvisor.Core.Buses;

/// <summary>
/// A device's registers as a bus sees them, ports and MMIO alike. The device knows offsets from the start of its
/// range only. The bus holds the machine's gate around each call.
/// </summary>
public interface IBusDevice
{
    /// <summary>Reads <paramref name="size"/> bytes (1, 2, 4 or 8) at <paramref name="offset"/>.</summary>
    ulong Read(uint offset, int size);

    /// <summary>Writes the low <paramref name="size"/> bytes (1, 2, 4 or 8) of <paramref name="value"/>.</summary>
    void Write(uint offset, int size, ulong value);
}

/// <summary>A device that returns to its power-on state.</summary>
public interface IResettable
{
    /// <summary>Called with the machine's gate held while no vCPU runs.</summary>
    void Reset();
}
