using System.Text;
using Sharpvisor.Devices.Xen.Store;

namespace Sharpvisor.Devices.Tests.Xen.Store;

public sealed class XenStoreTests
{
    private const int Guest = 7;
    private const string Home = "/local/domain/7";

    private readonly XenStore _store = new();

    public XenStoreTests()
    {
        Put(0, "/local/domain/0/secret", "x");
        Put(0, Home, "");
        Assert.Equal(StoreError.None, _store.SetRights(0, 0, Home, [new(Guest, StoreAccess.None)]));
    }

    [Fact]
    public void What_is_written_is_read_and_listed()
    {
        Put(Guest, Home + "/device/vbd/51712/state", "4");
        Assert.Equal("4", Get(Guest, Home + "/device/vbd/51712/state"));
        Assert.Equal("", Get(Guest, Home + "/device/vbd"));
        Put(Guest, Home + "/device/vif", "");
        Assert.Equal(["vbd", "vif"], List(Guest, Home + "/device"));
        Put(Guest, Home + "/device/vbd/51712/state", "5");
        Assert.Equal("5", Get(Guest, Home + "/device/vbd/51712/state"));
    }

    [Fact]
    public void Removal_takes_what_is_below()
    {
        Put(Guest, Home + "/a/b/c", "1");
        Assert.Equal(StoreError.None, _store.Remove(Guest, 0, Home + "/a"));
        Assert.Equal(StoreError.ENOENT, _store.Read(Guest, 0, Home + "/a/b/c", out _));
        Assert.Equal(StoreError.None, _store.Remove(Guest, 0, Home + "/a"));
        Assert.Equal(StoreError.ENOENT, _store.Remove(Guest, 0, Home + "/a/b/c"));
        Assert.Equal(StoreError.EINVAL, _store.Remove(0, 0, "/"));
    }

    [Fact]
    public void A_domain_has_its_own_and_what_it_is_given()
    {
        Assert.Equal(StoreError.EACCES, _store.Read(Guest, 0, "/local/domain/0/secret", out _));
        Assert.Equal(StoreError.EACCES, _store.Read(Guest, 0, "/local/domain/0/missing", out _)); // not even that it is missing
        Assert.Equal(StoreError.EACCES, Write(Guest, "/local/domain/0/secret", "y"));
        Assert.Equal(StoreError.EACCES, Write(Guest, "/new", "y"));
        Assert.Equal(StoreError.EACCES, _store.MakeDirectory(Guest, 0, "/local/domain/8"));
        Assert.Equal(StoreError.EACCES, _store.Remove(Guest, 0, "/local/domain/0/secret"));

        _store.SetRights(0, 0, "/local/domain/0/secret", [new(0, StoreAccess.None), new(Guest, StoreAccess.Read)]);
        Assert.Equal("x", Get(Guest, "/local/domain/0/secret"));
        Assert.Equal(StoreError.EACCES, Write(Guest, "/local/domain/0/secret", "y"));
        Assert.Equal(StoreError.EACCES, _store.SetRights(Guest, 0, "/local/domain/0/secret", [new(Guest, StoreAccess.Both)]));
    }

    [Fact]
    public void A_domain_gives_rights_but_not_the_node()
    {
        Put(Guest, Home + "/shared", "1");
        Assert.Equal(StoreError.EACCES, _store.Read(9, 0, Home + "/shared", out _));
        Assert.Equal(StoreError.None, _store.SetRights(Guest, 0, Home + "/shared", [new(Guest, StoreAccess.None), new(9, StoreAccess.Write)]));
        Assert.Equal(StoreError.EACCES, _store.Read(9, 0, Home + "/shared", out _));
        Assert.Equal(StoreError.None, Write(9, Home + "/shared", "2"));
        Assert.Equal(StoreError.EINVAL, _store.SetRights(Guest, 0, Home + "/shared", [new(9, StoreAccess.Both)]));
        Assert.Equal(StoreError.EINVAL, _store.SetRights(Guest, 0, Home + "/shared", []));
    }

    [Fact]
    public void New_nodes_inherit_rights_and_belong_to_who_made_them()
    {
        _store.SetRights(Guest, 0, Home, [new(Guest, StoreAccess.Read), new(9, StoreAccess.Both)]);
        Put(Guest, Home + "/a", "");
        Assert.Equal(StoreError.None, _store.GetRights(Guest, 0, Home + "/a", out var rights));
        Assert.Equal(["r7", "b9"], rights.Select(r => r.ToString()));
        Put(9, Home + "/of9", "");
        _store.GetRights(9, 0, Home + "/of9", out rights);
        Assert.Equal("r9", rights[0].ToString());
    }

