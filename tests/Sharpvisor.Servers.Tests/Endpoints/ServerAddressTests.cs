using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Endpoints;

namespace Sharpvisor.Servers.Tests.Endpoints;

public sealed class ServerAddressTests
{
    [Theory]
    [InlineData("tcp::1234", "", 1234, true)]
    [InlineData("tcp:localhost:1", "localhost", 1, true)]
    [InlineData("tcp:127.0.0.1:0", "127.0.0.1", 0, true)]
    [InlineData("tcp:[::1]:65535,server=on,wait=off", "::1", 65535, true)]
    [InlineData("tcp:0.0.0.0:1234,server,nowait", "0.0.0.0", 1234, false)]
    [InlineData("tcp:[::]:1234,nodelay=on", "::", 1234, false)]
    [InlineData("tcp:example.org:1234", "example.org", 1234, false)]
    public void Tcp_is_loopback_unless_told_otherwise(string value, string host, int port, bool isLoopback)
    {
        var address = Assert.IsType<ServerAddress.Tcp>(ServerAddress.Parse(value, "-gdb"));
        Assert.Equal((host, port, isLoopback), (address.Host, address.Port, address.IsLoopback));
        Assert.Equal("-gdb " + value, address.Text);
    }

    [Fact]
    public void Others_are_what_they_say()
    {
        Assert.Equal("/tmp/a:b", Assert.IsType<ServerAddress.Unix>(ServerAddress.Parse("unix:/tmp/a:b,server=on,wait=off", "-gdb")).Path);
        Assert.IsType<ServerAddress.Pty>(ServerAddress.Parse("pty", "-gdb"));
        Assert.True(ServerAddress.Parse("stdio", "-gdb")!.IsStdio);
        Assert.Null(ServerAddress.Parse("none", "-gdb"));
    }

    [Theory]
    [InlineData("", "give tcp:")]
    [InlineData("tcp", "give tcp:")]
    [InlineData("tcp:", "no port")]
    [InlineData("tcp:1234", "no port")]
    [InlineData("tcp:host:", "no port")]
    [InlineData("tcp::65536", "no port")]
    [InlineData("tcp::-1", "no port")]
    [InlineData("tcp:::1:1234", "brackets")]
    [InlineData("tcp::1234,wait=on", "-S")]
    [InlineData("tcp::1234,wait", "-S")]
    [InlineData("tcp::1234,server=off", "leave it out")]
    [InlineData("tcp::1234,telnet=on", "unknown option")]
    [InlineData("unix:", "no path")]
    [InlineData("unix", "give tcp:")]
    [InlineData("pty,server=on", "leave them out")]
    [InlineData("stdio:", "give tcp:")]
    [InlineData("udp::1234", "give tcp:")]
    public void What_is_wrong_is_said_in_a_line(string value, string advice)
    {
        var error = Assert.Throws<ConfigurationException>(() => ServerAddress.Parse(value, "-gdb"));
        Assert.StartsWith($"-gdb {value}: ", error.Message, StringComparison.Ordinal);
        Assert.Contains(advice, error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', error.Message);
    }
}
