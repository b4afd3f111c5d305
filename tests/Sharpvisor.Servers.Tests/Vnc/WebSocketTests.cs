using System.Net.Sockets;
using System.Net.WebSockets;
using Sharpvisor.Servers.Vnc;

namespace Sharpvisor.Servers.Tests.Vnc;

public sealed class WebSocketTests
{
    private const string Request = "GET /websockify HTTP/1.1\r\nHost: x\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

    [Theory]
    [InlineData(null)]
    [InlineData("binary")]
    public async Task A_browser_sees_the_same_screen(string? protocol)
    {
        var console = new FakeConsole(300, 200);
        await using var server = Serve(console);
        using var socket = new ClientWebSocket();
        if (protocol is not null)
            socket.Options.AddSubProtocol(protocol);
        await socket.ConnectAsync(new Uri($"ws://127.0.0.1:{server.WebSocketPort}/websockify"), CancellationToken.None);
        Assert.Equal(protocol, socket.SubProtocol);
        await using var client = new TestClient(WebSocketStream.Create(socket, WebSocketMessageType.Binary, ownsWebSocket: true));
        await client.HandshakeAsync();
        await client.SetEncodingsAsync(7, -223, -224);
        var random = new Random(5);
        for (var i = 0; i < 10; i++)
        {
            console.Scribble(random);
            await client.SyncAsync(c => c.Shows(console));
        }

        await client.KeyAsync('a', true);
        await FakeConsole.WaitAsync(() => console.Keys.Length == 1);
        await client.DisposeAsync();
        await FakeConsole.WaitAsync(() => server.ConnectionCount == 0);
    }

    [Fact]
    public void The_answer_is_that_of_the_RFC()
    {
        Assert.Equal("", WebSocketUpgrade.Answer(Request.TrimEnd(), out var answer));
        Assert.Contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", answer, StringComparison.Ordinal);
        Assert.Equal("binary", WebSocketUpgrade.Answer(Request + "Sec-WebSocket-Protocol: base64, binary", out _));
    }

    [Theory]
    [InlineData("GET / HTTP/1.1\r\n\r\n", "426")]
    [InlineData("POST / HTTP/1.1\r\n\r\n", "400")]
    [InlineData("GET / HTTP/1.1\r\nnonsense\r\n\r\n", "400")]
    [InlineData("RFB 003.008\n\r\n\r\n", "400")]
    [InlineData(Request + "Sec-WebSocket-Protocol: base64\r\n\r\n", "400")]
    [InlineData("GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n", "400")]
    [InlineData("GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n\r\n", "426")]
    public async Task Other_requests_are_told_what_is_here(string request, string status)
    {
        await using var server = Serve(new FakeConsole());
        using var socket = await ConnectAsync(server);
        await socket.SendAsync(System.Text.Encoding.ASCII.GetBytes(request));
        using var reader = new StreamReader(new NetworkStream(socket));
        Assert.StartsWith($"HTTP/1.1 {status} ", await reader.ReadToEndAsync(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_request_without_end_ends()
    {
        await using var server = Serve(new FakeConsole());
        using var socket = await ConnectAsync(server);
        try
        {
            for (var i = 0; i < 100; i++)
                await socket.SendAsync(new byte[1000]);
        }
        catch (SocketException)
        {
            // Closed while we were sending.
        }

        await FakeConsole.WaitAsync(() => server.ConnectionCount == 0);
    }

    [Fact]
    public async Task Frames_that_are_none_end_the_connection()
    {
        var console = new FakeConsole();
        await using var server = Serve(console);
        for (var seed = 0; seed < 50; seed++)
        {
            var garbage = new byte[200];
            new Random(seed).NextBytes(garbage);
            using var socket = await ConnectAsync(server);
            await socket.SendAsync(System.Text.Encoding.ASCII.GetBytes(Request + "\r\n"));
            await socket.ReceiveAsync(new byte[1]);
            await socket.SendAsync(garbage);
        }

        await FakeConsole.WaitAsync(() => server.ConnectionCount == 0);
    }

    private static VncServer Serve(FakeConsole console) => new(
        VncSpec.Parse("127.0.0.1:0,websocket")! with { Port = 0, LastPort = 0, WebSocketPort = 0 }, console.Console, FakeConsole.FastLimits, default, Microsoft.Extensions.Logging.Abstractions.NullLogger.Instance);

    private static async Task<Socket> ConnectAsync(VncServer server)
    {
        var socket = new Socket(SocketType.Stream, ProtocolType.Tcp);
        await socket.ConnectAsync("127.0.0.1", server.WebSocketPort);
        return socket;
    }
}
