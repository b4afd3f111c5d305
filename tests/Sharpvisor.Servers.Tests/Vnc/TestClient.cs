using System.Buffers.Binary;
using System.Net.Sockets;
using Sharpvisor.Servers.Vnc;

namespace Sharpvisor.Servers.Tests.Vnc;

/// <summary>A VNC client written from the specification, not from the server: what it decodes is compared with the source.</summary>
internal sealed class TestClient(Stream stream) : IAsyncDisposable
{
    private readonly CancellationTokenSource _patience = new(TimeSpan.FromSeconds(20));
    private readonly RectangleDecoder _decoder = new();

    public int Width { get; private set; }

    public int Height { get; private set; }

    public string Name { get; private set; } = "";

    /// <summary>The client's values.</summary>
    public uint[] Pixels { get; private set; } = [];

    public PixelFormat Format { get; private set; } = PixelFormat.Native;

    /// <summary>Encodings of the rectangles of the last update.</summary>
    public List<(Area Area, int Encoding)> Rectangles { get; } = [];

    /// <summary>The states of the keyboard's lights, in the order in which they came.</summary>
    public List<int> Leds { get; } = [];

    /// <summary>The cursors that were told: hot spot and size, pixels, mask.</summary>
    public List<(Area Area, byte[] Pixels, byte[] Mask)> Cursors { get; } = [];

    /// <summary>Bytes of pixel data of the last update.</summary>
    public int PixelBytes { get; private set; }

    /// <summary>Whether an update ended by LastRect.</summary>
    public bool EndedEarly { get; private set; }

    /// <summary>RGB in 16 bits each.</summary>
    public ushort[]? ColourMap { get; private set; }

