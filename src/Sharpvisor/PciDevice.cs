using Sharpvisor.Boot;

namespace Sharpvisor;

/// <summary>A device that is plugged into the PC's PCI bus.</summary>
public abstract record PciDevice
{
    /// <summary>Number of its device on the bus, 0 to 31; null: the first free one.</summary>
    public int? Slot { get; init; }

    /// <summary>When firmware tries to start it: the lowest of all first; null: after those that have one.</summary>
    public int? BootIndex { get; init; }

    /// <summary>Its expansion ROM, which firmware runs: that of a NIC starts from the network. It belongs to the machine from now on.</summary>
    public BootSource? Rom { get; init; }

    /// <summary>For messages.</summary>
    internal abstract string Kind { get; }

    /// <summary>How firmware calls what can be started from it: the kind of PCI device, and what is on it; null: nothing.</summary>
    internal virtual (string Kind, string Unit)? BootPath => null;

    /// <summary>What it leads to on the host, which the machine closes.</summary>
    internal virtual IEnumerable<IAsyncDisposable> Backends => [];
}
