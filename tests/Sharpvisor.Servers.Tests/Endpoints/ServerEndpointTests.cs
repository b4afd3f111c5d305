using System.Net.Sockets;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Endpoints;
using Sharpvisor.Servers.Gdb;
using Sharpvisor.Servers.Tests.Gdb;

namespace Sharpvisor.Servers.Tests.Endpoints;

/// <summary>Each way to reach a server, with the gdb server as the one that is reached.</summary>
public sealed class ServerEndpointTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("endpoint").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Fact]
    public async Task A_port_that_is_taken_is_said()
    {
        await using var first = ServerEndpoint.Open(ServerAddress.Parse("tcp::0", "-gdb")!, "gdb", NullLogger.Instance, () => { });
        Assert.StartsWith("127.0.0.1:", first.Name, StringComparison.Ordinal);
        var error = Assert.Throws<ConfigurationException>(() => ServerEndpoint.Open(ServerAddress.Parse($"tcp::{first.Port}", "-gdb")!, "gdb", NullLogger.Instance, () => { }));
        Assert.Contains("is in use; give another", error.Message, StringComparison.Ordinal);
        error = Assert.Throws<ConfigurationException>(() => ServerEndpoint.Open(ServerAddress.Parse("tcp:192.0.2.1:0", "-gdb")!, "gdb", NullLogger.Instance, () => { }));
        Assert.Contains("no address of this host", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_socket_of_the_file_system_is_there_as_long_as_its_server()
    {
        var path = Path.Combine(_directory, "gdb");
        var address = ServerAddress.Parse($"unix:{path},server=on,wait=off", "-gdb")!;
        for (var i = 0; i < 2; i++)
        {
            await using var server = new GdbServer(new FakeTarget(), address, null, GdbClient.Limits, NullLogger.Instance);
            Assert.Throws<ConfigurationException>(() => ServerEndpoint.Open(address, "gdb", NullLogger.Instance, () => { }));
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(path));
            await using var client = GdbClient.Over(new NetworkStream(socket, ownsSocket: true));
            Assert.Equal("QC1", await client.AskAsync("qC"));
            await server.DisposeAsync();
            Assert.False(File.Exists(path));
        }

        await File.WriteAllTextAsync(path, "precious");
        Assert.Throws<ConfigurationException>(() => ServerEndpoint.Open(address, "gdb", NullLogger.Instance, () => { }));
        Assert.Equal("precious", await File.ReadAllTextAsync(path));
    }

    /// <summary>What a server that was killed has left behind is in nobody's way.</summary>
    [Fact]
    public async Task A_socket_that_nobody_listens_on_is_replaced()
    {
        var path = Path.Combine(_directory, "stale");
        using (var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            socket.Bind(new UnixDomainSocketEndPoint(path));
            socket.Listen();
            File.Move(path, path + "2"); // .NET removes it by its name
        }

        path += "2";

        Assert.True(File.Exists(path));
        await using var endpoint = ServerEndpoint.Open(ServerAddress.Parse($"unix:{path}", "-gdb")!, "gdb", NullLogger.Instance, () => { });
        Assert.Equal(path, endpoint.Name);
    }

    [Fact]
    public async Task Several_debuggers_one_after_the_other_use_a_pseudo_terminal()
    {
        var target = new FakeTarget();
        await using var server = new GdbServer(target, ServerAddress.Parse("pty", "-gdb")!, null, GdbClient.Limits, NullLogger.Instance);
        Assert.StartsWith("/dev/pts/", server.Name, StringComparison.Ordinal);
        for (var i = 0; i < 3; i++)
        {
            Assert.False(server.IsAttached);
            await using (var client = GdbClient.Over(new FileStream(server.Name, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite, bufferSize: 0)))
            {
                Assert.Equal("QC1", await client.AskAsync("qC"));
                await client.QuietAsync();
                Assert.Equal(new string('0', 4000), await client.AskAsync("m4000,7d0"));
                if (i == 1)
                    Assert.Equal("OK", await client.AskAsync("D"));
            }

            await FakeWait.UntilAsync(() => !server.IsAttached);
            Assert.Equal(i != 1, target.IsStopped);
        }
    }
}
