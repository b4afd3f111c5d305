using Sharpvisor.Backends.Char;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Tests.Char;

public sealed class CharSpecTests
{
    [Fact]
    public void Values_of_serial_are_read_as_QEMU_reads_them()
    {
        Assert.Equal(new CharSpec.Stdio(), CharSpec.Parse("stdio"));
        Assert.Equal(new CharSpec.Stdio { HasMonitor = true }, CharSpec.Parse("mon:stdio"));
        Assert.Equal(new CharSpec.Null(), CharSpec.Parse("null"));
        Assert.Equal(new CharSpec.Named("c0"), CharSpec.Parse("chardev:c0"));
        Assert.True(CharSpec.Parse("none").IsNone);
        Assert.Equal(new CharSpec.Pty(), CharSpec.Parse("pty"));
        Assert.Equal(new CharSpec.FileOutput("/tmp/a:b"), CharSpec.Parse("file:/tmp/a:b"));
        Assert.Equal(new CharSpec.Tcp("localhost", 4555, false, true), CharSpec.Parse("tcp:localhost:4555"));
        Assert.Equal(new CharSpec.Tcp("", 4555, true, true), CharSpec.Parse("tcp::4555,server"));
        Assert.Equal(new CharSpec.Tcp("::1", 4555, true, false), CharSpec.Parse("tcp:[::1]:4555,server=on,wait=off"));
        Assert.Equal(new CharSpec.Tcp("h", 1, true, false), CharSpec.Parse("tcp:h:1,server,nowait"));
    }

    [Theory]
    [InlineData("vc", "-serial vc: unknown; give one of stdio, null, none, file:PATH, pty, tcp:HOST:PORT[,server=on][,wait=off], unix:PATH[,server=on][,wait=off], chardev:ID")]
    [InlineData("stdio:x", "-serial stdio:x: unknown; give one of stdio, null, none, file:PATH, pty, tcp:HOST:PORT[,server=on][,wait=off], unix:PATH[,server=on][,wait=off], chardev:ID")]
    [InlineData("file:", "-serial file:: no path; give file:PATH")]
    [InlineData("tcp:localhost", "-serial tcp:localhost: no port; give tcp:HOST:PORT with a port of 1 to 65535")]
    [InlineData("tcp:localhost:70000", "-serial tcp:localhost:70000: no port; give tcp:HOST:PORT with a port of 1 to 65535")]
    [InlineData("tcp:h:1,telnet", "-serial tcp:h:1,telnet: unknown option \"telnet\"; there are server=on|off and wait=on|off")]
    public void Others_are_refused_in_one_line(string value, string message) =>
        Assert.Equal(message, Assert.Throws<ConfigurationException>(() => CharSpec.Parse(value)).Message);
}
