using Sharpvisor.Debugging;

namespace Sharpvisor.Servers.Tests.Gdb;

/// <summary>Going on, stopping, threads, attaching and leaving.</summary>
public sealed class RunningTests
{
    [Theory]
    [InlineData("vCont;c", "continue ")]
    [InlineData("c", "continue ")]
    [InlineData("C05", "continue ")]
    [InlineData("vCont;s:1;c", "continue 0:Step 1:Run 2:Run")]
    [InlineData("vCont;s:2", "continue 0:Stay 1:Step 2:Stay")]
    [InlineData("vCont;c:3", "continue 0:Stay 1:Stay 2:Run")]
    [InlineData("vCont;S05:1;C05:-1", "continue 0:Step 1:Run 2:Run")]
    [InlineData("vCont;r1000,1010:2;c", "continue 0:Run 1:StepRange(1000-1010) 2:Run")]
    [InlineData("vCont;t:1;c", "continue 0:Stay 1:Run 2:Run")]
    [InlineData("vCont;s", "continue 0:Step 1:Step 2:Step")]
    [InlineData("s", "continue 0:Step")]
    [InlineData("S05", "continue 0:Step")]
    [InlineData("s2000", "continue 0:Step")]
    public async Task Each_thread_does_what_it_is_told(string request, string resumed)
    {
        var target = new FakeTarget(3) { OnResumed = t => t.Halt(new DebugStop(DebugStopKind.Step, 0)) };
        await using var client = await GdbClient.AttachAsync(target);
        Assert.StartsWith("T05thread:1;", await client.AskAsync(request), StringComparison.Ordinal);
        Assert.Equal([resumed], target.Log);
        Assert.Equal(request == "s2000" ? 0x2000UL : 0x1000, target.States[0].Rip);
    }

