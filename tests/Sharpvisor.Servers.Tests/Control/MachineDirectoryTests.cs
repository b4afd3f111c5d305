using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Control;
using Sharpvisor.Servers.Qmp;

namespace Sharpvisor.Servers.Tests.Control;

/// <summary>A machine is found by its name, and leaves nothing behind.</summary>
public sealed class MachineDirectoryTests
{
    [Fact]
    [System.Runtime.Versioning.SupportedOSPlatform("linux")]
    public async Task A_machine_is_found_and_talked_to()
    {
        var name = $"test-{Guid.NewGuid():N}";
        await using var machine = await ControlledMachine.StartAsync();
        string path;
        await using (ControlServer.Publish(name, () => machine.Qmp, NullLogger.Instance))
        {
            var entry = MachineDirectory.Find(name);
            path = entry.Path;
            Assert.Equal((name, Environment.ProcessId), (entry.Name, entry.ProcessId));
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(path));
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute, File.GetUnixFileMode(MachineDirectory.Path));
            await using var client = await QmpClient.ConnectAsync(entry);
            Assert.Equal("VM status: running\r\n", await client.MonitorAsync("info status"));
            using var status = await client.ExecuteAsync("query-status");
            Assert.Equal("running", status.RootElement.GetProperty("status").GetString());
            Assert.Contains("has not been found", (await Assert.ThrowsAsync<ConfigurationException>(() => client.ExecuteAsync("dance"))).Message, StringComparison.Ordinal);
        }

        Assert.False(File.Exists(path));
        Assert.Contains($"no machine {name}", Assert.Throws<ConfigurationException>(() => MachineDirectory.Find(name)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void What_a_killed_machine_left_is_removed()
    {
        Directory.CreateDirectory(MachineDirectory.Path);
        var stale = Path.Combine(MachineDirectory.Path, $"stale{Guid.NewGuid():N}-1.qmp");
        using (var socket = new System.Net.Sockets.Socket(System.Net.Sockets.AddressFamily.Unix, System.Net.Sockets.SocketType.Stream, System.Net.Sockets.ProtocolType.Unspecified))
        {
            // Bound, but nobody listens.
            socket.Bind(new System.Net.Sockets.UnixDomainSocketEndPoint(stale));
            Assert.DoesNotContain(MachineDirectory.List(), m => m.Path == stale);
        }

        Assert.False(File.Exists(stale));
    }
}
