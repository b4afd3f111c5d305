using Sharpvisor.Core.Display;

namespace Sharpvisor.Servers.Vnc;

/// <summary>
/// The picture that one client has, or will have once <see cref="Dirty"/> is sent. Comparing it with the screen tells
/// what changed, however many frames a slow client has missed.
/// </summary>
internal sealed class ClientFrame
{
    private readonly Framebuffer _picture = new();

    public int Width => _picture.Width;

    public int Height => _picture.Height;

    public DirtyTiles Dirty { get; } = new();

    /// <summary>The number that <see cref="ScreenSource"/> gave the screen seen last.</summary>
    public long Sequence { get; set; }

    /// <summary>Takes another size; everything is black and dirty.</summary>
    public void Resize(int width, int height)
    {
        _picture.Resize(width, height);
        _picture.Pixels.Clear();
        Dirty.Resize(width, height);
        Dirty.Mark(new Area(0, 0, width, height));
    }

    /// <summary>A part of a row.</summary>
    public ReadOnlySpan<uint> Row(int y, int x, int width) => _picture.Row(y).Slice(x, width);

    public ReadOnlySpan<uint> Row(int y) => _picture.Row(y);

    /// <summary>Copies what differs and marks its tiles. Where the screen is smaller, black is what it shows.</summary>
    /// <returns>Whether anything did.</returns>
    public bool Update(Framebuffer screen)
    {
        var changed = false;
        var width = Math.Min(Width, screen.Width);
        var height = Math.Min(Height, screen.Height);
        for (var y = 0; y < height; y++)
        {
            var shown = screen.Row(y)[..width];
            var known = _picture.Row(y)[..width];
            if (shown.SequenceEqual(known))
                continue;
            changed = true;
            for (var x = 0; x < width; x += DirtyTiles.TileSize)
            {
                var count = Math.Min(DirtyTiles.TileSize, width - x);
                if (shown.Slice(x, count).SequenceEqual(known.Slice(x, count)))
                    continue;
                shown.Slice(x, count).CopyTo(known[x..]);
                Dirty.MarkTile(x / DirtyTiles.TileSize, y / DirtyTiles.TileSize);
            }
        }

        return Blacken(new Area(width, 0, Width - width, Height)) | Blacken(new Area(0, height, width, Height - height)) | changed;
    }

    /// <summary>Moves rows up or down: what the client does for a CopyRect.</summary>
    public void MoveRows(int from, int to, int count) =>
        _picture.Pixels.Slice(from * Width, count * Width).CopyTo(_picture.Pixels[(to * Width)..]);

    private bool Blacken(Area area)
    {
        var changed = false;
        for (var y = area.Y; y < area.Bottom && area.Width > 0; y++)
        {
            var row = _picture.Row(y).Slice(area.X, area.Width);
            if (!row.ContainsAnyExcept(0u))
                continue;
            row.Clear();
            Dirty.Mark(area with { Y = y, Height = 1 });
            changed = true;
        }

        return changed;
    }
}
