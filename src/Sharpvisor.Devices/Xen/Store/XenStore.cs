// The Xen store: a small tree of strings by which domains find each other's devices, with permissions, watches and
// transactions. What xenstored is on a host with Xen, within the process here.
// Follows: docs/misc/xenstore.txt of Xen; limits as xenstored's.
// Leaves out: the release of a domain's nodes when it ends (a machine has one domain and its store ends with it),
// special watches for domains that come and go beyond accepting them, live update.


namespace Sharpvisor.Devices.Xen.Store;

/// <summary>The tree and all that can be done with it. Used with the machine's gate held.</summary>
public sealed class XenStore
{
    /// <summary>The domain of the back ends, which may everything.</summary>
    public const int PrivilegedDomain = 0;

    private readonly StoreQuota _quota;
    private readonly List<StoreWatch> _watches = [];
    private readonly Dictionary<uint, StoreTransaction> _transactions = [];
    private readonly Dictionary<int, int> _owned = [];
    private StoreNode _root = StoreNode.Empty([new StoreRight(PrivilegedDomain, StoreAccess.None)], 1);
    private long _generation = 1;
    private uint _lastTransaction;

    public XenStore(StoreQuota? quota = null)
    {
        _quota = quota ?? StoreQuota.Default;
    }

    /// <summary>The absolute form of a path, which is one from a domain's home on when no slash begins it; null: it is none.</summary>
    public static string? Resolve(string path, int domain) => StorePath.Resolve(System.Text.Encoding.Latin1.GetBytes(path), domain);

    /// <summary>How many nodes there are, the root among them.</summary>
    public int NodeCount => _root.All().Count();

    /// <summary>How many watches there are.</summary>
    public int WatchCount => _watches.Count;

    /// <summary>How many transactions are open.</summary>
    public int TransactionCount => _transactions.Count;

    // --- reading ---

    /// <param name="transaction">0: outside of any.</param>
    public StoreError Read(int domain, uint transaction, string path, out ReadOnlyMemory<byte> value)
    {
        value = default;
        var error = Look(domain, transaction, path, StoreAccess.Read, out var node);
        if (error == StoreError.None)
            value = node!.Value;
        return error;
    }

    /// <param name="generation">Changes whenever the list does.</param>
    public StoreError List(int domain, uint transaction, string path, out IReadOnlyCollection<string> names, out long generation)
    {
        (names, generation) = ([], 0);
        var error = Look(domain, transaction, path, StoreAccess.Read, out var node);
        if (error == StoreError.None)
            (names, generation) = (node!.Children.Keys.ToArray(), node.Generation);
        return error;
    }

    public StoreError GetRights(int domain, uint transaction, string path, out IReadOnlyList<StoreRight> rights)
    {
        rights = [];
        var error = Look(domain, transaction, path, StoreAccess.Read, out var node);
        if (error == StoreError.None)
            rights = node!.Rights;
        return error;
    }

    // --- changing ---

    /// <summary>Writes a value; nodes above that are missing are made.</summary>
    public StoreError Write(int domain, uint transaction, string path, ReadOnlyMemory<byte> value) =>
        domain != PrivilegedDomain && value.Length > _quota.ValueLength ? StoreError.E2BIG : Change(domain, transaction, new(StoreChangeKind.Write, path, value.ToArray()));

    /// <summary>Makes a node without a value, unless it is there.</summary>
    public StoreError MakeDirectory(int domain, uint transaction, string path) => Change(domain, transaction, new(StoreChangeKind.MakeDirectory, path));

    /// <summary>Removes a node with all below it; it need not be there, if only its parent is.</summary>
    public StoreError Remove(int domain, uint transaction, string path) => path == "/" ? StoreError.EINVAL : Change(domain, transaction, new(StoreChangeKind.Remove, path));