    public static async Task<TestClient> OpenAsync(VncServer server)
    {
        var socket = new Socket(SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        await socket.ConnectAsync("127.0.0.1", server.Port);
        return new TestClient(new NetworkStream(socket, ownsSocket: true));
    }

    public static async Task<TestClient> ConnectAsync(VncServer server, bool shared = true)
    {
        var client = await OpenAsync(server);
        await client.HandshakeAsync(shared: shared);
        return client;
    }

    public async Task HandshakeAsync(string version = "003.008", string? password = null, bool shared = true)
    {
        Assert.Equal("RFB 003.008\n", System.Text.Encoding.ASCII.GetString(await ReadAsync(12)));
        await WriteAsync(System.Text.Encoding.ASCII.GetBytes($"RFB {version}\n"));
        int type;
        if (version == "003.003")
        {
            type = (int)await U32Async();
        }
        else
        {
            var types = await ReadAsync((await ReadAsync(1))[0]);
            type = Assert.Single(types);
            await WriteAsync([(byte)type]);
        }

        Assert.Equal(password is null ? 1 : 2, type);
        if (password is not null)
        {
            var challenge = await ReadAsync(16);
            new VncPassword(System.Text.Encoding.UTF8.GetBytes(password)).Respond(challenge);
            await WriteAsync(challenge);
        }

        if (password is not null || version == "003.008")
        {
            if (await U32Async() != 0)
            {
                var reason = version == "003.008" ? System.Text.Encoding.Latin1.GetString(await ReadAsync((int)await U32Async())) : "";
                throw new UnauthorizedAccessException(reason);
            }
        }

        await WriteAsync([(byte)(shared ? 1 : 0)]);
        Resize(await U16Async(), await U16Async());
        Assert.Equal(PixelFormat.Native, PixelFormat.Read(await ReadAsync(16)));
        Name = System.Text.Encoding.Latin1.GetString(await ReadAsync((int)await U32Async()));
    }

    public async Task SetFormatAsync(PixelFormat format)
    {
        Format = format;
        var message = new byte[20];
        (message[4], message[5], message[6], message[7]) = ((byte)format.BitsPerPixel, (byte)format.Depth, (byte)(format.BigEndian ? 1 : 0), (byte)(format.TrueColour ? 1 : 0));
        BinaryPrimitives.WriteUInt16BigEndian(message.AsSpan(8), (ushort)format.RedMax);
        BinaryPrimitives.WriteUInt16BigEndian(message.AsSpan(10), (ushort)format.GreenMax);
        BinaryPrimitives.WriteUInt16BigEndian(message.AsSpan(12), (ushort)format.BlueMax);
        (message[14], message[15], message[16]) = ((byte)format.RedShift, (byte)format.GreenShift, (byte)format.BlueShift);
        await WriteAsync(message);
    }

    public async Task SetEncodingsAsync(params int[] encodings)
    {
        var message = new byte[4 + (encodings.Length * 4)];
        message[0] = 2;
        BinaryPrimitives.WriteUInt16BigEndian(message.AsSpan(2), (ushort)encodings.Length);
        for (var i = 0; i < encodings.Length; i++)
            BinaryPrimitives.WriteInt32BigEndian(message.AsSpan(4 + (i * 4)), encodings[i]);
        await WriteAsync(message);
    }

    public Task RequestAsync(bool incremental = true, Area? area = null)
    {
        var (x, y, width, height) = area ?? new Area(0, 0, Width, Height);
        return WriteAsync([3, (byte)(incremental ? 1 : 0), (byte)(x >> 8), (byte)x, (byte)(y >> 8), (byte)y, (byte)(width >> 8), (byte)width, (byte)(height >> 8), (byte)height]);
    }

    public Task KeyAsync(uint keysym, bool pressed) =>
        WriteAsync([4, (byte)(pressed ? 1 : 0), 0, 0, (byte)(keysym >> 24), (byte)(keysym >> 16), (byte)(keysym >> 8), (byte)keysym]);

    public Task PointerAsync(int mask, int x, int y) => WriteAsync([5, (byte)mask, (byte)(x >> 8), (byte)x, (byte)(y >> 8), (byte)y]);

    public Task WriteAsync(byte[] data) => stream.WriteAsync(data, _patience.Token).AsTask();

    public async Task<byte[]> ReadAsync(int count)
    {
        var data = new byte[count];
        await stream.ReadExactlyAsync(data, _patience.Token);
        return data;
    }

    /// <summary>Whether the server closes, whatever it sends before.</summary>
    public async Task<bool> IsClosedAsync()
    {
        var data = new byte[4096];
        try
        {
            while (await stream.ReadAsync(data, _patience.Token) > 0)
            {
            }
        }
        catch (IOException)
        {
            // Reset: closed with something unread.
        }

        return true;
    }

    /// <summary>Reads messages up to an update and applies it.</summary>
    public async Task ReadUpdateAsync()
    {
        while (true)
        {
            var head = await ReadAsync(2);
            if (head[0] == 0)
                break;
            Assert.Equal(1, head[0]);
            Assert.Equal(0, await U16Async());
            ColourMap = new ushort[await U16Async() * 3];
            for (var i = 0; i < ColourMap.Length; i++)
                ColourMap[i] = (ushort)await U16Async();
        }

        Rectangles.Clear();
        PixelBytes = 0;
        var count = await U16Async();
        for (var i = 0; i < count; i++)
        {
            var area = new Area(await U16Async(), await U16Async(), await U16Async(), await U16Async());
            var encoding = (int)await U32Async();
            if (encoding == -224)
            {
                Assert.True(i < count);
                EndedEarly = true;
                return;
            }

            Rectangles.Add((area, encoding));
            await ApplyAsync(area, encoding);
        }
    }

    /// <summary>Requests and reads updates until the picture is as it should be.</summary>
    public async Task SyncAsync(Func<TestClient, bool> isDone)
    {
        while (!isDone(this))
        {
            await RequestAsync();
            await ReadUpdateAsync();
        }
    }

    /// <summary>Whether the picture is that of a screen, by a reckoning of its own.</summary>
    public bool Shows(FakeConsole console)
    {
        using var scope = console.Gate.Enter();
        if (console.Picture.Width != Width || console.Picture.Height != Height)
            return false;
        for (var i = 0; i < Pixels.Length; i++)
        {
            if (Pixels[i] != Expected(console.Picture.Pixels[i]))
                return false;
        }

        return true;
    }

    public ValueTask DisposeAsync()
    {
        _patience.Dispose();
        return stream.DisposeAsync();
    }

    private uint Expected(uint pixel)
    {
        var f = Format.TrueColour ? Format : new PixelFormat(8, 8, false, true, 7, 7, 3, 5, 2, 0);
        static uint Scale(uint colour, int maximum) => (uint)Math.Round((colour & 0xFF) * (double)maximum / 255, MidpointRounding.AwayFromZero);
        return Scale(pixel >> 16, f.RedMax) << f.RedShift | Scale(pixel >> 8, f.GreenMax) << f.GreenShift | Scale(pixel, f.BlueMax) << f.BlueShift;
    }

    private async Task ApplyAsync(Area area, int encoding)
    {
        switch (encoding)
        {
            case 1:
                int fromX = await U16Async(), fromY = await U16Async();
                var copy = (uint[])Pixels.Clone();
                for (var y = 0; y < area.Height; y++)
                    copy.AsSpan(((fromY + y) * Width) + fromX, area.Width).CopyTo(Pixels.AsSpan(((area.Y + y) * Width) + area.X));
                break;
            case -223:
                Resize(area.Width, area.Height);
                break;
            case -308:
                Assert.Equal(1, (await ReadAsync(4))[0]);
                await ReadAsync(16);
                if (area.Width != Width || area.Height != Height)
                    Resize(area.Width, area.Height);
                break;
            case -257 or -258 or -316:
                break;
            case -239:
                var colours = await ReadAsync(area.Width * area.Height * (Format.BitsPerPixel / 8));
                Cursors.Add((area, colours, await ReadAsync((area.Width + 7) / 8 * area.Height)));
                break;
            case -261:
                Leds.Add((await ReadAsync(1))[0]);
                break;
            default:
                var target = new uint[area.Width * area.Height];
                PixelBytes += await _decoder.DecodeAsync(encoding, area.Width, area.Height, Format, target, ReadAsync);
                Assert.InRange(area.Right, 1, Width);
                Assert.InRange(area.Bottom, 1, Height);
                for (var y = 0; y < area.Height; y++)
                    target.AsSpan(y * area.Width, area.Width).CopyTo(Pixels.AsSpan(((area.Y + y) * Width) + area.X));
                break;
        }
    }

    private void Resize(int width, int height)
    {
        (Width, Height) = (width, height);
        Pixels = new uint[width * height];
        Array.Fill(Pixels, 0xDEAD_BEEF);
    }

    private async Task<int> U16Async() => BinaryPrimitives.ReadUInt16BigEndian(await ReadAsync(2));

    private async Task<uint> U32Async() => BinaryPrimitives.ReadUInt32BigEndian(await ReadAsync(4));
}
