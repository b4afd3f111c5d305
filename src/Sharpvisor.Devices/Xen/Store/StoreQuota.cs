namespace Sharpvisor.Devices.Xen.Store;

/// <summary>What an unprivileged domain may have; the defaults are those of Xen's xenstored.</summary>
public sealed record StoreQuota
{
    public static StoreQuota Default { get; } = new();

    /// <summary>Nodes that it owns.</summary>
    public int Nodes { get; init; } = 1000;

    /// <summary>Bytes of a value.</summary>
    public int ValueLength { get; init; } = 2048;

    public int Watches { get; init; } = 128;

    /// <summary>Open at a time.</summary>
    public int Transactions { get; init; } = 10;

    /// <summary>Entries of a list of permissions.</summary>
    public int Rights { get; init; } = 5;

    /// <summary>Paths that one transaction may look at, and changes that it may make.</summary>
    public int TransactionSteps { get; init; } = 1024;

    /// <summary>Levels below the root.</summary>
    public int Depth { get; init; } = 64;
}