    public StoreError SetRights(int domain, uint transaction, string path, IReadOnlyList<StoreRight> rights)
    {
        if (rights.Count == 0)
            return StoreError.EINVAL;
        if (domain != PrivilegedDomain && rights.Count > _quota.Rights)
            return StoreError.E2BIG;
        return Change(domain, transaction, new(StoreChangeKind.SetRights, path, Rights: rights));
    }

    // --- transactions ---

    public StoreError Begin(int domain, out uint transaction)
    {
        transaction = 0;
        if (domain != PrivilegedDomain && _transactions.Values.Count(t => t.Domain == domain) >= _quota.Transactions)
            return StoreError.ENOSPC;
        do
            transaction = ++_lastTransaction;
        while (transaction == 0 || _transactions.ContainsKey(transaction));
        _transactions.Add(transaction, new StoreTransaction(domain, _root));
        return StoreError.None;
    }

    /// <summary>Ends a transaction, with what it did or without.</summary>
    public StoreError End(int domain, uint transaction, bool commit)
    {
        if (!_transactions.TryGetValue(transaction, out var ended) || ended.Domain != domain)
            return StoreError.ENOENT;
        _transactions.Remove(transaction);
        if (!commit)
            return StoreError.None;
        foreach (var (path, generation) in ended.Seen)
        {
            if ((_root.Find(StorePath.Parts(path))?.Generation ?? 0) != generation)
                return StoreError.EAGAIN;
        }

        // Nothing that it looked at has changed, so that each step does what it did before; only the quota may be another's.
        var before = (_root, _owned: new Dictionary<int, int>(_owned));
        var fired = new List<(string Path, StoreNode? Removed)>();
        foreach (var change in ended.Changes)
        {
            var error = Apply(domain, ref _root, change, null, fired);
            if (error == StoreError.None)
                continue;
            _root = before._root;
            _owned.Clear();
            foreach (var (owner, count) in before._owned)
                _owned.Add(owner, count);
            return error;
        }

        foreach (var (path, removed) in fired)
            Fire(path, removed);
        return StoreError.None;
    }

    // --- watches ---

    /// <summary>Tells of every change at a path or below it, and of its removal with a parent. Tells once at once.</summary>
    /// <param name="relative">What stands for the domain's home in what is told; null: the path is told as it is.</param>
    /// <param name="token">Given back with each event, and names the watch together with the path.</param>
    /// <param name="changed">Gets the path; called with the gate held. It must not change the store.</param>
    public StoreError Watch(int domain, string path, string? relative, string token, Action<string, string> changed)
    {
        if (_watches.Exists(w => w.Domain == domain && w.Path == path && w.Token == token))
            return StoreError.EEXIST;
        if (domain != PrivilegedDomain && _watches.Count(w => w.Domain == domain) >= _quota.Watches)
            return StoreError.E2BIG;
        var watch = new StoreWatch(domain, path, relative, token, changed);
        _watches.Add(watch);
        watch.Tell(path);
        return StoreError.None;
    }

    public StoreError Unwatch(int domain, string path, string token) =>
        _watches.RemoveAll(w => w.Domain == domain && w.Path == path && w.Token == token) > 0 ? StoreError.None : StoreError.ENOENT;

    /// <summary>A domain begins anew: its watches and transactions are forgotten.</summary>
    public void Forget(int domain)
    {
        _watches.RemoveAll(w => w.Domain == domain);
        foreach (var (number, _) in _transactions.Where(t => t.Value.Domain == domain).ToArray())
            _transactions.Remove(number);
    }

    /// <summary>Whether a domain would be told of a change of a node.</summary>
    public bool IsWatched(int domain, string path) => _watches.Exists(w => w.Domain == domain && StorePath.IsWithin(path, w.Path));

