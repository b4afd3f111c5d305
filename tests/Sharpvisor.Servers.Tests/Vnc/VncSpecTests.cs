using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Secrets;
using Sharpvisor.Servers.Vnc;

namespace Sharpvisor.Servers.Tests.Vnc;

public sealed class VncSpecTests
{
    [Fact]
    public void Displays_are_ports_from_5900_on()
    {
        Assert.Null(VncSpec.Parse("none"));
        Assert.Equal(("", 5900, 5900, false), Address(":0"));
        Assert.Equal(("127.0.0.1", 5907, 5909, false), Address("127.0.0.1:7,to=9"));
        Assert.Equal(("::1", 5901, 5901, true), Address("[::1]:1,password"));
        Assert.Equal("/tmp/x y", VncSpec.Parse("unix:/tmp/x y")!.UnixPath);
        static (string, int, int, bool) Address(string value) => VncSpec.Parse(value) is { } s ? (s.Host, s.Port, s.LastPort, s.PasswordRequired) : default;
    }

    [Fact]
    public void Options_are_those_of_QEMU()
    {
        var spec = VncSpec.Parse(":3,password-secret=pw,websocket,share=ignore,connections=4,key-delay-ms=0,lossy=on,id=x,ipv6=off")!;
        Assert.Equal(("pw", true, 5703, VncShare.Ignore, 4, TimeSpan.Zero, false),
            (spec.PasswordSecret, spec.PasswordRequired, spec.WebSocketPort, spec.Share, spec.Connections, spec.KeyDelay, spec.IPv6));
        Assert.Equal(8080, VncSpec.Parse(":3,websocket=8080")!.WebSocketPort);
    }

    [Theory]
    [InlineData("")]
    [InlineData("0")]
    [InlineData(":")]
    [InlineData(":x")]
    [InlineData(":-1")]
    [InlineData(":59636")]
    [InlineData("::1:0")]
    [InlineData("unix:")]
    [InlineData("none,password=on")]
    [InlineData(":0,to=x")]
    [InlineData(":5,to=4")]
    [InlineData(":0,password=maybe")]
    [InlineData(":0,password=on,password-secret=x")]
    [InlineData(":0,websocket=70000")]
    [InlineData("unix:/tmp/x,websocket=on")]
    [InlineData(":0,share=all")]
    [InlineData(":0,ipv4=off,ipv6=off")]
    [InlineData(":0,tls-creds=x")]
    [InlineData(":0,reverse=on")]
    [InlineData(":0,colour=on")]
    public void A_mistake_is_one_line(string value)
    {
        var error = Assert.Throws<ConfigurationException>(() => VncSpec.Parse(value));
        Assert.StartsWith($"-vnc {value}: ", error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', error.Message);
    }

    [Fact]
    public async Task A_port_in_use_is_one_line_and_to_takes_the_next()
    {
        var console = new FakeConsole();
        await using var first = console.Serve();
        var display = first.Port - 5900;
        foreach (var host in new[] { "127.0.0.1", "" })
        {
            var error = Assert.Throws<ConfigurationException>(() => Start(console, $"{host}:{display}"));
            Assert.Equal($"-vnc {host}:{display}: port {first.Port} is in use; give another display, or to=DISPLAY to take the next that is free", error.Message);
        }

        await using var second = Start(console, $"127.0.0.1:{display},to={display + 20}");
        Assert.InRange(second.Port, first.Port + 1, first.Port + 20);
        await using var client = await TestClient.ConnectAsync(second);
    }

    [Fact]
    public async Task A_socket_of_Unix_is_made_and_removed()
    {
        var path = Path.Combine(Path.GetTempPath(), $"vnc-{Guid.NewGuid():N}");
        var console = new FakeConsole();
        await using (var server = Start(console, $"unix:{path}"))
        {
            Assert.Contains("is in use", Assert.Throws<ConfigurationException>(() => Start(console, $"unix:{path}")).Message, StringComparison.Ordinal);
            var socket = new System.Net.Sockets.Socket(System.Net.Sockets.AddressFamily.Unix, System.Net.Sockets.SocketType.Stream, System.Net.Sockets.ProtocolType.Unspecified);
            await socket.ConnectAsync(new System.Net.Sockets.UnixDomainSocketEndPoint(path));
            await using var client = new TestClient(new System.Net.Sockets.NetworkStream(socket, ownsSocket: true));
            await client.HandshakeAsync();
            await client.SyncAsync(c => c.Shows(console));
        }

        Assert.False(File.Exists(path));
        // One that a killed process left is taken over; a file is not.
        using (var stale = new System.Net.Sockets.Socket(System.Net.Sockets.AddressFamily.Unix, System.Net.Sockets.SocketType.Stream, System.Net.Sockets.ProtocolType.Unspecified))
            stale.Bind(new System.Net.Sockets.UnixDomainSocketEndPoint(path));
        await using (Start(console, $"unix:{path}"))
        {
        }

        await File.WriteAllTextAsync(path, "mine");
        try
        {
            Assert.Throws<ConfigurationException>(() => Start(console, $"unix:{path}"));
            Assert.Equal("mine", await File.ReadAllTextAsync(path));
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void A_secret_comes_from_the_command_line_or_a_file()
    {
        Assert.Equal("abc"u8.ToArray(), Secret.Parse("secret,id=a,data=abc").Data);
        Assert.Equal("abc"u8.ToArray(), Secret.Parse("secret,id=a,format=base64,data=YWJj").Data);
        var path = Path.GetTempFileName();
        File.WriteAllText(path, "pass word\r\n");
        Assert.Equal("pass word"u8.ToArray(), Secret.Parse($"secret,id=a,file={path}").Data);
        File.Delete(path);
        Assert.Throws<ConfigurationException>(() => Secret.Find([Secret.Parse("secret,id=a,data=abc")], "b", "-vnc :0"));
    }

    [Theory]
    [InlineData("rng-random,id=a")]
    [InlineData("secret,data=x")]
    [InlineData("secret,id=a")]
    [InlineData("secret,id=a,data=x,file=y")]
    [InlineData("secret,id=a,file=/nonexistent/file")]
    [InlineData("secret,id=a,file=/")]
    [InlineData("secret,id=a,file=/dev/zero")]
    [InlineData("secret,id=a,data=%,format=base64")]
    [InlineData("secret,id=a,data=x,keyid=b")]
    [InlineData("secret,id=a,data=x,more")]
    public void A_wrong_secret_is_one_line(string value) =>
        Assert.DoesNotContain('\n', Assert.Throws<ConfigurationException>(() => Secret.Parse(value)).Message);

    private static VncServer Start(FakeConsole console, string value) => VncServer.Start(VncSpec.Parse(value)!, console.Console, default, NullLogger.Instance);
}
