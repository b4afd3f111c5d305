namespace Sharpvisor.Servers.Vnc;

/// <summary>A rectangle of pixels.</summary>
internal readonly record struct Area(int X, int Y, int Width, int Height)
{
    public int Right => X + Width;

    public int Bottom => Y + Height;

    public bool IsEmpty => Width <= 0 || Height <= 0;

    public Area Intersect(Area other)
    {
        var x = Math.Max(X, other.X);
        var y = Math.Max(Y, other.Y);
        var area = new Area(x, y, Math.Min(Right, other.Right) - x, Math.Min(Bottom, other.Bottom) - y);
        return area.IsEmpty ? default : area;
    }

    /// <summary>The smallest area around both.</summary>
    public Area Union(Area other)
    {
        if (IsEmpty)
            return other;
        if (other.IsEmpty)
            return this;
        var x = Math.Min(X, other.X);
        var y = Math.Min(Y, other.Y);
        return new Area(x, y, Math.Max(Right, other.Right) - x, Math.Max(Bottom, other.Bottom) - y);
    }
}
