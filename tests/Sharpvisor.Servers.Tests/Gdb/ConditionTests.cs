using System.Buffers.Binary;
using System.Globalization;
using Sharpvisor.Debugging;
using Sharpvisor.Servers.Gdb;

namespace Sharpvisor.Servers.Tests.Gdb;

/// <summary>Conditions that the debugger has compiled (GDB manual, appendix F).</summary>
public sealed class ConditionTests
{
    [Theory]
    [InlineData("22 02 22 03 02 27", 5)]
    [InlineData("22 02 22 03 03 27", -1)]
    [InlineData("22 06 22 07 04 27", 42)]
    [InlineData("22 f9 16 08 22 02 05 27", -3)] // -7 / 2
    [InlineData("22 f9 22 02 06 27", 124)]
    [InlineData("22 f9 16 08 22 04 07 27", -3)]
    [InlineData("22 f9 22 04 08 27", 1)]
    [InlineData("22 01 22 3f 09 27", long.MinValue)]
    [InlineData("22 01 22 40 09 27", 0)]
    [InlineData("22 80 16 08 22 03 0a 27", -16)]
    [InlineData("22 80 16 08 22 ff 0a 27", -1)]
    [InlineData("22 80 22 03 0b 27", 16)]
    [InlineData("22 00 0e 27", 1)]
    [InlineData("22 07 0e 27", 0)]
    [InlineData("22 0c 22 0a 0f 27", 8)]
    [InlineData("22 0c 22 0a 10 27", 14)]
    [InlineData("22 0c 22 0a 11 27", 6)]
    [InlineData("22 00 12 27", -1)]
    [InlineData("22 05 22 05 13 27", 1)]
    [InlineData("22 ff 16 08 22 00 14 27", 1)]
    [InlineData("22 ff 16 08 22 00 15 27", 0)]
    [InlineData("24 87 65 43 21 27", 0x87654321)]
    [InlineData("23 12 34 2a 08 27", 0x34)]
    [InlineData("25 01 02 03 04 05 06 07 08 27", 0x0102030405060708)]
    [InlineData("22 01 28 02 27", 2)]
    [InlineData("22 01 22 02 29 27", 1)]
    [InlineData("22 01 22 02 2b 03 27", 1)]
    [InlineData("22 01 22 02 22 03 32 02 27", 1)]
    [InlineData("22 01 22 02 22 04 33 27", 2)] // a b c becomes c a b
    [InlineData("22 01 22 02 22 04 33 29 27", 1)]
    [InlineData("22 01 20 00 08 22 05 27 22 09 27", 9)]
    [InlineData("21 00 05 22 05 22 06 27", 6)]
    [InlineData("26 00 01 27", 0x0303030303030303)] // rbx
    [InlineData("23 10 00 1a 27", 0x0807060504030201)]
    [InlineData("23 10 00 17 27", 1)]
    [InlineData("23 10 00 18 27", 0x0201)]
    [InlineData("23 10 00 19 27", 0x04030201)]
    public void Each_operation_computes_as_described(string code, long result)
    {
        var target = Target();
        Assert.True(new AgentExpression(Bytes(code)).TryEvaluate(in target.States[0], RegisterView.Amd64, target, out var value));
        Assert.Equal(result, (long)value);
    }

    [Theory]
    [InlineData("")]
    [InlineData("27")]
    [InlineData("02 27")]
    [InlineData("22 01 02 27")]
    [InlineData("22 01 22 00 05 27")]
    [InlineData("22 01 22 00 08 27")]
    [InlineData("25 80 00 00 00 00 00 00 00 22 ff 16 08 05 27")] // overflows
    [InlineData("22 01")]
    [InlineData("22")]
    [InlineData("25 00 00")]
    [InlineData("26 ff ff 27")]
    [InlineData("26 00 18 27")] // st0
    [InlineData("22 01 16 00 27")]
    [InlineData("22 01 16 41 27")]
    [InlineData("22 01 32 05 27")]
    [InlineData("21 ff ff")]
    [InlineData("21 00 00")] // for ever
    [InlineData("22 01 21 00 00")] // and deeper and deeper
    [InlineData("23 30 00 17 27")] // a hole
    [InlineData("34")]
    [InlineData("ff")]
    public void What_is_wrong_has_no_value(string code)
    {
        var target = Target();
        Assert.False(new AgentExpression(Bytes(code)).TryEvaluate(in target.States[0], RegisterView.Amd64, target, out _));
    }

    /// <summary>Ten thousand hits without a word to the debugger.</summary>
    [Fact]
    public async Task A_breakpoint_is_told_when_its_condition_is_true()
    {
        var hits = 0UL;
        var target = Target();
        target.OnResumed = t => _ = Task.Run(() =>
        {
            t.States[1].Gpr[0] = ++hits;
            t.Halt(new DebugStop(DebugStopKind.Breakpoint, 1, 0x1000));
        });
        await using var client = await GdbClient.AttachAsync(target);
        Assert.Contains("ConditionalBreakpoints+", await client.AskAsync("qSupported"), StringComparison.Ordinal);
        // rax == 10000
        Assert.Equal("OK", await client.AskAsync("Z0,1000,1;X8,2600002327101327"));
        Assert.StartsWith("T05thread:2;", await client.AskAsync("vCont;c"), StringComparison.Ordinal);
        Assert.Equal(10_000UL, hits);
        Assert.Equal(10_000, target.ResumeCount);
        // One of several is enough; what can't be evaluated is a stop; and without a condition again it is one, too.
        foreach (var conditions in new[] { ";X3,220027;X3,220127", ";X6,233000172700", ";X1,27", "" })
        {
            var before = target.ResumeCount;
            Assert.Equal("OK", await client.AskAsync("Z0,1000,1" + conditions));
            Assert.StartsWith("T05thread:2;", await client.AskAsync("vCont;c"), StringComparison.Ordinal);
            Assert.Equal(before + 1, target.ResumeCount);
        }
    }

    [Fact]
    public async Task Ctrl_C_gets_through_while_a_condition_is_never_true()
    {
        var target = Target();
        target.OnResumed = t => _ = Task.Run(() => t.Halt(new DebugStop(DebugStopKind.Breakpoint, 0, 0x1000)));
        await using var client = await GdbClient.AttachAsync(target);
        Assert.Equal("OK", await client.AskAsync("Z0,1000,1;X3,220027"));
        await client.SendAsync("vCont;c");
        await FakeWait.UntilAsync(() => target.ResumeCount > 100);
        await client.SendRawAsync([3]);
        Assert.StartsWith("T02thread:1;", await client.ReplyAsync(), StringComparison.Ordinal);
        Assert.True(target.IsStopped);
    }

    private static FakeTarget Target()
    {
        var target = new FakeTarget();
        BinaryPrimitives.WriteUInt64LittleEndian(target.Memory.AsSpan(0x1000), 0x0807060504030201);
        return target;
    }

    private static byte[] Bytes(string code) =>
        [.. code.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(b => byte.Parse(b, NumberStyles.HexNumber, CultureInfo.InvariantCulture))];
}
