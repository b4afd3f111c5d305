using System.Text.Json;
using Sharpvisor.Cpu;
using Sharpvisor.Servers.Tests.Control;

namespace Sharpvisor.Servers.Tests.Qmp;

/// <summary>Every command and event, as a client on a socket sees them.</summary>
public sealed class QmpTests
{
    private const ushort Pm1Control = 0x604, PvPanic = 0x505;

    [Fact]
    public async Task Nothing_is_done_before_the_handshake()
    {
        await using var machine = await ControlledMachine.StartAsync();
        using var client = new RawClient(machine.QmpPath);
        using var greeting = JsonDocument.Parse(await client.ReadLineAsync());
        var version = greeting.RootElement.GetProperty("QMP").GetProperty("version");
        Assert.Equal((1, 2, 3), (version.GetProperty("qemu").GetProperty("major").GetInt32(), version.GetProperty("qemu").GetProperty("minor").GetInt32(), version.GetProperty("qemu").GetProperty("micro").GetInt32()));
        Assert.Equal(("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'"), Error(await client.ExecuteAsync("stop")));
        Assert.Equal("GenericError", Error(await client.ExecuteAsync("qmp_capabilities", "{\"enable\":[\"oob\"]}")).Item1);
        Assert.Equal("{\"return\":{},\"id\":[1,{\"a\":\"b\"}]}", await client.AskAsync("{\"execute\":\"qmp_capabilities\",\"id\":[1,{\"a\":\"b\"}]}"));
        Assert.Equal(("CommandNotFound", "Capabilities negotiation is already complete, command ignored"), Error(await client.ExecuteAsync("qmp_capabilities")));
        Assert.False(machine.Machine.IsPaused);
    }

    [Fact]
    public async Task Stop_cont_and_reset_with_their_events()
    {
        await using var machine = await ControlledMachine.StartAsync();
        using var client = await RawClient.ConnectAsync(machine);
        using var other = await RawClient.ConnectAsync(machine);
        Assert.Equal("running", await StatusAsync(client));
        await Done(client, "stop");
        await client.WaitForAsync("STOP");
        Assert.Equal("paused", await StatusAsync(client));
        await Done(client, "cont");
        var resume = await client.WaitForAsync("RESUME");
        Assert.InRange(resume.GetProperty("timestamp").GetProperty("seconds").GetInt64(), DateTimeOffset.UtcNow.ToUnixTimeSeconds() - 60, DateTimeOffset.UtcNow.ToUnixTimeSeconds());
        Assert.InRange(resume.GetProperty("timestamp").GetProperty("microseconds").GetInt64(), 0, 999_999);
        await Done(client, "system_reset");
        var reset = (await client.WaitForAsync("RESET")).GetProperty("data");
        Assert.Equal((false, "host-qmp-system-reset"), (reset.GetProperty("guest").GetBoolean(), reset.GetProperty("reason").GetString()));
        await other.WaitForAsync("RESET"); // all clients hear it
        await Done(client, "system_powerdown");
        await client.WaitForAsync("POWERDOWN");
        Assert.Equal(("GenericError", "Unable to wake up: guest is not in suspended state"), Error(await client.ExecuteAsync("system_wakeup")));
        await Done(client, "inject-nmi");
    }

    [Fact]
    public async Task Quit_ends_the_machine_and_says_so()
    {
        await using var machine = await ControlledMachine.StartAsync();
        using var client = await RawClient.ConnectAsync(machine);
        await Done(client, "quit");
        var data = (await client.WaitForAsync("SHUTDOWN")).GetProperty("data");
        Assert.Equal((false, "host-qmp-quit"), (data.GetProperty("guest").GetBoolean(), data.GetProperty("reason").GetString()));
        Assert.Equal(MachineExitReason.Stopped, (await machine.Machine.WaitForExitAsync()).Reason);
        Assert.Equal("GenericError", Error(await client.ExecuteAsync("stop")).Item1); // and a client that stays is answered
        Assert.Equal("GenericError", Error(await client.ExecuteAsync("inject-nmi")).Item1);
    }

