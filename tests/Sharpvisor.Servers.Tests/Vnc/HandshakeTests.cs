using System.Security.Cryptography;
using Sharpvisor.Servers.Vnc;

namespace Sharpvisor.Servers.Tests.Vnc;

public sealed class HandshakeTests
{
    [Theory]
    [InlineData("003.003")]
    [InlineData("003.007")]
    [InlineData("003.008")]
    public async Task Clients_of_each_version_connect(string version)
    {
        var console = new FakeConsole(80, 50);
        await using var server = console.Serve();
        await using var client = await TestClient.OpenAsync(server);
        await client.HandshakeAsync(version);
        Assert.Equal((80, 50, "fake"), (client.Width, client.Height, client.Name));
        await client.SyncAsync(c => c.Shows(console));
    }

    [Theory]
    [InlineData("003.003")]
    [InlineData("003.007")]
    [InlineData("003.008")]
    public async Task The_password_opens_and_another_does_not(string version)
    {
        var console = new FakeConsole();
        await using var server = console.Serve(",password-secret=s", "secret");
        await using (var client = await TestClient.OpenAsync(server))
        {
            await client.HandshakeAsync(version, "secret");
            await client.SyncAsync(c => c.Shows(console));
        }

        await using (var stranger = await TestClient.OpenAsync(server))
        {
            var refusal = await Assert.ThrowsAsync<UnauthorizedAccessException>(() => stranger.HandshakeAsync(version, "Secret"));
            Assert.Equal(version == "003.008" ? "authentication failed" : "", refusal.Message);
            Assert.True(await stranger.IsClosedAsync());
        }

        server.SetPassword("other"u8);
        await using var later = await TestClient.OpenAsync(server);
        await later.HandshakeAsync(version, "other");
    }

    [Fact]
    public async Task Where_a_password_is_required_and_none_is_set_nobody_gets_in()
    {
        var console = new FakeConsole();
        await using var server = console.Serve(",password=on");
        await using var client = await TestClient.OpenAsync(server);
        await Assert.ThrowsAsync<UnauthorizedAccessException>(() => client.HandshakeAsync(password: ""));
    }

    [Fact]
    public async Task No_security_is_not_to_be_had_where_there_is_a_password()
    {
        var console = new FakeConsole();
        await using var server = console.Serve(",password-secret=s", "secret");
        await using var client = await TestClient.OpenAsync(server);
        await client.ReadAsync(12);
        await client.WriteAsync("RFB 003.008\n"u8.ToArray());
        Assert.Equal([1, 2], await client.ReadAsync(2));
        await client.WriteAsync([1, 1]);
        Assert.Equal([0, 0, 0, 1], await client.ReadAsync(4));
        Assert.True(await client.IsClosedAsync());
    }

    [Fact]
    public async Task A_client_that_wants_to_be_alone_is()
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using var first = await TestClient.ConnectAsync(server);
        await using var second = await TestClient.ConnectAsync(server);
        Assert.Equal(2, server.ClientCount);
        await using var alone = await TestClient.ConnectAsync(server, shared: false);
        Assert.True(await first.IsClosedAsync());
        Assert.True(await second.IsClosedAsync());
        await using var late = await TestClient.OpenAsync(server);
        await Assert.ThrowsAnyAsync<IOException>(() => late.HandshakeAsync());
        await alone.SyncAsync(c => c.Shows(console));
    }

    [Theory]
    [InlineData(",share=ignore", true)]
    [InlineData(",share=force-shared", false)]
    public async Task The_host_may_decide_who_shares(string options, bool admitted)
    {
        var console = new FakeConsole();
        await using var server = console.Serve(options);
        await using var first = await TestClient.ConnectAsync(server);
        await using var second = await TestClient.OpenAsync(server);
        var attempt = () => second.HandshakeAsync(shared: false);
        if (admitted)
            await attempt();
        else
            await Assert.ThrowsAnyAsync<IOException>(attempt);
        await first.SyncAsync(c => c.Shows(console));
    }

    [Fact]
    public async Task Several_see_the_same_at_their_own_pace()
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using var one = await TestClient.ConnectAsync(server);
        await using var two = await TestClient.ConnectAsync(server);
        await two.SetEncodingsAsync(16);
        var random = new Random(4);
        for (var i = 0; i < 10; i++)
        {
            console.Scribble(random);
            await one.SyncAsync(c => c.Shows(console));
            if (i % 3 == 0)
                await two.SyncAsync(c => c.Shows(console));
        }
    }

    [Fact]
    public void DES_is_that_of_the_framework()
    {
        var random = new Random(7);
        var key = new byte[8];
        var block = new byte[8];
#pragma warning disable CA5351 // VNC authentication is what it is.
        using var reference = DES.Create();
        for (var i = 0; i < 200; i++)
        {
            random.NextBytes(key);
            random.NextBytes(block);
            if (DES.IsWeakKey(key) || DES.IsSemiWeakKey(key))
                continue;
            reference.Key = key;
            var expected = reference.EncryptEcb(block, PaddingMode.None);
            new Des(key).Encrypt(block);
            Assert.Equal(expected, block);
        }
#pragma warning restore CA5351
    }
}
