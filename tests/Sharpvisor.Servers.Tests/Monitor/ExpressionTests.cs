using Sharpvisor.Servers.Control;
using Sharpvisor.Servers.Monitor;

namespace Sharpvisor.Servers.Tests.Monitor;

public sealed class ExpressionTests
{
    [Theory]
    [InlineData("1", 1)]
    [InlineData("0x10 + 010", 24)]
    [InlineData("1 + 2 * 3", 7)]
    [InlineData("(1 + 2) * -3", -9)]
    [InlineData("~0 & 0xff | 0x100", 0x1FF)]
    [InlineData("7 % 4 - 1", 2)]
    [InlineData("'A'", 65)]
    [InlineData("$rip + 8", 0x1008)]
    [InlineData("-9223372036854775807 - 1", long.MinValue)]
    [InlineData("(-9223372036854775807 - 1) / -1", long.MinValue)]
    [InlineData("0xffffffffffffffff", -1)]
    public void Values(string text, long value) => Assert.Equal(value, Expression.Evaluate(text, Register));

    [Theory]
    [InlineData("", "unexpected end of expression")]
    [InlineData("1 +", "unexpected end of expression")]
    [InlineData("(1", "')' expected")]
    [InlineData("1 / 0", "division by zero")]
    [InlineData("1 % 0", "division by zero")]
    [InlineData("0x", "invalid number '0x' in expression")]
    [InlineData("099", "invalid number '099' in expression")]
    [InlineData("99999999999999999999", "invalid number '99999999999999999999' in expression")]
    [InlineData("$nothing", "unknown register $nothing")]
    [InlineData("1 2", "unexpected '2' in expression '1 2'")]
    [InlineData("'A", "missing terminating ' character")]
    [InlineData("@", "invalid char '@' in expression")]
    public void Mistakes(string text, string message) =>
        Assert.Equal(message, Assert.Throws<ControlException>(() => Expression.Evaluate(text, Register)).Message);

    [Fact]
    public void Depth_is_bounded() =>
        Assert.Equal("expression is nested too deeply", Assert.Throws<ControlException>(() => Expression.Evaluate(new string('(', 1_000_000), Register)).Message);

    private static ulong Register(string name) => name == "rip" ? 0x1000UL : throw new ControlException($"unknown register ${name}");
}