    private StoreError Look(int domain, uint transaction, string path, StoreAccess access, out StoreNode? node)
    {
        node = null;
        var root = _root;
        StoreTransaction? within = null;
        if (transaction != 0 && (within = Find(domain, transaction)) is null)
            return StoreError.ENOENT;
        if (within is not null)
        {
            root = within.Root;
            if (!Note(within, path))
                return StoreError.ENOSPC;
        }

        var names = StorePath.Parts(path);
        node = root.Find(names);
        if (node is null)
            return MayKnowOf(root, names, domain) ? StoreError.ENOENT : StoreError.EACCES;
        if (StorePermissions.Allow(node.Rights, domain, access))
            return StoreError.None;
        node = null;
        return StoreError.EACCES;
    }

    /// <summary>What is missing is nobody's secret where the last node above it may be read.</summary>
    private static bool MayKnowOf(StoreNode root, ReadOnlySpan<string> names, int domain)
    {
        var node = root;
        foreach (var name in names)
        {
            if (!node.Children.TryGetValue(name, out var child))
                break;
            node = child;
        }

        return StorePermissions.Allow(node.Rights, domain, StoreAccess.Read);
    }

    private StoreTransaction? Find(int domain, uint transaction) => _transactions.TryGetValue(transaction, out var found) && found.Domain == domain ? found : null;

    /// <summary>Remembers what a transaction looked at. False: it looks at too much.</summary>
    private bool Note(StoreTransaction transaction, string path)
    {
        if (transaction.Seen.ContainsKey(path))
            return true;
        if (transaction.Domain != PrivilegedDomain && transaction.Seen.Count >= _quota.TransactionSteps)
            return false;

        var generation = transaction.Base.Find(StorePath.Parts(path))?.Generation ?? 0;
        transaction.Seen.Add(path, generation);
        return true;
    }

    private StoreError Change(int domain, uint transaction, in StoreChange change)
    {
        if (transaction != 0)
        {
            if (Find(domain, transaction) is not { } within)
                return StoreError.ENOENT;
            if (domain != PrivilegedDomain && within.Changes.Count >= _quota.TransactionSteps)
                return StoreError.ENOSPC;
            var root = within.Root;
            if (!NoteChange(within, change.Path))
                return StoreError.ENOSPC;
            var error = Apply(domain, ref root, change, within, null);
            if (error != StoreError.None)
                return error;
            within.Root = root;
            within.Changes.Add(change);
            return StoreError.None;
        }

        var fired = new List<(string Path, StoreNode? Removed)>();
        var result = Apply(domain, ref _root, change, null, fired);
        foreach (var (path, removed) in fired)
            Fire(path, removed);
        return result;
    }

    /// <summary>A change depends on the node and, where that is made, on the one above that its rights come from.</summary>
    private bool NoteChange(StoreTransaction transaction, string path)
    {
        if (!Note(transaction, path))
            return false;
        var names = StorePath.Parts(path);
        if (transaction.Base.Find(names) is not null)
            return true;
        var above = names.Length - 1;
        while (transaction.Base.Find(names.AsSpan(0, above)) is null)
            above--;
        return Note(transaction, "/" + string.Join('/', names, 0, above));
    }

