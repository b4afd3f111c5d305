using System.Diagnostics;
using System.Net.Sockets;
using Sharpvisor.Servers.Vnc;

namespace Sharpvisor.Servers.Tests.Vnc;

/// <summary>Whatever comes in, the server goes on, and so does the machine.</summary>
public sealed class BadInputTests
{
    public static TheoryData<byte[]> Garbage() =>
    [
        [7],
        [255, 1, 0, 0],
        [0, 0, 0, 0, 24, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0], // 24 bits
        [0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 250, 8, 0, 0, 0, 0], // a shift beyond the pixel
        [0, 0, 0, 0, 16, 16, 0, 1, 255, 255, 255, 255, 255, 255, 8, 8, 8, 0, 0, 0],
        [0, 0, 0, 0, 8, 8, 0, 1, 0, 0, 0, 7, 0, 3, 5, 2, 0, 0, 0, 0], // no red at all
        [6, 0, 0, 0, 255, 255, 255, 255], // 4 GiB of clipboard
        [6, 0, 0, 0, 128, 0, 0, 0],
    ];

    [Theory]
    [MemberData(nameof(Garbage))]
    public async Task What_no_client_sends_ends_its_connection_only(byte[] message)
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using var good = await TestClient.ConnectAsync(server);
        await using var bad = await TestClient.ConnectAsync(server);
        await bad.WriteAsync(message);
        Assert.True(await bad.IsClosedAsync());
        await good.SyncAsync(c => c.Shows(console));
    }

    [Theory]
    [InlineData("GET / HTTP/1.1\r\n\r\n")]
    [InlineData("RFB 004.000\n")]
    [InlineData("RFB 003.0x8\n")]
    [InlineData("RFB 003.008\n\u0009")]
    [InlineData("\0\0\0\0\0\0\0\0\0\0\0\0")]
    public async Task What_is_no_client_is_sent_away(string beginning)
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using var client = await TestClient.OpenAsync(server);
        await client.WriteAsync(System.Text.Encoding.Latin1.GetBytes(beginning));
        Assert.True(await client.IsClosedAsync());
        await FakeConsole.WaitAsync(() => server.ConnectionCount == 0);
    }

    [Fact]
    public async Task Long_lists_and_clipboards_are_read_over()
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        var encodings = Enumerable.Range(1000, 65535).ToArray();
        encodings[65000] = 16;
        await client.SetEncodingsAsync(encodings);
        await client.WriteAsync([6, 0, 0, 0, 0, 16, 0, 0, .. new byte[1 << 20]]);
        await client.WriteAsync([251, 0, 255, 255, 255, 255, 255, 0, .. new byte[255 * 16]]);
        await client.SyncAsync(c => c.Shows(console));
        Assert.Equal(16, client.Rectangles[0].Encoding);
    }

    [Fact]
    public async Task Rectangles_outside_of_the_screen_are_none()
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        foreach (var area in new Area[] { new(65535, 65535, 65535, 65535), new(0, 0, 0, 0), new(159, 95, 0, 65535), new(160, 0, 1, 1) })
            await client.RequestAsync(false, area);
        await client.SyncAsync(c => c.Shows(console));
    }

    [Fact]
    public async Task A_client_that_stops_reading_keeps_nobody_waiting_and_is_dropped()
    {
        var console = new FakeConsole(1600, 1200);
        var random = new Random(2);
        await using var server = console.Serve(limits: FakeConsole.FastLimits with { Write = TimeSpan.FromMilliseconds(300) });
        await using var deaf = await TestClient.ConnectAsync(server);
        await using var good = await TestClient.ConnectAsync(server);
        await good.SetEncodingsAsync(16);
        var before = GC.GetTotalMemory(forceFullCollection: true);
        for (var i = 0; i < 30; i++)
        {
            console.Change(p =>
            {
                for (var y = 0; y < 400; y++)
                    p.Row(random.Next(p.Height)).Fill((uint)random.Next());
            });
            await deaf.RequestAsync(incremental: false);
        }

        var watch = Stopwatch.StartNew();
        await good.SyncAsync(c => c.Rectangles.Count > 0);
        using (console.Gate.Enter())
            Assert.True(watch.ElapsedMilliseconds < 5000);
        Assert.InRange(GC.GetTotalMemory(forceFullCollection: true) - before, long.MinValue, 64L << 20);
        await FakeConsole.WaitAsync(() => server.ClientCount == 1);
    }

    [Fact]
    public async Task A_slow_handshake_ends()
    {
        var console = new FakeConsole();
        await using var server = console.Serve(limits: FakeConsole.FastLimits with { Handshake = TimeSpan.FromMilliseconds(100) });
        await using var client = await TestClient.OpenAsync(server);
        await client.WriteAsync([(byte)'R']);
        Assert.True(await client.IsClosedAsync());
    }

    [Fact]
    public async Task Many_that_only_connect_do_not_keep_others_out()
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using var seated = await TestClient.ConnectAsync(server);
        var sockets = new List<Socket>();
        for (var i = 0; i < 2000; i++)
        {
            var socket = new Socket(SocketType.Stream, ProtocolType.Tcp);
            await socket.ConnectAsync("127.0.0.1", server.Port);
            sockets.Add(socket);
            if (sockets.Count == 100)
            {
                Assert.InRange(server.ConnectionCount, 0, 40);
                sockets.ForEach(s => s.Dispose());
                sockets.Clear();
            }
        }

        await using var late = await TestClient.ConnectAsync(server);
        await late.SyncAsync(c => c.Shows(console));
        await seated.SyncAsync(c => c.Shows(console));
        await FakeConsole.WaitAsync(() => server.ConnectionCount == 2);
    }

    [Fact]
    public async Task More_clients_than_allowed_are_refused()
    {
        var console = new FakeConsole();
        await using var server = console.Serve(",connections=2");
        await using var one = await TestClient.ConnectAsync(server);
        await using var two = await TestClient.ConnectAsync(server);
        await using var three = await TestClient.OpenAsync(server);
        await Assert.ThrowsAnyAsync<IOException>(() => three.HandshakeAsync());
        await one.DisposeAsync();
        await FakeConsole.WaitAsync(() => server.ClientCount == 1);
        await using var four = await TestClient.ConnectAsync(server);
    }

    [Fact]
    public async Task The_server_ends_with_clients_connected()
    {
        var console = new FakeConsole();
        var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.KeyAsync('a', true);
        await FakeConsole.WaitAsync(() => console.Keys.Length == 1);
        await server.DisposeAsync();
        Assert.Equal((Core.Input.Key.A, false), console.Keys[^1]);
        Assert.True(await client.IsClosedAsync());
    }

    /// <summary>Streams of a client with bytes changed, left out, doubled, and cut off.</summary>
    [Fact]
    public async Task Mutated_streams_harm_nobody()
    {
        var seed = Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_SEED") is { } text ? int.Parse(text) : 20261121;
        var count = Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_COUNT") is { } number ? int.Parse(number) : 300;
        var console = new FakeConsole(64, 48);
        await using var server = console.Serve();
        for (var i = 0; i < count; i++)
        {
            var random = new Random(seed + i);
            var stream = Mutate(random, Session(random));
            using var socket = new Socket(SocketType.Stream, ProtocolType.Tcp);
            await socket.ConnectAsync("127.0.0.1", server.Port);
            await socket.SendAsync(stream);
            if (random.Next(2) == 0)
                socket.Shutdown(SocketShutdown.Send);
            if (random.Next(2) == 0)
            {
                var buffer = new byte[4096];
                socket.ReceiveTimeout = 50;
                await Task.Run(() =>
                {
                    try
                    {
                        while (socket.Receive(buffer) > 0)
                        {
                        }
                    }
                    catch (SocketException)
                    {
                        // Nothing more for now, or reset.
                    }
                });
            }

            if (i % 50 != 0)
                continue;
            await using var good = await TestClient.ConnectAsync(server);
            await good.SetEncodingsAsync(7, -223);
            console.Scribble(random);
            await good.SyncAsync(c => c.Shows(console));
        }

        await FakeConsole.WaitAsync(() => server.ConnectionCount == 0);
        var held = console.Keys.GroupBy(k => k.Key).Where(g => g.Last().Pressed);
        Assert.Empty(held);
        Assert.Equal(Core.Input.PointerButtons.None, PointerButtons(console));
    }

    private static Core.Input.PointerButtons PointerButtons(FakeConsole console) => console.Moves is [.., var last] ? last.Buttons : default;

    private static byte[] Session(Random random)
    {
        List<byte> stream = [.. "RFB 003.008\n"u8, 1, 1];
        for (var i = random.Next(12); i >= 0; i--)
        {
            byte[] message = random.Next(9) switch
            {
                0 => [0, 0, 0, 0, 16, 16, 0, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0],
                1 => [0, 0, 0, 0, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                2 => [2, 0, 0, 3, 0, 0, 0, (byte)random.Next(20), 0xFF, 0xFF, 0xFF, 0x21, 0xFF, 0xFF, 0xFE, (byte)random.Next(256)],
                3 => [4, 1, 0, 0, 0, 0, 0, (byte)random.Next(256)],
                4 => [5, (byte)random.Next(256), 0, 9, 0, (byte)random.Next(99)],
                5 => [6, 0, 0, 0, 0, 0, 0, 5, 1, 2, 3, 4, 5],
                6 => [255, 0, 0, 1, 0, 0, 0, 97, 0, 0, 0, (byte)random.Next(256)],
                7 => [251, 0, 1, 0, 1, 0, 1, 0, .. new byte[16]],
                _ => [3, (byte)random.Next(2), 0, 0, 0, 0, 0, 64, 0, 48],
            };
            stream.AddRange(message);
        }

        return [.. stream];
    }

    private static byte[] Mutate(Random random, byte[] stream)
    {
        var mutated = stream.ToList();
        var first = random.Next(5) == 0 ? 0 : 14; // most get through the handshake
        for (var i = random.Next(6); i > 0 && mutated.Count > first; i--)
        {
            var place = random.Next(first, mutated.Count);
            switch (random.Next(4))
            {
                case 0:
                    mutated[place] = (byte)random.Next(256);
                    break;
                case 1:
                    mutated.RemoveAt(place);
                    break;
                case 2:
                    mutated.InsertRange(place, mutated.GetRange(place, random.Next(Math.Min(20, mutated.Count - place))));
                    break;
                default:
                    mutated.RemoveRange(place, random.Next(mutated.Count - place));
                    break;
            }
        }

        return [.. mutated];
    }
}
