using Sharpvisor.Servers.Vnc;

namespace Sharpvisor.Servers.Tests.Vnc;

public sealed class EncodingTests
{
    private const int CopyRect = 1, DesktopSize = -223, LastRect = -224, ExtendedDesktopSize = -308;

    private static readonly PixelFormat[] Formats =
    [
        PixelFormat.Native,
        PixelFormat.Native with { BigEndian = true },
        PixelFormat.Native with { RedShift = 0, BlueShift = 16 },
        PixelFormat.Native with { RedShift = 24, GreenShift = 16, BlueShift = 8 },
        PixelFormat.Native with { RedShift = 24, GreenShift = 16, BlueShift = 8, BigEndian = true },
        PixelFormat.Native with { Depth = 32 },
        new(32, 30, false, true, 1023, 1023, 1023, 20, 10, 0),
        new(16, 16, false, true, 31, 63, 31, 11, 5, 0),
        new(16, 15, true, true, 31, 31, 31, 10, 5, 0),
        new(8, 8, false, true, 7, 7, 3, 0, 3, 6),
        new(8, 6, false, true, 3, 3, 3, 4, 2, 0),
        new(8, 8, false, false, 0, 0, 0, 0, 0, 0),
    ];

    public static TheoryData<int, int> Cases()
    {
        var cases = new TheoryData<int, int>();
        foreach (var encoding in new[] { 0, 5, 6, 7, 16 })
        {
            for (var format = 0; format < Formats.Length; format++)
                cases.Add(encoding, format);
        }

        return cases;
    }

    /// <summary>Each client has a copy of the picture: a guest does not choose how large that is.</summary>
    [Fact]
    public async Task Of_a_huge_screen_the_upper_left_part_is_shown()
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.SetEncodingsAsync(16, DesktopSize);
        await client.SyncAsync(c => c.Shows(console));
        console.Change(picture =>
        {
            picture.Resize(8000, 4000);
            picture.Pixels.Fill(0x123456);
            picture.Row(2159)[5119] = 0xABCDEF;
            picture.Row(2159)[5120] = 0;
        });
        await client.SyncAsync(c => c.Width == 5120 && c.Pixels[^1] == 0xABCDEF);
        Assert.Equal((5120, 2160), (client.Width, client.Height));
        console.Change(picture =>
        {
            picture.Resize(160, 96);
            picture.Pixels.Clear();
        });
        await client.SyncAsync(c => c.Shows(console));
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public async Task What_a_client_decodes_is_what_is_on_the_screen(int encoding, int format)
    {
        var random = new Random((encoding * 100) + format);
        var console = new FakeConsole(203, 149);
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.SetFormatAsync(Formats[format]);
        await client.SetEncodingsAsync(encoding, DesktopSize);
        console.Scribble(random);
        for (var i = 0; i < 20; i++)
        {
            await client.SyncAsync(c => c.Shows(console));
            Assert.All(client.Rectangles, r => Assert.True(r.Encoding == encoding || r.Encoding == DesktopSize));
            console.Scribble(random);
            if (i == 10)
            {
                console.Change(p => p.Resize(random.Next(1, 300), random.Next(1, 200)));
                console.Scribble(random);
            }
        }

        Assert.Equal(Formats[format].TrueColour, client.ColourMap is null);
    }

    [Theory]
    [InlineData(LastRect)]
    [InlineData(CopyRect)]
    [InlineData(ExtendedDesktopSize)]
    public async Task Extensions_change_the_way_but_not_the_picture(int extension)
    {
        var random = new Random(extension);
        var console = new FakeConsole(720, 400);
        await using var server = console.Serve(limits: FakeConsole.FastLimits with { Update = TimeSpan.Zero });
        await using var client = await TestClient.ConnectAsync(server);
        await client.SetEncodingsAsync(7, extension, DesktopSize, -247);
        var seen = new HashSet<int>();
        for (var i = 0; i < 30; i++)
        {
            for (var j = 0; j < 10; j++)
                console.Scribble(random);
            await client.SyncAsync(c => c.Shows(console));
            console.Change(p => p.Pixels[(p.Width * 16)..].CopyTo(p.Pixels));
            if (i % 10 == 9)
                console.Change(p => p.Resize(random.Next(500, 800), random.Next(300, 500)));
            await client.SyncAsync(c =>
            {
                seen.UnionWith(c.Rectangles.Select(r => r.Encoding));
                return c.Shows(console);
            });
        }

        Assert.Equal(extension == LastRect, client.EndedEarly);
        if (extension != LastRect)
            Assert.Contains(extension, seen);
    }

    [Fact]
    public async Task A_screen_that_scrolls_costs_its_last_line()
    {
        var random = new Random(1);
        var console = new FakeConsole(720, 400);
        console.Change(p =>
        {
            foreach (ref var pixel in p.Pixels)
                pixel = random.Next(2) == 0 ? 0u : 0xAAAAAAu;
        });
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.SetEncodingsAsync(16, CopyRect);
        await client.SyncAsync(c => c.Shows(console));
        Assert.True(client.PixelBytes > 30_000);
        console.Change(p =>
        {
            p.Pixels[(p.Width * 16)..].CopyTo(p.Pixels);
            p.Pixels[(p.Width * 384)..].Clear();
        });
        await client.RequestAsync();
        await client.ReadUpdateAsync();
        Assert.True(client.Shows(console));
        Assert.Equal((new Area(0, 0, 720, 384), CopyRect), client.Rectangles[0]);
        Assert.True(client.PixelBytes < 100);
    }