    [Fact]
    public async Task A_guest_that_powers_off_is_preserved_until_quit()
    {
        await using var machine = await ControlledMachine.StartAsync(
            v =>
            {
                v.Out(Pm1Control, 1 << 13, 2);
                return VcpuExit.Halted;
            },
            b => b.WithoutShutdown());
        using var client = await RawClient.ConnectAsync(machine);
        while (await StatusAsync(client) == "running")
            await Task.Delay(1);
        Assert.Equal("shutdown", await StatusAsync(client));
        Assert.Equal(("GenericError", "Resetting the Virtual Machine is required"), Error(await client.ExecuteAsync("cont")));
        await Done(client, "pmemsave", $"{{\"val\":4096,\"size\":8192,\"filename\":\"{machine.Folder}/m\"}}");
        Assert.Equal(8192, new FileInfo(machine.Folder + "/m").Length);
        await Done(client, "quit");
        await client.WaitForAsync("SHUTDOWN");
    }

    [Theory]
    [InlineData(PanicAction.Pause, "pause")]
    [InlineData(PanicAction.Shutdown, "poweroff")]
    [InlineData(PanicAction.ExitFailure, "poweroff")]
    [InlineData(PanicAction.None, "run")]
    public async Task A_panic_is_told(PanicAction action, string told)
    {
        using var go = new ManualResetEventSlim();
        await using var machine = await ControlledMachine.StartAsync(
            v =>
            {
                if (v.Index == 0 && go.Wait(0) && v.In(PvPanic) == 3)
                {
                    v.Out(PvPanic, 1);
                    go.Reset();
                }

                return null;
            },
            b => b.WithPanicDevice().WithActions(new MachineActions { Panic = action }));
        using var client = await RawClient.ConnectAsync(machine);
        go.Set();
        Assert.Equal(told, (await client.WaitForAsync("GUEST_PANICKED")).GetProperty("data").GetProperty("action").GetString());
        switch (action)
        {
            case PanicAction.Pause:
                await client.WaitForAsync("STOP");
                Assert.Equal("guest-panicked", await StatusAsync(client));
                break;
            case PanicAction.None:
                Assert.Equal("running", await StatusAsync(client));
                break;
            default:
                Assert.Equal("guest-panic", (await client.WaitForAsync("SHUTDOWN")).GetProperty("data").GetProperty("reason").GetString());
                Assert.Equal(action == PanicAction.ExitFailure ? 1 : 0, (await machine.Machine.WaitForExitAsync().WaitAsync(RawClient.Limit)).Code);
                break;
        }
    }

    [Fact]
    public async Task A_crash_with_a_core_restarts_the_guest()
    {
        var starts = 0;
        var again = new TaskCompletionSource();
        var core = Path.Combine(Path.GetTempPath(), $"sharpvisor-test-{Guid.NewGuid():N}.core");
        await using var machine = await ControlledMachine.StartAsync(
            v =>
            {
                if (Interlocked.Increment(ref starts) == 1)
                {
                    v.Out(PvPanic, 1);
                    return null;
                }

                again.TrySetResult();
                return VcpuExit.Halted;
            },
            b => b.WithPanicDevice().WithActions(new MachineActions { Panic = PanicAction.Restart, CoreFile = core }));
        try
        {
            await again.Task.WaitAsync(RawClient.Limit);
            using var written = Debugging.Cores.GuestCore.Open(core);
            Assert.Equal(1, written.ProcessorCount);
        }
        finally
        {
            File.Delete(core);
        }
    }

