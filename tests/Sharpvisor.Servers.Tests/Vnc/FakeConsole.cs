using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core;
using Sharpvisor.Core.Display;
using Sharpvisor.Core.Input;
using Sharpvisor.Servers.Vnc;

namespace Sharpvisor.Servers.Tests.Vnc;

/// <summary>A screen, a keyboard and a mouse without a machine.</summary>
internal sealed class FakeConsole : IScreen, IKeyboardInput, IPointerInput
{
    public static readonly VncLimits FastLimits = new()
    {
        Frame = TimeSpan.FromMilliseconds(2),
        IdleFrame = TimeSpan.FromMilliseconds(10),
        Key = TimeSpan.Zero,
        WrongPassword = TimeSpan.Zero,
        Handshake = TimeSpan.FromSeconds(5),
    };

    private readonly List<(Key Key, bool Pressed)> _keys = [];
    private readonly List<(int Dx, int Dy, int Wheel, PointerButtons Buttons)> _moves = [];
    private readonly List<int> _tilts = [];
    private readonly List<(int X, int Y, int Wheel, PointerButtons Buttons)> _positions = [];
    private int _renders;

    public FakeConsole(int width = 160, int height = 96)
    {
        Picture.Resize(width, height);
        Console = new VncConsole(Gate, this, this, this, "fake");
    }

    public MachineGate Gate { get; } = new();

    public Framebuffer Picture { get; } = new();

    public VncConsole Console { get; }

    public KeyboardLeds Leds { get; set; }

    public bool IsAbsolute { get; set; }

    public bool IsListening { get; set; }

    public bool IsTextMode { get; set; }

    public int Renders => Volatile.Read(ref _renders);

    public (Key Key, bool Pressed)[] Keys => Under(() => _keys.ToArray());

    public (int Dx, int Dy, int Wheel, PointerButtons Buttons)[] Moves => Under(() => _moves.ToArray());

    public int[] Tilts => Under(() => _tilts.ToArray());

    public (int X, int Y, int Wheel, PointerButtons Buttons)[] Positions => Under(() => _positions.ToArray());

    public static async Task WaitAsync(Func<bool> condition)
    {
        for (var i = 0; i < 2000 && !condition(); i++)
            await Task.Delay(5);
        Assert.True(condition());
    }

    public VncServer Serve(string options = "", string password = "", VncLimits? limits = null) => new(
        VncSpec.Parse("127.0.0.1:0" + options)! with { Port = 0, LastPort = 0 }, Console, limits ?? FastLimits, System.Text.Encoding.UTF8.GetBytes(password), NullLogger.Instance);

    public void Change(Action<Framebuffer> change) => Under(() =>
    {
        change(Picture);
        return 0;
    });

    /// <summary>What screens have: areas of one colour, few colours, and noise.</summary>
    public void Scribble(Random random) => Change(picture =>
    {
        for (var i = random.Next(1, 6); i > 0; i--)
        {
            int x = random.Next(picture.Width), y = random.Next(picture.Height);
            int right = Math.Min(picture.Width, x + random.Next(1, 120)), bottom = Math.Min(picture.Height, y + random.Next(1, 90));
            var colours = new[] { 1, 2, 3, 5, 16, 40, 200, 1000 }[random.Next(8)];
            var palette = Enumerable.Range(0, colours).Select(_ => (uint)random.Next(0x100_0000)).ToArray();
            var isRuns = random.Next(2) == 0;
            for (; y < bottom; y++)
            {
                for (var column = x; column < right; column++)
                    picture.Row(y)[column] = isRuns && column > x && random.Next(8) != 0 ? picture.Row(y)[column - 1] : palette[random.Next(colours)];
            }
        }
    });

    public void Render(Framebuffer target)
    {
        Assert.True(Gate.IsHeld);
        Interlocked.Increment(ref _renders);
        target.Resize(Picture.Width, Picture.Height);
        Picture.Pixels.CopyTo(target.Pixels);
    }

    public TextScreen? ReadText() => null;

    public void OnKey(Key key, bool pressed)
    {
        Assert.True(Gate.IsHeld);
        _keys.Add((key, pressed));
    }

    public void OnMove(int dx, int dy, int wheel, PointerButtons buttons, int tilt = 0)
    {
        Assert.True(Gate.IsHeld);
        _moves.Add((dx, dy, wheel, buttons));
        _tilts.Add(tilt);
    }

    public void OnMoveTo(int x, int y, int wheel, PointerButtons buttons)
    {
        Assert.True(Gate.IsHeld);
        Assert.True(IsAbsolute);
        _positions.Add((x, y, wheel, buttons));
    }

    private T Under<T>(Func<T> read)
    {
        using (Gate.Enter())
            return read();
    }
}
