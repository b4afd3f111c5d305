namespace Sharpvisor.Devices.Xen.Store;

/// <summary>
/// A transaction: the tree that it sees, what it has looked at, and what it did, to be done again at its end on the tree
/// of then.
/// </summary>
internal sealed class StoreTransaction(int domain, StoreNode root)
{
    public int Domain => domain;

    /// <summary>The tree when it began.</summary>
    public StoreNode Base { get; } = root;

    public StoreNode Root { get; set; } = root;

    /// <summary>Generation of each path when it was looked at first; 0: there was none.</summary>
    public Dictionary<string, long> Seen { get; } = new(StringComparer.Ordinal);

    public List<StoreChange> Changes { get; } = [];
}

internal enum StoreChangeKind
{
    Write,
    MakeDirectory,
    Remove,
    SetRights,
}

/// <summary>One change that was asked for.</summary>
internal readonly record struct StoreChange(StoreChangeKind Kind, string Path, ReadOnlyMemory<byte> Value = default, IReadOnlyList<StoreRight>? Rights = null);
