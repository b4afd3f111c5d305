using Sharpvisor.Core.Input;
using Sharpvisor.Servers.Vnc;
using Sharpvisor.Servers.Vnc.Input;

namespace Sharpvisor.Servers.Tests.Vnc;

public sealed class InputTests
{
    private const uint Shift = 0xFFE1, Control = 0xFFE3, CapsLock = 0xFFE5;

    [Fact]
    public async Task Keys_go_down_and_up_as_the_client_says() =>
        Assert.Equal("+LeftControl +C -C -LeftControl +F1 -F1 +KeypadEnter -KeypadEnter", await TypeAsync(
            (Control, true), ('c', true), ('c', false), (Control, false), (0xFFBE, true), (0xFFBE, false), (0xFF8D, true), (0xFF8D, false)));

    [Fact]
    public async Task Shift_of_the_client_chooses_as_on_the_keyboard() =>
        Assert.Equal("+LeftShift +A -A +D1 -D1 -LeftShift", await TypeAsync((Shift, true), ('A', true), ('A', false), ('!', true), ('!', false), (Shift, false)));

    [Fact]
    public async Task A_sign_without_its_shift_gets_it() =>
        Assert.Equal("+LeftShift +H -LeftShift -H +LeftShift +Slash -LeftShift -Slash +I -I", await TypeAsync(
            ('H', true), ('H', false), ('?', true), ('?', false), ('i', true), ('i', false)));

    [Fact]
    public async Task A_sign_of_another_layout_loses_a_shift_too_many() =>
        Assert.Equal("+RightShift -RightShift +Slash +RightShift -Slash -RightShift", await TypeAsync((0xFFE2, true), ('/', true), ('/', false), (0xFFE2, false)));

    [Fact]
    public async Task Caps_lock_makes_letters_without_a_shift() =>
        Assert.Equal("+CapsLock -CapsLock +A -A +LeftShift +B -B -LeftShift", await TypeAsync(
            (CapsLock, true), (CapsLock, false), ('A', true), ('A', false), (Shift, true), ('b', true), ('b', false), (Shift, false)));

    [Fact]
    public async Task What_no_keyboard_has_is_nothing() =>
        Assert.Equal("+A -A", await TypeAsync((0x20AC, true), (0x20AC, false), (0, true), (uint.MaxValue, true), ('a', true), ('a', false), ('b', false)));

    [Fact]
    public async Task Keys_and_buttons_come_up_when_the_client_goes()
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using (var client = await TestClient.ConnectAsync(server))
        {
            await client.KeyAsync(Control, true);
            await client.KeyAsync('x', true);
            await client.PointerAsync(5, 10, 10);
            await FakeConsole.WaitAsync(() => console.Keys.Length == 2 && console.Moves.Length == 1);
        }