    [Fact]
    public void A_watch_tells_at_once_and_of_all_below()
    {
        var told = new List<string>();
        Assert.Equal(StoreError.None, _store.Watch(Guest, Home + "/device", Home + "/", "t", (path, token) => told.Add(path + " " + token)));
        Put(Guest, Home + "/device/vif/0/state", "1");
        Put(Guest, Home + "/devices", "not below");
        _store.SetRights(Guest, 0, Home + "/device", [new(Guest, StoreAccess.Read)]);
        _store.Remove(Guest, 0, Home + "/device/vif");
        Assert.Equal(["device t", "device/vif/0/state t", "device t", "device/vif t"], told);
        Assert.Equal(StoreError.EEXIST, _store.Watch(Guest, Home + "/device", null, "t", (_, _) => { }));
        Assert.Equal(StoreError.None, _store.Unwatch(Guest, Home + "/device", "t"));
        Assert.Equal(StoreError.ENOENT, _store.Unwatch(Guest, Home + "/device", "t"));
        Put(Guest, Home + "/device/more", "");
        Assert.Equal(4, told.Count);
    }

    [Fact]
    public void A_watch_below_hears_that_its_parent_goes()
    {
        Put(Guest, Home + "/backend/state", "1");
        var told = new List<string>();
        _store.Watch(Guest, Home + "/backend/state", null, "t", (path, _) => told.Add(path));
        _store.Watch(Guest, Home + "/backend/other", null, "t", (path, _) => told.Add(path));
        told.Clear();
        _store.Remove(Guest, 0, Home + "/backend");
        Assert.Equal([Home + "/backend/state"], told);
    }

    [Fact]
    public void A_watch_tells_nothing_of_what_may_not_be_read()
    {
        var told = new List<string>();
        _store.Watch(Guest, "/local/domain", null, "t", (path, _) => told.Add(path));
        told.Clear();
        Put(0, "/local/domain/0/secret", "z");
        Put(0, "/local/domain/0/new", "z");
        Put(0, Home + "/mine", "z");
        _store.Remove(0, 0, "/local/domain/0/secret");
        Assert.Equal([Home + "/mine"], told);
    }

    [Fact]
    public void A_transaction_is_seen_when_it_ends()
    {
        var told = new List<string>();
        Put(Guest, Home + "/a", "1");
        _store.Watch(Guest, Home, null, "t", (path, _) => told.Add(path));
        told.Clear();
        _store.Begin(Guest, out var t);
        Assert.Equal(StoreError.None, _store.Write(Guest, t, Home + "/a", "2"u8.ToArray()));
        Assert.Equal(StoreError.None, _store.Write(Guest, t, Home + "/b/c", "3"u8.ToArray()));
        Assert.Equal("2", Get(Guest, Home + "/a", t));
        Assert.Equal(["a", "b"], List(Guest, Home, t));
        Assert.Equal("1", Get(Guest, Home + "/a"));
        Assert.Empty(told);
        Assert.Equal(StoreError.None, _store.End(Guest, t, commit: true));
        Assert.Equal(("2", "3"), (Get(Guest, Home + "/a"), Get(Guest, Home + "/b/c")));
        Assert.Equal([Home + "/a", Home + "/b/c"], told);
        Assert.Equal(StoreError.ENOENT, _store.End(Guest, t, commit: true));
    }

    [Fact]
    public void A_transaction_that_is_given_up_leaves_nothing()
    {
        _store.Begin(Guest, out var t);
        _store.Write(Guest, t, Home + "/a", "2"u8.ToArray());
        Assert.Equal(StoreError.None, _store.End(Guest, t, commit: false));
        Assert.Equal(StoreError.ENOENT, _store.Read(Guest, 0, Home + "/a", out _));
    }

    [Theory]
    [InlineData("read")]
    [InlineData("write")]
    [InlineData("list")]
    [InlineData("missing")]
    [InlineData("make")]
    [InlineData("remove")]
    public void A_transaction_fails_when_others_changed_what_it_depends_on(string what)
    {
        Put(Guest, Home + "/a", "1");
        Put(Guest, Home + "/r", "1");
        Put(Guest, Home + "/d/x", "1");
        _store.Begin(Guest, out var t);
        switch (what)
        {
            case "read":
                _store.Read(Guest, t, Home + "/a", out _);
                break;
            case "write":
                _store.Write(Guest, t, Home + "/a", "5"u8.ToArray());
                break;
            case "list":
                _store.List(Guest, t, Home + "/d", out _, out _);
                break;
            case "missing":
                _store.Read(Guest, t, Home + "/new", out _);
                break;
            case "make":
                _store.MakeDirectory(Guest, t, Home + "/new");
                break;
            case "remove":
                _store.Remove(Guest, t, Home + "/r");
                break;
        }

        Put(0, Home + "/a", "2");
        Put(0, Home + "/d/y", "2");
        Put(0, Home + "/new", "2");
        Put(0, Home + "/r", "2");
        Assert.Equal(StoreError.EAGAIN, _store.End(Guest, t, commit: true));
        Assert.Equal("2", Get(Guest, Home + "/a"));
        Assert.Equal("2", Get(Guest, Home + "/r"));
    }