    [Fact]
    public async Task Set_action_changes_what_becomes_of_the_guest()
    {
        await using var machine = await ControlledMachine.StartAsync();
        using var client = await RawClient.ConnectAsync(machine);
        await Done(client, "set-action", "{\"reboot\":\"shutdown\",\"shutdown\":\"pause\",\"panic\":\"exit-failure\",\"watchdog\":\"none\"}");
        Assert.True(machine.Machine.Actions is { Reboot: RebootAction.Shutdown, Shutdown: ShutdownAction.Pause, Panic: PanicAction.ExitFailure });
        await Done(client, "set-action", "{\"panic\":\"none\"}");
        Assert.True(machine.Machine.Actions is { Reboot: RebootAction.Shutdown, Panic: PanicAction.None });
        Assert.Equal(("GenericError", "Parameter 'panic' does not accept value 'dance'"), Error(await client.ExecuteAsync("set-action", "{\"panic\":\"dance\"}")));
    }

    [Fact]
    public async Task Queries_tell_of_the_machine()
    {
        await using var machine = await ControlledMachine.StartAsync(null, b => b.WithProcessors(3).WithCdrom(null).WithUuid(new Guid("12345678-1234-1234-1234-123456789abc")).WithVirtioDevice(new VirtioMemoryBalloon()));
        using var client = await RawClient.ConnectAsync(machine);
        Assert.Equal("scripted", (await Done(client, "query-name")).GetProperty("name").GetString());
        Assert.Equal("12345678-1234-1234-1234-123456789abc", (await Done(client, "query-uuid")).GetProperty("UUID").GetString());
        Assert.False((await Done(client, "query-kvm")).GetProperty("enabled").GetBoolean());
        Assert.Equal([0, 1, 2], (await Done(client, "query-cpus-fast")).EnumerateArray().Select(c => c.GetProperty("cpu-index").GetInt32()));
        var disk = Assert.Single((await Done(client, "query-block")).EnumerateArray());
        Assert.Equal(("ide1-cd0", true, false), (disk.GetProperty("device").GetString(), disk.GetProperty("removable").GetBoolean(), disk.TryGetProperty("inserted", out _)));
        Assert.Contains((await Done(client, "query-chardev")).EnumerateArray(), c => c.GetProperty("label").GetString() == "serial0");
        Assert.Equal(64 << 20, (await Done(client, "query-balloon")).GetProperty("actual").GetInt64());
        await Done(client, "balloon", "{\"value\":33554432}");
        Assert.Equal(32UL << 20, machine.Machine.Balloon!.Target);
        var functions = (await Done(client, "query-pci"))[0].GetProperty("devices").EnumerateArray().ToList();
        Assert.Contains(functions, f => f.GetProperty("class_info").GetProperty("desc").GetString() == "IDE controller");
        Assert.Contains("screendump", (await Done(client, "query-commands")).EnumerateArray().Select(c => c.GetProperty("name").GetString()));
        foreach (var query in (await Done(client, "query-commands")).EnumerateArray().Select(c => c.GetProperty("name").GetString()!).Where(n => n.StartsWith("query-", StringComparison.Ordinal)))
            await Done(client, query);
        Assert.Contains("VM status: running", (await Done(client, "human-monitor-command", "{\"command-line\":\"info status\"}")).GetString(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Memory_is_saved_and_dumped()
    {
        await using var machine = await ControlledMachine.StartAsync();
        using var client = await RawClient.ConnectAsync(machine);
        var bytes = new byte[10_000];
        new Random(1).NextBytes(bytes);
        machine.Machine.Memory.TryWrite(0x20_0000, bytes);
        await Done(client, "pmemsave", $"{{\"val\":{0x20_0000},\"size\":10000,\"filename\":\"{machine.Folder}/p\"}}");
        await Done(client, "memsave", $"{{\"val\":{0x20_0000},\"size\":10000,\"filename\":\"{machine.Folder}/v\",\"cpu-index\":0}}"); // paging is off
        Assert.Equal(bytes, await File.ReadAllBytesAsync(machine.Folder + "/p"));
        Assert.Equal(bytes, await File.ReadAllBytesAsync(machine.Folder + "/v"));
        Assert.StartsWith("Invalid addr 0x0000000004000000", Error(await client.ExecuteAsync("pmemsave", $"{{\"val\":{(64 << 20) - 10},\"size\":20,\"filename\":\"{machine.Folder}/q\"}}")).Item2, StringComparison.Ordinal);
        Assert.Equal("Invalid parameter 'cpu-index'", Error(await client.ExecuteAsync("memsave", $"{{\"val\":0,\"size\":1,\"filename\":\"{machine.Folder}/q\",\"cpu-index\":9}}")).Item2);
        Assert.Equal("GenericError", Error(await client.ExecuteAsync("pmemsave", "{\"val\":0,\"size\":1,\"filename\":\"/nowhere/at/all\"}")).Item1);
        await Done(client, "dump-guest-memory", $"{{\"paging\":false,\"protocol\":\"file:{machine.Folder}/core\"}}");
        using var core = Debugging.Cores.GuestCore.Open(machine.Folder + "/core");
        var read = new byte[bytes.Length];
        Assert.Equal(read.Length, core.ReadPhysical(0x20_0000, read));
        Assert.Equal(bytes, read);
        Assert.Equal("running", await StatusAsync(client));
    }

    [Fact]
    public async Task The_end_of_a_dump_is_told()
    {
        await using var machine = await ControlledMachine.StartAsync();
        using var client = await RawClient.ConnectAsync(machine);
        var size = machine.Machine.Memory.Ranges.Sum(r => (long)r.Length);
        Assert.Equal("none", await DumpAsync(client));
        Assert.Equal("Status: none\r\n", await machine.Monitor.ExecuteAsync("info dump"));
        await Done(client, "dump-guest-memory", $"{{\"paging\":false,\"protocol\":\"file:{machine.Folder}/core\"}}");
        var told = client.Events.Single(e => e.Contains("DUMP_COMPLETED", StringComparison.Ordinal)); // before the answer
        Assert.Contains($"\"data\":{{\"result\":{{\"total\":{size},\"status\":\"completed\",\"completed\":{size}}}}}", told, StringComparison.Ordinal);
        await client.WaitForAsync("DUMP_COMPLETED");

        await Done(client, "dump-guest-memory", $"{{\"paging\":true,\"detach\":true,\"protocol\":\"file:{machine.Folder}/core2\"}}");
        Assert.Equal("completed", (await client.WaitForAsync("DUMP_COMPLETED")).GetProperty("data").GetProperty("result").GetProperty("status").GetString());
        Assert.Equal("completed", await DumpAsync(client));
        using (Debugging.Cores.GuestCore.Open(machine.Folder + "/core2"))
            Assert.Equal("running", await StatusAsync(client));

        Assert.Equal("", await machine.Monitor.ExecuteAsync("dump-guest-memory -d /nowhere/at/all"));
        Assert.StartsWith("/nowhere/at/all: ", (await client.WaitForAsync("DUMP_COMPLETED")).GetProperty("data").GetProperty("error").GetString(), StringComparison.Ordinal);
        Assert.Equal("failed", await DumpAsync(client));

        static async Task<string?> DumpAsync(RawClient client) => (await client.ExecuteAsync("query-dump")).Result!.Value.GetProperty("status").GetString();
    }

    [Fact]
    public async Task A_balloon_that_grows_is_told()
    {
        await using var machine = await ControlledMachine.StartAsync(null, b => b.WithVirtioDevice(new VirtioMemoryBalloon()));
        using var client = await RawClient.ConnectAsync(machine);
        var registers = machine.Machine.Parts.Pci!.Functions.Single(f => f.Name == "virtio-balloon-pci").Bars.Single(b => b.Kind == Devices.Pci.PciBarKind.Ports).Address!.Value;
        const int actual = 20 + 4; // of the legacy interface, behind its own registers
        machine.Machine.Ports.Write(registers + actual, 4, 0x302);
        const long left = (64 << 20) - (0x302 << 12);
        Assert.Equal(left, (await client.WaitForAsync("BALLOON_CHANGE")).GetProperty("data").GetProperty("actual").GetInt64());
        Assert.Equal(left, (await client.ExecuteAsync("query-balloon")).Result!.Value.GetProperty("actual").GetInt64());
    }

    [Fact]
    public async Task Discs_are_changed()
    {
        var iso = Path.GetTempFileName();
        await File.WriteAllBytesAsync(iso, Sharpvisor.Tests.Guests.TinyIso.Make([("A.TXT", "x"u8.ToArray())]));
        await using var machine = await ControlledMachine.StartAsync(null, b => b.WithCdrom(null));
        using var client = await RawClient.ConnectAsync(machine);
        var drive = machine.Machine.Parts.Disks[0];
        await Done(client, "blockdev-change-medium", $"{{\"id\":\"ide1-cd0\",\"filename\":\"{iso}\"}}");
        await client.WaitForAsync("DEVICE_TRAY_MOVED"); // it opens
        Assert.False((await client.WaitForAsync("DEVICE_TRAY_MOVED")).GetProperty("data").GetProperty("tray-open").GetBoolean());
        Assert.Equal((iso, false), (drive.Drive.ImageName, drive.Cdrom!.IsTrayOpen));
        Assert.StartsWith("Could not open '/nowhere.iso'", Error(await client.ExecuteAsync("blockdev-change-medium", "{\"id\":\"ide1-cd0\",\"filename\":\"/nowhere.iso\"}")).Item2, StringComparison.Ordinal);
        Assert.Equal(iso, drive.Drive.ImageName); // a mistake leaves the drive as it is
        await Done(client, "blockdev-open-tray", "{\"id\":\"ide1-cd0\"}");
        Assert.True(drive.Cdrom.IsTrayOpen && drive.Drive.HasMedium);
        await Done(client, "blockdev-close-tray", "{\"id\":\"ide1-cd0\"}");
        Assert.Equal(("GenericError", "Tray of device 'ide1-cd0' is not open"), Error(await client.ExecuteAsync("blockdev-remove-medium", "{\"id\":\"ide1-cd0\"}")));
        await Done(client, "eject", "{\"device\":\"ide1-cd0\"}");
        Assert.True(drive.Cdrom.IsTrayOpen && !drive.Drive.HasMedium);
        Assert.Equal(("DeviceNotFound", "Device 'nothing' not found"), Error(await client.ExecuteAsync("eject", "{\"device\":\"nothing\"}")));
        File.Delete(iso);
    }

    [Fact]
    public async Task Keys_and_the_mouse_are_sent()
    {
        await using var machine = await ControlledMachine.StartAsync();
        using var client = await RawClient.ConnectAsync(machine);
        await Done(client, "send-key", "{\"keys\":[{\"type\":\"qcode\",\"data\":\"a\"}],\"hold-time\":1}");
        await Done(client, "input-send-event", "{\"events\":[{\"type\":\"rel\",\"data\":{\"axis\":\"x\",\"value\":5}},{\"type\":\"btn\",\"data\":{\"button\":\"left\",\"down\":true}},{\"type\":\"key\",\"data\":{\"key\":{\"type\":\"qcode\",\"data\":\"b\"},\"down\":false}}]}");
        Assert.Equal("Parameter 'data' does not accept value 'nokey'", Error(await client.ExecuteAsync("send-key", "{\"keys\":[{\"type\":\"qcode\",\"data\":\"nokey\"}]}")).Item2);
        Assert.Equal("Invalid parameter type for 'keys[0]', expected: object", Error(await client.ExecuteAsync("send-key", "{\"keys\":[5]}")).Item2);
    }

    [Theory]
    [InlineData("[1]", "QMP input must be a JSON object")]
    [InlineData("{}", "QMP input lacks member 'execute'")]
    [InlineData("{\"execute\":5}", "QMP input member 'execute' must be a string")]
    [InlineData("{\"execute\":\"stop\",\"arguments\":[]}", "QMP input member 'arguments' must be an object")]
    [InlineData("{\"execute\":\"stop\",\"extra\":1}", "QMP input member 'extra' is unexpected")]
    [InlineData("{\"execute\":\"stop\",\"arguments\":{\"x\":1}}", "Parameter 'x' is unexpected")]
    [InlineData("{\"execute\":\"pmemsave\",\"arguments\":{\"val\":1}}", "Parameter 'filename' is missing")]
    [InlineData("{\"execute\":\"screendump\",\"arguments\":{\"filename\":1}}", "Invalid parameter type for 'filename', expected: string")]
    [InlineData("{\"execute\":\"balloon\",\"arguments\":{\"value\":\"1\"}}", "Invalid parameter type for 'value', expected: integer")]
    [InlineData("{\"execute\":\"balloon\",\"arguments\":{\"value\":1.5}}", "Invalid parameter type for 'value', expected: integer")]
    [InlineData("{\"execute\":\"eject\",\"arguments\":{\"device\":\"a\",\"force\":1}}", "Invalid parameter type for 'force', expected: boolean")]
    [InlineData("{\"execute\":\"dump-guest-memory\",\"arguments\":{\"protocol\":\"fd:1\",\"paging\":false}}", "parameter 'protocol' must start with 'file:'")]
    [InlineData("nonsense", "JSON parse error")]
    [InlineData("{\"execute\":\"st\\ud800op\"}", "JSON parse error")]
    public async Task Mistakes_are_named(string input, string error)
    {
        await using var machine = await ControlledMachine.StartAsync();
        using var client = await RawClient.ConnectAsync(machine);
        using var answer = JsonDocument.Parse(await client.AskAsync(input));
        Assert.Equal("GenericError", answer.RootElement.GetProperty("error").GetProperty("class").GetString());
        Assert.StartsWith(error, answer.RootElement.GetProperty("error").GetProperty("desc").GetString(), StringComparison.Ordinal);
        Assert.Equal(("CommandNotFound", "The command dance has not been found"), Error(await client.ExecuteAsync("dance")));
        Assert.Equal("running", await StatusAsync(client)); // and the session goes on
    }

    [Fact]
    public async Task Whoever_reads_nothing_is_sent_away_and_others_go_on()
    {
        await using var machine = await ControlledMachine.StartAsync();
        using var deaf = await RawClient.ConnectAsync(machine);
        using var client = await RawClient.ConnectAsync(machine);
        var question = System.Text.Encoding.UTF8.GetBytes("{\"execute\":\"query-commands\",\"id\":\"" + new string('x', 1000) + "\"}\n");
        var isTaken = 0;
        var asking = Task.Run(async () =>
        {
            try
            {
                for (; isTaken < 100_000; isTaken++)
                    await deaf.Stream.WriteAsync(question);
            }
            catch (IOException)
            {
                // It was sent away.
            }
        });
        for (var i = 0; i < 8000 && !asking.IsCompleted; i++)
            machine.Context.Raise("DEVICE_TRAY_MOVED", ("device", new string('y', 1000)));
        // 8 MB of events: more than the socket and the session keep.
        await asking.WaitAsync(RawClient.Limit);
        Assert.True(isTaken < 100_000);
        using var third = await RawClient.ConnectAsync(machine);
        Assert.Equal("running", await StatusAsync(third));
    }

    private static (string, string) Error((JsonElement? Result, string Class, string Text) answer) => (answer.Class, answer.Text);

    private static async Task<JsonElement> Done(RawClient client, string command, string? arguments = null)
    {
        var (result, _, text) = await client.ExecuteAsync(command, arguments);
        Assert.True(result is not null, $"{command}: {text}");
        return result.Value;
    }

    private static async Task<string?> StatusAsync(RawClient client) => (await Done(client, "query-status")).GetProperty("status").GetString();
}
