using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Gdb;

namespace Sharpvisor.Servers.Tests.Gdb;

/// <summary>What the monitor's gdbserver does.</summary>
public sealed class GdbServiceTests
{
    [Fact]
    public async Task The_server_comes_moves_and_goes_while_the_machine_runs()
    {
        var target = new FakeTarget();
        await using var service = Service(target);
        Assert.Null(service.Server);
        Assert.StartsWith("Waiting for gdb connection on device '127.0.0.1:", await service.CommandAsync("tcp::0"), StringComparison.Ordinal);
        await using var client = await GdbClient.ConnectAsync(service.Server!);
        Assert.Equal("QC1", await client.AskAsync("qC"));
        Assert.Equal("OK", await client.AskAsync("Z0,1000,1"));
        await service.CommandAsync("tcp::0");
        Assert.True(await client.IsClosedAsync());
        Assert.Equal(["+1000", "-1000"], target.Log);
        await using var other = await GdbClient.ConnectAsync(service.Server!);
        Assert.Equal("QC1", await other.AskAsync("qC"));
        Assert.Throws<ConfigurationException>(() => service.CommandAsync("nowhere").GetAwaiter().GetResult());
        Assert.Equal("QC1", await other.AskAsync("qC"));
        Assert.Equal("Disabled gdbserver\n", await service.CommandAsync("none"));
        Assert.True(await other.IsClosedAsync());
        Assert.Null(service.Server);
    }

    /// <summary>gdb asks, by the monitor, for its own end.</summary>
    [Fact]
    public async Task A_debugger_may_switch_its_server_off()
    {
        GdbService? service = null;
        service = Service(new FakeTarget(), command => service!.CommandAsync(command));
        await using (service)
        {
            await service.CommandAsync("tcp::0");
            await using var client = await GdbClient.ConnectAsync(service.Server!);
            await client.QuietAsync();
            await client.SendRawAsync(GdbClient.Frame(System.Text.Encoding.ASCII.GetBytes("qRcmd," + Convert.ToHexStringLower("none"u8))));
            Assert.True(await client.IsClosedAsync());
            await FakeWait.UntilAsync(() => service.Server is null);
        }
    }

    private static GdbService Service(FakeTarget target, Func<string, Task<string>>? monitor = null) =>
        new(address => new GdbServer(target, address, monitor, GdbClient.Limits, NullLogger.Instance));
}
