using System.Text;
using Sharpvisor.Backends.Char;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Xen.Store;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Tests.Control;

/// <summary>The store of a machine's Xen domain, by its monitor and by QMP.</summary>
public sealed class XenStoreTests
{
    private const int Domain = 5;
    private static readonly Guid s_uuid = Guid.Parse("11111111-2222-3333-4444-555555555555");

    private static Task<ControlledMachine> StartAsync() =>
        ControlledMachine.StartAsync(null, b => b.WithUuid(s_uuid).WithCommandLine("quiet").WithXen(Domain, new MemoryCharBackend()));

    [Fact]
    public async Task The_tree_of_a_domain()
    {
        await using var machine = await StartAsync();
        var tree = (await Ask(machine, "xenstore ls -f /")).Split("\r\n", StringSplitOptions.RemoveEmptyEntries);
        var home = $"/local/domain/{Domain}";
        string[] expected =
        [
            $"{home}/name = \"scripted\"", $"{home}/domid = \"5\"", $"{home}/vm = \"/vm/{s_uuid}\"", $"{home}/memory/target = \"65536\"", $"{home}/memory/videoram = \"0\"",
            $"{home}/cpu/0/availability = \"online\"", $"{home}/control/shutdown = \"\"", $"{home}/control/platform-feature-xs_reset_watches = \"1\"",
            $"{home}/console/limit = \"1048576\"", $"{home}/console/tty = \"\"", $"{home}/platform/acpi = \"1\"", $"{home}/platform/acpi_s3 = \"1\"", $"{home}/platform/viridian = \"0\"",
            $"{home}/hvmloader/allow-memory-relocate = \"0\"", $"{home}/serial/0/tty = \"\"",
            $"/vm/{s_uuid}/name = \"scripted\"", $"/vm/{s_uuid}/image/ostype = \"hvm\"", $"/vm/{s_uuid}/image/kernel = \"kernel\"", $"/vm/{s_uuid}/image/cmdline = \"quiet\"", $"/vm/{s_uuid}/rtc/timeoffset = \"0\"",
        ];
        Assert.All(expected, e => Assert.Contains(e, tree));
        Assert.DoesNotContain(tree, l => l.Contains("hvmloader/bios", StringComparison.Ordinal)); // there is no firmware

        // What the domain is told by HVM parameters is what the store says.
        var domain = machine.Machine.Xen!;
        Assert.Contains($"{home}/store/port = \"{domain.Parameter(Devices.Xen.HvmParam.StorePort)}\"", tree);
        Assert.Contains($"{home}/store/ring-ref = \"{domain.Parameter(Devices.Xen.HvmParam.StorePage)}\"", tree);
        Assert.Contains($"{home}/console/port = \"{domain.Parameter(Devices.Xen.HvmParam.ConsolePort)}\"", tree);
        Assert.Contains($"{home}/console/ring-ref = \"{domain.Parameter(Devices.Xen.HvmParam.ConsolePage)}\"", tree);
        Assert.NotEqual(0UL, domain.Parameter(Devices.Xen.HvmParam.ConsolePort));
        Assert.Contains("  console = \"\"\r\n", await Ask(machine, "info xenstore"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_guest_may_read_what_concerns_it()
    {
        await using var machine = await StartAsync();
        using (machine.Machine.Gate.Enter())
        {
            var store = machine.Machine.Xen!.Store;
            foreach (var path in new[] { "console/tty", "store/port", "platform/acpi", "hvmloader/allow-memory-relocate", "serial/0/limit", "memory/videoram" })
            {
                Assert.Equal(StoreError.None, store.Read(Domain, 0, XenStore.Resolve(path, Domain)!, out _));
                Assert.Equal(StoreError.EACCES, store.Write(Domain, 0, XenStore.Resolve(path, Domain)!, "x"u8.ToArray()));
            }

            Assert.Equal(StoreError.None, store.Write(Domain, 0, XenStore.Resolve("control/shutdown", Domain)!, Array.Empty<byte>()));
        }
    }

    [Fact]
    public async Task What_xenstore_prints()
    {
        await using var machine = await StartAsync();
        async Task Prints(string command, string text) => Assert.Equal(text.ReplaceLineEndings("\r\n"), await Ask(machine, command));
        await Prints("xenstore write /data/a 1 /data/b/c \"x y\"", "");
        await Prints("xenstore read /data/a /data/b/c", "1\nx y\n");
        await Prints("xenstore read -p /data/a", "/data/a: 1\n");
        await Prints("xenstore ls /data", "a = \"1\"\nb = \"\"\n c = \"x y\"\n");
        await Prints("xenstore ls -f /data", "/data/a = \"1\"\n/data/b = \"\"\n/data/b/c = \"x y\"\n");
        await Prints("xenstore list -p /data", "/data/a\n/data/b\n");
        await Prints("xenstore chmod /data/b n0 r5", "");
        await Prints("xenstore ls -p /data", "a = \"1\"  . . . . . . . . . . . . . . . . . . . . . . . . . .  (n0)\nb = \"\" . . . . . . . . . . . . . . . . . . . . . . . . . . .  (n0,r5)\n c = \"x y\" . . . . . . . . . . . . . . . . . . . . . . . . .  (n0)\n");
        await Prints("xenstore ls -f -p /data/b", "/data/b/c = \"x y\"   (n0)\n");
        await Prints("xenstore chmod -r /data b5", "");
        await Prints("xenstore ls -f -p /data/b", "/data/b/c = \"x y\"   (b5)\n");
        await Prints(@"xenstore write /data/a ""\\x41\\102\\n\\t\\\\\\x7f\\001z""", "");
        await Prints("xenstore read /data/a", "AB\\n\\t\\\\\\x7f\\001z\n");
        await Prints("xenstore rm /data/a", "");
        await Prints("xenstore rm -t /data/b/c", "");
        await Prints("xenstore read /data", "Error: xenstore read: /data: there is no such node\n");
        await Prints("xenstore read domid", "5\n"); // from the domain's own on
    }

    [Fact]
    public async Task A_line_has_the_width_of_the_terminal()
    {
        await using var machine = await StartAsync();
        await Ask(machine, $"xenstore write /d/{new string('n', 10)} {new string('v', 100)}");
        Assert.Equal($"{new string('n', 10)} = \"{new string('v', 62)}\\...\"\r\n", await Ask(machine, "xenstore ls /d"));
        using var client = await RawClient.ConnectAsync(machine);
        var (wide, _, _) = await client.ExecuteAsync("x-xenstore", """{"arguments":["ls","/d"],"width":200}""");
        Assert.Equal($"{new string('n', 10)} = \"{new string('v', 100)}\"\n", wide!.Value.GetString());
    }

    [Theory]
    [InlineData("xenstore", "xenstore needs a verb")]
    [InlineData("xenstore lsx", "xenstore lsx: unknown; there are ls, list")]
    [InlineData("xenstore ls -R /", "xenstore ls: there is no -R")]
    [InlineData("xenstore read", "xenstore read: give read [-p] [-R] PATH...")]
    [InlineData("xenstore write /a", "xenstore write: give")]
    [InlineData("xenstore write /a 1 /b", "xenstore write: give")]
    [InlineData("xenstore watch -n x /a", "xenstore watch: give")]
    [InlineData("xenstore read /nowhere", "xenstore read: /nowhere: there is no such node")]
    [InlineData("xenstore ls /nowhere", "xenstore ls: /nowhere: there is no such node")]
    [InlineData("xenstore rm /nowhere", "xenstore rm: /nowhere: there is no such node")]
    [InlineData("xenstore read /a//b", "xenstore: /a//b: is no path")]
    [InlineData("xenstore write /ä 1", "xenstore: /ä: is no path")]
    [InlineData("xenstore rm /", "xenstore rm: /: that can't be done with it")]
    [InlineData("xenstore chmod / x1", "xenstore chmod: x1: is no right")]
    [InlineData("xenstore watch /a", "xenstore watch: a monitor has no events")]
    public async Task Mistakes_are_one_line(string command, string error)
    {
        await using var machine = await StartAsync();
        var text = await Ask(machine, command);
        Assert.StartsWith($"Error: {error}", text, StringComparison.Ordinal);
        Assert.Equal(1, text.Count(c => c == '\n'));
    }

    [Fact]
    public async Task A_machine_without_Xen_has_no_store()
    {
        await using var machine = await ControlledMachine.StartAsync();
        foreach (var command in new[] { "xenstore ls", "info xen", "info xenstore" })
            Assert.StartsWith("Error: scripted is no Xen domain: it has no xenstore", await Ask(machine, command), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Info_xen()
    {
        await using var machine = await StartAsync();
        var text = (await Ask(machine, "info xen")).ReplaceLineEndings("\n");
        Assert.StartsWith("domain 5, Xen 4.17\nshared info: not placed\ngrant table: 0 of 64 frames, 0 grants in use\nxenstore: ", text, StringComparison.Ordinal);
        var port = machine.Machine.Xen!.Parameter(Devices.Xen.HvmParam.StorePort);
        Assert.Contains($"\n{port,6}: cpu 0 interdomain (domain 0, port ", text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_watch_tells_its_own_client_also_after_a_reset()
    {
        await using var machine = await StartAsync();
        using RawClient client = await RawClient.ConnectAsync(machine), other = await RawClient.ConnectAsync(machine);
        Assert.NotNull((await client.ExecuteAsync("x-xenstore-watch", """{"path":"control/shutdown"}""")).Result);
        Assert.Equal("/local/domain/5/control/shutdown", Path(await client.WaitForAsync("XENSTORE_WATCH")));
        await Ask(machine, "xenstore write /elsewhere 1");
        await Ask(machine, "xenstore write control/shutdown/x 1");
        Assert.Equal("/local/domain/5/control/shutdown/x", Path(await client.WaitForAsync("XENSTORE_WATCH")));
        Assert.NotNull((await client.ExecuteAsync("system_reset")).Result);
        Assert.Equal("/local/domain/5/control/shutdown", Path(await client.WaitForAsync("XENSTORE_WATCH")));
        await Ask(machine, "xenstore write control/shutdown halt");
        Assert.Equal("/local/domain/5/control/shutdown", Path(await client.WaitForAsync("XENSTORE_WATCH")));
        Assert.NotNull((await other.ExecuteAsync("query-status")).Result);
        Assert.DoesNotContain(other.Events, e => e.Contains("XENSTORE_WATCH", StringComparison.Ordinal));

        static string Path(System.Text.Json.JsonElement e) => e.GetProperty("data").GetProperty("path").GetString()!;
    }

    [Fact]
    public async Task A_watch_ends_with_its_client()
    {
        await using var machine = await StartAsync();
        int Count()
        {
            using (machine.Machine.Gate.Enter())
                return machine.Machine.Xen!.Store.WatchCount;
        }

        var before = Count();
        using (var client = await RawClient.ConnectAsync(machine))
        {
            for (var i = 0; i < 128; i++)
                Assert.NotNull((await client.ExecuteAsync("x-xenstore-watch", $$"""{"path":"/a{{i}}"}""")).Result);
            Assert.Contains("128 watches", (await client.ExecuteAsync("x-xenstore-watch", """{"path":"/a"}""")).Text, StringComparison.Ordinal);
            Assert.Equal(before + 128, Count());
        }

        while (Count() != before)
            await Task.Delay(10);
    }

    [Theory]
    [InlineData("x-xenstore", """{"arguments":["read","/x"]}""", "xenstore read: /x: there is no such node")]
    [InlineData("x-xenstore", """{"arguments":["read",1]}""", "Invalid parameter type for 'arguments', expected: array of strings")]
    [InlineData("x-xenstore", """{"arguments":["ls"],"width":3}""", "Parameter 'width' expects")]
    [InlineData("x-xenstore", null, "Parameter 'arguments' is missing")]
    [InlineData("x-xenstore-watch", """{"path":"a b"}""", "xenstore: a b: is no path")]
    [InlineData("x-xenstore-watch", null, "Parameter 'path' is missing")]
    public async Task Mistakes_by_QMP(string command, string? arguments, string error)
    {
        await using var machine = await StartAsync();
        using var client = await RawClient.ConnectAsync(machine);
        Assert.StartsWith(error, (await client.ExecuteAsync(command, arguments)).Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task The_power_button_asks_a_domain_that_watches_for_it()
    {
        await using var machine = await StartAsync();
        await Ask(machine, "system_powerdown");
        Assert.Equal("\r\n", await Ask(machine, "xenstore read control/shutdown")); // nobody would hear it
        List<string> heard = [];
        using (machine.Machine.Gate.Enter())
        {
            var store = machine.Machine.Xen!.Store;
            var path = XenStore.Resolve("control/shutdown", Domain)!;
            store.Watch(Domain, path, null, "t", (_, _) =>
            {
                store.Read(Domain, 0, path, out var value);
                heard.Add(Encoding.ASCII.GetString(value.Span));
            });
        }

        await Ask(machine, "system_powerdown");
        Assert.Equal(["", "poweroff"], heard);
    }

    [Theory]
    [InlineData("ls", null, 0)]
    [InlineData("ls -f /a", null, 1)]
    [InlineData("ls vm1", "vm1", 0)]
    [InlineData("ls vm1 -p /a", "vm1", 1)]
    [InlineData("write vm1 /a -5", "vm1", 2)]
    [InlineData("write -- vm1 a -5", "vm1", 2)]
    [InlineData("watch -n 3 4711 control", "4711", 1)]
    public void A_machine_is_named_before_the_path(string words, string? machine, int operands)
    {
        var request = XenStoreRequest.Parse(words.Split(' '), namesMachine: true);
        Assert.Equal((machine, operands), (request.Machine, request.Operands.Count));
        var again = XenStoreRequest.Parse(request.ToWords(), namesMachine: false);
        Assert.Equal((request.Verb, request.Count, request.Has('f'), request.Has('p')), (again.Verb, again.Count, again.Has('f'), again.Has('p')));
        Assert.Equal(request.Operands, again.Operands);
    }

    [Fact]
    public void A_machine_alone_is_no_path() =>
        Assert.Contains("give read", Assert.Throws<ConfigurationException>(() => XenStoreRequest.Parse(["read", "vm1"], namesMachine: true)).Message, StringComparison.Ordinal);

    private static Task<string> Ask(ControlledMachine machine, string command) => machine.Monitor.ExecuteAsync(command);
}
