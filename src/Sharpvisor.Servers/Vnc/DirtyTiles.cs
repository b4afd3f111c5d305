namespace Sharpvisor.Servers.Vnc;

/// <summary>Which tiles of a picture a client has yet to get, and the rectangles that they make.</summary>
internal sealed class DirtyTiles
{
    /// <summary>Pixels of a side: a character of a text screen is about one.</summary>
    public const int TileSize = 16;

    /// <summary>A rectangle is no larger, which bounds what is encoded in one go; Tight allows no wider ones.</summary>
    public const int MaximumWidth = 2048;

    public const int MaximumArea = 1 << 16;

    private bool[] _tiles = [];
    private int _columns;
    private int _rows;
    private Area _bounds;

    public int Count { get; private set; }

    /// <summary>Another picture; nothing of it is dirty.</summary>
    public void Resize(int width, int height)
    {
        _bounds = new Area(0, 0, width, height);
        _columns = (width + TileSize - 1) / TileSize;
        _rows = (height + TileSize - 1) / TileSize;
        _tiles = new bool[_columns * _rows];
        Count = 0;
    }

    public void MarkTile(int column, int row)
    {
        ref var tile = ref _tiles[(row * _columns) + column];
        if (!tile)
            Count++;
        tile = true;
    }

    public void Mark(Area area)
    {
        area = area.Intersect(_bounds);
        if (area.IsEmpty)
            return;
        for (var row = area.Y / TileSize; row <= (area.Bottom - 1) / TileSize; row++)
        {
            for (var column = area.X / TileSize; column <= (area.Right - 1) / TileSize; column++)
                MarkTile(column, row);
        }
    }

    /// <summary>
    /// A rectangle of dirty tiles that touch an area; they are dirty no longer. First the run of the first dirty tile to
    /// the right, then as many rows below as are dirty in the whole run.
    /// </summary>
    /// <returns>False when there is none.</returns>
    public bool TryTake(Area within, out Area taken)
    {
        taken = default;
        within = within.Intersect(_bounds);
        if (Count == 0 || within.IsEmpty)
            return false;
        int left = within.X / TileSize, right = (within.Right - 1) / TileSize, bottom = (within.Bottom - 1) / TileSize;
        for (var row = within.Y / TileSize; row <= bottom; row++)
        {
            var found = _tiles.AsSpan((row * _columns) + left, right - left + 1).IndexOf(true);
            if (found < 0)
                continue;
            var column = left + found;
            var run = _tiles.AsSpan((row * _columns) + column, Math.Min(right - column + 1, MaximumWidth / TileSize));
            var width = run.IndexOf(false) is var end && end < 0 ? run.Length : end;
            var height = 0;
            while (row + height <= bottom && (height + 1) * width * TileSize * TileSize <= MaximumArea)
            {
                var next = _tiles.AsSpan(((row + height) * _columns) + column, width);
                if (next.Contains(false))
                    break;
                next.Clear();
                height++;
            }

            Count -= width * height;
            taken = new Area(column * TileSize, row * TileSize, width * TileSize, height * TileSize).Intersect(_bounds);
            return true;
        }

        return false;
    }
}
