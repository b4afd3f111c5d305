namespace Sharpvisor.Devices.Virtio.Transports;

/// <summary>How a virtio device shows itself on PCI.</summary>
public sealed record VirtioPciOptions
{
    /// <summary>No registers of virtio 1.0 and later.</summary>
    public bool DisableModern { get; init; }

    /// <summary>No registers of before virtio 1.0.</summary>
    public bool DisableLegacy { get; init; }

    /// <summary>Messages of MSI-X; 0: it has none; null: one for each queue and one for the configuration.</summary>
    public int? Vectors { get; init; }
}
