using System.Collections.Immutable;

namespace Sharpvisor.Devices.Xen.Store;

/// <summary>
/// A node of the store with all below it. It never changes: who writes makes a new path from the root, so that a
/// transaction keeps the tree that it began with for the price of a reference.
/// </summary>
/// <param name="Generation">Another one whenever value, rights or the list of children change.</param>
internal sealed record StoreNode(ReadOnlyMemory<byte> Value, ImmutableArray<StoreRight> Rights, ImmutableSortedDictionary<string, StoreNode> Children, long Generation)
{
    private static readonly ImmutableSortedDictionary<string, StoreNode> s_none = ImmutableSortedDictionary.Create<string, StoreNode>(StringComparer.Ordinal);

    public static StoreNode Empty(ImmutableArray<StoreRight> rights, long generation) => new(ReadOnlyMemory<byte>.Empty, rights, s_none, generation);

    public int Owner => Rights[0].Domain;

    public StoreNode? Find(ReadOnlySpan<string> names)
    {
        var node = this;
        foreach (var name in names)
        {
            if (!node.Children.TryGetValue(name, out node))
                return null;
        }

        return node;
    }

    /// <summary>The tree with another node at a place, whose parent exists. Null: without it.</summary>
    /// <param name="generation">The parent's, where its list of children changes by this.</param>
    public StoreNode With(ReadOnlySpan<string> names, StoreNode? node, long generation)
    {
        if (names.Length == 0)
            return node ?? throw new ArgumentNullException(nameof(node));
        var name = names[0];
        if (names.Length > 1)
            return this with { Children = Children.SetItem(name, Children[name].With(names[1..], node, generation)) };
        if (node is null)
            return this with { Children = Children.Remove(name), Generation = generation };
        return Children.ContainsKey(name) ? this with { Children = Children.SetItem(name, node) } : this with { Children = Children.Add(name, node), Generation = generation };
    }

    /// <summary>This node and all below it, with a stack of their own: how deep a guest builds is its own affair.</summary>
    public IEnumerable<StoreNode> All()
    {
        var waiting = new Stack<StoreNode>();
        waiting.Push(this);
        while (waiting.TryPop(out var node))
        {
            yield return node;
            foreach (var child in node.Children.Values)
                waiting.Push(child);
        }
    }
}