    [Fact]
    public async Task Nobody_goes_on_when_all_stay()
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        Assert.StartsWith("T00thread:1;", await client.AskAsync("vCont;t"), StringComparison.Ordinal);
        Assert.Empty(target.Log);
    }

    [Fact]
    public async Task Steps_let_interrupts_in_when_asked()
    {
        var target = new FakeTarget { OnResumed = t => t.Halt(new DebugStop(DebugStopKind.Step, 0)) };
        await using var client = await GdbClient.AttachAsync(target);
        Assert.Equal("0x7", await client.AskAsync("qqemu.sstep"));
        Assert.Equal("OK", await client.AskAsync("Qqemu.sstep=0x1"));
        Assert.Equal("0x1", await client.AskAsync("qqemu.sstep"));
        await client.AskAsync("vCont;s:1");
        Assert.Equal(["continue 0:StepWithInterrupts 1:Stay"], target.Log);
    }

    [Fact]
    public async Task The_expedited_registers_are_rbp_rsp_and_rip()
    {
        var target = new FakeTarget { OnResumed = t => t.Halt(new DebugStop(DebugStopKind.Step, 1)) };
        await using var client = await GdbClient.AttachAsync(target);
        Assert.Equal("T05thread:2;06:0505050505050505;07:0404040404040404;10:0110000000000000;", await client.AskAsync("vCont;c"));
    }

    [Fact]
    public async Task Ctrl_C_stops_and_is_told_as_an_interrupt()
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        await client.SendAsync("vCont;c");
        await FakeWait.UntilAsync(() => target.ResumeCount == 1);
        await client.SendRawAsync([3]);
        Assert.StartsWith("T02thread:1;", await client.ReplyAsync(), StringComparison.Ordinal);
        // Again, and between packets, while it stands: nothing.
        await client.SendRawAsync([3, 3, 3]);
        Assert.Equal("QC1", await client.AskAsync("qC"));
        // In the same segment as the request that lets it go on.
        await client.QuietAsync();
        await client.SendRawAsync([.. GdbClient.Frame("vCont;c"u8.ToArray()), 3]);
        Assert.StartsWith("T02thread:1;", await client.ReplyAsync(), StringComparison.Ordinal);
        Assert.Equal(2, target.ResumeCount);
    }

    [Fact]
    public async Task Whoever_attaches_stops_the_machine_and_whoever_detaches_lets_it_go_on()
    {
        var target = new FakeTarget();
        await using var server = GdbClient.Serve(target);
        Assert.False(target.IsStopped);
        for (var i = 0; i < 5; i++)
        {
            await using var client = await GdbClient.ConnectAsync(server);
            Assert.StartsWith("T05thread:1;", await client.AskAsync("?"), StringComparison.Ordinal);
            Assert.True(target.IsStopped);
            Assert.Equal("OK", await client.AskAsync("D"));
            await FakeWait.UntilAsync(() => !target.IsStopped);
            Assert.Equal(i + 1, target.ResumeCount);
        }
    }

    [Fact]
    public async Task Whoever_just_goes_leaves_the_machine_as_it_is_without_breakpoints()
    {
        var target = new FakeTarget();
        await using var server = GdbClient.Serve(target);
        await using (var client = await GdbClient.ConnectAsync(server))
            Assert.Equal("OK", await client.AskAsync("Z0,1000,1"));
        await FakeWait.UntilAsync(() => !server.IsAttached);
        Assert.True(target.IsStopped);
        Assert.Equal(["+1000", "-1000"], target.Log);
        await using (var client = await GdbClient.ConnectAsync(server))
        {
            Assert.Equal("OK", await client.AskAsync("Z0,1000,1"));
            await client.SendAsync("vCont;c");
            await FakeWait.UntilAsync(() => !target.IsStopped);
        }

        await FakeWait.UntilAsync(() => !server.IsAttached);
        Assert.False(target.IsStopped);
        Assert.Equal(["+1000", "-1000", "+1000", "continue ", "-1000", "continue "], target.Log);
    }

    [Fact]
    public async Task A_second_client_is_told_and_sent_away()
    {
        var target = new FakeTarget();
        await using var server = GdbClient.Serve(target);
        await using var first = await GdbClient.ConnectAsync(server);
        Assert.Equal("QC1", await first.AskAsync("qC"));
        await using (var second = await GdbClient.ConnectAsync(server))
        {
            Assert.Equal((byte)'+', await second.ByteAsync());
            Assert.StartsWith("E.another debugger", await second.ReplyAsync(), StringComparison.Ordinal);
            Assert.True(await second.IsClosedAsync());
        }

        Assert.Equal("QC1", await first.AskAsync("qC"));
        await first.DisposeAsync();
        await FakeWait.UntilAsync(() => !server.IsAttached);
        await using var third = await GdbClient.ConnectAsync(server);
        Assert.Equal("QC1", await third.AskAsync("qC"));
    }

    [Fact]
    public async Task The_end_of_the_machine_is_told_to_who_waits_for_it()
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        await client.SendAsync("vCont;c");
        await FakeWait.UntilAsync(() => !target.IsStopped);
        target.End(3);
        Assert.Equal("W03", await client.ReplyAsync());
        Assert.True(await client.IsClosedAsync());
    }

    [Fact]
    public async Task The_end_of_the_machine_ends_a_session_that_waits_for_nothing()
    {
        var target = new FakeTarget();
        await using var server = GdbClient.Serve(target);
        await using var client = await GdbClient.ConnectAsync(server);
        Assert.Equal("QC1", await client.AskAsync("qC"));
        target.End(0);
        Assert.True(await client.IsClosedAsync());
        await FakeWait.UntilAsync(() => !server.IsAttached);
    }

    [Theory]
    [InlineData("k")]
    [InlineData("vKill;1")]
    public async Task Kill_ends_the_machine(string request)
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        await client.SendAsync(request);
        if (request != "k")
            Assert.Equal("OK", await client.ReplyAsync());
        Assert.True(await client.IsClosedAsync());
        Assert.Equal(["kill"], target.Log);
    }

    [Fact]
    public async Task A_guest_that_has_powered_off_stays_to_be_looked_at()
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        await client.SendAsync("vCont;c");
        await FakeWait.UntilAsync(() => !target.IsStopped);
        target.IsShutDown = true;
        target.Halt(new DebugStop(DebugStopKind.ShutDown, 0));
        Assert.StartsWith("T03thread:1;", await client.ReplyAsync(), StringComparison.Ordinal);
        Assert.Equal("00", await client.AskAsync("m1000,1"));
        Assert.StartsWith("T03thread:1;", await client.AskAsync("vCont;c"), StringComparison.Ordinal);
        Assert.Equal("OK", await client.AskAsync("D"));
    }

    /// <summary>The monitor may let the machine go on behind the debugger's back.</summary>
    [Fact]
    public async Task While_the_machine_runs_nobody_reads_its_registers()
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        Assert.Equal("QC1", await client.AskAsync("qC"));
        await target.ContinueAsync(new Dictionary<int, Resumption>());
        foreach (var request in new[] { "g", "p0", "m0,1", "P0=0000000000000000", "M0,1:00", "Z0,0,1", "?", "s", "qThreadExtraInfo,1" })
            Assert.Equal("E01", await client.AskAsync(request));
        var resumed = target.ResumeCount;
        await client.SendAsync("vCont;c");
        await FakeWait.UntilAsync(() => target.ResumeCount > resumed); // the acknowledgment comes before that
        target.Halt(new DebugStop(DebugStopKind.Step, 0));
        Assert.StartsWith("T05", await client.ReplyAsync(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Threads_are_processors()
    {
        var target = new FakeTarget(3);
        target.States[2].Activity = Sharpvisor.Cpu.State.ActivityState.Halted;
        await using var client = await GdbClient.AttachAsync(target);
        Assert.Equal("m1,2,3", await client.AskAsync("qfThreadInfo"));
        Assert.Equal("l", await client.AskAsync("qsThreadInfo"));
        Assert.Equal("OK", await client.AskAsync("T3"));
        Assert.Equal("OK", await client.AskAsync("Hg3"));
        Assert.Equal("0210000000000000", await client.AskAsync("p10"));
        Assert.Equal("OK", await client.AskAsync("Hg0"));
        Assert.Equal("OK", await client.AskAsync("Hc-1"));
        Assert.Equal("CPU#2 [halted]", System.Text.Encoding.ASCII.GetString(Convert.FromHexString(await client.AskAsync("qThreadExtraInfo,3"))));
    }

    [Fact]
    public async Task Commands_go_to_the_monitor()
    {
        var target = new FakeTarget();
        await using var server = GdbClient.Serve(target, command => Task.FromResult(command == "long" ? new string('é', 5000) : $"<{command}>\n"));
        await using var client = await GdbClient.ConnectAsync(server);
        Assert.Equal("<info status>\n", await RegisterTests.MonitorAsync(client, "info status"));
        Assert.Equal(new string('é', 5000), await RegisterTests.MonitorAsync(client, "long"));
        Assert.Contains("<help>", await RegisterTests.MonitorAsync(client, "help"), StringComparison.Ordinal);
        Assert.Equal("amd64\n", await RegisterTests.MonitorAsync(client, "view"));
    }

    [Fact]
    public async Task Without_a_monitor_there_are_a_few_commands()
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        Assert.Contains("info registers", await RegisterTests.MonitorAsync(client, "help"), StringComparison.Ordinal);
        Assert.Contains("rbx=0303030303030303", await RegisterTests.MonitorAsync(client, "info registers"), StringComparison.Ordinal);
        Assert.Equal("", await RegisterTests.MonitorAsync(client, "reset"));
        Assert.Equal(["reset"], target.Log);
        Assert.Contains("unknown command: \"frob\"", await RegisterTests.MonitorAsync(client, "frob"), StringComparison.Ordinal);
        Assert.Contains("give amd64", await RegisterTests.MonitorAsync(client, "view vax"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_server_that_is_disposed_ends_whatever_goes_on()
    {
        var never = new TaskCompletionSource<string>();
        var target = new FakeTarget();
        await using var server = GdbClient.Serve(target, _ => never.Task);
        await using var client = await GdbClient.ConnectAsync(server);
        await client.SendRawAsync(GdbClient.Frame("qRcmd,00"u8.ToArray()));
        await FakeWait.UntilAsync(() => server.IsAttached);
        await server.DisposeAsync();
        Assert.True(await client.IsClosedAsync());
    }

    [Fact]
    public async Task Before_the_machine_starts_clients_wait()
    {
        var started = new TaskCompletionSource();
        var target = new FakeTarget { Started = started.Task };
        await using var server = GdbClient.Serve(target);
        await using var client = await GdbClient.ConnectAsync(server);
        await client.SendRawAsync(GdbClient.Frame("?"u8.ToArray()));
        await FakeWait.UntilAsync(() => server.IsAttached);
        Assert.False(target.IsStopped);
        started.SetResult();
        Assert.Equal((byte)'+', await client.ByteAsync());
        Assert.StartsWith("T05", await client.ReplyAsync(), StringComparison.Ordinal);
    }

    /// <summary>Its replies fill every buffer there is, and then it is gone; others may come.</summary>
    [Fact]
    public async Task A_client_that_never_reads_is_sent_away()
    {
        var target = new FakeTarget();
        await using var server = GdbClient.Serve(target, limits: GdbClient.Limits with { Packet = 128 << 10, Write = TimeSpan.FromMilliseconds(200) });
        await using (var deaf = await GdbClient.ConnectAsync(server))
        {
            var request = GdbClient.Frame("m4000,f000"u8.ToArray());
            try
            {
                for (var i = 0; i < 100_000 && (i < 10 || server.IsAttached); i++)
                    await deaf.SendRawAsync(request);
            }
            catch (IOException)
            {
                // Sent away already.
            }

            await FakeWait.UntilAsync(() => !server.IsAttached);
        }

        await using var client = await GdbClient.ConnectAsync(server);
        Assert.Equal("QC1", await client.AskAsync("qC"));
    }
}
