using Sharpvisor.Debugging;

namespace Sharpvisor.Servers.Tests.Gdb;

/// <summary>Memory and breakpoints by packet.</summary>
public sealed class MemoryTests
{
    [Fact]
    public async Task Memory_is_read_and_written_as_digits_and_as_bytes()
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        Assert.Equal("OK", await client.AskAsync("M1000,4:01ab23cd"));
        Assert.Equal("01ab23cd00", await client.AskAsync("m1000,5"));
        Assert.Equal("OK", await client.AskAsync("X1100,0:"));
        // #, $, } and *, of which the first three must be escaped.
        Assert.Equal("OK", await client.AskAsync("X1100,6:a}\u0003}\u0004}]*z"));
        Assert.Equal("61232" + "47d2a7a", await client.AskAsync("m1100,6"));
        Assert.Equal("ba#$}*z", await client.AskAsync("x1100,6"));
    }

    [Fact]
    public async Task What_is_before_a_hole_is_read_and_the_hole_is_an_error()
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        Assert.Equal("0000", await client.AskAsync("m2ffe,10"));
        Assert.Equal("E14", await client.AskAsync("m3000,1"));
        Assert.Equal("E14", await client.AskAsync("x3000,1"));
        Assert.Equal("E14", await client.AskAsync("M2fff,2:0101"));
        Assert.Equal("E14", await client.AskAsync("mffffffffffffffff,4"));
        Assert.Equal("", await client.AskAsync("m3000,0"));
        Assert.Equal("00", await client.AskAsync("m4000,1"));
    }

    [Fact]
    public async Task A_read_is_cut_to_what_a_packet_holds()
    {
        await using var client = await GdbClient.AttachAsync();
        Assert.InRange((await client.AskAsync("m4000,ffffffffffffffff")).Length, 4000, 4096);
        Assert.InRange((await client.AskAsync("x4000,ffffffff")).Length, 2000, 4096);
    }

    [Theory]
    [InlineData("m")]
    [InlineData("m10")]
    [InlineData("m10,")]
    [InlineData("m,10")]
    [InlineData("mxyz,10")]
    [InlineData("m11111111111111111,1")]
    [InlineData("M10,2:01")]
    [InlineData("M10,1:0101")]
    [InlineData("M10,1:0g")]
    [InlineData("M10,1")]
    [InlineData("X10,2:a")]
    [InlineData("X10,1:ab")]
    [InlineData("Z0,10")]
    [InlineData("Z5,10,1")]
    [InlineData("Z0,x,1")]
    [InlineData("Z2,10,0")]
    [InlineData("Z2,10,100001")]
    [InlineData("Z4,fffffffffffffff8,10")]
    [InlineData("Z0,10,1;X2,27")]
    [InlineData("Z0,10,1;Y")]
    [InlineData("z9,10,1")]
    [InlineData("P")]
    [InlineData("P0")]
    [InlineData("P0=")]
    [InlineData("P0=00")]
    [InlineData("Pfff=00")]
    [InlineData("pffffffffffffffff")]
    [InlineData("Hg9")]
    [InlineData("Hx1")]
    [InlineData("H")]
    [InlineData("T9")]
    [InlineData("T")]
    [InlineData("vCont;")]
    [InlineData("vCont;x")]
    [InlineData("vCont;s:9")]
    [InlineData("vCont;s:")]
    [InlineData("vCont;r10:1")]
    [InlineData("cxyz")]
    [InlineData("qRcmd,abc")]
    [InlineData("qRcmd,zz")]
    [InlineData("qThreadExtraInfo,9")]
    [InlineData("qXfer:features:read:target.xml:fffff,10")]
    [InlineData("qXfer:features:read:target.xml:0")]
    [InlineData("Qqemu.PhyMemMode:")]
    [InlineData("Qqemu.sstep=x")]
    public async Task What_is_malformed_is_an_error(string request)
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        Assert.Equal("E22", await client.AskAsync(request));
        Assert.Empty(target.Log);
        Assert.All(target.Memory, b => Assert.Equal(0, b));
    }

    [Fact]
    public async Task Physical_memory_is_another_mode()
    {
        var target = new FakeTarget();
        // Paging with an empty directory: nothing is mapped.
        target.States[0].Cr0 = 0x8000_0001;
        target.States[0].Cr4 = 0x20;
        await using var client = await GdbClient.AttachAsync(target);
        Assert.Equal("0", await client.AskAsync("qqemu.PhyMemMode"));
        Assert.Equal("E14", await client.AskAsync("m1000,1"));
        Assert.Equal("OK", await client.AskAsync("Qqemu.PhyMemMode:1"));
        Assert.Equal("1", await client.AskAsync("qqemu.PhyMemMode"));
        Assert.Equal("OK", await client.AskAsync("M1000,1:77"));
        Assert.Equal("77", await client.AskAsync("m1000,1"));
        Assert.Equal("OK", await client.AskAsync("Qqemu.PhyMemMode:0"));
        Assert.Equal("E14", await client.AskAsync("m1000,1"));
    }

    [Fact]
    public async Task A_breakpoint_that_is_inserted_twice_is_there_once()
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        foreach (var request in new[] { "Z0,1000,1", "Z0,1000,1", "Z1,1000,1", "z0,1000,1", "z0,1000,1", "Z2,2000,4", "Z3,2000,4", "Z4,2000,8", "z3,2000,4", "z4,9999,1" })
            Assert.Equal("OK", await client.AskAsync(request));
        Assert.Equal(["+1000", "+1000", "-1000", "+Write 2000,4", "+Read 2000,4", "+Access 2000,8", "-Read 2000,4"], target.Log);
        Assert.Equal("OK", await client.AskAsync("D"));
        Assert.True(await client.IsClosedAsync());
        await FakeWait.UntilAsync(() => target.Log[^1].StartsWith("continue", StringComparison.Ordinal));
        Assert.Equal(["-1000", "-Access 2000,8", "-Write 2000,4"], target.Log[7..^1].Order(StringComparer.Ordinal));
    }

    [Fact]
    public async Task Breakpoints_have_an_end()
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        await client.QuietAsync();
        var accepted = 0;
        for (; accepted < 100_000 && await client.AskAsync($"Z0,{accepted:x},1") == "OK"; accepted++)
        {
        }

        Assert.InRange(accepted, 1000, 99_999);
        Assert.Equal("OK", await client.AskAsync("z0,0,1"));
        Assert.Equal("OK", await client.AskAsync("Z0,0,1"));
    }

    [Theory]
    [InlineData("Z0,1000,1", DebugStopKind.Breakpoint, 0x1000, WatchKind.Access, "swbreak:;")]
    [InlineData("Z1,1000,1", DebugStopKind.Breakpoint, 0x1000, WatchKind.Access, "hwbreak:;")]
    [InlineData("Z2,2000,8", DebugStopKind.Watchpoint, 0x2004, WatchKind.Write, "watch:2004;")]
    [InlineData("Z3,2000,8", DebugStopKind.Watchpoint, 0x2004, WatchKind.Read, "rwatch:2004;")]
    [InlineData("Z4,2000,8", DebugStopKind.Watchpoint, 0x2004, WatchKind.Write, "awatch:2004;")]
    [InlineData("Z4,2000,8", DebugStopKind.Watchpoint, 0x2004, WatchKind.Read, "awatch:2004;")]
    [InlineData("qC", DebugStopKind.Step, 0, WatchKind.Access, "")]
    public async Task A_stop_says_what_it_was(string inserted, DebugStopKind kind, ulong address, WatchKind watch, string reason)
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        await client.AskAsync("qSupported:swbreak+;hwbreak+");
        await client.AskAsync(inserted);
        target.OnResumed = t => t.Halt(new DebugStop(kind, 1, address, watch));
        Assert.StartsWith($"T05thread:2;{reason}06:", await client.AskAsync("vCont;c"), StringComparison.Ordinal);
        Assert.Equal("QC2", await client.AskAsync("qC"));
    }
}

internal static class FakeWait
{
    public static async Task UntilAsync(Func<bool> condition)
    {
        for (var i = 0; i < 4000 && !condition(); i++)
            await Task.Delay(5);
        Assert.True(condition());
    }
}
