using System.Net.Sockets;
using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Servers.Endpoints;
using Sharpvisor.Servers.Gdb;

namespace Sharpvisor.Servers.Tests.Gdb;

/// <summary>The other side of the protocol, written from the manual.</summary>
internal sealed class GdbClient : IAsyncDisposable
{
    public static readonly GdbLimits Limits = new() { Packet = 4096, Takeover = TimeSpan.FromMilliseconds(50) };

    private readonly CancellationTokenSource _patience = new(TimeSpan.FromSeconds(30));
    private readonly Stream _stream;
    private readonly byte[] _one = new byte[1];
    private GdbServer? _server;

    private GdbClient(Stream stream)
    {
        _stream = stream;
    }

    /// <summary>Acknowledgments are expected and sent.</summary>
    public bool Acknowledges { get; private set; } = true;

    public static GdbServer Serve(FakeTarget target, Func<string, Task<string>>? monitor = null, GdbLimits? limits = null) =>
        new(target, ServerAddress.Loopback("-gdb", 0), monitor, limits ?? Limits, NullLogger.Instance);

    public static async Task<GdbClient> ConnectAsync(GdbServer server)
    {
        var socket = new Socket(SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        await socket.ConnectAsync("127.0.0.1", server.Port);
        return new GdbClient(new NetworkStream(socket, ownsSocket: true));
    }

    public static GdbClient Over(Stream stream) => new(stream);

    /// <summary>A client of a server of its own, which ends with it.</summary>
    public static async Task<GdbClient> AttachAsync(FakeTarget? target = null)
    {
        var server = Serve(target ?? new FakeTarget());
        var client = await ConnectAsync(server);
        client._server = server;
        return client;
    }

    public async Task QuietAsync()
    {
        Assert.Equal("OK", await AskAsync("QStartNoAckMode"));
        Acknowledges = false;
    }

    public async Task<string> AskAsync(string request)
    {
        await SendAsync(request);
        return await ReplyAsync();
    }

    public async Task SendAsync(string request)
    {
        await SendRawAsync(Frame(Encoding.Latin1.GetBytes(request)));
        if (Acknowledges)
            Assert.Equal((byte)'+', await ByteAsync());
    }

    public static byte[] Frame(byte[] data)
    {
        var sum = (byte)data.Sum(b => b);
        return [(byte)'$', .. data, (byte)'#', .. Encoding.ASCII.GetBytes(sum.ToString("x2", System.Globalization.CultureInfo.InvariantCulture))];
    }

    public async Task SendRawAsync(byte[] bytes) => await _stream.WriteAsync(bytes, _patience.Token);

    public void EndSending() => ((NetworkStream)_stream).Socket.Shutdown(SocketShutdown.Send);

    /// <summary>The data of the next packet, escapes undone.</summary>
    public async Task<string> ReplyAsync()
    {
        var text = new StringBuilder();
        Assert.Equal((byte)'$', await ByteAsync());
        byte sum = 0;
        for (var value = await ByteAsync(); value != '#'; value = await ByteAsync())
        {
            sum += value;
            if (value == '}')
            {
                value = await ByteAsync();
                sum += value;
                value ^= 0x20;
            }

            text.Append((char)value);
        }

        var digits = $"{(char)await ByteAsync()}{(char)await ByteAsync()}";
        Assert.Equal(sum.ToString("x2", System.Globalization.CultureInfo.InvariantCulture), digits);
        if (Acknowledges)
            await SendRawAsync("+"u8.ToArray());
        return text.ToString();
    }

    public async Task<byte> ByteAsync()
    {
        await _stream.ReadExactlyAsync(_one, _patience.Token);
        return _one[0];
    }

    /// <summary>Whether the server closes, whatever it sends before.</summary>
    public async Task<bool> IsClosedAsync()
    {
        try
        {
            while (await _stream.ReadAsync(_one, _patience.Token) > 0)
            {
            }
        }
        catch (IOException)
        {
            // Reset: closed with something unread.
        }

        return true;
    }

    public async ValueTask DisposeAsync()
    {
        await _stream.DisposeAsync();
        if (_server is not null)
            await _server.DisposeAsync();
        _patience.Dispose();
    }
}