        await FakeConsole.WaitAsync(() => console.Keys.Length == 4 && console.Moves.Length == 2);
        Assert.Equal(new HashSet<(Key, bool)> { (Key.LeftControl, false), (Key.X, false) }, console.Keys[2..].ToHashSet());
        Assert.Equal((0, 0, 0, PointerButtons.None), console.Moves[1]);
    }

    [Fact]
    public async Task A_button_of_the_very_last_message_comes_up_as_well()
    {
        var console = new FakeConsole();
        byte[] hello = [.. "RFB 003.008\n"u8, 1, 1, 3, 0, 0, 0, 0, 0, 0, 160, 0, 96]; // with a request, whose answer fails
        await using var stream = new LateStream(hello, [5, 1, 0, 10, 0, 10], writes: 4);
        var screen = new ScreenSource(console.Gate, console, TimeSpan.Zero, TimeProvider.System);
        var context = new SessionContext(console.Console, screen, FakeConsole.FastLimits, TimeProvider.System, false, () => null, (_, _) => true);
        using var session = new RfbSession(stream, context, CancellationToken.None);
        await Assert.ThrowsAsync<IOException>(session.RunAsync);
        Assert.Equal([PointerButtons.Left, PointerButtons.None], console.Moves.Select(m => m.Buttons));
    }

    [Fact]
    public async Task What_was_typed_is_typed_also_when_the_client_has_gone()
    {
        var console = new FakeConsole();
        await using var server = console.Serve(",key-delay-ms=1");
        await using (var client = await TestClient.ConnectAsync(server))
        {
            for (var i = 0; i < 100; i++)
            {
                await client.KeyAsync('a', true);
                await client.KeyAsync('a', false);
            }
        }

        await FakeConsole.WaitAsync(() => console.Keys.Length == 200);
    }

    [Fact]
    public async Task A_scan_code_counts_more_than_a_keysym()
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.SetEncodingsAsync(0, -258);
        await client.RequestAsync();
        await client.ReadUpdateAsync();
        Assert.Contains(client.Rectangles, r => r.Encoding == -258);
        await client.WriteAsync([255, 0, 0, 1, 0, 0, 0, (byte)'z', 0, 0, 0, 0x15]);
        await client.WriteAsync([255, 0, 0, 0, 0, 0, 0, (byte)'z', 0, 0, 0, 0x15]);
        await client.WriteAsync([255, 0, 0, 1, 0, 0, 0xFF, 0x53, 0, 0, 0, 0xCD]);
        await client.WriteAsync([255, 0, 0, 1, 0, 0, 0, (byte)'q', 0, 0, 0, 0]);
        await client.WriteAsync([255, 0, 0, 1, 0, 0, 0, (byte)'q', 0, 0, 0xE0, 0x4D]);
        await client.KeyAsync('e', true);
        await FakeConsole.WaitAsync(() => console.Keys.Length == 5);
        Assert.Equal([(Key.Y, true), (Key.Y, false), (Key.Right, true), (Key.Q, true), (Key.E, true)], console.Keys);
    }

    [Fact]
    public async Task A_client_is_told_the_lights_at_once_and_when_they_change()
    {
        var console = new FakeConsole { Leds = KeyboardLeds.NumLock };
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.SetEncodingsAsync(0, -261);
        await client.SyncAsync(c => c.Leds.Count == 1);
        await client.SyncAsync(c => c.Shows(console));
        console.Change(_ => console.Leds = KeyboardLeds.CapsLock | KeyboardLeds.ScrollLock);
        await client.RequestAsync();
        await client.ReadUpdateAsync();
        Assert.Equal([(default, -261)], client.Rectangles);
        Assert.Equal([2, 5], client.Leds);
    }

    [Fact]
    public async Task Who_does_not_ask_for_the_lights_is_not_told_them()
    {
        var console = new FakeConsole { Leds = KeyboardLeds.NumLock };
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.SetEncodingsAsync(0, -258);
        await client.SyncAsync(c => c.Shows(console));
        console.Change(p => (console.Leds, p.Pixels[0]) = (KeyboardLeds.CapsLock, 1));
        await client.RequestAsync();
        await client.ReadUpdateAsync();
        Assert.Equal([0], client.Rectangles.Select(r => r.Encoding));
    }

    [Fact]
    public void Each_key_has_one_scan_code_and_a_keysym()
    {
        var codes = Enumerable.Range(1, 255).Select(c => XtKeys.ToKey((uint)c)).Where(k => k != Key.None).ToList();
        var all = Enum.GetValues<Key>().Where(k => k != Key.None).ToList();
        Assert.Empty(all.Except(codes));
        // Print Screen alone has two: another one with Alt.
        Assert.Equal([Key.PrintScreen], codes.GroupBy(k => k).Where(g => g.Count() > 1).Select(g => g.Key));
        var keysyms = Enumerable.Range(0, 0x10000).Concat(Enumerable.Range(0x1008FF00, 256)).Select(s => Keysyms.Find((uint)s).Key);
        Assert.Equal([Key.Less], all.Except(keysyms)); // of 105 keys: on a US keyboard it is not
    }

    [Fact]
    public async Task The_mouse_moves_by_differences_and_clicks()
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.PointerAsync(0, 50, 50);
        await client.PointerAsync(0, 53, 48);
        await client.PointerAsync(1, 53, 48);
        await client.PointerAsync(1, 53, 48);
        await client.PointerAsync(6, 52, 48);
        await client.PointerAsync(0, 52, 48);
        await client.PointerAsync(8, 52, 48);
        await client.PointerAsync(0, 52, 48);
        await client.PointerAsync(16, 52, 48);
        await client.PointerAsync(0, 52, 49);
        await FakeConsole.WaitAsync(() => console.Moves.Length == 7);
        Assert.Equal(
            [
                (3, -2, 0, PointerButtons.None), (0, 0, 0, PointerButtons.Left), (-1, 0, 0, PointerButtons.Middle | PointerButtons.Right),
                (0, 0, 0, PointerButtons.None), (0, 0, -1, PointerButtons.None), (0, 0, 1, PointerButtons.None), (0, 1, 0, PointerButtons.None),
            ],
            console.Moves);
    }

    [Fact]
    public async Task A_client_that_knows_motion_sends_it()
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.SetEncodingsAsync(0, -257);
        await client.RequestAsync();
        await client.ReadUpdateAsync();
        Assert.Contains((default, -257), client.Rectangles);
        await client.PointerAsync(0, 0x7FFF - 4, 0x7FFF + 9);
        await client.PointerAsync(0, 0x7FFF - 4, 0x7FFF + 9);
        await FakeConsole.WaitAsync(() => console.Moves.Length == 2);
        Assert.All(console.Moves, m => Assert.Equal((-4, 9, 0, PointerButtons.None), m));
    }

    [Fact]
    public async Task A_client_that_knows_motion_is_told_when_the_guest_takes_positions()
    {
        var console = new FakeConsole(200, 101);
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        await client.SetEncodingsAsync(0, -257);
        await client.SyncAsync(c => c.Shows(console));
        console.Change(_ => console.IsAbsolute = true);
        await client.RequestAsync();
        await client.ReadUpdateAsync();
        Assert.Equal([(new Area(1, 0, 0, 0), -257)], client.Rectangles);
        await client.PointerAsync(1, 0, 50);
        await client.PointerAsync(0, 199, 100);
        await client.PointerAsync(16, 300, 400); // beyond the edge
        await FakeConsole.WaitAsync(() => console.Positions.Length == 3);
        Assert.Equal([(0, 0x7FFF, 0, PointerButtons.Left), (0xFFFF, 0xFFFF, 0, PointerButtons.None), (0xFFFF, 0xFFFF, 1, PointerButtons.None)], console.Positions);
        Assert.Empty(console.Moves);
        console.Change(_ => console.IsAbsolute = false);
        await client.RequestAsync();
        await client.ReadUpdateAsync();
        Assert.Equal([(default, -257)], client.Rectangles);
    }

    [Fact]
    public async Task A_simple_client_moves_the_pointer_of_a_guest_that_takes_positions()
    {
        var console = new FakeConsole(101, 101) { IsAbsolute = true };
        await using var server = console.Serve();
        await using (var client = await TestClient.ConnectAsync(server))
        {
            await client.PointerAsync(4, 100, 0);
            await FakeConsole.WaitAsync(() => console.Positions.Length == 1);
        }

        await FakeConsole.WaitAsync(() => console.Positions.Length == 2); // the button comes up where it is
        Assert.Equal([(0xFFFF, 0, 0, PointerButtons.Right), (0xFFFF, 0, 0, PointerButtons.None)], console.Positions);
    }

    [Fact]
    public async Task The_wheel_tilts_and_the_mouse_has_side_buttons()
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        foreach (var mask in new[] { 0x20, 0, 0x40, 0, 0x80, 0 })
            await client.PointerAsync(mask, 0, 0);
        await FakeConsole.WaitAsync(() => console.Moves.Length == 4);
        Assert.Equal([-1, 1, 0, 0], console.Tilts);
        Assert.Equal([PointerButtons.None, PointerButtons.None, PointerButtons.Back, PointerButtons.None], console.Moves.Select(m => m.Buttons));

        await client.SetEncodingsAsync(0, -316);
        await client.RequestAsync();
        await client.ReadUpdateAsync();
        Assert.Contains((default, -316), client.Rectangles);
        await client.WriteAsync([5, 0x81, 0, 9, 0, 9, 3]);
        await client.PointerAsync(0, 9, 9);
        await FakeConsole.WaitAsync(() => console.Moves.Length == 6);
        Assert.Equal((9, 9, 0, PointerButtons.Left | PointerButtons.Back | PointerButtons.Forward), console.Moves[4]);
        Assert.Equal((0, 0, 0, PointerButtons.None), console.Moves[5]);
    }

    /// <summary>An arrow while the guest can't draw one; a dot over the one that it draws.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task The_cursor_is_what_the_guest_does_not_draw(bool isSmallFormat)
    {
        var console = new FakeConsole { IsTextMode = true, IsListening = true };
        await using var server = console.Serve();
        await using var client = await TestClient.ConnectAsync(server);
        if (isSmallFormat)
            await client.SetFormatAsync(new PixelFormat(16, 16, true, true, 31, 63, 31, 11, 5, 0));
        await client.SetEncodingsAsync(0, -239);
        await client.SyncAsync(c => c.Shows(console));
        var arrow = Assert.Single(client.Cursors);
        Assert.Equal((0, 0), (arrow.Area.X, arrow.Area.Y));
        Assert.Equal(0x80, arrow.Mask[0]); // its tip, and nothing beside it
        console.Change(picture => (console.IsTextMode, picture.Pixels[0]) = (false, 1));
        await client.RequestAsync();
        await client.ReadUpdateAsync();
        Assert.Equal([(new Area(1, 1, 3, 3), -239)], client.Rectangles.Take(1));
        var dot = client.Cursors[1];
        Assert.Equal([0xE0, 0xE0, 0xE0], dot.Mask);
        var size = isSmallFormat ? 2 : 4;
        Assert.Equal(isSmallFormat ? [0xFF, 0xFF] : [0xFF, 0xFF, 0xFF, 0], dot.Pixels[..size]);
        Assert.Equal(new byte[size], dot.Pixels[(4 * size)..(5 * size)]);
        console.Change(picture => (console.IsListening, picture.Pixels[0]) = (false, 2));
        await client.RequestAsync();
        await client.ReadUpdateAsync();
        Assert.Equal(arrow.Mask, client.Cursors[2].Mask);
    }

    private static async Task<string> TypeAsync(params (uint Keysym, bool Pressed)[] events)
    {
        var console = new FakeConsole();
        await using var server = console.Serve();
        await using (var client = await TestClient.ConnectAsync(server))
        {
            foreach (var (keysym, pressed) in events)
                await client.KeyAsync(keysym, pressed);
            await client.KeyAsync(0xFF1B, true);
            await FakeConsole.WaitAsync(() => console.Keys.Contains((Key.Escape, true)));
        }

        return string.Join(' ', console.Keys.TakeWhile(k => k.Key != Key.Escape).Select(k => (k.Pressed ? "+" : "-") + k.Key));
    }
}