    [Fact]
    public async Task Who_knows_layouts_is_told_the_layout_with_each_whole_update()
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.SetEncodingsAsync(0, ExtendedDesktopSize);
        await client.SyncAsync(c => c.Shows(console));
        for (var i = 0; i < 2; i++)
        {
            await client.RequestAsync(incremental: false);
            await client.ReadUpdateAsync();
            Assert.Equal([(new Area(0, 0, 160, 96), ExtendedDesktopSize)], client.Rectangles);
            await client.ReadUpdateAsync();
            Assert.Equal([0], client.Rectangles.Select(r => r.Encoding).Distinct());
        }
    }

    [Fact]
    public async Task A_size_that_was_asked_for_is_refused_also_when_another_comes()
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.SetEncodingsAsync(0, ExtendedDesktopSize);
        await client.RequestAsync();
        await client.ReadUpdateAsync(); // the layout
        await client.ReadUpdateAsync(); // and the pixels: no request is open now
        await client.WriteAsync([251, 0, 3, 0, 2, 0, 0, 0]); // SetDesktopSize of 768 by 512, no screens
        console.Change(p => p.Resize(200, 100));
        await Task.Delay(10 * FakeConsole.FastLimits.Frame); // the drawing of before is old then
        await client.RequestAsync();
        await client.ReadUpdateAsync();
        Assert.Equal([(new Area(0, 0, 200, 100), ExtendedDesktopSize)], client.Rectangles);
        await client.RequestAsync();
        await client.ReadUpdateAsync();
        Assert.Equal([(new Area(1, 1, 200, 100), ExtendedDesktopSize)], client.Rectangles);
    }

    [Fact]
    public async Task Only_what_changed_is_sent()
    {
        var console = new FakeConsole(640, 480);
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.SyncAsync(c => c.Shows(console));
        console.Change(p => p.Row(100)[200] = 0x123456);
        await client.RequestAsync();
        await client.ReadUpdateAsync();
        Assert.Equal((new Area(192, 96, 16, 16), 0), Assert.Single(client.Rectangles));
        Assert.True(client.Shows(console));
    }

    [Fact]
    public async Task A_client_that_cannot_resize_sees_a_part_or_black()
    {
        var console = new FakeConsole(100, 80);
        console.Change(p => p.Pixels.Fill(0xFFFFFF));
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.SyncAsync(c => c.Pixels.All(p => p == 0xFFFFFF));
        console.Change(p =>
        {
            p.Resize(200, 40);
            p.Pixels.Fill(0xFF);
        });
        await client.SyncAsync(c => c.Pixels[0] == 0xFF);
        Assert.Equal((100, 80), (client.Width, client.Height));
        Assert.All(client.Pixels[..4000], p => Assert.Equal(0xFFu, p));
        Assert.All(client.Pixels[4000..], p => Assert.Equal(0u, p));
    }

    [Fact]
    public async Task A_wish_for_another_size_is_refused_by_the_book()
    {
        var console = new FakeConsole(100, 80);
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.SetEncodingsAsync(0, ExtendedDesktopSize);
        await client.RequestAsync();
        await client.ReadUpdateAsync();
        Assert.Contains((new Area(0, 0, 100, 80), ExtendedDesktopSize), client.Rectangles);
        await client.SyncAsync(c => c.Shows(console));
        await client.RequestAsync();
        await client.WriteAsync([251, 0, 2, 0, 1, 0, 1, 0, .. new byte[16]]);
        await client.ReadUpdateAsync();
        Assert.Equal((new Area(1, 1, 100, 80), ExtendedDesktopSize), Assert.Single(client.Rectangles));
    }

    [Fact]
    public async Task Nobody_looks_nothing_is_drawn()
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.SyncAsync(c => c.Shows(console));
        await Task.Delay(20);
        var before = console.Renders;
        await Task.Delay(100);
        Assert.Equal(before, console.Renders);
        await client.RequestAsync();
        await Task.Delay(200);
        Assert.InRange(console.Renders - before, 5, 100);
        await client.DisposeAsync();
        await FakeConsole.WaitAsync(() => server.ClientCount == 0);
        await Task.Delay(20);
        before = console.Renders;
        await Task.Delay(100);
        Assert.Equal(before, console.Renders);
    }

    [Fact]
    public async Task Only_the_area_that_a_client_asks_for_is_sent()
    {
        var console = new FakeConsole(160, 96);
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.RequestAsync(false, new Area(32, 16, 16, 32));
        await client.ReadUpdateAsync();
        Assert.Equal(new Area(32, 16, 16, 32), Assert.Single(client.Rectangles).Area);
        await client.RequestAsync(true, new Area(150, 90, 60000, 60000));
        await client.ReadUpdateAsync();
        Assert.Equal(new Area(144, 80, 16, 16), Assert.Single(client.Rectangles).Area);
    }
}