    /// <param name="within">Not null: nobody else sees it yet, and what a domain owns is counted at the end.</param>
    private StoreError Apply(int domain, ref StoreNode root, in StoreChange change, StoreTransaction? within, List<(string Path, StoreNode? Removed)>? fired)
    {
        var names = StorePath.Parts(change.Path);
        var node = root.Find(names);
        switch (change.Kind)
        {
            case StoreChangeKind.Remove:
                if (node is null)
                {
                    if (root.Find(names.AsSpan(0, names.Length - 1)) is not { } above)
                        return StoreError.ENOENT;
                    return StorePermissions.Allow(above.Rights, domain, StoreAccess.Write) ? StoreError.None : StoreError.EACCES;
                }

                if (!StorePermissions.Allow(node.Rights, domain, StoreAccess.Write))
                    return StoreError.EACCES;
                if (within is null)
                {
                    foreach (var gone in node.All())
                        Count(gone.Owner, -1);
                }

                root = root.With(names, null, ++_generation);
                fired?.Add((change.Path, node));
                return StoreError.None;

            case StoreChangeKind.SetRights:
                if (node is null)
                    return MayKnowOf(root, names, domain) ? StoreError.ENOENT : StoreError.EACCES;
                if (domain != PrivilegedDomain && (node.Owner != domain || change.Rights![0].Domain != domain))
                    return node.Owner == domain ? StoreError.EINVAL : StoreError.EACCES; // nobody but domain 0 gives a node away
                if (within is null)
                {
                    Count(node.Owner, -1);
                    Count(change.Rights![0].Domain, 1);
                }

                root = root.With(names, node with { Rights = [.. change.Rights!], Generation = ++_generation }, _generation);
                fired?.Add((change.Path, null));
                return StoreError.None;

            case StoreChangeKind.MakeDirectory when node is not null:
                return StorePermissions.Allow(node.Rights, domain, StoreAccess.Write) ? StoreError.None : StoreError.EACCES;

            case StoreChangeKind.Write when node is not null:
                if (!StorePermissions.Allow(node.Rights, domain, StoreAccess.Write))
                    return StoreError.EACCES;
                root = root.With(names, node with { Value = change.Value, Generation = ++_generation }, _generation);
                fired?.Add((change.Path, null));
                return StoreError.None;
        }

        return Create(domain, ref root, names, change, within, fired);
    }

    /// <summary>Makes a node, and those above it that are missing; they inherit the rights of the one that is there.</summary>
    private StoreError Create(int domain, ref StoreNode root, string[] names, in StoreChange change, StoreTransaction? within, List<(string Path, StoreNode? Removed)>? fired)
    {
        if (names.Length > _quota.Depth)
            return StoreError.ENOSPC;
        var there = 0;
        var parent = root;
        while (parent.Children.TryGetValue(names[there], out var child))
        {
            parent = child;
            there++;
        }

        if (!StorePermissions.Allow(parent.Rights, domain, StoreAccess.Write))
            return StoreError.EACCES;
        var owner = domain == PrivilegedDomain ? parent.Owner : domain;
        if (domain != PrivilegedDomain && _owned.GetValueOrDefault(owner) + names.Length - there > _quota.Nodes)
            return StoreError.ENOSPC;
        var rights = parent.Rights.SetItem(0, parent.Rights[0] with { Domain = owner });
        for (var length = there + 1; length <= names.Length; length++)
        {
            var made = StoreNode.Empty(rights, ++_generation);
            if (length == names.Length)
                made = made with { Value = change.Value };
            root = root.With(names.AsSpan(0, length), made, ++_generation);
        }

        if (within is null)
            Count(owner, names.Length - there);
        fired?.Add((change.Path, null));
        return StoreError.None;
    }

    private void Count(int owner, int nodes) => _owned[owner] = _owned.GetValueOrDefault(owner) + nodes;

    /// <param name="removed">The node that was there, when it was removed with all below it.</param>
    private void Fire(string path, StoreNode? removed)
    {
        foreach (var watch in _watches.ToArray())
        {
            if (!StorePath.IsWithin(path, watch.Path) && !(removed is not null && StorePath.IsWithin(watch.Path, path)))
                continue;
            var node = removed ?? _root.Find(StorePath.Parts(path));
            if (node is not null && StorePermissions.Allow(node.Rights, watch.Domain, StoreAccess.Read) && (StorePath.IsWithin(path, watch.Path) || IsThere(removed!, path, watch.Path)))
                watch.Tell(StorePath.IsWithin(path, watch.Path) ? path : watch.Path);
        }
    }

    private static bool IsThere(StoreNode removed, string path, string below) => removed.Find(StorePath.Parts(below[path.Length..])) is not null;
}

/// <summary>One watch.</summary>
internal sealed record StoreWatch(int Domain, string Path, string? Relative, string Token, Action<string, string> Changed)
{
    public void Tell(string path) => Changed(Relative is null || !path.StartsWith(Relative, StringComparison.Ordinal) ? path : path[Relative.Length..], Token);
}