    [Fact]
    public void Transactions_that_do_not_meet_both_succeed()
    {
        Put(Guest, Home + "/a/1", "");
        Put(Guest, Home + "/b/1", "");
        _store.Begin(Guest, out var t1);
        _store.Begin(0, out var t2);
        _store.Write(Guest, t1, Home + "/a/1", "x"u8.ToArray());
        _store.Write(Guest, t1, Home + "/a/2", "x"u8.ToArray());
        _store.List(Guest, t1, Home + "/a", out var names, out _);
        Assert.Equal(["1", "2"], names);
        _store.Write(0, t2, Home + "/b/1", "y"u8.ToArray());
        Assert.Equal(StoreError.None, _store.End(0, t2, commit: true));
        Assert.Equal(StoreError.None, _store.End(Guest, t1, commit: true));
        Assert.Equal(("x", "y"), (Get(Guest, Home + "/a/2"), Get(Guest, Home + "/b/1")));
    }

    [Fact]
    public void A_transaction_belongs_to_its_domain()
    {
        _store.Begin(Guest, out var t);
        Assert.Equal(StoreError.ENOENT, _store.Write(9, t, Home + "/a", default));
        Assert.Equal(StoreError.ENOENT, _store.End(9, t, commit: true));
        Assert.Equal(StoreError.ENOENT, _store.Read(Guest, t + 1, Home, out _));
        _store.Forget(Guest);
        Assert.Equal(StoreError.ENOENT, _store.End(Guest, t, commit: true));
    }

    [Fact]
    public void A_domain_has_no_more_than_its_share()
    {
        var store = new XenStore(new StoreQuota { Nodes = 3, Watches = 2, Transactions = 2, ValueLength = 4, Rights = 2, TransactionSteps = 2, Depth = 6 });
        store.Write(0, 0, Home, default);
        store.SetRights(0, 0, Home, [new(Guest, StoreAccess.None)]);
        Assert.Equal(StoreError.None, store.Write(Guest, 0, Home + "/a", "1234"u8.ToArray()));
        Assert.Equal(StoreError.E2BIG, store.Write(Guest, 0, Home + "/a", "12345"u8.ToArray()));
        Assert.Equal(StoreError.ENOSPC, store.Write(Guest, 0, Home + "/b/c", default));
        Assert.Equal(StoreError.None, store.MakeDirectory(Guest, 0, Home + "/b"));
        Assert.Equal(StoreError.ENOSPC, store.MakeDirectory(Guest, 0, Home + "/c"));
        store.Remove(Guest, 0, Home + "/b");
        Assert.Equal(StoreError.None, store.MakeDirectory(Guest, 0, Home + "/c"));

        // Two transactions that have room for one node each may not both have it.
        store.Remove(Guest, 0, Home + "/c");
        store.Begin(Guest, out var t1);
        store.Begin(Guest, out var t2);
        Assert.Equal(StoreError.ENOSPC, store.Begin(Guest, out _));
        Assert.Equal(StoreError.None, store.Write(Guest, t1, Home + "/a/x", default));
        Assert.Equal(StoreError.None, store.Write(Guest, t2, Home + "/a/y", default));
        Assert.Equal(StoreError.ENOSPC, store.Read(Guest, t2, Home, out _));
        Assert.Equal(StoreError.None, store.End(Guest, t1, commit: true));
        Assert.NotEqual(StoreError.None, store.End(Guest, t2, commit: true));
        Assert.Equal(StoreError.ENOENT, store.Read(Guest, 0, Home + "/a/y", out _));

        Assert.Equal(StoreError.E2BIG, store.SetRights(Guest, 0, Home + "/a", [new(Guest, 0), new(1, 0), new(2, 0)]));
        Assert.Equal(StoreError.None, store.Watch(Guest, Home, null, "1", (_, _) => { }));
        Assert.Equal(StoreError.None, store.Watch(Guest, Home, null, "2", (_, _) => { }));
        Assert.Equal(StoreError.E2BIG, store.Watch(Guest, Home, null, "3", (_, _) => { }));
        Assert.Equal(StoreError.ENOSPC, store.Write(0, 0, "/1/2/3/4/5/6/7", default));
    }

    private static string Text(ReadOnlyMemory<byte> value) => Encoding.ASCII.GetString(value.Span);

    private StoreError Write(int domain, string path, string value) => _store.Write(domain, 0, path, Encoding.ASCII.GetBytes(value));

    private void Put(int domain, string path, string value) => Assert.Equal(StoreError.None, Write(domain, path, value));

    private string Get(int domain, string path, uint transaction = 0)
    {
        Assert.Equal(StoreError.None, _store.Read(domain, transaction, path, out var value));
        return Text(value);
    }

    private IReadOnlyCollection<string> List(int domain, string path, uint transaction = 0)
    {
        Assert.Equal(StoreError.None, _store.List(domain, transaction, path, out var names, out _));
        return names;
    }
}
